"""Benchmarks of the whole road over real sockets: `python -m bench` (see README.md here)."""
