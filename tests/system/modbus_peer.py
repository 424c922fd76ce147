"""A Modbus TCP peer for tests: register n holds n, for every unit; FC03 and FC04."""

from __future__ import annotations

import socketserver
import struct
import threading


class _Handler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        held = b""
        while True:
            try:
                data = self.request.recv(4096)
            except OSError:
                return
            if not data:
                return
            held += data
            while len(held) >= 12:
                tid, _, length, unit, function, address, count = struct.unpack(">HHHBBHH", held[:12])
                held = held[6 + length :]
                words = struct.pack(f">{count}H", *[(address + i) & 0xFFFF for i in range(count)])
                pdu = struct.pack(">BB", function, len(words)) + words
                self.request.sendall(struct.pack(">HHHB", tid, 0, len(pdu) + 1, unit) + pdu)


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 1024


class ModbusPeer:
    """The peer in threads of its own."""

    def __init__(self) -> None:
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="modbus-peer")
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
