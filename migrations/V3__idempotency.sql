-- Requests that may be done once: who has a key, what was answered, or that nobody knows. The scope (a route) stands first in
-- the key, as tenant_id does elsewhere: a webhook has no tenant.
CREATE TABLE idempotency (
    scope       text        NOT NULL,
    key_hash    bytea       NOT NULL,
    state       text        NOT NULL CHECK (state IN ('leased', 'done', 'unknown')),
    owner       uuid        NOT NULL,
    fingerprint bytea       NOT NULL,
    expires_at  timestamptz,                 -- NULL: held, never free
    created_at  timestamptz NOT NULL DEFAULT now(),
    status      smallint,
    headers     text,                        -- JSON: [[name, value], …]
    body        bytea,
    PRIMARY KEY (scope, key_hash),
    CHECK ((state = 'done') = (status IS NOT NULL AND headers IS NOT NULL AND body IS NOT NULL))
);

-- For the sweep, which deletes what is over, oldest first.
CREATE INDEX idempotency_expires_at ON idempotency (expires_at);
-- For the count of what is under way, which is little beside what is done.
CREATE INDEX idempotency_leased ON idempotency (scope) WHERE state = 'leased';
