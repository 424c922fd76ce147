"""Simulated devices: a driver file becomes a Modbus server whose points move plausibly.

    driver file ──► DriverSimulator ──► image: area -> address -> word or bit ◄── requests of pymodbus's server
                    (one unit)                ▲ motions of time, seeded            (TCP, serial line, pty)

What a request may touch is what the driver file knows: other addresses answer exception 02, a longer request than the
driver's maximum 03. Writable points stand still and keep what was written.
"""

from fluxedge.simulate.device import DriverSimulator
from fluxedge.simulate.pty import PtyPair
from fluxedge.simulate.server import Faults, Server, serve_pty, serve_rtu, serve_tcp

__all__ = ["DriverSimulator", "Faults", "PtyPair", "Server", "serve_pty", "serve_rtu", "serve_tcp"]
