"""The protocols that exist: an explicit list, nothing registers itself."""

from __future__ import annotations

from fluxedge.protocols.modbus import ModbusProtocol

PROTOCOLS = {"modbus": ModbusProtocol}
