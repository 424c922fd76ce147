"""Channels: bytes, deadlines and gaps. The only place that opens wires.

link.py     the open wire: exchange, time-out, what is dropped      late.py   late replies, bookkeeping
tcp.py      tcp:// and rtu+tcp://                                   gap.py    silence and a timer fine enough
serial.py   serial://
"""

from __future__ import annotations

from fluxedge.channels.link import WireChannel
from fluxedge.channels.serial import SerialChannel
from fluxedge.channels.tcp import TcpChannel
from fluxedge.clock import Clock
from fluxedge.config.structs import ChannelCfg
from fluxedge.config.urls import parse_channel_url


def open_channel(channel_id: str, cfg: ChannelCfg, clock: Clock) -> WireChannel:
    """Return the channel that `cfg.url` names; it is not open yet.

    Raises:
        ValueError: the URL is not one (the loader has told the user before).
    """
    url = parse_channel_url(cfg.url)
    if url.scheme == "serial":
        return SerialChannel(channel_id, url, cfg, clock)
    return TcpChannel(channel_id, url, cfg, clock)
