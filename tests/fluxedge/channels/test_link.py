"""The open wire, against scripted servers over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import uvloop

from fluxedge.channels import open_channel, tcp
from fluxedge.channels.late import SUSPECTS_MAX
from fluxedge.channels.link import Link, WireChannel
from fluxedge.clock import SystemClock
from fluxedge.config.structs import ChannelCfg
from fluxedge.problems import DeviceProblem, LinkProblem

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
REQUEST = b"\x07READ?"  # the first byte is the unit where it matters
ANSWER = b"<value>"


def match(data: bytes) -> tuple[int, bytes | None]:
    """Find <...>; a foreign ( ... ) is used up; ! is a refusal, # damage."""
    if data[:1] == b"(":
        end = data.find(b")") + 1
        return end, None
    if data[:1] == b"!":
        raise DeviceProblem("illegal-address", "no such register", alive=True)
    if data[:1] == b"#":
        raise DeviceProblem("crc-error", "damaged")
    begin, end = data.find(b"<"), data.find(b">") + 1
    return (end, data[begin:end]) if begin >= 0 and end > 0 else (0, None)


def answering(*pieces: bytes, pause_s: float = 0.0) -> Script:
    """Answer every request with these pieces."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(100):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(pause_s)

    return script


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while await reader.read(100):
        pass


async def one_behind(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer request n when request n + 1 comes, and that one later as well."""
    await reader.read(100)
    while await reader.read(100):
        writer.write(ANSWER)


@contextlib.asynccontextmanager
async def channel_to(script: Script, scheme: str = "tcp", pause_s: float = 0.0) -> AsyncIterator[WireChannel]:
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())  # type: ignore[arg-type]
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            await script(reader, writer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    channel = open_channel("c1", ChannelCfg(url=f"{scheme}://127.0.0.1:{port}", pause_s=pause_s), SystemClock())
    try:
        yield channel
    finally:
        await channel.close()
        server.close()
        await server.wait_closed()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def until(reached: Callable[[], bool]) -> None:
    for _ in range(5000):
        if reached():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("not reached in 5 s")


async def ask(link: Link, timeout_s: float = 5.0, reply_bytes: int = 0) -> bytes:
    return (await link.exchange(REQUEST, match, timeout_s=timeout_s, reply_bytes=reply_bytes)).data


async def test_an_answer_carries_the_stamps_of_its_last_byte() -> None:
    async with channel_to(answering(ANSWER)) as channel:
        clock = SystemClock()
        link = await channel.open()
        before_ns, before_mono_ns = clock.wall_ns(), clock.mono_ns()
        reply = await link.exchange(REQUEST, match, timeout_s=5.0)
        assert reply.data == ANSWER
        assert before_ns <= reply.at_ns <= clock.wall_ns()
        assert before_mono_ns <= reply.mono_ns <= clock.mono_ns()
        assert not reply.suspect
        assert channel.framing == "tcp"
        tally = channel.tally
        assert (tally.opens, tally.exchanges, tally.sent_bytes, tally.received_bytes) == (1, 1, 6, 7)
        assert tally.dropped_bytes == tally.timeouts == 0


async def test_an_answer_may_come_one_byte_at_a_time() -> None:
    pieces = [bytes([byte]) for byte in ANSWER]
    async with channel_to(answering(*pieces, pause_s=0.001)) as channel:
        link = await channel.open()
        assert await ask(link) == ANSWER
        assert channel.tally.dropped_bytes == 0


async def test_foreign_frames_before_the_answer_are_dropped_and_the_timer_keeps_running() -> None:
    async with channel_to(answering(b"(foreign)", b"(other)" + ANSWER)) as channel:
        link = await channel.open()
        assert await ask(link) == ANSWER
        assert channel.tally.dropped_bytes == len(b"(foreign)(other)")


async def test_foreign_frames_without_an_end_do_not_prolong_the_wait() -> None:
    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        while True:
            writer.write(b"(x)")
            await asyncio.sleep(0.005)

    async with channel_to(babble) as channel:
        link = await channel.open()
        with pytest.raises(DeviceProblem, match="no-reply"):
            await ask(link, timeout_s=0.05)


async def test_half_an_answer_is_no_answer_and_the_link_stays_usable() -> None:
    async def half_first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(ANSWER[:3])
        await reader.read(100)
        writer.write(ANSWER)
        await reader.read(100)

    async with channel_to(half_first) as channel:
        link = await channel.open()
        with pytest.raises(DeviceProblem) as caught:
            await ask(link, timeout_s=0.05)
        assert caught.value.code == "no-reply"
        assert "3 bytes that are no answer" in caught.value.message
        assert await ask(link) == ANSWER
        assert channel.tally.timeouts == 1
        assert channel.tally.dropped_bytes == 3


async def test_input_that_nobody_asked_for_is_dropped_before_the_next_request() -> None:
    async def eager(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"<greeting>")
        await answering(ANSWER + b"<extra>")(reader, writer)

    async with channel_to(eager) as channel:
        link = await channel.open()
        await until(lambda: channel.tally.dropped_bytes == 10)
        assert await ask(link) == ANSWER
        assert await ask(link) == ANSWER
        assert channel.tally.dropped_bytes == 10 + 2 * len(b"<extra>")


async def test_a_refusal_ends_the_exchange_and_is_no_dropped_input() -> None:
    async with channel_to(answering(b"!")) as channel:
        link = await channel.open()
        with pytest.raises(DeviceProblem, match="illegal-address"):
            await ask(link)
        assert channel.tally.dropped_bytes == 0


async def test_a_cancelled_exchange_leaves_the_link_usable_and_its_late_answer_is_dropped() -> None:
    async def late_first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        await asyncio.sleep(0.05)
        writer.write(b"<late>")
        await answering(ANSWER)(reader, writer)

    async with channel_to(late_first) as channel:
        link = await channel.open()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await ask(link)
        await until(lambda: channel.tally.dropped_bytes > 0)
        assert await ask(link) == ANSWER
        assert channel.tally.dropped_bytes == len(b"<late>")


async def test_closing_in_mid_reply_is_a_link_problem_at_once() -> None:
    async def closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(ANSWER[:3])

    async with channel_to(closing) as channel:
        link = await channel.open()
        with pytest.raises(LinkProblem) as caught:
            await ask(link, timeout_s=60)
        assert caught.value.code == "link-down"
        assert "closed by the peer" in caught.value.message
        with pytest.raises(LinkProblem):
            await ask(link)
        with pytest.raises(LinkProblem):
            await link.send(REQUEST)


async def test_a_reset_is_a_link_problem_and_the_channel_can_be_opened_again() -> None:
    asked = 0

    async def reset_first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        await reader.read(100)
        asked += 1
        if asked > 1:
            writer.write(ANSWER)
            return
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    async with channel_to(reset_first) as channel:
        link = await channel.open()
        with pytest.raises(LinkProblem, match="link-down"):
            await ask(link, timeout_s=60)
        link = await channel.open()
        assert await ask(link) == ANSWER
        assert channel.tally.opens == 2


async def test_closing_the_channel_ends_an_exchange_and_may_be_repeated() -> None:
    async with channel_to(silent) as channel:
        await channel.close()
        link = await channel.open()
        waiting = asyncio.ensure_future(ask(link, timeout_s=60))
        await asyncio.sleep(0.01)
        await channel.close()
        with pytest.raises(LinkProblem, match="closed by us"):
            await waiting
        await channel.close()


async def test_a_second_request_while_one_is_in_flight_is_a_bug_of_the_caller() -> None:
    async with channel_to(silent) as channel:
        link = await channel.open()
        waiting = asyncio.ensure_future(ask(link, timeout_s=0.1))
        await asyncio.sleep(0.01)
        with pytest.raises(RuntimeError, match="in flight"):
            await ask(link)
        with pytest.raises(DeviceProblem, match="no-reply"):
            await waiting


async def test_a_bug_in_match_reaches_the_caller_and_closes_the_connection() -> None:
    def broken(data: bytes) -> tuple[int, bytes | None]:
        raise IndexError("defect")

    async with channel_to(answering(ANSWER)) as channel:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        link = await channel.open()
        with pytest.raises(IndexError, match="defect"):
            await link.exchange(REQUEST, broken, timeout_s=60)
        await link.closed


async def test_the_trace_sees_both_directions() -> None:
    async with channel_to(answering(ANSWER)) as channel:
        seen: list[tuple[str, bytes]] = []
        channel.trace = lambda direction, data: seen.append((direction, data))
        link = await channel.open()
        await ask(link)
        assert seen == [(">", REQUEST), ("<", ANSWER)]


async def test_a_pause_is_kept_before_each_request() -> None:
    async with channel_to(answering(ANSWER), pause_s=0.02) as channel:
        link = await channel.open()
        clock = SystemClock()
        begun_ns = clock.mono_ns()
        for _ in range(3):
            await ask(link)
        assert clock.mono_ns() - begun_ns >= 3 * 20_000_000


@pytest.mark.parametrize("scheme", ["tcp", "rtu+tcp"])
async def test_a_device_that_wants_to_be_asked_slowly_gets_its_pause_and_its_neighbour_does_not(scheme: str) -> None:
    async with channel_to(answering(ANSWER), scheme) as channel:
        link = await channel.open()
        loop = asyncio.get_running_loop()
        assert await ask(link) == ANSWER
        for pause_s, least_s in ((0.03, 0.03), (0.0, 0.0), (0.03, 0.03)):
            begun_s = loop.time()
            await link.exchange(REQUEST, match, timeout_s=5.0, pause_s=pause_s)
            assert loop.time() - begun_s >= least_s
            assert pause_s or loop.time() - begun_s < 0.03
        begun_s = loop.time()
        await link.send(REQUEST, pause_s=0.03)
        assert loop.time() - begun_s >= 0.03


async def test_a_pause_that_has_passed_already_costs_nothing_more() -> None:
    async with channel_to(answering(ANSWER)) as channel:
        link = await channel.open()
        await link.exchange(REQUEST, match, timeout_s=5.0, pause_s=0.04)
        await asyncio.sleep(0.045)
        begun_s = asyncio.get_running_loop().time()
        await link.exchange(REQUEST, match, timeout_s=5.0, pause_s=0.04)
        assert asyncio.get_running_loop().time() - begun_s < 0.03


async def test_a_channel_knows_when_its_peer_hung_up() -> None:
    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(ANSWER)
        await writer.drain()

    async with channel_to(once) as channel:
        assert not channel.is_open()
        link = await channel.open()
        assert channel.is_open()
        await ask(link)
        await until(lambda: not channel.is_open())
        await channel.open()
        assert channel.is_open()
        await channel.close()
        assert not channel.is_open()


# --- RTU over TCP: no transaction ids ---


async def test_a_late_reply_of_equal_length_makes_answers_suspect_until_the_silence_was_waited_out() -> None:
    async with channel_to(one_behind, "rtu+tcp") as channel:
        assert channel.framing == "rtu-tcp"
        link = await channel.open()
        with pytest.raises(DeviceProblem, match="no-reply"):
            await ask(link, timeout_s=0.2, reply_bytes=7)
        for _ in range(SUSPECTS_MAX):
            assert (await link.exchange(REQUEST, match, timeout_s=0.2, reply_bytes=7)).suspect
        assert channel.tally.suspects == SUSPECTS_MAX
        assert not (await link.exchange(REQUEST, match, timeout_s=0.2, reply_bytes=7)).suspect


async def test_an_answer_of_another_length_ends_the_suspicion() -> None:
    async with channel_to(one_behind, "rtu+tcp") as channel:
        link = await channel.open()
        with pytest.raises(DeviceProblem, match="no-reply"):
            await ask(link, timeout_s=0.2, reply_bytes=9)
        assert not (await link.exchange(REQUEST, match, timeout_s=0.2, reply_bytes=7)).suspect
        assert not (await link.exchange(REQUEST, match, timeout_s=0.2, reply_bytes=9)).suspect


async def test_another_unit_on_the_line_is_not_suspect() -> None:
    async with channel_to(one_behind, "rtu+tcp") as channel:
        link = await channel.open()
        with pytest.raises(DeviceProblem, match="no-reply"):
            await ask(link, timeout_s=0.2, reply_bytes=7)
        assert not (await link.exchange(b"\x08READ?", match, timeout_s=0.2, reply_bytes=7)).suspect
        assert (await link.exchange(REQUEST, match, timeout_s=0.2, reply_bytes=7)).suspect


async def test_a_reply_that_comes_before_the_next_request_is_dropped_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp, "RESYNC_S", 0.5)  # longer than a busy machine keeps the peer waiting
    given_up = asyncio.Event()

    async def late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        await given_up.wait()
        writer.write(b"<late!>")
        await answering(ANSWER)(reader, writer)

    async with channel_to(late, "rtu+tcp") as channel:
        link = await channel.open()
        with pytest.raises(DeviceProblem, match="no-reply"):
            await ask(link, timeout_s=0.05, reply_bytes=7)
        given_up.set()
        assert await ask(link, reply_bytes=7) == ANSWER  # the silence before it is longer than the reply is late
        assert channel.tally.dropped_bytes == 7


async def test_damage_is_followed_by_silence_before_the_next_request() -> None:
    async def damaged_first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"#")
        await asyncio.sleep(0.02)
        writer.write(b"<rest of damage>")
        await answering(ANSWER)(reader, writer)

    async with channel_to(damaged_first, "rtu+tcp") as channel:
        link = await channel.open()
        with pytest.raises(DeviceProblem, match="crc-error"):
            await ask(link, reply_bytes=7)
        assert await ask(link, reply_bytes=7) == ANSWER


async def test_a_line_that_never_falls_silent_is_reported() -> None:
    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b"x")
            await asyncio.sleep(0.005)

    async with channel_to(babble, "rtu+tcp") as channel:
        link = await channel.open()
        with pytest.raises(DeviceProblem, match="no-reply"):
            await ask(link, timeout_s=0.05, reply_bytes=7)
        with pytest.raises(DeviceProblem, match="was not silent"):
            await ask(link, timeout_s=0.1, reply_bytes=7)


def test_it_works_the_same_on_uvloop() -> None:
    async def dialogue() -> None:
        async with channel_to(answering(b"(foreign)", ANSWER)) as channel:
            link = await channel.open()
            assert await ask(link) == ANSWER
        async with channel_to(silent, "rtu+tcp") as channel:
            link = await channel.open()
            with pytest.raises(DeviceProblem, match="no-reply"):
                await ask(link, timeout_s=0.05, reply_bytes=7)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.06):
                    await ask(link, reply_bytes=7)
            await channel.close()
            with pytest.raises(LinkProblem):
                await ask(link)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(dialogue())


async def test_a_peer_that_sends_without_end_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()

    async with channel_to(babble) as channel:
        link = await channel.open()
        await until(lambda: not channel.is_open())
        with pytest.raises(LinkProblem, match="sends without end") as caught:
            await ask(link)
        assert caught.value.code == "link-down"
        assert channel.tally.received_bytes < 2 << 20


async def test_strays_at_the_pace_of_a_shared_line_are_borne(monkeypatch: pytest.MonkeyPatch) -> None:
    async with channel_to(silent) as channel:
        link = await channel.open()
        now_s = time.monotonic()
        for second in range(60):
            monkeypatch.setattr("fluxedge.channels.link.time.monotonic", lambda: now_s + second)  # noqa: B023
            link.data_received(b"x" * 46_080)  # 460,800 baud
        assert channel.is_open()
