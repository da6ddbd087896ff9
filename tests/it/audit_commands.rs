//! The audit log written out, and shortened.

use std::io::Read;
use std::os::unix::fs::PermissionsExt;

use uuid::Uuid;

use crate::support::{Database, Outcome, Tool, connect, scratch_dir};

async fn row(database: &Database, tenant: &str, contact: &str, at: &str) {
    let sql = format!(
        "INSERT INTO audit_log (tenant_id, occurred_at, id, action, source, customer_ids, missing_ids, key_id, request_id, contact_id)
         VALUES ('{tenant}', '{at}', gen_random_uuid(), 'process_customer_batch', 'cache', ARRAY['{one}', '{two}']::uuid[], ARRAY['{two}']::uuid[], 'default', 'r', '{contact}')",
        one = Uuid::from_u128(1),
        two = Uuid::from_u128(2)
    );
    database.run(&sql).await;
}

async fn some(database: &Database) {
    row(database, "acme42", "second", "2026-01-02 00:00+00").await;
    row(database, "globex7", "other", "2026-01-01 12:00+00").await;
    row(database, "acme42", "first", "2026-01-01 00:00+00").await;
    row(database, "acme42", "a \"third\", \n=1", "2026-01-02 10:00:00.123456+00").await;
}

async fn export(database: &Database, args: &[&str]) -> Outcome {
    Tool::new(&["audit", "export"]).args(args).set("DATABASE_URL", &database.url).run().await
}

#[tokio::test]
async fn rows_come_in_the_order_of_time_with_all_that_they_say() {
    let database = Database::new().await;
    some(&database).await;
    let outcome = export(&database, &["--format", "jsonl"]).await;
    let rows: Vec<serde_json::Value> = outcome.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let contacts: Vec<_> = rows.iter().map(|row| row["contact_id"].as_str().unwrap()).collect();
    assert_eq!(contacts, ["first", "other", "second", "a \"third\", \n=1"]);
    assert_eq!(rows[3]["occurred_at"], "2026-01-02T10:00:00.123456Z");
    assert_eq!(rows[0]["customer_ids"].as_array().map(Vec::len), Some(2));
    assert_eq!((&rows[0]["source"], &rows[0]["key_id"], &rows[0]["tenant_id"]), (&"cache".into(), &"default".into(), &"acme42".into()));

    let outcome = export(&database, &["--format", "csv"]).await;
    let mut lines = csv::Reader::from_reader(outcome.stdout.as_bytes());
    assert_eq!(lines.headers().unwrap().iter().next_back(), Some("contact_id"));
    let rows: Vec<_> = lines.records().map(Result::unwrap).collect();
    assert_eq!((rows.len(), &rows[3][9]), (4, "a \"third\", \n=1"));
    assert_eq!(rows[0][5], format!("{} {}", Uuid::from_u128(1), Uuid::from_u128(2)));
}

#[tokio::test]
async fn a_spreadsheet_computes_no_cell_and_json_keeps_every_value() {
    let database = Database::new().await;
    let contacts = ["=HYPERLINK(\"http://evil.example\")", "+1", "-1", "@SUM(A1)", "\t=1", "safe \u{202e}gpj.exe"];
    for (minute, contact) in contacts.iter().enumerate() {
        row(&database, "acme42", contact, &format!("2026-01-01 00:0{minute}+00")).await;
    }
    let outcome = export(&database, &["--format", "csv"]).await;
    let mut lines = csv::Reader::from_reader(outcome.stdout.as_bytes());
    let cells: Vec<_> = lines.records().map(|record| record.unwrap()[9].to_owned()).collect();
    assert_eq!(cells[0], "'=HYPERLINK(\"http://evil.example\")");
    assert_eq!(cells[1..], ["'+1", "'-1", "'@SUM(A1)", "'\t=1", "safe \\u{202e}gpj.exe"]);
    let outcome = export(&database, &["--format", "jsonl"]).await;
    let rows = outcome.stdout.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    assert_eq!(rows.map(|row| row["contact_id"].as_str().unwrap().to_owned()).collect::<Vec<_>>(), contacts);
    let help = Tool::new(&["audit", "export", "--help"]).run().await;
    assert!(help.stdout.contains("apostrophe"), "{}", help.printed());
}

#[tokio::test]
async fn a_tenant_and_a_time_choose_from_the_one_until_before_the_other() {
    let database = Database::new().await;
    some(&database).await;
    let count = async |args: &[&str]| export(&database, args).await.stdout.lines().count();
    assert_eq!(count(&["--format", "jsonl", "--tenant", "acme42"]).await, 3);
    assert_eq!(count(&["--format", "jsonl", "--from", "2026-01-01", "--to", "2026-01-02"]).await, 2);
    assert_eq!(count(&["--format", "jsonl", "--from", "2026-01-02T00:00:00Z"]).await, 2);
    assert_eq!(count(&["--format", "jsonl", "--to", "2026-01-02T02:00:00+02:00", "--tenant", "acme42"]).await, 1);
    let outcome = export(&database, &["--from", "2026-01-02", "--to", "2026-01-02"]).await;
    assert!(outcome.code == Some(1) && outcome.stderr.contains("--to must be later"), "{}", outcome.printed());
    for args in [["--from", "yesterday"], ["--tenant", "acme-42"], ["--format", "xml"]] {
        assert_eq!(export(&database, &args).await.code, Some(2), "{args:?}");
    }
}

#[tokio::test]
async fn a_file_has_its_name_only_when_it_is_whole() {
    let database = Database::new().await;
    some(&database).await;
    let path = scratch_dir().join("audit.csv");
    let outcome = export(&database, &["--output", path.to_str().unwrap()]).await;
    assert_eq!((outcome.code, outcome.printed().as_str()), (Some(0), ""));
    let written = std::fs::read_to_string(&path).unwrap();
    assert!(written.starts_with("occurred_at,"));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "it is nobody else's business");
    database.run("REVOKE SELECT ON audit_log FROM cxda_runtime").await;
    assert_eq!(export(&database, &["--output", path.to_str().unwrap()]).await.code, Some(1));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), written, "as it was");
    assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "and nothing beside it");
}

#[tokio::test]
async fn a_reader_who_has_seen_enough_is_no_failure() {
    let database = Database::new().await;
    database
        .run("INSERT INTO audit_log (tenant_id, id, action, source, customer_ids) SELECT 'acme42', gen_random_uuid(), 'a', 'cache', '{}' FROM generate_series(1, 20000)")
        .await;
    let mut child = Tool::new(&["audit", "export"]).set("DATABASE_URL", &database.url).start_unheard();
    let mut output = child.stdout.take().unwrap();
    let mut some = [0; 100];
    output.read_exact(&mut some).unwrap();
    drop(output);
    let outcome = tokio::task::spawn_blocking(move || child.wait_with_output()).await.unwrap().unwrap();
    assert_eq!((outcome.status.code(), String::from_utf8_lossy(&outcome.stderr).as_ref()), (Some(0), ""));
}

async fn partition(database: &Database, name: &str, from: &str, to: &str) {
    database.run(&format!("CREATE TABLE {name} PARTITION OF audit_log FOR VALUES FROM ({from}) TO ({to})")).await;
}

async fn prune(database: &Database, args: &[&str]) -> Outcome {
    Tool::new(&["audit", "prune"]).args(args).set("DATABASE_URL", &database.owner_url).run().await
}

async fn partitions(database: &Database) -> String {
    database
        .value("SELECT string_agg(inhrelid::regclass::text, ' ' ORDER BY 1) FROM pg_inherits WHERE inhparent = 'audit_log'::regclass")
        .await
}

#[tokio::test]
async fn only_whole_partitions_past_retention_are_dropped() {
    let database = Database::new().await;
    row(&database, "acme42", "in the default one", "1999-01-01 00:00+00").await;
    let before = partitions(&database).await;
    partition(&database, "audit_log_2020_01", "'2020-01-01 00:00+00'", "'2020-02-01 00:00+00'").await;
    partition(&database, "\"Odd name\"", "'2020-02-01 00:00+00'", "'2020-03-01 00:00+00'").await;
    database.run("CREATE TABLE lately (LIKE audit_log INCLUDING ALL); DO $$ BEGIN EXECUTE format('ALTER TABLE audit_log ATTACH PARTITION lately FOR VALUES FROM (%L) TO (%L)', now() - interval '70 days', now() - interval '50 days'); END $$").await;
    // Other people's settings must not change what a bound means.
    database.configure("SET datestyle = 'SQL, DMY'").await;
    database.configure("SET timezone = 'Asia/Tokyo'").await;
    row(&database, "acme42", "old", "2020-01-02 00:00+00").await;

    let all = partitions(&database).await;
    let dry = prune(&database, &["--older-than", "400d", "--dry-run"]).await;
    assert_eq!(dry.stdout.lines().count(), 2, "{}", dry.printed());
    assert!(dry.stdout.starts_with("would drop  audit_log_2020_01  until 2020-02-01T00:00:00Z  1 MiB"), "{}", dry.printed());
    assert_eq!(partitions(&database).await, all);

    let done = prune(&database, &["--older-than", "400d"]).await;
    assert!(done.code == Some(0) && done.stdout.contains("dropped  \"Odd name\""), "{}", done.printed());
    assert!(partitions(&database).await.contains("lately"));
    assert_eq!(database.audit_count().await, 1, "the default partition is left alone");
    prune(&database, &["--older-than", "60d"]).await;
    assert!(partitions(&database).await.contains("lately"), "its last rows are younger");
    prune(&database, &["--older-than", "0s"]).await;
    assert_eq!(partitions(&database).await, before, "none that is not over");
    assert_eq!(prune(&database, &["--older-than", "400d"]).await.stdout, "nothing to drop");
    assert_eq!(prune(&database, &[]).await.code, Some(2));
}

#[tokio::test]
async fn a_lock_that_somebody_holds_is_waited_for_in_short_turns() {
    let database = Database::new().await;
    partition(&database, "audit_log_2020_01", "'2020-01-01'", "'2020-02-01'").await;
    let reader = connect(&database.owner_url).await.unwrap();
    reader.batch_execute("BEGIN; SELECT count(*) FROM audit_log").await.unwrap();
    let run = prune(&database, &["--older-than", "400d"]);
    let release = async {
        database.waiting_sessions(1).await;
        // Behind its lock, a lookup's insert waits for a moment only.
        row(&database, "acme42", "meanwhile", "now").await;
        reader.batch_execute("COMMIT").await.unwrap();
    };
    let (outcome, ()) = tokio::join!(run, release);
    assert_eq!(outcome.code, Some(0), "{}", outcome.printed());
    assert!(!partitions(&database).await.contains("2020"));
}

#[tokio::test]
async fn a_lock_that_is_never_let_go_ends_it_in_plain_words() {
    let database = Database::new().await;
    partition(&database, "audit_log_2020_01", "'2020-01-01'", "'2020-02-01'").await;
    let reader = connect(&database.owner_url).await.unwrap();
    reader.batch_execute("BEGIN; SELECT count(*) FROM audit_log").await.unwrap();
    let outcome = prune(&database, &["--older-than", "400d"]).await;
    assert!(outcome.code == Some(1) && outcome.stderr.contains("audit_log_2020_01 is not dropped"), "{}", outcome.printed());
    assert!(partitions(&database).await.contains("2020"));
}

#[tokio::test]
async fn the_services_own_role_drops_nothing() {
    let database = Database::new().await;
    partition(&database, "audit_log_2020_01", "'2020-01-01'", "'2020-02-01'").await;
    let outcome = Tool::new(&["audit", "prune", "--older-than", "1d"]).set("DATABASE_URL", &database.url).run().await;
    assert!(outcome.code == Some(1) && outcome.stderr.contains("must be owner"), "{}", outcome.printed());
}
