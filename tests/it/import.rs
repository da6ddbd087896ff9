//! Customers from files: all of them or none, the same end state however often, and told in one breath.

mod files;
mod kills;
mod lines;
mod statistics;

use uuid::Uuid;

use crate::support::{Database, Ear, Outcome, Setup, Tool, connect, scratch_file, wait_until};

/// The nth id.
fn id(n: u128) -> Uuid {
    Uuid::from_u128(0x6f1c_0000_0000_4000_8000_0000_0000_0000 + n)
}

/// The command, with standard input as its file, as a user who may write customers.
fn import(database: &Database, format: &str) -> Tool {
    Tool::new(&["import", "-", "--format", format]).set("DATABASE_URL", &database.owner_url)
}

async fn csv(database: &Database, text: &str) -> Outcome {
    import(database, "csv").input(text).run().await
}

fn good(outcome: &Outcome) -> String {
    assert_eq!(outcome.code, Some(0), "{}", outcome.printed());
    outcome.stdout.split(';').next().expect("a summary").to_owned()
}

/// All customers, in a line each.
async fn customers(database: &Database) -> Vec<String> {
    let all =
        "SELECT concat_ws('|', tenant_id, right(id::text, 2), name, status, attributes, version) FROM customers ORDER BY tenant_id, id";
    database.owner.query(all, &[]).await.expect("customers").iter().map(|row| row.get(0)).collect()
}

async fn fingerprint(database: &Database) -> String {
    database.value("SELECT md5(string_agg(c::text, '' ORDER BY tenant_id, id)) FROM customers c").await
}

/// So many customers of acme42.
fn many(n: u128, name: &str) -> String {
    let lines = (1..=n).map(|n| format!("acme42,{},{name} {n},active\n", id(n)));
    std::iter::once("tenant_id,id,name,status\n".to_owned()).chain(lines).collect()
}

#[tokio::test]
async fn customers_are_inserted_changed_or_left_as_they_are() {
    let database = Database::new().await;
    let (ann, bob, cid) = (id(1), id(2), id(3));
    let first = format!("tenant_id,id,name,status\nacme42,{ann},Ann,active\nacme42,{bob},Bob,active\n");
    assert_eq!(good(&csv(&database, &first).await), "read 2: inserted 2, updated 0, unchanged 0, bad 0");
    let second = format!("tenant_id,id,name,status\nacme42,{ann},Ann,active\nacme42,{bob},Bob,gone\nglobex7,{cid},Cid,active\n");
    assert_eq!(good(&csv(&database, &second).await), "read 3: inserted 1, updated 1, unchanged 1, bad 0");
    assert_eq!(customers(&database).await, ["acme42|01|Ann|active|{}|1", "acme42|02|Bob|gone|{}|2", "globex7|03|Cid|active|{}|1"]);
}

#[tokio::test]
async fn the_same_file_again_touches_nothing_and_tells_nobody() {
    let database = Database::new().await;
    let text = format!(
        "tenant_id,id,name,status,updated_at,tier\nacme42,{},Ann,active,2026-01-02T03:04:05.123456789Z,gold\nacme42,{},Bob,active,,\n",
        id(1),
        id(2)
    );
    good(&csv(&database, &text).await);
    let before = fingerprint(&database).await;
    let places: String = database.value("SELECT string_agg(ctid::text || xmax, '' ORDER BY id) FROM customers").await;
    let mut ear = Ear::at(&database).await;
    assert_eq!(good(&csv(&database, &text).await), "read 2: inserted 0, updated 0, unchanged 2, bad 0");
    assert_eq!(fingerprint(&database).await, before);
    assert_eq!(
        database.value::<String>("SELECT string_agg(ctid::text || xmax, '' ORDER BY id) FROM customers").await,
        places,
        "not even locked"
    );
    assert!(ear.heard().await.is_empty());
}

#[tokio::test]
async fn a_row_whose_time_does_not_move_with_its_change_comes_to_rest_too() {
    let database = Database::new().await;
    let text = |name: &str| format!("tenant_id,id,name,status,updated_at\nacme42,{},{name},active,2026-01-02 03:04:05.5+00\n", id(1));
    good(&csv(&database, &text("Ann")).await);
    let at: String = database.value("SELECT (updated_at AT TIME ZONE 'UTC')::text FROM customers").await;
    assert_eq!(at, "2026-01-02 03:04:05.5");
    assert_eq!(good(&csv(&database, &text("Anne")).await), "read 1: inserted 0, updated 1, unchanged 0, bad 0");
    let before = fingerprint(&database).await;
    assert_eq!(good(&csv(&database, &text("Anne")).await), "read 1: inserted 0, updated 0, unchanged 1, bad 0");
    assert_eq!(fingerprint(&database).await, before);
}

#[tokio::test]
async fn many_new_and_many_changed_customers_are_told_of_once() {
    let database = Database::new().await;
    good(&csv(&database, &many(300, "Old")).await);
    let mut ear = Ear::at(&database).await;
    good(&csv(&database, &many(600, "New")).await);
    assert_eq!(ear.heard().await, [r#"{"tenants" : ["acme42"]}"#]);
}

#[tokio::test]
async fn an_instance_answers_with_what_was_imported() {
    let database = Database::new().await;
    let service = Setup::on(&database).start().await;
    good(&csv(&database, &many(150, "Old")).await);
    let asked = [id(1), id(150)];
    wait_until("both are cached", async || (service.lookup("acme42", &asked).await.cache() == "hit").then_some(())).await;
    good(&csv(&database, &many(150, "New")).await);
    wait_until("the new name is answered", async || {
        let output = service.lookup("acme42", &asked).await.output();
        (output["customers"][1]["name"] == "New 150").then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_services_own_role_is_refused_in_plain_words() {
    let database = Database::new().await;
    let outcome = import(&database, "csv").set("DATABASE_URL", &database.url).input(many(1, "Ann")).run().await;
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.stderr.contains("may not write customers"), "{}", outcome.printed());
}

#[tokio::test]
async fn a_roles_time_limits_end_no_import() {
    let database = Database::new().await;
    database.configure("SET statement_timeout = '300ms'").await;
    database.configure("SET lock_timeout = '300ms'").await;
    let held = database.lock_customers().await;
    let run = import(&database, "csv").input(many(3, "Ann")).run();
    let release = async {
        database.waiting_sessions(1).await;
        tokio::time::sleep(std::time::Duration::from_millis(600)).await; // twice the limit
        held.batch_execute("COMMIT").await.expect("released");
    };
    let (outcome, ()) = tokio::join!(run, release);
    good(&outcome);
}

#[tokio::test]
async fn imports_at_the_same_time_do_not_stand_in_each_others_way() {
    let database = Database::new().await;
    let forwards = many(5000, "Ann");
    let head = "tenant_id,id,name,status\n".to_owned();
    let backwards = many(5000, "Ben").lines().skip(1).collect::<Vec<_>>().into_iter().rev().fold(head, |text, line| text + line + "\n");
    good(&csv(&database, &many(5000, "Old")).await);
    let (one, other) = tokio::join!(csv(&database, &forwards), csv(&database, &backwards));
    good(&one);
    good(&other);
    let names: i64 = database.value("SELECT count(DISTINCT left(name, 3)) FROM customers").await;
    assert_eq!(names, 1, "one came after the other");
}

#[tokio::test]
async fn an_import_waits_for_another_and_says_so() {
    let database = Database::new().await;
    let other = connect(&database.owner_url).await.expect("the superuser gets in");
    other.batch_execute("BEGIN; SELECT pg_advisory_xact_lock(7167589176553988452)").await.expect("the lock of imports");
    let run = import(&database, "csv").input(many(3, "Ann")).run();
    let release = async {
        database.waiting_sessions(1).await;
        other.batch_execute("COMMIT").await.expect("released");
    };
    let (outcome, ()) = tokio::join!(run, release);
    good(&outcome);
    assert!(outcome.stderr.contains("another import is writing"), "{}", outcome.printed());
}

#[tokio::test]
async fn a_database_without_the_tables_is_refused() {
    let cluster = crate::support::Cluster::shared().await;
    let database = cluster.empty_database().await;
    let file = scratch_file(many(1, "Ann")).display().to_string();
    let outcome = Tool::new(&["import", &file, "--format", "csv"]).set("DATABASE_URL", &database.owner_url).run().await;
    assert!(outcome.code == Some(1) && outcome.stderr.contains("migrate apply"), "{}", outcome.printed());
}
