-- Changes of customers that the triggers of V1 and V5 do not fire for: those that a session makes under
-- session_replication_role = replica, and those that a subscription applies. Notifications stay those of V5.
--
-- 1. A session under `replica` fires statement triggers that are set to ALWAYS, and so does the first copy of a subscription's
--    table: one notification a statement, as elsewhere.
-- 2. The apply worker of a subscription fires no statement triggers, but for TRUNCATE. Row triggers tell of what it applies: one
--    notification a transaction, sent at its commit, within the bounds of V5.
--
-- `migrate apply` puts these triggers back as they are here; see src/adapters/postgres/triggers.rs.

-- The version of an applied row is the publisher's, where the publisher has one that rises. It is counted here otherwise: a cache
-- goes by the version, and a change that does not raise it would not be noticed.
CREATE TRIGGER customers_applied_touch BEFORE UPDATE ON customers FOR EACH ROW
    WHEN (NEW.version <= OLD.version) EXECUTE FUNCTION customers_touch();

-- Marks the transaction as one whose statements fire triggers, so that the row triggers leave its rows to those.
CREATE FUNCTION customers_statement() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('cxda.statements', 'fire', true);
    RETURN NULL;
END
$$;

CREATE TRIGGER customers_statement BEFORE INSERT OR UPDATE OR DELETE ON customers
    FOR EACH STATEMENT EXECUTE FUNCTION customers_statement();

-- Adds an applied change to the payload of this transaction's notification, which is kept in a setting: a rollback to a savepoint
-- takes back both. True for the first change: the caller then queues the trigger that sends the payload at the commit.
--
-- Called by the triggers' WHEN, which is evaluated at each row at once: an event a row would fill memory. BEFORE triggers would be
-- called at once too, but where there is one, COPY inserts row by row in every session.
CREATE FUNCTION customers_collect(tenant text, customer uuid, version bigint, relation oid) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    most    CONSTANT int := 100;
    longest CONSTANT int := 7900; -- bytes; Postgres takes fewer than 8000
    all_of_them CONSTANT text := '{"all":true}';
    whose   CONSTANT text := '"' || tenant || '"'; -- letters and digits
    payload text := current_setting('cxda.changes', true);
    entry   text;
    place   int;
    known   text;
    changes bigint;
BEGIN
    IF current_setting('cxda.statements', true) = 'fire' OR payload = all_of_them THEN
        RETURN false;
    END IF;
    -- From Postgres 16 on, a subscription applies rows as the table's owner. Where that is not the subscription's own role,
    -- Postgres refuses deferred triggers and takes settings back after each row. Each row is then notified by itself; Postgres
    -- sends equal notifications of a transaction once. The counts may cover earlier transactions of the last second as well.
    IF current_user <> session_user THEN
        changes := pg_stat_get_xact_tuples_inserted(relation) + pg_stat_get_xact_tuples_updated(relation)
            + pg_stat_get_xact_tuples_deleted(relation);
        PERFORM pg_notify('cxda_customers', CASE
            WHEN changes <= 10 * most THEN '{"customers":[[' || whose || ',"' || customer || '",' || version || ']]}'
            WHEN changes <= 100 * most THEN '{"tenants":[' || whose || ']}'
            ELSE all_of_them END);
        RETURN false;
    END IF;
    IF payload LIKE '{"tenants":[%' THEN
        IF strpos(substr(payload, 13), whose) > 0 THEN -- past the member's name, which may be a tenant's
            RETURN false;
        END IF;
        payload := left(payload, -2) || ',' || whose || ']}';
    ELSE
        entry := '[' || whose || ',"' || customer || '",';
        IF payload IS NULL OR payload = '' THEN
            PERFORM set_config('cxda.changes', '{"customers":[' || entry || version || ']]}', true);
            RETURN true;
        END IF;
        place := strpos(payload, entry);
        IF place > 0 THEN
            -- Named already: the greatest version counts.
            place := place + length(entry);
            known := substring(substr(payload, place) FROM '^-?[0-9]+');
            IF known::bigint >= version THEN
                RETURN false;
            END IF;
            payload := left(payload, place - 1) || version || substr(payload, place + length(known));
        ELSE
            payload := left(payload, -2) || ',' || entry || version || ']]}';
        END IF;
        -- One bracket is that of the list.
        IF length(payload) - length(replace(payload, '[', '')) > most + 1 OR octet_length(payload) > longest THEN
            SELECT '{"tenants":[' || string_agg(DISTINCT '"' || named[1] || '"', ',') || ']}' INTO payload
            FROM regexp_matches(payload, '[[]"([^"]+)",', 'g') AS named;
        END IF;
    END IF;
    IF octet_length(payload) > longest THEN
        payload := all_of_them;
    END IF;
    PERFORM set_config('cxda.changes', payload, true);
    RETURN false;
END
$$;

-- Sends what was collected. Nothing collected: the setting was reset in between, so that any customer may have changed.
CREATE FUNCTION customers_notify_collected() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    payload text := current_setting('cxda.changes', true);
BEGIN
    PERFORM pg_notify('cxda_customers', coalesce(nullif(payload, ''), '{"all":true}'));
    PERFORM set_config('cxda.changes', '', true);
    RETURN NULL;
END
$$;

-- Deferred, so that they fire once, at the commit.
CREATE CONSTRAINT TRIGGER customers_applied_insert AFTER INSERT ON customers DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (customers_collect(NEW.tenant_id, NEW.id, NEW.version, NEW.tableoid)) EXECUTE FUNCTION customers_notify_collected();
CREATE CONSTRAINT TRIGGER customers_applied_update AFTER UPDATE ON customers DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (customers_collect(NEW.tenant_id, NEW.id, NEW.version, NEW.tableoid)) EXECUTE FUNCTION customers_notify_collected();
CREATE CONSTRAINT TRIGGER customers_applied_delete AFTER DELETE ON customers DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (customers_collect(OLD.tenant_id, OLD.id, OLD.version + 1, OLD.tableoid)) EXECUTE FUNCTION customers_notify_collected();
-- The key that a row had before.
CREATE CONSTRAINT TRIGGER customers_applied_rekey AFTER UPDATE ON customers DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (CASE WHEN OLD.tenant_id <> NEW.tenant_id OR OLD.id <> NEW.id
          THEN customers_collect(OLD.tenant_id, OLD.id, OLD.version + 1, OLD.tableoid) ELSE false END)
    EXECUTE FUNCTION customers_notify_collected();

-- A deferred trigger looks its row up when it fires, and fails where that was truncated: it fires before.
CREATE FUNCTION customers_before_truncate() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    triggers text;
BEGIN
    IF current_setting('cxda.changes', true) <> '' THEN
        SELECT string_agg(format('%I.%I', TG_TABLE_SCHEMA, 'customers_applied_' || event), ', ') INTO triggers
        FROM unnest(ARRAY['insert', 'update', 'delete', 'rekey']) AS event;
        EXECUTE 'SET CONSTRAINTS ' || triggers || ' IMMEDIATE';
        EXECUTE 'SET CONSTRAINTS ' || triggers || ' DEFERRED';
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER customers_applied_truncate BEFORE TRUNCATE ON customers
    FOR EACH STATEMENT EXECUTE FUNCTION customers_before_truncate();

ALTER TABLE customers
    ENABLE ALWAYS TRIGGER customers_inserted,
    ENABLE ALWAYS TRIGGER customers_updated,
    ENABLE ALWAYS TRIGGER customers_deleted,
    ENABLE ALWAYS TRIGGER customers_truncated,
    ENABLE REPLICA TRIGGER customers_statement,
    ENABLE REPLICA TRIGGER customers_applied_touch,
    ENABLE REPLICA TRIGGER customers_applied_insert,
    ENABLE REPLICA TRIGGER customers_applied_update,
    ENABLE REPLICA TRIGGER customers_applied_delete,
    ENABLE REPLICA TRIGGER customers_applied_rekey,
    ENABLE REPLICA TRIGGER customers_applied_truncate;
