"""fluxedge: an edge gateway that polls devices, logs what it reads and forwards it, losing nothing."""

__version__ = "0.1.0"
