"""Which file systems cannot hold a database: those without reliable locks, and mounts of one file.

A write-ahead log needs locks and shared memory that all processes on the file see. A network file
system may offer neither, and commits can then be lost or the file damaged. If the database file
alone is mounted into a container, the log is outside of the mount and is lost with the container.
"""

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Final

from wats.faults import Fault

_MOUNTS: Final = Path("/proc/self/mountinfo")

_NETWORK: Final = (
    *("nfs", "nfs3", "nfs4", "cifs", "smb", "smb2", "smb3", "smbfs", "ncpfs", "9p", "afs", "coda"),
    *("ceph", "glusterfs", "lustre", "beegfs", "orangefs", "pvfs2", "gpfs", "davfs"),
    *("vboxsf", "vmhgfs", "prl_fs"),
)
_FUSE: Final = (
    *("glusterfs", "sshfs", "s3fs", "mount-s3", "goofys", "rclone", "gcsfuse", "blobfuse"),
    *("blobfuse2", "davfs2", "ceph", "ceph-fuse", "juicefs", "seaweedfs", "curlftpfs"),
    *("vmhgfs-fuse", "grpcfuse"),
)
_WITHOUT_LOCKS: Final = frozenset((*_NETWORK, *(f"fuse.{name}" for name in _FUSE)))
"""Types of file systems, as the kernel names them."""

_LINE: Final = re.compile(r"(?:\S+ ){4}(\S+) .*? - (\S+)")
"""A line of the table: the fifth field is the mount point, and the type follows a separator."""

_OCTAL: Final = re.compile(r"\\([0-7]{3})")


def unsafe_mount(path: str, mounts: Path = _MOUNTS) -> Fault | None:
    """Return why a database at *path* would lose data, if the table *mounts* shows a cause.

    A system without such a table shows none.
    """
    real = os.path.realpath(path)
    point, type_ = _mount_of(real, mounts)
    if type_ in _WITHOUT_LOCKS:
        return Fault.NO_LOCAL_LOCKS
    is_file_mount = point == real and not os.path.isdir(real)  # noqa: PTH112
    return Fault.FILE_IS_A_MOUNT if is_file_mount else None


def _mount_of(real: str, mounts: Path) -> tuple[str, str]:
    """Return the mount point and the type of the file system of *real*, or empty texts."""
    found = "", ""
    with suppress(OSError):
        for match in map(_LINE.match, mounts.read_text("utf-8", "surrogateescape").splitlines()):
            if match is None:
                continue
            point = _OCTAL.sub(lambda octal: chr(int(octal[1], 8)), match[1])
            holds = real == point or real.startswith(point.rstrip("/") + "/")
            if holds and len(point) >= len(found[0]):  # a later mount hides the earlier one
                found = point, match[2]
    return found
