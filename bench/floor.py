"""The floor: the road without features, in one process, as short as it can honestly be.

    pymodbus framer -> plan (one struct) -> batch -> writer thread: zlib, one SQLite transaction, FULL, cursor in it
    -> reader thread: rows, struct, JSON -> gmqtt QoS 1 -> PUBACK -> cursor

No configuration, no quality, no limits, no reconnection, no retention, no permission to fail: the first error ends it.
What the gateway costs beyond this is what its features cost.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import queue
import random
import sqlite3
import struct
import threading
import time
import typing
import zlib
from pathlib import Path

import msgspec
import uvloop
from gmqtt import Client
from gmqtt.storage import PersistentStorage
from pymodbus.framer import FramerSocket
from pymodbus.pdu import DecodePDU

from bench.probe import Probe
from bench.workloads import Workload, host

COMMIT_S = 1.0
COMMIT_BYTES = 1 << 20
READ_ROWS = 4
MESSAGE_POINTS = 64 * 1024 // 20  # about 64 KiB of JSON
IN_FLIGHT = 18  # Mosquitto takes 20
SPREAD_S = 0.5  # the gateway spreads first reads over as much: what comes together shares turns of the loop
REQUEST_REGISTERS = 124  # even: no float32 is cut
ROUND = struct.Struct("<Hq")  # device, at_ns; the registers follow as they came
SETTINGS = ("page_size=1024", "journal_mode=wal", "synchronous=full", "wal_autocheckpoint=1000", "secure_delete=0")


class Plan:
    """Requests, decoding and scaling, compiled once: float32 first, then int16 in tenths."""

    def __init__(self, workload: Workload) -> None:
        framer = FramerSocket(DecodePDU(False))
        self.floats, self.count = workload.floats, workload.points
        self.struct = struct.Struct(f">{workload.floats}f{workload.ints}h")
        self.names = tuple(f"point_{i}" for i in range(workload.points))
        starts = range(0, workload.registers, REQUEST_REGISTERS)
        counts = [min(REQUEST_REGISTERS, workload.registers - start) for start in starts]
        pdus = [struct.pack(">BHH", 3, start, count) for start, count in zip(starts, counts, strict=True)]
        self.frames = [framer.encode(pdu, 1, 0)[2:] for pdu in pdus]  # the transaction id comes last
        self.decode = framer.decode

    def values(self, body: bytes, start: int = 0) -> tuple[float, ...]:
        raws = self.struct.unpack_from(body, start)
        return raws[: self.floats] + tuple([raw / 10 for raw in raws[self.floats :]])


class Device(asyncio.Protocol):
    """One connection with one request in flight."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._input = b""
        self._id = 0
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = typing.cast(asyncio.Transport, transport)

    def ask(self, frame: bytes) -> asyncio.Future[bytes]:
        self._id = self._id % 0xFFFF + 1
        self._transport.write(self._id.to_bytes(2, "big") + frame)
        self._waiter: asyncio.Future[bytes] = self._loop.create_future()
        return self._waiter

    def data_received(self, data: bytes) -> None:
        self._input += data
        used, _, transaction, pdu = self._plan.decode(self._input)
        if used:
            self._input = self._input[used:]
            if transaction != self._id or pdu[0] != 3:
                raise SystemExit(f"unexpected answer {pdu[:8].hex()}")
            self._waiter.set_result(pdu[2:])


class Log:
    """Rows of one commit each; the cursor rides in the commit."""

    def __init__(self, path: Path) -> None:
        self._loop = asyncio.get_running_loop()
        self._writing = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        for setting in SETTINGS:
            self._writing.execute(f"PRAGMA {setting}").fetchall()
        self._writing.execute("CREATE TABLE rounds (seq INTEGER PRIMARY KEY, n INTEGER, body BLOB)")
        self._writing.execute("CREATE TABLE cursor (k INTEGER PRIMARY KEY, acked INTEGER)")
        self._writing.execute("INSERT INTO cursor VALUES (1, 0)")
        self._reading = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._jobs: queue.SimpleQueue[tuple[list[bytes], int, asyncio.Event]] = queue.SimpleQueue()
        self.head = 0
        self.commits = 0
        threading.Thread(target=self._write, daemon=True).start()

    def commit(self, rounds: list[bytes], acked: int, done: asyncio.Event) -> None:
        self._jobs.put((rounds, acked, done))

    def _write(self) -> None:
        while True:
            rounds, acked, done = self._jobs.get()
            body = zlib.compress(b"".join(rounds), 1)
            self._writing.execute("BEGIN IMMEDIATE")
            self._writing.execute("INSERT INTO rounds VALUES (?, ?, ?)", (self.head, len(rounds), body))
            self._writing.execute("UPDATE cursor SET acked = ?", (acked,))
            self._writing.execute("COMMIT")
            self.head += len(rounds)
            self.commits += 1
            self._loop.call_soon_threadsafe(done.set)

    def read(self, after: int, plan: Plan) -> list[tuple[int, int, int, tuple[float, ...]]]:
        sql = "SELECT seq, n, body FROM rounds WHERE seq >= ? ORDER BY seq LIMIT ?"
        found = []
        for seq, count, packed in self._reading.execute(sql, (after, READ_ROWS)).fetchall():
            body = zlib.decompress(packed)
            step = ROUND.size + plan.struct.size
            for i in range(count):
                device, at_ns = ROUND.unpack_from(body, i * step)
                found.append((seq + i, device, at_ns, plan.values(body, i * step + ROUND.size)))
        return found


class NoStore(PersistentStorage):  # type: ignore[misc]
    """The log is the store."""

    is_empty = True

    def push_message(self, mid: int, raw_package: bytes) -> None:
        pass

    def remove_message_by_mid(self, mid: int) -> None:
        pass

    async def wait_empty(self) -> None:
        pass


class Floor:
    """The road."""

    def __init__(self, workload: Workload, state: Path) -> None:
        self.plan = Plan(workload)
        self.log = Log(state / "floor.db")
        self.probe = Probe(self.counters)
        self.points = self.acked_points = self.acked = 0
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._full = asyncio.Event()
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._in_flight: dict[int, tuple[int, int, int]] = {}  # packet id -> next seq, points, oldest at_ns

    def counters(self) -> dict[str, float]:
        return {"points": self.points, "acked_points": self.acked_points, "commits": self.log.commits}

    async def poll(self, number: int, address: str, port: int) -> None:
        loop = asyncio.get_running_loop()
        _, device = await loop.create_connection(lambda: Device(self.plan), address, port)
        due_s = loop.time() + random.uniform(0, SPREAD_S)
        while True:
            await asyncio.sleep(due_s - loop.time())
            due_s += 1.0
            body = b"".join([await device.ask(frame) for frame in self.plan.frames])
            if not math.isfinite(sum(self.plan.values(body))):
                raise SystemExit("not a number")
            self._pending.append(ROUND.pack(number, time.time_ns()) + body)
            self._pending_bytes += len(body)
            self.points += self.plan.count
            if self._pending_bytes >= COMMIT_BYTES:
                self._full.set()

    async def commit(self) -> None:
        loop = asyncio.get_running_loop()
        done = asyncio.Event()
        close_s = loop.time() + COMMIT_S
        while True:
            timer = loop.call_at(close_s, self._full.set)
            await self._full.wait()
            timer.cancel()
            self._full.clear()
            close_s = loop.time() + COMMIT_S
            if self._pending:
                rounds, self._pending, self._pending_bytes = self._pending, [], 0
                self.log.commit(rounds, self.acked, done)
                await done.wait()
                done.clear()
                self._news.set()

    async def forward(self, port: int) -> None:
        loop = asyncio.get_running_loop()
        encode = msgspec.json.Encoder().encode
        client = Client("floor", clean_session=True, persistent_storage=NoStore())
        handler = client._package_handler
        settle = handler._handle_puback_packet

        def puback(command: int, packet: bytes) -> None:
            settle(command, packet)
            self.acked, points, oldest_ns = self._in_flight.pop(int.from_bytes(packet[:2], "big"))
            self.acked_points += points
            self.probe.acknowledged(time.time_ns() - oldest_ns)
            self._room.set()

        handler._handler_cache[0x40] = puback
        await client.connect("127.0.0.1", port, keepalive=30)

        def read(after: int) -> list[tuple[int, int, int, bytes]]:
            """Return messages: (next seq, points, oldest at_ns, payload)."""
            names, found = self.plan.names, self.log.read(after, self.plan)
            size = max(1, MESSAGE_POINTS // len(names))
            messages = []
            for part in (found[i : i + size] for i in range(0, len(found), size)):
                body = [
                    {"seq": seq, "device": device, "at": at_ns, "values": dict(zip(names, values, strict=True))}
                    for seq, device, at_ns, values in part
                ]
                messages.append((part[-1][0] + 1, len(part) * len(names), part[0][2], encode(body)))
            return messages

        position = 0
        while True:
            messages = await loop.run_in_executor(None, read, position)
            if not messages:
                await self._news.wait()
                self._news.clear()
                continue
            for after, points, oldest_ns, payload in messages:
                while len(self._in_flight) >= IN_FLIGHT:
                    self._room.clear()
                    await self._room.wait()
                client.publish("floor/rounds", payload, qos=1)
                self._in_flight[handler.id_generator._last_used_id] = after, points, oldest_ns
                position = after


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, required=True)
    parser.add_argument("--points", type=int, required=True)
    parser.add_argument("--modbus-port", type=int, required=True)
    parser.add_argument("--mqtt-port", type=int, required=True)
    parser.add_argument("--state", type=Path, required=True)
    args = parser.parse_args()
    workload = Workload("", args.devices, args.points)
    floor = Floor(workload, args.state)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(floor.commit())
        tasks.create_task(floor.forward(args.mqtt_port))
        for number in range(args.devices):
            tasks.create_task(floor.poll(number, host(number), args.modbus_port))


if __name__ == "__main__":
    uvloop.run(main())
