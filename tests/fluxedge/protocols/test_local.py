from __future__ import annotations

import pytest

from fluxedge.config.structs import OPTIONS, POINTS, DeviceCfg, DriverCfg
from fluxedge.problems import ConfigProblem
from fluxedge.protocols.host import HostProtocol
from fluxedge.protocols.local import LocalProtocol
from fluxedge.protocols.simulator import SimulatorProtocol


@pytest.mark.parametrize(
    ("cls", "wrong", "place"),
    [
        (HostProtocol, {"metric": "cpuu"}, "points.p.metric"),
        (SimulatorProtocol, {"wave": "step"}, "points.p.steps"),
    ],
)
async def test_a_mistake_refuses_the_device_and_says_where_it_is(
    cls: type[LocalProtocol], wrong: dict[str, str], place: str
) -> None:
    kind = "host" if cls is HostProtocol else "simulator"
    driver = DriverCfg(id="x", name="X", protocol=kind, source="none", points={"p": POINTS[kind](**wrong)})
    with pytest.raises(ConfigProblem) as caught:
        cls.build("d", DeviceCfg(driver="x"), driver)
    assert caught.value.code == "config-invalid"
    assert caught.value.message.startswith(f"{place}: ")


async def test_nobody_is_asked_and_nobody_is_waited_for() -> None:
    points = {"p": POINTS["simulator"](wave="ramp")}
    driver = DriverCfg(
        id="x", name="X", protocol="simulator", source="none", options=OPTIONS["simulator"](), points=points
    )
    protocol = SimulatorProtocol.build("d", DeviceCfg(driver="x"), driver, framing="rtu", timeout_s=9.0)
    assert (protocol.timeout_s, protocol.partial) == (0.0, None)
    await protocol.check_link(None)
