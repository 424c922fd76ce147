"""What a device reads, group by group: the driver's points under the device's names, and how often.

For protocols without an address plan of their own.
"""

from __future__ import annotations

import typing

from fluxedge.config.drivers import MAIN_GROUP, merged_points
from fluxedge.config.structs import DeviceCfg, DriverCfg, PointCfg

_COLUMN_FIELDS = ("label", "unit", "scale", "offset", "precision", "low", "high")


def grouped_points(driver: DriverCfg, device: DeviceCfg) -> dict[str, dict[str, PointCfg]]:
    """Return group -> name -> point, "main" first, then in the driver file's order; none is empty."""
    groups: dict[str, dict[str, PointCfg]] = {name: {} for name in (MAIN_GROUP, *driver.groups)}
    for name, point in merged_points(driver, device).items():
        groups[point.group or MAIN_GROUP][name] = point
    return {name: points for name, points in groups.items() if points}


def periods_s(driver: DriverCfg, device: DeviceCfg) -> dict[str, float]:
    """Return group -> seconds between reads; the device's period is that of "main"."""
    main_s = driver.every_s if device.every_s is None else device.every_s
    return {MAIN_GROUP: float(main_s)} | {name: float(group.every_s) for name, group in driver.groups.items()}


def column_fields(point: PointCfg) -> dict[str, typing.Any]:
    """Return the fields that model.Point takes over from a point of any driver file."""
    return {name: getattr(point, name) for name in _COLUMN_FIELDS}
