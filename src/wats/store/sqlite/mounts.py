"""Which file systems cannot hold a database: those without reliable locks, and mounts of one file.

A write-ahead log needs locks and shared memory that all processes on the file see. A network file
system may offer neither, and commits can then be lost or the file damaged. If the database file
alone is mounted into a container, the log is outside of the mount and is lost with the container.
"""

import os
import re
from pathlib import Path
from typing import Final, NamedTuple

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

_OCTAL = re.compile(r"\\([0-7]{3})")


class Mount(NamedTuple):
    """Where a file system is mounted, and its type."""

    point: str
    type: str


def unsafe_mount(path: str, mounts: Path = _MOUNTS) -> Fault | None:
    """Return why a database at *path* would lose data, if the table *mounts* shows a cause.

    A system without such a table shows none.
    """
    real = os.path.realpath(path)
    mount = _mount_of(real, mounts)
    if mount is None:
        return None
    if mount.type in _WITHOUT_LOCKS:
        return Fault.NO_LOCAL_LOCKS
    is_file_mount = mount.point == real and not os.path.isdir(real)  # noqa: PTH112
    return Fault.FILE_IS_A_MOUNT if is_file_mount else None


def _mount_of(real: str, mounts: Path) -> Mount | None:
    try:
        lines = mounts.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return None
    found = [mount for mount in map(_mount, lines) if mount and _holds(mount.point, real)]
    # A later mount on the same point hides the earlier one.
    return max(reversed(found), key=lambda mount: len(mount.point), default=None)


def _mount(line: str) -> Mount | None:
    left, separator, right = line.partition(" - ")
    fields = left.split(" ")
    if not separator or len(fields) < 5:
        return None
    point = _OCTAL.sub(lambda match: chr(int(match[1], 8)), fields[4])
    return Mount(point, right.partition(" ")[0])


def _holds(point: str, real: str) -> bool:
    return real == point or real.startswith(point.rstrip("/") + "/")
