-- Tells every instance which customers have changed, so that none goes on answering with what it has cached: at most one
-- notification a statement, whatever the number of rows, on the channel cxda_customers. Its payload is one of
--   {"customers": [["tenant", "id", version], …]}   up to 100 of them
--   {"tenants": ["tenant", …]}                      where there are more: all customers of these tenants
--   {"all": true}                                   where that is too long as well, and for TRUNCATE
-- The version is the one from which the row is as it is now; for a key that is gone, one more than its last.
CREATE FUNCTION customers_notify() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    most    CONSTANT int := 100;
    longest CONSTANT int := 7900; -- bytes; Postgres takes fewer than 8000
    rows    int;
    payload text;
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        PERFORM pg_notify('cxda_customers', '{"all":true}');
        RETURN NULL;
    END IF;
    SELECT count(*) INTO rows FROM (SELECT FROM changed LIMIT most + 1) AS first_rows;
    IF rows = 0 THEN
        RETURN NULL;
    END IF;
    IF rows <= most THEN
        -- A transition table of UPDATE's old rows is there only in an UPDATE.
        IF TG_OP = 'UPDATE' THEN
            SELECT json_build_object('customers', json_agg(json_build_array(tenant_id, id, version)))::text INTO payload
            FROM (SELECT tenant_id, id, version FROM changed
                  UNION
                  SELECT tenant_id, id, version + 1 FROM gone) AS keys;
        ELSE
            SELECT json_build_object('customers', json_agg(json_build_array(tenant_id, id,
                       CASE TG_OP WHEN 'DELETE' THEN version + 1 ELSE version END)))::text INTO payload
            FROM changed;
        END IF;
    END IF;
    IF payload IS NULL OR octet_length(payload) > longest THEN
        IF TG_OP = 'UPDATE' THEN
            SELECT json_build_object('tenants', json_agg(tenant_id))::text INTO payload
            FROM (SELECT tenant_id FROM changed UNION SELECT tenant_id FROM gone) AS whose;
        ELSE
            SELECT json_build_object('tenants', json_agg(tenant_id))::text INTO payload
            FROM (SELECT DISTINCT tenant_id FROM changed) AS whose;
        END IF;
    END IF;
    IF octet_length(payload) > longest THEN
        payload := '{"all":true}';
    END IF;
    PERFORM pg_notify('cxda_customers', payload);
    RETURN NULL;
END
$$;

CREATE TRIGGER customers_inserted AFTER INSERT ON customers REFERENCING NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION customers_notify();
CREATE TRIGGER customers_updated AFTER UPDATE ON customers REFERENCING NEW TABLE AS changed OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION customers_notify();
CREATE TRIGGER customers_deleted AFTER DELETE ON customers REFERENCING OLD TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION customers_notify();
CREATE TRIGGER customers_truncated AFTER TRUNCATE ON customers
    FOR EACH STATEMENT EXECUTE FUNCTION customers_notify();
