from __future__ import annotations

from pathlib import Path

from fluxedge.config.assemble import assemble
from fluxedge.config.sources import Item, Layout

LAYOUT = Layout(Path("/nowhere"), driver_dirs=())
DRIVER = {"name": "x", "protocol": "simulator", "source": "none", "points": {"a": {"wave": "ramp"}}}
MODBUS = {"name": "x", "protocol": "modbus", "source": "none", "points": {"a": {"at": "30001"}}}


def items(**tables: object) -> dict[str, Item]:
    """Keys: device__m1 for "device:m1"."""
    return {key.replace("__", ":"): Item(key.replace("__", ":"), table, "x.toml") for key, table in tables.items()}


def test_what_fits_together_becomes_a_configuration() -> None:
    assembly = assemble(items(driver__x=DRIVER, device__m1={"driver": "x"}, gateway={"label": "G"}), LAYOUT)
    assert assembly.findings.errors == []
    assert (list(assembly.config.devices), list(assembly.config.drivers)) == (["m1"], ["x"])
    assert assembly.config.gateway.label == "G"
    assert assembly.origins == {"m1": "device:m1"}


def test_drivers_that_nobody_names_are_checked_but_not_part_of_it() -> None:
    assembly = assemble(items(driver__x=DRIVER, driver__y={}), LAYOUT)
    assert assembly.config.drivers == {}
    assert assembly.findings.refused() == {"driver:y"}


def test_the_later_of_two_items_that_exclude_each_other_has_the_mistake() -> None:
    device = {"driver": "x", "channel": "tcp://a"}
    for first, second in (("m1", "m2"), ("m2", "m1")):
        tables = {"driver__x": MODBUS, f"device__{first}": device, f"device__{second}": device}
        assembly = assemble(items(**tables), LAYOUT)
        assert assembly.findings.refused() == {f"device:{second}"}
        assert list(assembly.config.devices) == [first]


def test_to_need_what_is_gone_is_no_mistake() -> None:
    assembly = assemble(
        items(driver__x=MODBUS, device__m1={"driver": "y"}, device__m2={"driver": "x", "channel": "bus"}),
        LAYOUT,
        gone={"driver:y", "channel:bus"},
    )
    assert assembly.findings.errors == []
    assert assembly.findings.blocked == {
        "device:m1": "its driver y cannot be used",
        "device:m2": "its channel bus cannot be used",
    }
    assert assembly.config.devices == {}
