import struct

import pytest

from fluxedge.config.structs import ModbusPointCfg
from fluxedge.protocols.modbus.address import parse
from fluxedge.protocols.modbus.decode import Decoder
from fluxedge.protocols.modbus.plan import Limits, Request, plan
from fluxedge.protocols.modbus.types import Layout, compile_point


def layouts(*points: ModbusPointCfg) -> list[Layout]:
    return [compile_point(point, parse(point.at), "", Limits()) for point in points]


def test_raws_come_in_the_order_of_the_points_whatever_the_plan() -> None:
    points = layouts(
        ModbusPointCfg(at="hr:8", type="float32", order="CDAB"),
        ModbusPointCfg(at="ir:0", type="int16"),
        ModbusPointCfg(at="hr:0", type="string", length=4),
        ModbusPointCfg(at="co:2"),
        ModbusPointCfg(at="hr:8", type="uint16"),  # overlaps the first
        ModbusPointCfg(at="hr:3.0"),
        ModbusPointCfg(at="co:0"),
        ModbusPointCfg(at="hr:3.15"),
    )
    requests = plan([point.span for point in points], Limits())
    holding = b"ABCD" + b"\0\0" + b"\x80\x00" + bytes(8) + struct.pack(">f", 1.5)[2:] + struct.pack(">f", 1.5)[:2]
    replies = {"co": b"\x05", "ir": b"\xff\xff", "hr": holding}
    raws = Decoder(points, requests).decode([replies[request.area.prefix] for request in requests])
    assert raws == (1.5, -1, "ABCD", True, 0, False, True, True)


def test_bits_with_holes_and_out_of_order_are_found() -> None:
    points = layouts(*[ModbusPointCfg(at=f"di:{number}") for number in (17, 3, 9, 3)])
    requests = plan([point.span for point in points], Limits())
    # inputs 3 to 17: bit 0 of the first byte is input 3
    value = 1 << (17 - 3) | 1 << (9 - 3)
    assert Decoder(points, requests).decode([value.to_bytes(2, "little")]) == (True, False, True, False)


def test_a_whole_block_of_plain_values_decodes() -> None:
    points = layouts(*[ModbusPointCfg(at=f"hr:{i}", type="int16") for i in range(125)])
    requests = plan([point.span for point in points], Limits())
    assert Decoder(points, requests).decode([struct.pack(">125h", *range(-60, 65))]) == tuple(range(-60, 65))


def test_2000_coils_decode() -> None:
    points = layouts(*[ModbusPointCfg(at=f"co:{i}") for i in range(2000)])
    requests = plan([point.span for point in points], Limits())
    raws = Decoder(points, requests).decode([b"\x55" * 250])
    assert raws == (True, False) * 1000


def test_requests_that_do_not_cover_the_points_are_refused() -> None:
    points = layouts(ModbusPointCfg(at="hr:0"), ModbusPointCfg(at="hr:1"))
    with pytest.raises(ValueError, match="exactly once"):
        Decoder(points, [Request(points[0].span.area, 0, 1, (0,))])
