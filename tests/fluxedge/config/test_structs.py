from __future__ import annotations

import pytest

from fluxedge.config import structs
from fluxedge.config.credentials import Secret
from fluxedge.config.quantities import Bytes, Seconds


def test_equal_configurations_compare_equal() -> None:
    def config(unit: int) -> structs.Config:
        return structs.Config(devices={"m": structs.DeviceCfg(driver="x", unit=unit)})

    assert config(1) == config(1)
    assert config(1) != config(2)


def test_a_configuration_never_shows_its_secrets() -> None:
    assert "hunter2" not in repr(structs.Config(secrets={"cloud": Secret("hunter2")}))


def test_an_uplink_has_one_broker_or_several() -> None:
    assert structs.UplinkCfg(url="mqtt://a").urls == ["mqtt://a"]
    assert structs.UplinkCfg(url=["mqtt://a", "mqtt://b"]).urls == ["mqtt://a", "mqtt://b"]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: structs.LogCfg(commit_s=Seconds(0.01)), "commit: 10ms is not between"),
        (lambda: structs.LogCfg(segment_bytes=Bytes(2**30), backlog_bytes=Bytes(2**30)), "segment: 1GiB is more than"),
        (lambda: structs.TopicsCfg(events="a/+"), "events: .* is not a topic"),
        (lambda: structs.TopicsCfg(events=""), "events: .* is not a topic"),
        (lambda: structs.TopicsCfg(events="a/{device}"), "only {gateway} can be replaced"),
        (lambda: structs.TopicsCfg(events="é" * 513), "longer than 1024 bytes"),
        (lambda: structs.TlsCfg(key="k"), "certificate and key"),
        (lambda: structs.UplinkCfg(url=[]), "url: the array is empty"),
        (lambda: structs.UplinkCfg(url="x", lanes=[]), "lanes: the array is empty"),
        (lambda: structs.UplinkCfg(url="x", keepalive_s=Seconds(0)), "keepalive: 0ms is not between"),
        (lambda: structs.UplinkCfg(url="x", message_bytes=Bytes(2**30)), "message: 1GiB is not between"),
        (lambda: structs.UplinkCfg(url="x", expiry_s=Seconds(0.5)), "expiry: 500ms is not at least 1s"),
        (lambda: structs.UplinkCfg(url="x", version="3.1.1", expiry_s=Seconds(5)), "expiry: only MQTT 5 knows it"),
        (
            lambda: structs.UplinkCfg(url="x", version="3.1.1", require_subscriber=True),
            "require_subscriber: only MQTT 5 tells it",
        ),
        (lambda: structs.UplinkCfg(url="x", version="3.1.1", password="p"), "password: MQTT 3.1.1 permits it only"),
        (lambda: structs.ChannelCfg(url="x", timeout_s=Seconds(0)), "timeout: 0ms is not between"),
        (lambda: structs.ChannelCfg(url="x", connect_timeout_s=Seconds(601)), "connect_timeout: 601s is not between"),
        (lambda: structs.ChannelCfg(url="x", pause_s=Seconds(61)), "pause: 61s is more than"),
        (lambda: structs.DeviceCfg(driver="x", unit=1, units="1"), "unit and units"),
        (lambda: structs.DeviceCfg(driver="x", every_s=Seconds(0)), "every: 0ms is not between"),
        (lambda: structs.DeviceCfg(driver="x", timeout_s=Seconds(0)), "timeout: 0ms is not between"),
        (lambda: structs.PointOverrideCfg(scale=0), "scale: 0 would make"),
        (lambda: structs.GroupCfg(every_s=Seconds(0)), "every: 0ms is not between"),
        (lambda: structs.PointCfg(scale=0), "scale: 0 would make"),
        (lambda: structs.PointCfg(low=2, high=1), "low: 2 is above high"),
        (lambda: structs.DriverCfg(name="", protocol="host", source="", every_s=Seconds(1e6)), "every: .* is not"),
    ],
)  # fmt: skip
def test_what_cannot_be_cannot_be_built(make: type, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
