-- Run once, as superuser in the new database, when the volume is empty. The service must not be able to change the schema
-- or an audit row, so it is another role than the owner; migrations grant to the group, whatever the login is called.
\set owner_password `cat /run/secrets/postgres_owner_password`
\set app_password `cat /run/secrets/postgres_app_password`
-- An unreadable secret would leave a role that can never log in: stop here instead.
SELECT 1 / (length(:'owner_password') >= 16 AND length(:'app_password') >= 16)::int AS passwords_read;

CREATE ROLE cxda_runtime NOLOGIN;
CREATE ROLE cxda_owner LOGIN PASSWORD :'owner_password';
CREATE ROLE cxda_app LOGIN PASSWORD :'app_password' IN ROLE cxda_runtime;

ALTER DATABASE :"DBNAME" OWNER TO cxda_owner;
REVOKE ALL ON DATABASE :"DBNAME" FROM PUBLIC;
GRANT CONNECT ON DATABASE :"DBNAME" TO cxda_runtime;

ALTER SCHEMA public OWNER TO cxda_owner;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO cxda_runtime;
