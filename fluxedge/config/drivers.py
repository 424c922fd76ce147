"""Driver files: decoded by their protocol, and what a device says over them."""

from __future__ import annotations

import typing
from collections.abc import Collection
from dataclasses import dataclass

import msgspec
from msgspec import UNSET

from fluxedge.config.decode import decode, decode_rest, fields_of
from fluxedge.config.mistakes import Findings, unknown
from fluxedge.config.sources import Item
from fluxedge.config.structs import OPTIONS, POINTS, DeviceCfg, DriverCfg, Id, PointCfg, PointOverrideCfg, Table
from fluxedge.config.toml_lines import Path

MAIN_GROUP = "main"  # of the points that name none; read at the device's period


_BESIDE = ("group", "label", "note", "unit")  # keys of a point that no other key depends on


@dataclass(frozen=True, slots=True)
class Remains:
    """What is left of a driver file with mistakes, to find more of them with. It never runs."""

    driver: DriverCfg
    lost: frozenset[str]  # points of the file that are not in `driver`
    partial: frozenset[str]  # points in `driver` that lack some of their keys


def read_driver(item: Item, findings: Findings) -> DriverCfg | Remains | None:
    """Return the driver; after noting everything that is wrong with it what is left, or None where that is nothing."""
    before = len(findings.errors)
    protocol = str(item.fields.get("protocol"))
    known = protocol in POINTS
    points: object = POINTS[protocol] if known else typing.Any
    options: object = OPTIONS[protocol] if known else typing.Any
    types = {"options": options, "points": dict[Id, points]}  # type: ignore[valid-type]
    driver = decode(DriverCfg, item.table, findings.noting(item.key), types)
    if driver is None and known:
        driver = decode_rest(DriverCfg, item.table, types, {"name": "?", "source": "?"})
    if driver is None:
        return None
    if not isinstance(driver.options, OPTIONS[driver.protocol]):
        driver = msgspec.structs.replace(driver, options=OPTIONS[driver.protocol]())
    driver = msgspec.structs.replace(driver, id=item.id)
    _check_groups(item, findings)
    if not item.fields.get("points", {}):
        findings.error(item.key, (), "a driver needs at least one point", "Write a table [points].")
    return driver if len(findings.errors) == before else _remains(item, driver, findings)


def _remains(item: Item, driver: DriverCfg, findings: Findings) -> Remains:
    paths = [path for path in findings.paths(item.key) if len(path) > 1 and path[0] == "points"]
    hurt = {str(path[1]) for path in paths if len(path) == 2 or path[2] not in _BESIDE}
    points = {
        name: point if point.group in driver.groups else msgspec.structs.replace(point, group="")
        for name, point in driver.points.items()
    }
    return Remains(
        msgspec.structs.replace(driver, points=points),
        lost=frozenset(_tables(item, "points")) - points.keys(),
        partial=frozenset(hurt & points.keys()),
    )


def _tables(item: Item, key: str) -> dict[str, typing.Any]:
    """Return what the file says there, right or not; empty when it is no table."""
    found = item.fields.get(key)
    return found if isinstance(found, dict) else {}


def _check_groups(item: Item, findings: Findings) -> None:
    """Look at the file as it is: a group or point with a mistake of its own is there all the same."""
    groups = _tables(item, "groups")
    if MAIN_GROUP in groups:
        text = f'"{MAIN_GROUP}" is the group of the points that name none; it is read at the device\'s period'
        findings.error(item.key, ("groups", MAIN_GROUP), text, 'Remove it, and write `every = "…"` above the tables.')
    tables = {name: point for name, point in _tables(item, "points").items() if isinstance(point, dict)}
    named = {name: point["group"] for name, point in tables.items() if isinstance(point.get("group"), str)}
    for name, group in named.items():
        if group not in ("", MAIN_GROUP, *groups) and isinstance(item.fields.get("groups", {}), dict):
            text = unknown("group", group, groups)
            findings.error(item.key, ("points", name, "group"), text, f'Write [groups.{group}] with every = "10s".')
    for name in groups:
        if name != MAIN_GROUP and name not in named.values():
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


def check_overrides(
    item: Item, driver: DriverCfg, device: DeviceCfg, findings: Findings, lost: Collection[str] = ()
) -> None:
    """Note what a device says about its driver's options and points that cannot be.

    `lost` are points that its driver file has, but not in a usable form. What has a mistake already is left alone.
    """

    def note(path: Path, message: str, hint: str) -> None:
        findings.error(item.key, ("options", *path), message, hint)

    if device.options:
        _merge_options(driver, device, note)
    if "points" not in item.fields:  # nearly all devices; a driver may have hundreds of points
        return
    hurt = findings.keys_below(item.key, "points")
    for name in (*device.points, *sorted(hurt - device.points.keys())):
        if name not in driver.points and name not in lost:
            findings.error(item.key, ("points", name), unknown("point", name, (*driver.points, *lost)))
    for name, override in device.points.items():
        if name in driver.points and name not in hurt and not override.drop:
            try:
                _override(driver.points[name], override)
            except ValueError as exc:
                findings.error(item.key, ("points", name), str(exc))
    _check_names(item, [name for name in driver.points if name not in hurt], device, findings)
    if not lost and driver.points and all(name in device.points and device.points[name].drop for name in driver.points):
        findings.error(item.key, ("points",), "every point is dropped", "Write enabled = false to rest the device.")


def _check_names(item: Item, names: list[str], device: DeviceCfg, findings: Findings) -> None:
    """Note points that would have one name after `rename`."""
    seen: dict[str, str] = {}
    for name in names:
        override = device.points.get(name)
        if override is not None and override.drop:
            continue
        final = final_name(name, override)
        if final in seen:
            renamed = name if final != name else seen[final]
            other = seen[final] if renamed == name else name
            text = f'"{final}" is already the name of the point {other}'
            findings.error(item.key, ("points", renamed, "rename"), text)
        seen.setdefault(final, name)


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
