"""Devices that exist only here: waves to look at, points to write to."""

from fluxedge.protocols.simulator.protocol import SimulatorProtocol, compile_mistakes

__all__ = ["SimulatorProtocol", "compile_mistakes"]
