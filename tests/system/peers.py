"""Modbus devices of our own making, in threads: Modbus TCP, RTU over TCP, RTU on a pty. None of fluxedge's code.

Register n of the input registers holds n unless `words` says otherwise. What goes wrong is `mode`, changed while it
runs: good, silent, exception, garbage, half, late, foreign, damaged, close (hangs up instead of answering).
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import threading
import time
import tty
import typing
from collections import Counter, defaultdict

LATE_S = 0.35


def crc(frame: bytes) -> bytes:
    """CRC-16 of MODBUS over Serial Line V1.02, 6.2.2."""
    value = 0xFFFF
    for byte in frame:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ 0xA001 if value & 1 else value >> 1
    return value.to_bytes(2, "little")


class Registers:
    """The device behind a peer."""

    def __init__(self) -> None:
        self.words: dict[int, int] = {}
        self.mode = "good"
        self.exception = 4
        self.asked: dict[int, list[float]] = defaultdict(list)  # unit -> when
        self.writes: list[tuple[int, int, tuple[int, ...]]] = []  # unit, address, words
        self.on_write: typing.Callable[[], None] = lambda: None

    def set_float(self, address: int, value: float) -> None:
        self.words[address], self.words[address + 1] = struct.unpack(">HH", struct.pack(">f", value))

    def answer(self, unit: int, pdu: bytes) -> bytes:
        """Return the right answer to a request, or the exception."""
        self.asked[unit].append(time.monotonic())
        function, address, count = struct.unpack(">BHH", pdu[:5])
        if self.mode == "exception":
            return bytes([function | 0x80, self.exception])
        if function in (3, 4):
            held = [self.words.get(address + i, address + i) for i in range(count)]
            return bytes([function, 2 * count]) + struct.pack(f">{count}H", *held)
        words = (count,) if function == 6 else struct.unpack(f">{count}H", pdu[6:])
        self.on_write()
        self.writes.append((unit, address, words))
        self.words.update(enumerate(words, address))
        return pdu[:5]


def _take(held: bytes, framing: str) -> tuple[bytes, int, bytes, bytes] | None:
    """Take a request from received bytes: (head, unit, pdu, rest)."""
    if framing == "tcp":
        if len(held) < 8 or len(held) < (size := 6 + int.from_bytes(held[4:6], "big")):
            return None
        return held[:4], held[6], held[7:size], held[size:]
    if len(held) < 8:
        return None
    size = 9 + held[6] if held[1] == 16 else 8
    if len(held) < size:
        return None
    return b"", held[0], held[1 : size - 2], held[size:]


def _frame(head: bytes, unit: int, pdu: bytes, framing: str) -> bytes:
    if framing == "tcp":
        return head + (len(pdu) + 1).to_bytes(2, "big") + bytes([unit]) + pdu
    frame = bytes([unit]) + pdu
    return frame + crc(frame)


class _Talk:
    """One wire: bytes in, bytes out."""

    def __init__(self, registers: Registers, framing: str, send: typing.Callable[[bytes], None]) -> None:
        self._registers, self._framing, self._send = registers, framing, send
        self._held = b""

    def received(self, data: bytes) -> bool:
        """Answer what was asked; tell whether to hang up."""
        self._held += data
        while (taken := _take(self._held, self._framing)) is not None:
            head, unit, pdu, self._held = taken
            right = _frame(head, unit, self._registers.answer(unit, pdu), self._framing)
            mode = self._registers.mode
            if mode == "close":
                return True
            if mode == "late":
                time.sleep(LATE_S)
            for piece in self._pieces(mode, right, head, unit):
                self._send(piece)
        return False

    def _pieces(self, mode: str, right: bytes, head: bytes, unit: int) -> list[bytes]:
        if mode == "silent":
            return []
        if mode == "garbage":
            return [b"\xffHTTP/1.1 400 Bad Request\r\n\r\n"]
        if mode == "half":
            return [right[: len(right) // 2]]
        if mode == "damaged":
            return [right[:-3] + bytes([right[-3] ^ 0xFF]) + right[-2:]]
        if mode == "foreign":  # another unit's answer, then the right one
            other = bytes([head[0], head[1] ^ 0xFF, *head[2:]]) if head else b""
            return [_frame(other, unit ^ 0x7F, right[7:] if head else right[1:-2], self._framing), right]
        return [right]


class TcpPeer:
    """Listen on 127.0.0.1, or everywhere; count connections; can stop and start listening on the same port."""

    def __init__(self, framing: str = "tcp", host: str = "127.0.0.1") -> None:
        self.host = host
        self.registers = Registers()
        self.accepts: list[float] = []  # when
        self.accepted: Counter[str] = Counter()  # our address that was called -> how often
        self.framing = framing
        self.port = 0
        self._wake: tuple[socket.socket, socket.socket] | None = None
        self._thread: threading.Thread | None = None
        self.start()

    @property
    def url(self) -> str:
        scheme = "tcp" if self.framing == "tcp" else "rtu+tcp"
        return f"{scheme}://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Listen; on the port of before, if there was one."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((self.host, self.port))
        listener.listen(1024)
        self.port = listener.getsockname()[1]
        self._wake = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, args=(listener, self._wake[1]), name=f"peer-{self.port}")
        self._thread.start()

    def stop(self) -> None:
        """Close the port and every connection."""
        if self._thread is None or self._wake is None:
            return
        self._wake[0].close()
        self._thread.join()
        self._wake[1].close()
        self._thread = None

    def _serve(self, listener: socket.socket, wake: socket.socket) -> None:
        talks: dict[socket.socket, _Talk] = {}
        poll = select.epoll()
        by_fd = {sock.fileno(): sock for sock in (listener, wake)}
        for fd in by_fd:
            poll.register(fd, select.EPOLLIN)
        try:
            while True:
                for fd, _ in poll.poll():
                    sock = by_fd[fd]
                    if sock is wake:
                        return
                    if sock is listener:
                        connection, _ = listener.accept()
                        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                        self.accepts.append(time.monotonic())
                        self.accepted[connection.getsockname()[0]] += 1
                        by_fd[connection.fileno()] = connection
                        poll.register(connection.fileno(), select.EPOLLIN)
                        talks[connection] = _Talk(self.registers, self.framing, connection.sendall)
                        continue
                    if self._over(talks[sock], sock):
                        poll.unregister(fd)
                        del by_fd[fd], talks[sock]
                        sock.close()
        finally:
            poll.close()
            for sock in by_fd.values():
                if sock is not wake:
                    sock.close()

    def _over(self, talk: _Talk, sock: socket.socket) -> bool:
        try:
            data = sock.recv(4096)
            return not data or talk.received(data)
        except OSError:
            return True


class PtyPeer:
    """A device on a serial line whose adapter can be pulled out; a symbolic link is its name, as udev makes one."""

    def __init__(self, link: str) -> None:
        self.registers = Registers()
        self.link = link
        self._master = -1
        self._wake: tuple[int, int] | None = None
        self._thread: threading.Thread | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"serial://{self.link}?baud=115200"

    def start(self) -> None:
        """Plug the adapter in."""
        self._master, slave = os.openpty()
        tty.setraw(slave)
        name = os.ttyname(slave)
        self._slave = slave  # held open: a master whose slave nobody holds reads EIO
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.link)
        os.symlink(name, self.link)
        self._wake = os.pipe()
        self._thread = threading.Thread(target=self._serve, args=(self._master, self._wake[0]), name="peer-pty")
        self._thread.start()

    def stop(self) -> None:
        """Pull it out."""
        if self._thread is None or self._wake is None:
            return
        os.close(self._wake[1])
        self._thread.join()
        self._thread = None
        os.close(self._wake[0])
        os.unlink(self.link)
        os.close(self._slave)
        os.close(self._master)

    def _serve(self, master: int, wake: int) -> None:
        talk = _Talk(self.registers, "rtu", lambda data: os.write(master, data) and None)
        while True:
            ready, _, _ = select.select([master, wake], [], [])
            if wake in ready:
                return
            talk.received(os.read(master, 4096))


Peer = TcpPeer | PtyPeer
