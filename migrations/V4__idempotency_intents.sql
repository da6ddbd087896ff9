-- Work that cannot be taken back is put on record before it begins: its lease then lasts as long as an answer would be kept
-- (expires_at), and is at work only until leased_until. Past that, nobody knows whether the work was done.
ALTER TABLE idempotency ADD COLUMN leased_until timestamptz; -- NULL: no such work
