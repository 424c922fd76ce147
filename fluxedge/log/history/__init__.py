"""History: rounds of closed hours, one SQLite file per UTC day, written by the compactor child only."""
