"""Backups: a consistent copy of a gateway in one file, and the way back."""
