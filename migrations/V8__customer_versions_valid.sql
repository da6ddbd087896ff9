-- Checks the rows that were there before V7. Reads and writes go on meanwhile.
DO $$
DECLARE
    rows bigint;
BEGIN
    ALTER TABLE customers VALIDATE CONSTRAINT customers_version_check;
EXCEPTION WHEN check_violation THEN
    SELECT count(*) INTO rows FROM customers WHERE version < 0;
    RAISE EXCEPTION USING ERRCODE = 'check_violation', MESSAGE = format(
        '%s rows of customers have a negative version, and no lookup can read them. To see them: '
        'SELECT tenant_id, id, version FROM customers WHERE version < 0. To mend them: '
        'UPDATE customers SET name = name WHERE version < 0, which gives them version 1. Then run migrate apply again', rows);
END
$$;
