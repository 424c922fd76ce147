"""Driver files by name, from every layer: the configuration directory, STATE/site, the shipped ones."""

from __future__ import annotations

import typing
from dataclasses import dataclass
from pathlib import Path

import msgspec

from fluxedge.apply import findings as findings_of
from fluxedge.config.assemble import assemble
from fluxedge.config.mistakes import Mistake, unknown
from fluxedge.config.sources import Layout, Sources, read_shipped
from fluxedge.config.structs import WITHOUT_CHANNEL, ChannelCfg, Config, DeviceCfg, DriverCfg
from fluxedge.problems import ConfigProblem

Layer = typing.Literal["config", "site", "shipped"]


class BrokenDriver(ConfigProblem):
    """A driver file has mistakes."""


@dataclass(frozen=True, slots=True)
class DriverFile:
    """One driver as it was found."""

    id: str
    layer: Layer
    path: Path
    driver: DriverCfg | None  # None: it cannot be used
    mistakes: tuple[Mistake, ...] = ()


def folders(layout: Layout) -> list[tuple[Layer, Path]]:
    """Return where driver files are, the upper layer first."""
    found: list[tuple[Layer, Path]] = [("config", layout.config_dir / "drivers")]
    if layout.site_dir is not None:
        found.append(("site", layout.site_dir / "drivers"))
    return found + [("shipped", directory) for directory in layout.driver_dirs]


def names(layout: Layout) -> list[str]:
    """Return the names of all drivers, sorted."""
    return sorted({path.stem for _, folder in folders(layout) for path in folder.glob("[!.]*.toml")})


def find(layout: Layout, name: str) -> DriverFile | None:
    """Return a driver by its name, or by the path of its file; None when there is none."""
    places = folders(layout)
    if name.endswith(".toml"):
        places = [("config", Path(name).parent)]
        name = Path(name).stem
    for layer, folder in places:
        path = folder / f"{name}.toml"
        if path.is_file():
            return _read(layer, path)
    return None


def need(layout: Layout, name: str) -> DriverCfg:
    """Return a driver that can be used.

    Raises:
        ConfigProblem: "config-invalid": there is none of this name.
        BrokenDriver: "config-invalid": it has mistakes; the message has them all.
    """
    found = find(layout, name)
    if found is None:
        text = unknown("driver", name, names(layout))
        raise ConfigProblem("config-invalid", text, "`fluxedge drivers ls` lists them.")
    if found.driver is None:
        raise BrokenDriver("config-invalid", "\n".join(mistake.text() for mistake in found.mistakes))
    return found.driver


def _read(layer: Layer, path: Path) -> DriverFile:
    sources = Sources()
    item = read_shipped(path.stem, Layout(path.parent, driver_dirs=(path.parent,)), sources)
    if item is None:
        return DriverFile(path.stem, layer, path, None, tuple(sources.mistakes))
    assembly = assemble({item.key: item}, Layout(path.parent, driver_dirs=()))
    errors = [*assembly.findings.errors, *assembly.trial.findings(findings_of)]
    told = (item.mistake(finding.path, finding.message, finding.hint, finding.code) for finding in errors)
    mistakes = tuple(sorted(told, key=lambda mistake: mistake.line))
    return DriverFile(path.stem, layer, path, None if mistakes else assembly.trial.config.drivers[item.id], mistakes)


def alone(driver: DriverCfg, device: DeviceCfg | None = None, url: str = "tcp://127.0.0.1") -> Config:
    """Return a configuration of nothing but one device, named like its driver."""
    device = device or DeviceCfg(driver=driver.id, unit=1 if driver.protocol == "modbus" else None)
    if driver.protocol in WITHOUT_CHANNEL:
        return Config(devices={driver.id: device}, drivers={driver.id: driver})
    device = msgspec.structs.replace(device, channel="wire")
    channels = {"wire": ChannelCfg(url=url)}
    return Config(channels=channels, devices={driver.id: device}, drivers={driver.id: driver})
