-- One row for each answered lookup, in monthly partitions; the default one is a net for months that nobody made.
CREATE TABLE audit_log (
    tenant_id    text        NOT NULL,
    occurred_at  timestamptz NOT NULL DEFAULT now(),
    id           uuid        NOT NULL,
    action       text        NOT NULL,
    source       text        NOT NULL CHECK (source IN ('database', 'cache', 'mixed')),
    customer_ids uuid[]      NOT NULL,
    missing_ids  uuid[]      NOT NULL DEFAULT '{}',
    key_id       text,
    request_id   text,
    contact_id   text,
    PRIMARY KEY (tenant_id, occurred_at, id)
) PARTITION BY RANGE (occurred_at);

CREATE TABLE audit_log_default PARTITION OF audit_log DEFAULT;

-- Makes this month's partition and those of the months ahead. Runs with its owner's rights, so that the service can keep
-- partitions ready without being allowed to change tables. ATTACH, unlike CREATE … PARTITION OF, lets inserts go on.
CREATE FUNCTION audit_ensure_partitions(months_ahead int, OUT made int, OUT default_used boolean)
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    first timestamp := date_trunc('month', now() AT TIME ZONE 'UTC');
    month timestamp;
    part  text;
BEGIN
    IF months_ahead NOT BETWEEN 0 AND 120 THEN
        RAISE EXCEPTION 'months_ahead must be from 0 to 120';
    END IF;
    PERFORM set_config('lock_timeout', '3s', true);
    PERFORM pg_advisory_xact_lock(hashtext('audit_ensure_partitions'));
    made := 0;
    FOR n IN 0..months_ahead LOOP
        month := first + make_interval(months => n);
        part := 'audit_log_' || to_char(month, 'YYYY_MM');
        CONTINUE WHEN to_regclass(part) IS NOT NULL;
        -- Rows of that month that have fallen into the default partition stay there; default_used tells of them.
        CONTINUE WHEN EXISTS (SELECT FROM audit_log_default WHERE occurred_at >= month AT TIME ZONE 'UTC'
                                AND occurred_at < (month + interval '1 month') AT TIME ZONE 'UTC');
        BEGIN
            EXECUTE format('CREATE TABLE %I (LIKE audit_log INCLUDING ALL)', part);
            EXECUTE format('ALTER TABLE audit_log ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', part,
                           month AT TIME ZONE 'UTC', (month + interval '1 month') AT TIME ZONE 'UTC');
            made := made + 1;
        EXCEPTION WHEN check_violation THEN
            NULL; -- such a row came in between
        END;
    END LOOP;
    default_used := EXISTS (SELECT FROM audit_log_default);
END
$$;

-- A function with its owner's rights must not look names up where its caller says.
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION audit_ensure_partitions SET search_path = %I, pg_temp', current_schema());
END
$$;

REVOKE ALL ON FUNCTION audit_ensure_partitions FROM PUBLIC;

SELECT audit_ensure_partitions(3);
