//! Many customers at once: copied into a staging table, then merged, all in one transaction.

use anyhow::{Context, bail};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::SinkExt;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error, Statement};

use super::connect::Connector;
use super::failure::described;
use crate::domain::{CustomerId, TenantId};

/// No limit of this role ends it, but for the server's that notices that we are gone. `READ COMMITTED`: what is merged after a wait
/// sees what it has waited for. The memory is that of a sort or of a join. All of it ends with the transaction: through a pooler, the
/// server session goes on to other clients.
///
/// Not every platform can check connections, and the memory of temporary tables cannot change once a session has used some.
const BEGIN: &str = "\
    BEGIN ISOLATION LEVEL READ COMMITTED; \
    SELECT set_config(name, '0', true) FROM pg_settings \
        WHERE name IN ('statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout', 'transaction_timeout'); \
    DO $$ BEGIN SET LOCAL client_connection_check_interval = '2s'; EXCEPTION WHEN OTHERS THEN NULL; END $$; \
    DO $$ BEGIN SET LOCAL temp_buffers = '32MB'; EXCEPTION WHEN OTHERS THEN NULL; END $$; \
    SET LOCAL work_mem = '64MB'; SET LOCAL jit = off; \
    CREATE TEMPORARY TABLE staged (line bigint NOT NULL, tenant_id text NOT NULL, id uuid NOT NULL, name text NOT NULL, status text NOT NULL, \
        attributes jsonb NOT NULL, updated_at timestamptz) ON COMMIT DROP";

const MAY_WRITE: &str = "SELECT has_table_privilege('customers', 'INSERT') AND has_table_privilege('customers', 'UPDATE')";

const COPY: &str = "COPY staged (line, tenant_id, id, name, status, attributes, updated_at) FROM STDIN (FORMAT binary)";

/// Leaves the first line of each customer, and tells of some of the others.
const TAKE_OUT_TWINS: &str = "\
    WITH twice AS (SELECT tenant_id, id, min(line) AS first FROM staged GROUP BY tenant_id, id HAVING count(*) > 1), \
    gone AS (DELETE FROM staged USING twice \
        WHERE (staged.tenant_id, staged.id) = (twice.tenant_id, twice.id) AND line > first RETURNING line, first) \
    SELECT line, first, count(*) OVER () FROM gone ORDER BY line LIMIT $1";

/// Two imports that lock the same rows in different orders would stand in each other's way. Any number that no other program takes.
const LOCK: i64 = 0x6378_6461_6c6f_6164;

/// In the order of the primary key, so that each page of its index is met once. Rows that would not change are not locked either.
/// `now()` stands for a time that the file does not tell: for a row that is there already, the trigger sees to it. A time that is
/// only older than the row's changes nothing: a row that was changed by a line that did not move its time has got a later one.
const MERGE: &str = "\
    WITH merged AS ( \
        INSERT INTO customers AS c (tenant_id, id, name, status, attributes, updated_at) \
        SELECT s.tenant_id, s.id, s.name, s.status, s.attributes, coalesce(s.updated_at, now()) \
        FROM staged s LEFT JOIN customers old ON (old.tenant_id, old.id) = (s.tenant_id, s.id) \
        WHERE old.id IS NULL OR old.name <> s.name OR old.status <> s.status OR old.attributes <> s.attributes \
            OR s.updated_at > old.updated_at \
        ORDER BY s.tenant_id, s.id \
        ON CONFLICT (tenant_id, id) DO UPDATE SET name = excluded.name, status = excluded.status, attributes = excluded.attributes, \
            updated_at = CASE excluded.updated_at WHEN now() THEN c.updated_at ELSE excluded.updated_at END \
        RETURNING version = 1 AS new) \
    SELECT count(*) FILTER (WHERE new), count(*) FILTER (WHERE NOT new) FROM merged";

/// ANALYZE without the right to it does nothing, and only warns. Postgres before 17 knows no right of that name.
const MAY_ANALYZE: &str = "\
    SELECT pg_has_role(c.relowner, 'USAGE') OR pg_has_role(d.datdba, 'USAGE') \
        OR CASE WHEN current_setting('server_version_num')::int >= 170000 THEN has_table_privilege(c.oid, 'MAINTAIN') ELSE false END \
    FROM pg_class c, pg_database d WHERE c.oid = 'customers'::regclass AND d.datname = current_database()";

/// A VACUUM that runs on the table holds it up.
const ANALYZE: &str = "BEGIN; SET LOCAL lock_timeout = '1min'; ANALYZE customers; COMMIT";

/// Of a binary copy: signature, flags, no extension.
const HEAD: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
const TAIL: &[u8] = &[0xff, 0xff];

/// From 1970 to 2000, where Postgres' time begins.
const EPOCH: i64 = 946_684_800_000_000;

/// One customer of a file.
#[derive(Debug)]
pub struct Row<'a> {
    /// Where it stands in the file.
    pub line: u64,
    /// Whose customer it is.
    pub tenant: TenantId,
    /// Which one.
    pub id: CustomerId,
    /// Without a NUL, as all texts here.
    pub name: &'a str,
    /// Likewise.
    pub status: &'a str,
    /// The text of a JSON object.
    pub attributes: &'a str,
    /// `None`: the time of the change.
    pub updated_at: Option<DateTime<Utc>>,
}

impl Row<'_> {
    /// Adds it as a row of a binary copy. It is shorter than 1 GiB.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&7_i16.to_be_bytes());
        field(out, &[&self.line.to_be_bytes()]);
        field(out, &[self.tenant.as_str().as_bytes()]);
        field(out, &[self.id.uuid().as_bytes()]);
        field(out, &[self.name.as_bytes()]);
        field(out, &[self.status.as_bytes()]);
        field(out, &[&[1], self.attributes.as_bytes()]); // jsonb's version of that form
        match self.updated_at {
            Some(time) => field(out, &[&(time.timestamp_micros() - EPOCH).to_be_bytes()]),
            None => out.extend_from_slice(&(-1_i32).to_be_bytes()),
        }
    }
}

fn field(out: &mut Vec<u8>, parts: &[&[u8]]) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    for part in parts {
        out.extend_from_slice(part);
    }
}

/// Lines that name a customer of an earlier line.
#[derive(Debug)]
pub struct Twins {
    /// All of them.
    pub count: u64,
    /// Some: the line, and the earlier one.
    pub first: Vec<(i64, i64)>,
}

/// What became of the rows that were not as they should be.
#[derive(Debug)]
pub struct Merged {
    /// New customers.
    pub inserted: u64,
    /// Changed ones.
    pub updated: u64,
}

/// A transaction that loads customers. Where it is dropped, nothing has happened.
pub struct Load {
    client: Client,
    copy: Statement,
    task: JoinHandle<()>,
}

impl Load {
    /// Begins one, as a user who may write customers.
    pub async fn begin(connector: &Connector) -> anyhow::Result<Self> {
        let (client, task) = connector.client_in_time().await.context("reach the database")?;
        let may_write = client.query_typed_one(MAY_WRITE, &[]).await.map_err(|e| described(&e)).context("look at the rights")?;
        if !may_write.get::<_, bool>(0) {
            bail!(
                "this database user may not write customers: the service's own may only read them. Import as their owner \
                 (CXDA_DATABASE__MIGRATE_URL, or DATABASE_URL)"
            );
        }
        let copy = begin(&client).await.map_err(|e| described(&e)).context("begin")?;
        Ok(Self { client, copy, task })
    }

    /// Copies encoded rows into the staging table, and gives their number.
    pub async fn receive(&self, mut chunks: mpsc::Receiver<Bytes>) -> anyhow::Result<u64> {
        let copy = async {
            let mut sink = Box::pin(self.client.copy_in::<_, Bytes>(&self.copy).await?);
            sink.feed(Bytes::from_static(HEAD)).await?;
            while let Some(chunk) = chunks.recv().await {
                sink.send(chunk).await?;
            }
            sink.feed(Bytes::from_static(TAIL)).await?;
            sink.as_mut().finish().await
        };
        copy.await.map_err(|e| described(&e)).context("copy into the staging table")
    }

    /// Takes out what names a customer for the second time, and tells of the first `most`.
    pub async fn take_out_twins(&self, most: i64) -> anyhow::Result<Twins> {
        let rows = self.client.query_typed(TAKE_OUT_TWINS, &[(&most, Type::INT8)]).await;
        let rows = rows.map_err(|e| described(&e)).context("look for customers named twice")?;
        let count = rows.first().map_or(0, |row| row.get::<_, i64>(2).unsigned_abs());
        Ok(Twins { count, first: rows.iter().map(|row| (row.get(0), row.get(1))).collect() })
    }

    /// Has it that no other import is merged at the same time, unless one is at it.
    pub async fn try_lock(&self) -> anyhow::Result<bool> {
        let row =
            self.client.query_typed_one("SELECT pg_try_advisory_xact_lock($1)", &[(&LOCK, Type::INT8)]).await.map_err(|e| described(&e))?;
        Ok(row.get(0))
    }

    /// Waits for that.
    pub async fn lock(&self) -> anyhow::Result<()> {
        let waited = self.client.execute_typed("SELECT pg_advisory_xact_lock($1)", &[(&LOCK, Type::INT8)]).await;
        waited.map(drop).map_err(|e| described(&e)).context("wait for another import")
    }

    /// Merges and commits.
    pub async fn commit(self) -> anyhow::Result<(Merged, Loaded)> {
        // Its name ends before the transaction does: afterwards, the pooler may have given the server session to another client.
        drop(self.copy);
        let row = self.client.query_typed_one(MERGE, &[]).await.map_err(|e| described(&e)).context("write the customers")?;
        self.client.batch_execute("COMMIT").await.map_err(|e| described(&e)).context("commit")?;
        let count = |column| row.get::<_, i64>(column).unsigned_abs();
        Ok((Merged { inserted: count(0), updated: count(1) }, Loaded { client: self.client, _task: self.task }))
    }
}

/// A load whose customers are committed.
pub struct Loaded {
    client: Client,
    _task: JoinHandle<()>,
}

impl Loaded {
    /// Has Postgres look at the table as it is now, so that lookups are not planned for the size that it had.
    pub async fn analyze(&self) -> anyhow::Result<()> {
        let may: bool = self.client.query_typed_one(MAY_ANALYZE, &[]).await.map_err(|e| described(&e))?.get(0);
        if !may {
            bail!("this database user neither owns customers nor has the right MAINTAIN");
        }
        self.client.batch_execute(ANALYZE).await.map_err(|e| described(&e))
    }
}

/// Begins, with the copy prepared. A copy needs a named statement; in a server session that a pooler shares, another client may have
/// left one of that name. The next try has another name.
async fn begin(client: &Client) -> Result<Statement, Error> {
    const TRIES: usize = 100;
    let mut tries = 0;
    loop {
        tries += 1;
        client.batch_execute(BEGIN).await?;
        match client.prepare(COPY).await {
            Err(error) if error.code() == Some(&SqlState::DUPLICATE_PSTATEMENT) && tries < TRIES => {
                client.batch_execute("ROLLBACK").await?;
            }
            prepared => return prepared,
        }
    }
}
