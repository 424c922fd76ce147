-- Schema 1 -> 2: quarantine has an id and what a retry needs; compacted says what is in the history files.
ALTER TABLE quarantine RENAME TO quarantine_1;
CREATE TABLE quarantine (
  id INTEGER PRIMARY KEY, uplink TEXT NOT NULL, epoch INTEGER NOT NULL, lane INTEGER NOT NULL, lo INTEGER NOT NULL,
  hi INTEGER NOT NULL, reason TEXT NOT NULL, at_ms INTEGER NOT NULL, content_type TEXT NOT NULL,
  payload BLOB NOT NULL, tries INTEGER NOT NULL DEFAULT 1, again INTEGER NOT NULL DEFAULT 0,
  UNIQUE (uplink, epoch, lane, lo, hi)
) STRICT;
INSERT INTO quarantine (uplink, epoch, lane, lo, hi, reason, at_ms, content_type, payload)
  SELECT uplink, epoch, lane, lo, hi, reason, at_ms, 'application/json', payload FROM quarantine_1
  ORDER BY at_ms, uplink, epoch, lane, lo;
DROP TABLE quarantine_1;
CREATE TABLE compacted (epoch INTEGER PRIMARY KEY, upto INTEGER NOT NULL) STRICT;
