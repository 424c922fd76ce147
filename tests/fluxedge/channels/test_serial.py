"""Serial channels on a pty: the master end plays the line, a reader on the loop plays the device."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import grp
import os
import pwd
import time
import tty
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import serial
import uvloop

from fluxedge.channels import open_channel
from fluxedge.channels.link import Link
from fluxedge.channels.serial import SerialChannel, open_problem
from fluxedge.clock import SystemClock
from fluxedge.config.structs import ChannelCfg
from fluxedge.problems import DeviceProblem, LinkProblem

REQUEST = b"\x07\x03\x00\x00\x00\x02\xc4\x0b"
ANSWER = b"\x07\x03\x04\x00\x01\x00\x02\x00\x00"


def match(data: bytes) -> tuple[int, bytes | None]:
    return (len(ANSWER), data[: len(ANSWER)]) if len(data) >= len(ANSWER) else (0, None)


class Line:
    """The other end of a pty: notes what arrives and when, answers as `answer` says (None: not at all)."""

    def __init__(self, link_path: Path) -> None:
        self.link_path = link_path
        self.answer: Callable[[int], bytes | None] = lambda n: ANSWER
        self.heard: list[tuple[float, bytes]] = []
        self.asked = asyncio.Event()
        self.sent_s = 0.0
        self.master = -1
        self.plug_in()

    def plug_in(self) -> None:
        self.master, slave = os.openpty()
        tty.setraw(slave)
        self.link_path.unlink(missing_ok=True)
        self.link_path.symlink_to(os.ttyname(slave))
        os.close(slave)
        os.set_blocking(self.master, False)
        asyncio.get_running_loop().add_reader(self.master, self._hear)

    def unplug(self) -> None:
        if self.master >= 0:
            asyncio.get_running_loop().remove_reader(self.master)
            os.close(self.master)
            self.master = -1
            self.link_path.unlink()

    def send(self, data: bytes) -> None:
        self.sent_s = time.monotonic()
        os.write(self.master, data)

    def _hear(self) -> None:
        try:
            data = os.read(self.master, 1000)
        except OSError:  # nobody has the other end open
            asyncio.get_running_loop().remove_reader(self.master)
            return
        self.heard.append((time.monotonic(), data))
        self.asked.set()
        answer = self.answer(len(self.heard))
        if answer is not None:
            self.send(answer)


@contextlib.asynccontextmanager
async def line_and_channel(
    folder: Path, settings: str = "baud=9600", pause_s: float = 0.0
) -> AsyncIterator[tuple[Line, SerialChannel]]:
    line = Line(folder / "ttyTEST")
    cfg = ChannelCfg(url=f"serial://{line.link_path}?{settings}", pause_s=pause_s)
    channel = open_channel("bus", cfg, SystemClock())
    assert isinstance(channel, SerialChannel)
    try:
        yield line, channel
    finally:
        await channel.close()
        line.unplug()


async def ask(link: Link, timeout_s: float = 5.0) -> bytes:
    return (await link.exchange(REQUEST, match, timeout_s=timeout_s, reply_bytes=len(ANSWER))).data


async def opened(line: Line, channel: SerialChannel) -> Link:
    link = await channel.open()
    loop = asyncio.get_running_loop()
    loop.add_reader(line.master, line._hear)  # the master reports a hang-up until the other end is open
    return link


async def test_an_exchange_over_a_serial_line(tmp_path: Path) -> None:
    async with line_and_channel(tmp_path) as (line, channel):
        assert channel.framing == "rtu"
        link = await opened(line, channel)
        assert await ask(link) == ANSWER
        assert [data for _, data in line.heard] == [REQUEST]
        assert (channel.tally.exchanges, channel.tally.received_bytes) == (1, len(ANSWER))


async def test_an_answer_may_come_in_pieces(tmp_path: Path) -> None:
    async with line_and_channel(tmp_path) as (line, channel):
        link = await opened(line, channel)
        line.answer = lambda n: None
        waiting = asyncio.ensure_future(ask(link))
        await line.asked.wait()
        for byte in ANSWER:
            line.send(bytes([byte]))
            await asyncio.sleep(0.002)
        assert await waiting == ANSWER
        assert channel.tally.dropped_bytes == 0


async def test_the_gap_is_kept_after_the_last_byte_before_every_request(tmp_path: Path) -> None:
    async with line_and_channel(tmp_path) as (line, channel):
        link = await opened(line, channel)
        for _ in range(5):
            await ask(link)
            answered_s = line.sent_s
            await ask(link)
            assert line.heard[-1][0] - answered_s >= 3.5 * 10 / 9600


async def test_the_pause_of_the_channel_comes_on_top_of_the_gap(tmp_path: Path) -> None:
    async with line_and_channel(tmp_path, "baud=115200", pause_s=0.03) as (line, channel):
        assert channel.timing.gap_s == pytest.approx(0.03175)
        link = await opened(line, channel)
        await ask(link)
        answered_s = line.sent_s
        await ask(link)
        assert line.heard[-1][0] - answered_s >= 0.03175


async def test_after_a_broadcast_the_gap_counts_from_the_end_of_its_transmission(tmp_path: Path) -> None:
    async with line_and_channel(tmp_path, "baud=1200") as (line, channel):
        link = await opened(line, channel)
        line.answer = lambda n: ANSWER if n > 1 else None
        sent_s = time.monotonic()
        await link.send(REQUEST)
        await ask(link)
        assert line.heard[-1][0] - sent_s >= (len(REQUEST) + 3.5) * 10 / 1200


@pytest.mark.parametrize(
    ("settings", "bits_per_character"),
    [("baud=9600&parity=E&bits=7", 10), ("baud=9600&parity=N&bits=8&stop=2", 11), ("baud=9600&parity=E", 11)],
)
async def test_character_formats_set_the_gap_and_open(tmp_path: Path, settings: str, bits_per_character: int) -> None:
    async with line_and_channel(tmp_path, settings) as (line, channel):
        assert channel.timing.char_s == pytest.approx(bits_per_character / 9600)
        assert channel.timing.gap_s == pytest.approx(3.5 * bits_per_character / 9600)
        # A pty passes bytes whatever the format; that the port takes the setting is what opening proves.
        link = await opened(line, channel)
        assert await ask(link) == ANSWER
        await channel.close()
        link = await opened(line, channel)
        assert await ask(link) == ANSWER


async def test_silence_is_a_device_problem_and_the_port_stays_open(tmp_path: Path) -> None:
    async with line_and_channel(tmp_path) as (line, channel):
        link = await opened(line, channel)
        line.answer = lambda n: ANSWER if n > 1 else None
        with pytest.raises(DeviceProblem, match="no-reply"):
            await ask(link, timeout_s=0.05)
        reply = await link.exchange(REQUEST, match, timeout_s=0.05, reply_bytes=len(ANSWER))
        assert reply.suspect
        assert channel.tally.timeouts == 1
        assert channel.tally.opens == 1


async def test_a_late_answer_is_drained_before_the_next_request(tmp_path: Path) -> None:
    async with line_and_channel(tmp_path) as (line, channel):
        link = await opened(line, channel)
        line.answer = lambda n: ANSWER if n > 1 else None
        with pytest.raises(DeviceProblem, match="no-reply"):
            await ask(link, timeout_s=0.05)
        line.send(b"\x07\x03\x04late!")
        assert await ask(link) == ANSWER
        assert channel.tally.dropped_bytes == 8
        assert line.heard[1][0] - line.heard[0][0] >= 0.05


async def test_the_time_on_the_line_is_added_to_the_timeout(tmp_path: Path) -> None:
    async with line_and_channel(tmp_path, "baud=1200") as (line, channel):
        link = await opened(line, channel)
        line.answer = lambda n: None
        begun_s = time.monotonic()
        with pytest.raises(DeviceProblem):
            await ask(link, timeout_s=0.02)
        assert time.monotonic() - begun_s >= 0.02 + (len(REQUEST) + len(ANSWER)) * 10 / 1200 - 0.002


async def test_unplugging_ends_an_exchange_at_once_and_the_port_is_reopened_when_it_is_back(tmp_path: Path) -> None:
    async with line_and_channel(tmp_path) as (line, channel):
        link = await opened(line, channel)
        line.answer = lambda n: None
        waiting = asyncio.ensure_future(ask(link, timeout_s=60))
        await asyncio.sleep(0.02)
        line.unplug()
        with pytest.raises(LinkProblem) as caught:
            await waiting
        assert caught.value.code == "link-down"
        assert "the port is gone" in caught.value.message
        with pytest.raises(LinkProblem, match="link-down"):
            await ask(link)
        with pytest.raises(LinkProblem) as caught:
            await channel.open()
        assert caught.value.code == "port-missing"
        line.plug_in()
        line.answer = lambda n: ANSWER
        link = await opened(line, channel)
        assert await ask(link) == ANSWER
        assert channel.tally.opens == 2


async def test_unplugging_while_idle_is_told_by_the_next_request(tmp_path: Path) -> None:
    async with line_and_channel(tmp_path) as (line, channel):
        link = await opened(line, channel)
        line.unplug()
        await link.closed
        with pytest.raises(LinkProblem, match="link-down"):
            await ask(link)


async def test_a_port_that_takes_nothing_more_does_not_stop_the_loop(tmp_path: Path) -> None:
    async with line_and_channel(tmp_path, "baud=115200") as (line, channel):
        link = await opened(line, channel)
        asyncio.get_running_loop().remove_reader(line.master)  # nobody reads the other end

        async def send_much() -> None:
            for _ in range(100):
                link._quiet_since_s = 0.0  # the transmission times are not what is tested
                await link.send(bytes(4096))

        with pytest.raises(LinkProblem, match="does not take"):
            await asyncio.wait_for(send_much(), 30)


async def test_a_second_opening_of_the_port_is_refused(tmp_path: Path) -> None:
    async with line_and_channel(tmp_path) as (line, channel):
        await opened(line, channel)
        other = open_channel("other", ChannelCfg(url=f"serial://{line.link_path}"), SystemClock())
        with pytest.raises(LinkProblem) as caught:
            await other.open()
        assert caught.value.code == "link-down"
        assert "another program" in caught.value.message
        assert "fuser" in caught.value.hint


async def test_a_closed_port_can_be_opened_by_others(tmp_path: Path) -> None:
    async with line_and_channel(tmp_path) as (line, channel):
        await opened(line, channel)
        await channel.close()
        await channel.close()
        serial.Serial(str(line.link_path), exclusive=True).close()


async def test_a_file_that_is_no_port_cannot_be_opened(tmp_path: Path) -> None:
    path = tmp_path / "plain"
    path.write_bytes(b"")
    channel = open_channel("bus", ChannelCfg(url=f"serial://{path}"), SystemClock())
    with pytest.raises(LinkProblem, match="cannot be opened") as caught:
        await channel.open()
    assert caught.value.code == "link-down"


async def test_kernel_rs485_on_a_port_without_it_is_a_link_problem(tmp_path: Path) -> None:
    async with line_and_channel(tmp_path, "rs485=kernel&delay_before_send=1") as (_, channel):
        with pytest.raises(LinkProblem, match="RS485"):
            await channel.open()


def test_permission_denied_names_the_group_and_the_command(tmp_path: Path) -> None:
    path = tmp_path / "ttyUSB0"
    path.write_bytes(b"")
    problem = open_problem(str(path), PermissionError(errno.EACCES, "Permission denied"))
    group = grp.getgrgid(path.stat().st_gid).gr_name
    user = pwd.getpwuid(os.geteuid()).pw_name
    assert problem.code == "link-permission"
    assert problem.message == f"{path}: permission denied"
    assert problem.hint == f"add {user} to group {group}: usermod -aG {group} {user}"


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOENT, "port-missing"),
        (errno.ENODEV, "port-missing"),
        (errno.EBUSY, "link-down"),
        (errno.EAGAIN, "link-down"),
        (errno.EIO, "link-down"),
    ],
)
def test_errors_of_opening_become_problems(number: int, code: str) -> None:
    problem = open_problem("/dev/ttyUSB0", serial.SerialException(number, os.strerror(number)))
    assert problem.code == code
    assert "/dev/ttyUSB0" in problem.message
    assert problem.hint


def test_it_works_the_same_on_uvloop(tmp_path: Path) -> None:
    async def dialogue() -> None:
        async with line_and_channel(tmp_path) as (line, channel):
            link = await opened(line, channel)
            assert await ask(link) == ANSWER
            answered_s = line.sent_s
            assert await ask(link) == ANSWER
            assert line.heard[-1][0] - answered_s >= 3.5 * 10 / 9600
            line.answer = lambda n: None
            waiting = asyncio.ensure_future(ask(link, timeout_s=60))
            await asyncio.sleep(0.02)
            line.unplug()
            with pytest.raises(LinkProblem, match="link-down"):
                await waiting

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(dialogue())
