//! `pg_dump` and `pg_restore` in their modes, into a database that a service runs on.

use std::path::{Path, PathBuf};
use std::process::Command;

use uuid::Uuid;

use super::{TENANT, cached, migrate, notify_all, seen, service};
use crate::support::{Database, Service, binaries, scratch_dir, search_path};

/// A database with one customer, a dump of the table, and a service that has cached what it is called since.
struct Stage {
    database: Database,
    service: Service,
    id: Uuid,
    dump: PathBuf,
}

impl Stage {
    async fn new() -> Self {
        let database = Database::new().await;
        let id = database.customer(TENANT, "Dumped").await;
        let dump = scratch_dir().join("customers.dump");
        pg("pg_dump", &["--format=custom", "--table=customers", "--file", path(&dump), &database.owner_url]);
        let service = service(&database).await;
        database.run("UPDATE customers SET name = 'Since'").await;
        cached(&service, id, Some("Since")).await;
        Self { database, service, id, dump }
    }

    fn restore(&self, options: &[&str]) {
        pg("pg_restore", &[&["--exit-on-error", "--dbname", &self.database.owner_url], options, &[path(&self.dump)]].concat());
    }

    /// The service still answers as before, from its cache.
    async fn is_unseen(&self) {
        cached(&self.service, self.id, Some("Since")).await;
    }

    async fn is_seen(&self, way: &str) {
        seen(&self.service, self.id, Some("Dumped"), way).await;
    }
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// Runs a client program of the server's own version where it lies beside the server, else the one of PATH.
fn pg(program: &str, args: &[&str]) {
    let server = binaries().directory().join("postgres").canonicalize().expect("a server");
    let own = server.with_file_name(program);
    let program = if own.is_file() { own.as_path() } else { Path::new(program) };
    let output = Command::new(program).args(args).env_clear().env("PATH", search_path()).output().expect("postgresql-client is installed");
    assert!(output.status.success(), "{} {args:?}: {}", program.display(), String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn data_that_is_restored_alone_is_seen() {
    let stage = Stage::new().await;
    stage.database.run("DELETE FROM customers").await;
    cached(&stage.service, stage.id, None).await;
    stage.restore(&["--data-only"]);
    stage.is_seen("pg_restore --data-only").await;
    assert!(migrate(&stage.database, "status").await.stdout.lines().all(|line| line.starts_with("applied")));
}

#[tokio::test]
async fn data_that_is_restored_without_triggers_is_seen_once_migrate_apply_has_put_them_right() {
    let stage = Stage::new().await;
    // Past the triggers itself, so that the service keeps what it has.
    stage.database.run("ALTER TABLE customers DISABLE TRIGGER ALL; DELETE FROM customers; ALTER TABLE customers ENABLE TRIGGER ALL").await;
    stage.restore(&["--data-only", "--disable-triggers"]);
    stage.is_unseen().await;
    let status = migrate(&stage.database, "status").await.stdout;
    assert!(status.contains("trigger customers_updated is set to ORIGIN in place of ALWAYS"), "{status}");
    let printed = migrate(&stage.database, "apply").await.stdout;
    assert!(printed.contains("repaired trigger customers_applied_update is set to ORIGIN in place of REPLICA"), "{printed}");
    stage.is_seen("migrate apply").await;
    assert_eq!(migrate(&stage.database, "apply").await.stdout.trim(), "nothing to apply");
}

#[tokio::test]
async fn a_table_that_is_restored_over_itself_has_its_triggers_and_is_seen_once_told() {
    let stage = Stage::new().await;
    stage.restore(&["--clean", "--if-exists"]);
    stage.is_unseen().await;
    assert_eq!(migrate(&stage.database, "apply").await.stdout.trim(), "nothing to apply");
    notify_all(&stage.database).await;
    stage.is_seen("NOTIFY").await;
    stage.database.run("UPDATE customers SET name = 'Later'").await;
    seen(&stage.service, stage.id, Some("Later"), "a restore").await;
}

#[tokio::test]
async fn a_table_that_is_picked_from_a_dump_gets_its_triggers_from_migrate_apply() {
    let stage = Stage::new().await;
    stage.database.run("DROP TABLE customers").await;
    stage.restore(&["--table=customers"]);
    let printed = migrate(&stage.database, "apply").await.stdout;
    assert!(printed.contains("repaired trigger customers_inserted is missing"), "{printed}");
    stage.is_seen("migrate apply").await;
}
