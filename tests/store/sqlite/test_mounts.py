from pathlib import Path

import pytest

from wats.faults import Fault
from wats.store.sqlite.mounts import unsafe_mount

LINE = "36 27 0:5{number} / {point} rw,relatime shared:1 - {type} source rw\n"


def table(folder: Path, *mounts: tuple[str, str]) -> Path:
    path = folder / "mountinfo"
    lines = [
        LINE.format(number=number, point=point, type=type_)
        for number, (point, type_) in enumerate([("/", "ext4"), *mounts])
    ]
    path.write_text("".join(lines))
    return path


@pytest.mark.parametrize("type_", ["nfs4", "cifs", "9p", "fuse.sshfs", "ceph"])
def test_a_network_file_system_has_no_local_locks(tmp_path: Path, type_: str) -> None:
    mounts = table(tmp_path, ("/data", type_))

    assert unsafe_mount("/data/deep/wats.db", mounts) is Fault.NO_LOCAL_LOCKS
    assert unsafe_mount("/database/wats.db", mounts) is None


@pytest.mark.parametrize("type_", ["ext4", "xfs", "overlay", "tmpfs", "btrfs", "fuseblk"])
def test_a_local_file_system_is_accepted(tmp_path: Path, type_: str) -> None:
    assert unsafe_mount("/data/wats.db", table(tmp_path, ("/data", type_))) is None


def test_the_innermost_mount_decides_and_of_two_on_one_point_the_later(tmp_path: Path) -> None:
    inner = table(tmp_path, ("/data/local", "ext4"), ("/data", "nfs"))
    assert unsafe_mount("/data/local/wats.db", inner) is None

    later = table(tmp_path, ("/data", "nfs"), ("/data", "ext4"))
    assert unsafe_mount("/data/wats.db", later) is None


def test_a_mount_point_with_a_space_is_found(tmp_path: Path) -> None:
    mounts = table(tmp_path, (r"/my\040data", "nfs"))

    assert unsafe_mount("/my data/wats.db", mounts) is Fault.NO_LOCAL_LOCKS


def test_a_mount_of_the_file_alone_is_found_also_through_a_link(tmp_path: Path) -> None:
    file, link = tmp_path / "wats.db", tmp_path / "link.db"
    file.touch()
    link.symlink_to(file)
    mounts = table(tmp_path, (str(file.resolve()), "ext4"))

    assert unsafe_mount(str(link), mounts) is Fault.FILE_IS_A_MOUNT


def test_a_directory_that_is_a_mount_is_accepted(tmp_path: Path) -> None:
    mounts = table(tmp_path, (str(tmp_path.resolve()), "ext4"))

    assert unsafe_mount(str(tmp_path / "wats.db"), mounts) is None


@pytest.mark.parametrize("content", [None, "", "nonsense\n", "a b c - d\n"])
def test_a_system_without_a_table_of_mounts_shows_no_cause(
    tmp_path: Path, content: str | None
) -> None:
    mounts = tmp_path / "mountinfo"
    if content is not None:
        mounts.write_text(content)

    assert unsafe_mount("/data/wats.db", mounts) is None
