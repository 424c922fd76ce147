"""Block devices: which one holds a path, what was written to it, and how worn it says it is.

    /sys/dev/block/MAJ:MIN -> .../mmcblk0/mmcblk0p2     a partition leads to its whole device: that is what wears
    .../stat                field 7: sectors of 512 bytes written since boot (Documentation/block/stat.rst)
    .../dm-0/slaves/        device-mapper and md: one device below it is the one that wears
    .../device/life_time    "0x02 0x01": eMMC, DEVICE_LIFE_TIME_EST_TYP_A and _B, bytes 268 and 269 of the extended CSD
    .../device/pre_eol_info "0x01": eMMC, PRE_EOL_INFO, byte 267: 1 normal, 2 80 % of the reserve used, 3 urgent
    .../device/cid, serial  who the device is (Documentation/driver-api/mmc/mmc-dev-attrs.rst names those of mmc)

JEDEC JESD84-B51 (eMMC 5.1), 7.4: a life time of 0x01 means 0 to 10 % used, 0x0A 90 to 100 %, 0x0B beyond; 0 nothing.
The kernel reads these bytes when it finds the device: the figures are as of the boot.
"""

from __future__ import annotations

import os
import typing
from pathlib import Path

SYS = Path("/sys")
SECTOR_BYTES = 512  # Documentation/block/stat.rst, whatever the device's own sectors are
_STAT_SECTORS_WRITTEN = 6  # index of field 7
_IDENTITIES = ("device/cid", "device/serial", "device/wwid", "serial")
_LIFE_BEYOND = 0x0B
_NOT_FLASH = ("loop", "zram", "ram")  # what is written there wears another device, or none


class Wear(typing.NamedTuple):
    """What a device says of itself."""

    used_percent: int  # upper end of the step that it names; 110 = beyond its life
    reserve: int  # PRE_EOL_INFO; 0 = it does not say


def whole_device_of(path: str, sys: Path = SYS) -> Path | None:
    """Return the directory below /sys of the whole block device that holds `path`; None where no single one does."""
    try:
        number = os.stat(path).st_dev
    except OSError:
        return None
    device = sys / "dev" / "block" / f"{os.major(number)}:{os.minor(number)}"
    return _whole(device.resolve()) if device.exists() else None  # else tmpfs, overlay, network, btrfs (several)


def flash_of(path: str, sys: Path = SYS) -> Path | None:
    """Return the directory below /sys of the device that wears when `path` is written; None where none can be named."""
    device = whole_device_of(path, sys)
    for _ in range(8):  # layers: crypt on LVM on RAID ...
        if device is None or device.name.startswith(_NOT_FLASH):
            return None
        below = list((device / "slaves").glob("*"))
        if len(below) != 1:  # a disk; or several, for which the layer's own counter is the best there is
            return device
        device = _whole(below[0].resolve())
    return device


def _whole(device: Path) -> Path:
    return device.parent if (device / "partition").exists() else device


def bytes_written(block_stat: Path) -> int:
    """Return the bytes written to a block device since boot, from its file `stat`."""
    return int(block_stat.read_text().split()[_STAT_SECTORS_WRITTEN]) * SECTOR_BYTES


def identity_of(device: Path) -> str:
    """Return what tells this device from another one of its kind; its name where it does not say."""
    for name in _IDENTITIES:
        try:
            if found := (device / name).read_text().strip():
                return f"{device.name} {found}"
        except OSError:
            continue
    return device.name


def wear_of(device: Path) -> Wear | None:
    """Return how worn a device says it is; None where it does not say (all but eMMC 5.0 and later)."""
    try:
        words = (device / "device" / "life_time").read_text().split()
        steps = [step for step in (int(word, 16) for word in words) if 0 < step <= _LIFE_BEYOND]
    except (OSError, ValueError):
        return None
    if not steps:
        return None
    try:
        reserve = int((device / "device" / "pre_eol_info").read_text(), 16)
    except (OSError, ValueError):
        reserve = 0
    return Wear(max(steps) * 10, reserve)
