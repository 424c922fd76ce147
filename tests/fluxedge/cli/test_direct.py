"""Reading without a daemon: the gateway's own stack, and what it looked like on the wire."""

from __future__ import annotations

import pytest

from fluxedge.cli import direct
from fluxedge.model import Quality
from fluxedge.problems import ConfigProblem, DeviceProblem, LinkProblem
from tests.conftest import free_port
from tests.fluxedge.cli.sites import served, shipped


def url(port: int) -> str:
    return f"tcp://127.0.0.1:{port}"


@pytest.mark.parametrize(
    ("at", "type_", "count", "names"),
    [
        ("30001", "float32", 3, ["30001", "30003", "30005"]),
        ("hr:0x10", "uint16", 3, ["hr:0x10", "hr:17", "hr:18"]),
        ("400001", "float64", 2, ["400001", "40005"]),
        ("co:6", "", 3, ["co:6", "co:7", "co:8"]),
        ("hr:9.14", "", 4, ["hr:9.14", "hr:9.15", "hr:10.0", "hr:10.1"]),
    ],
)
def test_values_by_address_lie_one_behind_the_other(at: str, type_: str, count: int, names: list[str]) -> None:
    assert list(direct.points_at(at, type_, count=count).points) == names


@pytest.mark.parametrize(
    ("at", "type_", "order", "words"),
    [
        ("90001", "", "", "--at: .*a reference begins with"),
        ("40001", "flot32", "", 'did you mean "float32"'),
        ("40001", "float32", "ABDC", "--order: "),
    ],
)
def test_what_cannot_be_an_address_names_the_option(at: str, type_: str, order: str, words: str) -> None:
    with pytest.raises(ConfigProblem, match=words):
        direct.points_at(at, type_, order=order)


async def test_words_are_those_on_the_wire() -> None:
    async with served(u1="eastron-sdm120") as server:
        server.set(1, "u", 230.2)
        outcome = await direct.read_once(
            url(server.port), shipped("eastron-sdm120"), direct.device_of(shipped("eastron-sdm120"), 1, ["u"])
        )
    (seen,) = outcome.seen
    assert (seen.words, seen.quality) == ("4366 3333", Quality.GOOD)
    assert seen.value == pytest.approx(230.2)


async def test_coils_show_their_bits() -> None:
    async with served(u1="moxa-iologik-e1212") as server:
        server.set(1, "do_1", True)
        driver = direct.points_at("co:0", "", count=3)
        outcome = await direct.read_once(url(server.port), driver, direct.device_of(driver, 1, []))
    assert [(seen.value, seen.words) for seen in outcome.seen] == [(False, "0"), (True, "1"), (False, "0")]


async def test_only_the_wanted_points_are_asked_for() -> None:
    driver = shipped("eastron-sdm630")
    async with served(u1="eastron-sdm630") as server:
        outcome = await direct.read_once(url(server.port), driver, direct.device_of(driver, 1, ["u_l1", "f"]))
        assert [seen.point.name for seen in outcome.seen] == ["u_l1", "f"]
        assert sum(server.requests.values()) == 2


async def test_the_trace_has_every_byte_with_its_direction_and_time() -> None:
    traced: list[tuple[float, str, bytes]] = []
    driver = direct.points_at("ir:0", "float32")
    async with served(u9="eastron-sdm120") as server:
        device_ = direct.device_of(driver, 9, [])
        await direct.read_once(url(server.port), driver, device_, trace=lambda *entry: traced.append(entry))
    (_, sent, request), (_, received, reply) = traced
    assert (sent, request.hex(" ")) == (">", "00 01 00 00 00 06 09 04 00 00 00 02")
    assert (received, reply[:9].hex(" ")) == ("<", "00 01 00 00 00 07 09 04 04")
    assert 0 <= traced[0][0] <= traced[1][0] < 5


async def test_a_refused_point_is_bad_and_the_others_are_read() -> None:
    driver = direct.points_at("40001", "uint16", count=1)
    async with served(u1="moxa-iologik-e1212") as server:
        outcome = await direct.read_once(url(server.port), driver, direct.device_of(driver, 1, []))
    (seen,) = outcome.seen
    assert (seen.value, seen.words, seen.quality) == (None, "", Quality.BAD)
    assert [problem.code for problem in outcome.problems] == ["illegal-address"]


async def test_a_silent_device_is_told_with_what_to_look_at() -> None:
    driver = shipped("xy-md02")
    async with served(u1="xy-md02") as server:
        with pytest.raises(DeviceProblem) as caught:
            await direct.read_once(url(server.port), driver, direct.device_of(driver, 2, []), timeout_s=0.05)
    assert caught.value.code == "no-reply"
    assert "unit id" in caught.value.hint


async def test_a_wire_that_cannot_be_opened_is_told() -> None:
    driver = shipped("xy-md02")
    with pytest.raises(LinkProblem) as caught:
        await direct.read_once(url(free_port()), driver, direct.device_of(driver, 1, []))
    assert caught.value.code == "link-refused"


async def test_what_is_no_url_or_no_modbus_driver_is_refused_before_anything_is_opened() -> None:
    driver, host = shipped("xy-md02"), shipped("host")
    with pytest.raises(ConfigProblem, match="not a scheme"):
        await direct.read_once("ftp://x", driver, direct.device_of(driver, 1, []))
    with pytest.raises(ConfigProblem, match="no channel"):
        await direct.read_once("tcp://x", host, direct.device_of(host, None, []))


def test_a_point_that_the_driver_does_not_have_is_refused_with_a_suggestion() -> None:
    with pytest.raises(ConfigProblem, match='did you mean "humidity"'):
        direct.device_of(shipped("xy-md02"), 1, ["humidty"])
