"""Reading the shipped driver files, apart from the loader that the daemon uses."""

from __future__ import annotations

import tomllib
import typing
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from fluxedge.config.quantities import Bytes, Seconds
from fluxedge.config.structs import OPTIONS, POINTS, DriverCfg

DRIVERS = Path(__file__).parents[2] / "drivers"
Load = Callable[[str], DriverCfg]


def _quantity(kind: type, value: object) -> object:
    if kind is Seconds:
        return Seconds.parse(value)
    if kind is Bytes:
        return Bytes.parse(value)
    raise NotImplementedError(kind)


def load(name: str) -> DriverCfg:
    """Decode one file; unknown keys and wrong types raise msgspec.ValidationError."""
    table: dict[str, typing.Any] = tomllib.loads((DRIVERS / f"{name}.toml").read_text(encoding="utf-8"))
    points, options = table.pop("points"), table.pop("options", {})
    driver = msgspec.convert(table, DriverCfg, dec_hook=_quantity)
    point_type, options_type = POINTS[driver.protocol], OPTIONS[driver.protocol]
    return msgspec.structs.replace(
        driver,
        id=name,
        points=msgspec.convert(points, dict[str, point_type], dec_hook=_quantity),  # type: ignore[valid-type]
        options=msgspec.convert(options, options_type, dec_hook=_quantity),
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that asks for `driver_name` once for every shipped file, `modbus_name` for every Modbus product."""
    names = sorted(path.stem for path in DRIVERS.glob("*.toml"))
    if "driver_name" in metafunc.fixturenames:
        metafunc.parametrize("driver_name", names)
    if "modbus_name" in metafunc.fixturenames:
        metafunc.parametrize("modbus_name", [name for name in names if load(name).protocol == "modbus"])


@pytest.fixture
def driver(driver_name: str) -> DriverCfg:
    return load(driver_name)


@pytest.fixture
def modbus(modbus_name: str) -> DriverCfg:
    return load(modbus_name)


@pytest.fixture(scope="session")
def load_driver() -> Load:
    return load
