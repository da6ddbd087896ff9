-- What the service itself may do. Run after the migrations by every `migrate apply`, so that a role that is made later gets
-- its rights then. The role is shared by all databases of a cluster: another one may be making it at this moment.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'cxda_runtime') THEN
        BEGIN
            CREATE ROLE cxda_runtime NOLOGIN;
        EXCEPTION
            WHEN duplicate_object OR unique_violation THEN NULL;
            WHEN insufficient_privilege THEN RETURN; -- the caller looks whether the role is there
        END;
    END IF;
    GRANT SELECT ON customers, refinery_schema_history TO cxda_runtime;
    GRANT SELECT, INSERT ON audit_log TO cxda_runtime;
    GRANT SELECT, INSERT, UPDATE, DELETE ON idempotency TO cxda_runtime;
    GRANT EXECUTE ON FUNCTION audit_ensure_partitions TO cxda_runtime;
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO cxda_runtime', current_schema());
END
$$;
