-- log.db, schema 1. Everything that must commit together lives here.
-- Segments are tables rounds_NNN and events_NNN, made by segments.py; they are dropped whole, rows are never deleted.
CREATE TABLE meta (k TEXT PRIMARY KEY, v ANY) STRICT, WITHOUT ROWID;
-- created_ms: UTC, 0 = the clock was not trusted; last .. to_ns are NULL until the segment is closed
CREATE TABLE segments (
  lane INTEGER NOT NULL, number INTEGER NOT NULL, epoch INTEGER NOT NULL, first INTEGER NOT NULL,
  created_ms INTEGER NOT NULL, last INTEGER, bytes INTEGER, from_ns INTEGER, to_ns INTEGER, PRIMARY KEY (lane, number)
) STRICT, WITHOUT ROWID;
CREATE TABLE groups (id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, body BLOB NOT NULL) STRICT;
-- a cursor: what an uplink has not had acknowledged; hi = 2^63-1 where the range grows with the log
CREATE TABLE todo (
  uplink TEXT NOT NULL, epoch INTEGER NOT NULL, lane INTEGER NOT NULL, lo INTEGER NOT NULL, hi INTEGER NOT NULL,
  PRIMARY KEY (uplink, epoch, lane, lo)
) STRICT, WITHOUT ROWID;
-- records that an uplink will not get; said_epoch and said_seq: the event that announces it, 0 while there is none
CREATE TABLE gap (
  id INTEGER PRIMARY KEY, uplink TEXT NOT NULL, epoch INTEGER NOT NULL, lane INTEGER NOT NULL, lo INTEGER NOT NULL,
  hi INTEGER NOT NULL, why TEXT NOT NULL, at_ms INTEGER NOT NULL, said_epoch INTEGER NOT NULL DEFAULT 0,
  said_seq INTEGER NOT NULL DEFAULT 0, UNIQUE (uplink, epoch, lane, lo, hi)
) STRICT;
CREATE TABLE quarantine (
  uplink TEXT NOT NULL, epoch INTEGER NOT NULL, lane INTEGER NOT NULL, lo INTEGER NOT NULL, hi INTEGER NOT NULL,
  reason TEXT NOT NULL, at_ms INTEGER NOT NULL, payload BLOB NOT NULL, PRIMARY KEY (uplink, epoch, lane, lo)
) STRICT, WITHOUT ROWID;
CREATE TABLE clock (boot INTEGER NOT NULL, mono_ms INTEGER NOT NULL, utc_ms INTEGER NOT NULL, source TEXT NOT NULL) STRICT;
CREATE TABLE intents (
  key TEXT PRIMARY KEY, at_ms INTEGER NOT NULL, request BLOB NOT NULL, result BLOB
) STRICT, WITHOUT ROWID;
CREATE TABLE state (k TEXT PRIMARY KEY, v BLOB NOT NULL) STRICT, WITHOUT ROWID;
