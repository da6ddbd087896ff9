//! An import that is killed half-way.

use nix::sys::signal::Signal;

use super::{customers, fingerprint, good, id, many};
use crate::support::{Database, Tool, connect, scratch_dir, wait_until};

const ROWS: u128 = 60_000;

fn file(text: String) -> String {
    let path = scratch_dir().join("customers.csv");
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

/// An import that has written half of the customers, with a session that holds it there: by the next one, not committed yet.
async fn at_work(database: &Database, file: &str) -> (crate::support::Process, tokio_postgres::Client) {
    let held = connect(&database.owner_url).await.unwrap();
    let next = format!("BEGIN; INSERT INTO customers (tenant_id, id, name, status) VALUES ('acme42', '{}', 'x', 'x')", id(ROWS / 2));
    held.batch_execute(&next).await.unwrap();
    let process = Tool::new(&["import", file]).set("DATABASE_URL", &database.owner_url).start("KILL");
    database.waiting_sessions(1).await;
    (process, held)
}

async fn nobody_imports(database: &Database) {
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'cxone-data-action'";
    wait_until("the session is over", async || (database.value::<i64>(sessions).await == 0).then_some(())).await;
}

#[tokio::test]
async fn nothing_is_half_loaded_and_another_run_makes_it_whole() {
    let (database, untroubled) = (Database::new().await, Database::new().await);
    let file = file(many(ROWS, "Ann"));
    let run = async |on: &Database| Tool::new(&["import", &file]).set("DATABASE_URL", &on.owner_url).run().await;
    good(&run(&untroubled).await);

    let (process, held) = at_work(&database, &file).await;
    process.signal(Signal::SIGKILL);
    // Though what it waits for has not come.
    nobody_imports(&database).await;
    held.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(customers(&database).await, Vec::<String>::new());

    assert_eq!(good(&run(&database).await), format!("read {ROWS}: inserted {ROWS}, updated 0, unchanged 0, bad 0"));
    assert_eq!(good(&run(&database).await), format!("read {ROWS}: inserted 0, updated 0, unchanged {ROWS}, bad 0"));
    let told = "UPDATE customers SET updated_at = '2026-01-01'"; // each run has its own time
    database.run(&format!("ALTER TABLE customers DISABLE TRIGGER ALL; {told}")).await;
    untroubled.run(&format!("ALTER TABLE customers DISABLE TRIGGER ALL; {told}")).await;
    assert_eq!(fingerprint(&database).await, fingerprint(&untroubled).await);
}

#[tokio::test]
async fn a_kill_while_rows_are_copied_loads_nothing() {
    let database = Database::new().await;
    good(&super::csv(&database, &many(100, "Old")).await);
    let before = fingerprint(&database).await;
    for _ in 0..5 {
        // Standard input stays open, so that it never comes to an end by itself.
        let mut child = Tool::new(&["import", "-", "--format", "csv"]).set("DATABASE_URL", &database.owner_url).start_unheard();
        let mut input = child.stdin.take().unwrap();
        std::io::Write::write_all(&mut input, many(ROWS, "New").as_bytes()).unwrap();
        let copying = "SELECT count(*) FROM pg_stat_progress_copy WHERE tuples_processed > 1000";
        wait_until("rows arrive", async || (database.value::<i64>(copying).await > 0).then_some(())).await;
        child.kill().unwrap();
        child.wait().unwrap();
        nobody_imports(&database).await;
        assert_eq!(fingerprint(&database).await, before);
    }
}
