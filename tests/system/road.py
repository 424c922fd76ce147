"""Run the bare road in a process of its own: STATE MODBUS_PORT MQTT_PORT."""

from __future__ import annotations

import sys
from pathlib import Path

import uvloop

from fluxedge.app import Gateway
from fluxedge.config.quantities import Seconds
from fluxedge.config.structs import (
    ChannelCfg,
    Config,
    DeviceCfg,
    DriverCfg,
    GatewayCfg,
    LogCfg,
    ModbusOptionsCfg,
    ModbusPointCfg,
    UplinkCfg,
)

DEVICES = 10
POINTS = 20


def config(modbus_port: int, mqtt_port: int) -> Config:
    points = {f"p{i}": ModbusPointCfg(at=f"hr:{i}", type="uint16") for i in range(POINTS)}
    driver = DriverCfg(id="d", name="d", protocol="modbus", source="n = n", points=points, options=ModbusOptionsCfg())
    url = f"tcp://127.0.0.1:{modbus_port}"
    return Config(
        gateway=GatewayCfg(id="gw"),
        log=LogCfg(commit_s=Seconds(0.05)),
        channels={f"c{i}": ChannelCfg(url=url) for i in range(DEVICES)},
        devices={f"m{i}": DeviceCfg(driver="d", channel=f"c{i}", every_s=Seconds(0.02)) for i in range(DEVICES)},
        drivers={"d": driver},
        uplinks={"cloud": UplinkCfg(url=f"mqtt://127.0.0.1:{mqtt_port}")},
    )


async def main() -> None:
    gateway = Gateway(config(int(sys.argv[2]), int(sys.argv[3])), Path(sys.argv[1]))
    await gateway.start()
    assert gateway.failed is not None
    raise await gateway.failed


if __name__ == "__main__":
    uvloop.run(main())
