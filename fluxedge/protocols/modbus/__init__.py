"""Modbus TCP and RTU: addresses, types, read planning, framing; pure, no socket is opened here."""

from fluxedge.protocols.modbus.protocol import ModbusProtocol, compile_mistakes

__all__ = ["ModbusProtocol", "compile_mistakes"]
