"""Looking at the state directory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fluxedge.doctor import storage


def mountinfo(path: Path, *mounts: tuple[str, str, str, str]) -> Path:
    """Write /proc/self/mountinfo: (mount point, options, kind, options of the file system)."""
    number = os.stat(path).st_dev
    device = f"{os.major(number)}:{os.minor(number)}"
    lines = [
        f"{i} 1 {device} / {at} {how} shared:1 - {kind} src {more}" for i, (at, how, kind, more) in enumerate(mounts)
    ]
    file = path / "mountinfo"
    file.write_text("\n".join(lines) + "\n")
    return file


def test_the_nearest_mount_names_the_file_system(tmp_path: Path) -> None:
    mounts = mountinfo(tmp_path, ("/", "rw", "ext4", "rw"), (str(tmp_path), "rw", "nfs4", "rw"))
    assert storage.file_system(tmp_path / "not" / "yet", mounts) == ("nfs4", False)


def test_of_two_mounts_at_one_place_the_later_one_counts(tmp_path: Path) -> None:
    mounts = mountinfo(tmp_path, (str(tmp_path), "rw", "ext4", "rw"), (str(tmp_path), "rw", "overlay", "rw"))
    assert storage.file_system(tmp_path, mounts)[0] == "overlay"


@pytest.mark.parametrize(("options", "of_fs"), [("ro,noatime", "rw"), ("rw", "ro,errors=remount-ro")])
def test_read_only_is_seen_whoever_made_it_so(tmp_path: Path, options: str, of_fs: str) -> None:
    assert storage.file_system(tmp_path, mountinfo(tmp_path, ("/", options, "ext4", of_fs))) == ("ext4", True)


def test_a_blank_in_a_mount_point_is_understood(tmp_path: Path) -> None:
    place = tmp_path / "a b"
    place.mkdir()
    mounts = mountinfo(tmp_path, ("/", "rw", "ext4", "rw"), (str(place).replace(" ", "\\040"), "rw", "tmpfs", "rw"))
    assert storage.file_system(place, mounts)[0] == "tmpfs"


def test_a_name_that_begins_like_a_mount_point_is_not_below_it(tmp_path: Path) -> None:
    mounts = mountinfo(tmp_path, ("/", "rw", "ext4", "rw"), (f"{tmp_path}/sta", "rw", "nfs", "rw"))
    assert storage.file_system(tmp_path / "state", mounts)[0] == "ext4"


def test_lines_that_are_not_understood_are_passed_over(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text("\nnonsense\n1 2 3\n")
    assert storage.file_system(tmp_path, mounts) == ("", False)
    assert storage.file_system(tmp_path, tmp_path / "missing") == ("", False)


def test_this_machine_has_a_file_system(tmp_path: Path) -> None:
    assert storage.file_system(tmp_path)[0] != ""


def test_sizes_are_what_the_disk_holds_and_no_file_is_opened(tmp_path: Path) -> None:
    (tmp_path / "history").mkdir()
    for name in ("log.db", "log.db-wal", "log.ballast", "history/2027-01-31.db", "history/2027-01-30.db"):
        (tmp_path / name).write_bytes(bytes([1]) * 8192)
        (tmp_path / name).chmod(0)
    (tmp_path / "history/2027-01-29.damaged").write_bytes(b"x")
    (tmp_path / "log.damaged-20270101T000000Z").mkdir()
    found = storage.state(tmp_path, service_user="root")
    assert (found.log_bytes, found.ballast_bytes, found.history_bytes) == (16384, 8192, 16384)
    assert found.history_days == 2
    assert found.set_aside == ("2027-01-29.damaged", "log.damaged-20270101T000000Z")
    assert found.free_bytes > 0
    assert found.total_bytes >= found.free_bytes
    assert found.service_user == "root"


def test_what_is_missing_or_no_directory_is_said(tmp_path: Path) -> None:
    assert storage.state(tmp_path / "none").exists is False
    (tmp_path / "file").write_text("")
    assert storage.state(tmp_path / "file").is_dir is False
    assert storage.state(tmp_path / "file" / "below").exists is False


def test_a_user_that_does_not_exist_is_not_asked_for(tmp_path: Path) -> None:
    assert storage.state(tmp_path, service_user="no-such-user").service_user == ""


def test_the_wear_is_that_of_the_disk_below(tmp_path: Path) -> None:
    number = os.stat(tmp_path).st_dev
    disk = tmp_path / "devices/mmcblk0"
    (disk / "device").mkdir(parents=True)
    (disk / "device/life_time").write_text("0x03 0x01\n")
    (disk / "device/pre_eol_info").write_text("0x02\n")
    (tmp_path / "dev/block").mkdir(parents=True)
    (tmp_path / f"dev/block/{os.major(number)}:{os.minor(number)}").symlink_to(disk)
    found = storage.wear(tmp_path / "not-yet", sys=tmp_path)
    assert (found.device, found.used_percent, found.reserve) == ("mmcblk0", 30, 2)
    assert storage.wear(tmp_path, sys=tmp_path / "empty").device == ""
