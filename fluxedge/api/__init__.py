"""HTTP on a unix socket (the command line's way in) and on TCP: status, values, live streams, commands, metrics."""

from fluxedge.api.server import ApiServer
from fluxedge.api.sockets import socket_path

__all__ = ["ApiServer", "socket_path"]
