"""Driver files: decoded by their protocol, and what a device says over them."""

from __future__ import annotations

import typing

import msgspec
from msgspec import UNSET

from fluxedge.config.decode import decode, decode_rest, fields_of
from fluxedge.config.mistakes import Findings, unknown
from fluxedge.config.sources import Item
from fluxedge.config.structs import OPTIONS, POINTS, DeviceCfg, DriverCfg, Id, PointCfg, PointOverrideCfg, Table
from fluxedge.config.toml_lines import Path

MAIN_GROUP = "main"  # of the points that name none; read at the device's period


def decode_driver(item: Item, findings: Findings) -> DriverCfg | None:
    """Return the driver, or None after noting everything that is wrong with it."""
    protocol = item.fields.get("protocol")
    known = isinstance(protocol, str) and protocol in POINTS
    points: object = POINTS[str(protocol)] if known else typing.Any
    options: object = OPTIONS[str(protocol)] if known else typing.Any
    types = {"options": options, "points": dict[Id, points]}  # type: ignore[valid-type]
    driver = decode(DriverCfg, item.table, findings.noting(item.key), types)
    if driver is None:  # go on with what is right in it: all mistakes are told at once
        instead: dict[str, object] = {"name": "?", "source": "?"}
        rest = decode_rest(DriverCfg, item.table, findings.paths(item.key), types, instead)
        if rest is not None and known:
            _check_groups(item, rest, findings)
        return None
    if "options" not in item.fields:
        driver = msgspec.structs.replace(driver, options=OPTIONS[driver.protocol]())
    _check_groups(item, driver, findings)
    if not driver.points:
        findings.error(item.key, (), "a driver needs at least one point", "Write a table [points].")
    return msgspec.structs.replace(driver, id=item.id)


def _check_groups(item: Item, driver: DriverCfg, findings: Findings) -> None:
    if MAIN_GROUP in driver.groups:
        text = f'"{MAIN_GROUP}" is the group of the points that name none; it is read at the device\'s period'
        findings.error(item.key, ("groups", MAIN_GROUP), text, 'Remove it, and write `every = "…"` above the tables.')
    for name, point in driver.points.items():
        if point.group and point.group != MAIN_GROUP and point.group not in driver.groups:
            text = unknown("group", point.group, driver.groups)
            hint = f'Write [groups.{point.group}] with every = "10s".'
            findings.error(item.key, ("points", name, "group"), text, hint)
    for name in driver.groups:
        if name != MAIN_GROUP and not any(point.group == name for point in driver.points.values()):
            findings.warn(item.key, ("groups", name), "no point is in this group")


def merged_options(driver: DriverCfg, device: DeviceCfg) -> Table:
    """Return the protocol's options: the device's over the driver's.

    Raises:
        ValueError: the device has an option that cannot be used; never for a configuration that was loaded.
    """
    wrong: list[str] = []
    options = _merge_options(driver, device, lambda path, message, hint: wrong.append(f"{path}: {message}"))
    if options is None:
        raise ValueError(wrong[0])
    return options


def merged_points(driver: DriverCfg, device: DeviceCfg) -> dict[str, PointCfg]:
    """Return the points of a device under their final names, in the order of the driver file."""
    points = {}
    for name, point in driver.points.items():
        override = device.points.get(name)
        if override is None:
            points[name] = point
        elif not override.drop:
            points[final_name(name, override)] = _override(point, override)
    return points


def final_name(name: str, override: PointOverrideCfg | None) -> str:
    """Return the name of a point after `rename`."""
    return name if override is None or override.rename is UNSET else override.rename


def check_overrides(item: Item, driver: DriverCfg, device: DeviceCfg, findings: Findings) -> None:
    """Note what a device says about its driver's options and points that cannot be."""

    def note(path: Path, message: str, hint: str) -> None:
        findings.error(item.key, ("options", *path), message, hint)

    if device.options:
        _merge_options(driver, device, note)
    if not device.points:  # nearly all devices; a driver may have hundreds of points
        return
    seen: dict[str, str] = {}
    for name, override in device.points.items():
        if name not in driver.points:
            findings.error(item.key, ("points", name), unknown("point", name, driver.points))
        elif not override.drop:
            try:
                _override(driver.points[name], override)
            except ValueError as exc:
                findings.error(item.key, ("points", name), str(exc))
    for name in driver.points:
        point_override = device.points.get(name)
        if point_override is not None and point_override.drop:
            continue
        final = final_name(name, point_override)
        if final in seen:
            renamed = name if final != name else seen[final]
            other = seen[final] if renamed == name else name
            text = f'"{final}" is already the name of the point {other}'
            findings.error(item.key, ("points", renamed, "rename"), text)
        seen.setdefault(final, name)
    if not seen and driver.points:
        findings.error(item.key, ("points",), "every point is dropped", "Write enabled = false to rest the device.")


def _merge_options(driver: DriverCfg, device: DeviceCfg, note: typing.Callable[[Path, str, str], None]) -> Table | None:
    cls = OPTIONS[driver.protocol]
    values = fields_of(cls, device.options, note)
    if values is None:
        return None
    ours = {name: getattr(driver.options, name) for name in cls.__struct_fields__}
    try:
        return cls(**(ours | values))
    except ValueError as exc:  # a rule across fields
        note((), str(exc), "")
        return None


def _override(point: PointCfg, override: PointOverrideCfg) -> PointCfg:
    """Raises ValueError when the rules of a point no longer hold."""
    changes = {
        name: value
        for name in PointOverrideCfg.__struct_fields__
        if name not in ("drop", "rename") and (value := getattr(override, name)) is not UNSET
    }
    return msgspec.structs.replace(point, **changes)
