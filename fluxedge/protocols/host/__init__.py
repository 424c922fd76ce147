"""The machine itself as a device: processor, memory, disk, network, temperature, own process, wear of the flash."""

from fluxedge.protocols.host.protocol import HostProtocol, compile_mistakes

__all__ = ["HostProtocol", "compile_mistakes"]
