from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxedge.config.uplinks import parse_broker_url
from fluxedge.config.urls import ChannelUrl, Rs485, host_mistake, parse_channel_url

URLS = {
    "tcp://10.0.0.1": ChannelUrl("tcp", "10.0.0.1", 502),
    "tcp://Meter.Lan:1502/": ChannelUrl("tcp", "meter.lan", 1502),
    "tcp://[fe80::1]": ChannelUrl("tcp", "fe80::1", 502),
    "rtu+tcp://gw_1:4001": ChannelUrl("rtu+tcp", "gw_1", 4001),
    "serial:///dev/ttyS0": ChannelUrl("serial", path="/dev/ttyS0"),
    "serial:///dev/serial/by-id/usb-A%20B?baud=19200&parity=e&bits=7&stop=1.5": ChannelUrl(
        "serial", path="/dev/serial/by-id/usb-A B", baud=19200, parity="E", bits=7, stop=1.5
    ),
    "serial:///dev/ttyS1?rs485=off": ChannelUrl("serial", path="/dev/ttyS1"),
    "serial:///dev/ttyS1?rs485=kernel": ChannelUrl("serial", path="/dev/ttyS1", rs485=Rs485()),
    "serial:///dev/a?rs485=kernel&rts_on_send=0&rts_after_send=1&delay_before_send=2&delay_after_send=3": ChannelUrl(
        "serial", path="/dev/a", rs485=Rs485(False, True, 2, 3)
    ),
}


@pytest.mark.parametrize("text", URLS)
def test_a_url_says_what_to_open(text: str) -> None:
    assert parse_channel_url(text) == URLS[text]


@pytest.mark.parametrize("url", URLS.values())
def test_the_canonical_form_means_the_same(url: ChannelUrl) -> None:
    assert parse_channel_url(str(url)) == url


@pytest.mark.parametrize(
    ("text", "framing", "endpoint"),
    [
        ("tcp://A", "tcp", "a:502"),
        ("rtu+tcp://[::1]:7", "rtu-tcp", "[::1]:7"),
        ("serial:///dev/ttyS0?baud=300", "rtu", "/dev/ttyS0"),
    ],
)
def test_a_url_says_how_bytes_are_framed_and_what_nobody_else_may_open(text: str, framing: str, endpoint: str) -> None:
    url = parse_channel_url(text)
    assert (url.framing, url.endpoint) == (framing, endpoint)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("10.0.0.1:502", "is not a channel URL; write for example tcp://192.168.1.10:502"),
        ("udp://a", '"udp" is not a scheme of channels; known are tcp://, rtu+tcp://, serial://'),
        ("tcp://", '"" is not a host name'),
        ("tcp://a b", '"a b" is not a host name'),
        ("tcp://::1", "write an IPv6 address in brackets"),
        ("tcp://[a.b]", "is not a"),
        ("tcp://[::1", "is not a URL"),
        ("tcp://a:0", '"0" is not a port in 1..65535'),
        ("tcp://a:", '"" is not a port in 1..65535'),
        ("tcp://a:５", "is not a port in 1..65535"),
        ("tcp://u:p@a", "no user name and no password"),
        ("tcp://a/x", "nothing may follow the port"),
        ("tcp://a?unit=1", "nothing may follow the port"),
        ("tcp://a#x", "nothing may follow a #"),
        ("rtu+tcp://a", "a port is missing; write rtu+tcp://a:PORT"),
        ("serial://dev/ttyS0", "write three slashes"),
        ("serial:///", "write three slashes"),
        ("serial:///dev/a?baud=fast", 'baud: "fast" is not in 50..4000000'),
        ("serial:///dev/a?baud=1&baud=2", "baud is given twice"),
        ("serial:///dev/a?parity=none", 'parity: "NONE" is not one of N, E, O, M, S'),
        ("serial:///dev/a?bits=9", 'bits: "9" is not in 5..8'),
        ("serial:///dev/a?stop=3", 'stop: "3" is not one of 1, 1.5, 2'),
        ("serial:///dev/a?speed=1", '"speed" is not a setting of a serial line; known are baud,'),
        ("serial:///dev/a?rs485=yes", 'rs485: "yes" is not one of off, kernel'),
        ("serial:///dev/a?rts_on_send=1", "rts_on_send has no effect without rs485=kernel"),
        ("serial:///dev/a?rs485=kernel&rts_on_send=2", 'rts_on_send: "2" is not in 0..1'),
    ],
)
def test_what_is_no_url_is_refused_with_a_remedy(text: str, words: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_channel_url(text)
    assert words in str(caught.value)


@given(st.one_of(st.text(max_size=30), st.text("tcprual+:/[]@?&=#%1.x", max_size=30).map("tcp://".__add__)))
def test_any_text_is_a_url_or_refused(text: str) -> None:
    try:
        url = parse_channel_url(text)
    except ValueError:
        return
    assert parse_channel_url(str(url)) == url


HOSTS_THAT_ARE_NONE = {
    "192.168.1..10": "a part between its dots is empty",
    "plc..local": "a part between its dots is empty",
    f"{'a' * 64}.lan": "is longer than 63 characters",
    ".".join(["a" * 60] * 5): "is longer than 253 characters",
    "1.2.3": "is not an IPv4 address",
    "192.168.1.256": "is not an IPv4 address",
    "192.168.001.010": "is not an IPv4 address",
    "a.-b": "has a character that names have not",
}


@pytest.mark.parametrize("host", HOSTS_THAT_ARE_NONE)
def test_a_host_that_cannot_be_looked_up_is_refused_for_channels_and_brokers(host: str) -> None:
    for url, parse in ((f"tcp://{host}:502", parse_channel_url), (f"mqtt://{host}", parse_broker_url)):
        with pytest.raises(ValueError) as caught:
            parse(url)
        assert HOSTS_THAT_ARE_NONE[host] in str(caught.value)


@pytest.mark.parametrize(
    "host", ["plc.local.", "a" * 63, "3com.example", "gw_1", "10.0.0.1", "fe80::1%eth0", "xn--mnchen-3ya.de"]
)
def test_a_host_that_can_be_looked_up_is_taken(host: str) -> None:
    assert host_mistake(host) == ""
