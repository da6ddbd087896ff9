-- Customers by tenant. tenant_id stands first in the key, so that the table can be distributed or partitioned by it.
CREATE TABLE customers (
    tenant_id  text        NOT NULL CHECK (tenant_id ~ '^[A-Za-z0-9]{1,64}$'),
    id         uuid        NOT NULL CHECK (id <> '00000000-0000-0000-0000-000000000000'),
    name       text        NOT NULL,
    status     text        NOT NULL,
    attributes jsonb       NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(attributes) = 'object'),
    updated_at timestamptz NOT NULL DEFAULT now() CHECK (updated_at >= '0001-01-01 00:00+00' AND updated_at < '9999-12-31 00:00+00'),
    version    bigint      NOT NULL DEFAULT 1,
    PRIMARY KEY (tenant_id, id)
);

-- The version rises by one with each change, whatever the writer says; updated_at follows unless the writer set it.
CREATE FUNCTION customers_touch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.version := OLD.version + 1;
    IF NEW.updated_at = OLD.updated_at THEN
        NEW.updated_at := now();
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER customers_touch BEFORE UPDATE ON customers FOR EACH ROW EXECUTE FUNCTION customers_touch();
