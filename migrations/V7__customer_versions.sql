-- Versions count from 0 upwards: lookups cannot read a row whose version is negative. A change of such a row gives it version 1.
CREATE OR REPLACE FUNCTION customers_touch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.version := greatest(OLD.version, 0) + 1;
    IF NEW.updated_at = OLD.updated_at THEN
        NEW.updated_at := now();
    END IF;
    RETURN NEW;
END
$$;

-- Lookups wait behind this statement while it waits for their predecessors, so it waits for a second only, and tries again.
-- Rows that are there already are checked by V8, which keeps nothing waiting.
DO $$
BEGIN
    PERFORM set_config('lock_timeout', '1s', true);
    FOR attempt IN 1..60 LOOP
        BEGIN
            ALTER TABLE customers ADD CONSTRAINT customers_version_check CHECK (version >= 0) NOT VALID;
            RETURN;
        EXCEPTION WHEN lock_not_available THEN
            PERFORM pg_sleep(1);
        END;
    END LOOP;
    RAISE EXCEPTION USING ERRCODE = 'lock_not_available',
        MESSAGE = 'customers stays locked by another transaction: end that one, then run migrate apply again';
END
$$;
