"""Northbound connections: the forward loop and what each kind of uplink makes of records."""
