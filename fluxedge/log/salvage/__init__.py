"""Salvage: what can be read of a damaged log that was set aside is taken into the new one."""
