"""Block devices: which one wears, how much was written to it, how worn it says it is; on trees as sysfs makes them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fluxedge.block_device import Wear, bytes_written, flash_of, identity_of, wear_of, whole_device_of

# Example line of Documentation/block/stat.rst's fields: sectors written is field 7.
STAT = "  446216   784926  9550688  4382310   894801  1078848  15791112  16310440  0  1160816  20691472\n"


def disk(sys: Path, name: str, partition: str = "") -> Path:
    """Make a disk, and return the directory of its partition or its own."""
    holder = sys / "devices" / name
    holder.mkdir(parents=True)
    (holder / "stat").write_text(STAT)
    (holder / "slaves").mkdir()
    if not partition:
        return holder
    (holder / partition).mkdir()
    (holder / partition / "partition").write_text("2\n")
    (holder / partition / "stat").write_text(STAT.replace("15791112", "1"))
    return holder / partition


def hold(sys: Path, path: Path, device: Path) -> None:
    """Let `path` be on a device."""
    number = path.stat().st_dev
    links = sys / "dev" / "block"
    links.mkdir(parents=True)
    (links / f"{os.major(number)}:{os.minor(number)}").symlink_to(device)


def test_sectors_of_512_bytes_are_counted(tmp_path: Path) -> None:
    (tmp_path / "stat").write_text(STAT)
    assert bytes_written(tmp_path / "stat") == 15791112 * 512


@pytest.mark.parametrize("partition", ["mmcblk0p2", ""])
def test_a_partition_leads_to_its_whole_disk(tmp_path: Path, partition: str) -> None:
    hold(tmp_path, tmp_path, disk(tmp_path, "mmcblk0", partition))
    for look in (whole_device_of, flash_of):
        found = look(str(tmp_path), tmp_path)
        assert found is not None
        assert found.name == "mmcblk0"
        assert bytes_written(found / "stat") == 15791112 * 512


def test_layers_lead_to_the_one_disk_below(tmp_path: Path) -> None:
    below = disk(tmp_path, "nvme0n1", "nvme0n1p3")
    crypt, volume = disk(tmp_path, "dm-0"), disk(tmp_path, "dm-1")
    (crypt / "slaves" / "nvme0n1p3").symlink_to(below)
    (volume / "slaves" / "dm-0").symlink_to(crypt)
    hold(tmp_path, tmp_path, volume)
    found = flash_of(str(tmp_path), tmp_path)
    assert found is not None
    assert found.name == "nvme0n1"


def test_a_layer_over_two_disks_stands_for_both(tmp_path: Path) -> None:
    mirror = disk(tmp_path, "md0")
    for name in ("sda", "sdb"):
        (mirror / "slaves" / name).symlink_to(disk(tmp_path, name))
    hold(tmp_path, tmp_path, mirror)
    found = flash_of(str(tmp_path), tmp_path)
    assert found is not None
    assert found.name == "md0"


def test_layers_that_go_round_in_circles_have_an_end(tmp_path: Path) -> None:
    one, two = disk(tmp_path, "dm-0"), disk(tmp_path, "dm-1")
    (one / "slaves" / "dm-1").symlink_to(two)
    (two / "slaves" / "dm-0").symlink_to(one)
    hold(tmp_path, tmp_path, one)
    assert flash_of(str(tmp_path), tmp_path) is not None


@pytest.mark.parametrize("name", ["loop0", "zram0", "ram3"])
def test_what_is_no_device_of_its_own_does_not_wear(tmp_path: Path, name: str) -> None:
    hold(tmp_path, tmp_path, disk(tmp_path, name))
    assert flash_of(str(tmp_path), tmp_path) is None
    assert whole_device_of(str(tmp_path), tmp_path) is not None


def test_a_path_on_no_block_device_has_none(tmp_path: Path) -> None:
    (tmp_path / "dev" / "block").mkdir(parents=True)
    for path in (tmp_path, tmp_path / "missing"):
        assert whole_device_of(str(path), tmp_path) is None
        assert flash_of(str(path), tmp_path) is None


def test_a_card_is_told_from_another_one(tmp_path: Path) -> None:
    card = disk(tmp_path, "mmcblk0")
    assert identity_of(card) == "mmcblk0"
    (card / "device").mkdir()
    (card / "device" / "serial").write_text("0x000d86f3\n")
    assert identity_of(card) == "mmcblk0 0x000d86f3"
    (card / "device" / "cid").write_text("1501004d4d\n")
    assert identity_of(card) == "mmcblk0 1501004d4d"


@pytest.mark.parametrize(
    ("life_time", "pre_eol_info", "wear"),
    [
        ("0x02 0x01\n", "0x01\n", Wear(20, 1)),
        ("0x01 0x0a\n", "0x02\n", Wear(100, 2)),
        ("0x0b 0x0b\n", "0x03\n", Wear(110, 3)),
        ("0x03 0x00\n", None, Wear(30, 0)),
        ("0x00 0x00\n", "0x00\n", None),  # eMMC before 5.0
        ("0xff 0xfe\n", "0x01\n", None),
        ("\n", "0x01\n", None),
        ("worn out\n", "0x01\n", None),
    ],
)
def test_an_emmc_says_how_worn_it_is(
    tmp_path: Path, life_time: str, pre_eol_info: str | None, wear: Wear | None
) -> None:
    folder = tmp_path / "device"
    folder.mkdir()
    (folder / "life_time").write_text(life_time)
    if pre_eol_info is not None:
        (folder / "pre_eol_info").write_text(pre_eol_info)
    assert wear_of(tmp_path) == wear


def test_a_card_or_disk_does_not_say(tmp_path: Path) -> None:
    assert wear_of(tmp_path) is None


def test_this_machine_is_understood() -> None:
    found = whole_device_of("/")
    if found is not None:  # else the root is an overlay or in memory
        assert bytes_written(found / "stat") > 0
        assert identity_of(found).startswith(found.name)
