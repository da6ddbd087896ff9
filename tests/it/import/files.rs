//! Other people's files: names, columns, separators, gzip.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::{customers, good, id, import, many};
use crate::support::{Database, Tool, scratch_dir};

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn an_export_of_another_system_is_mapped() {
    let database = Database::new().await;
    let text = format!("CustomerNumber;Full Name;State;id;Secret\n{};Ann Lee;active;7;x\n", id(1));
    let tool = import(&database, "csv").args(&["--tenant", "acme42", "--delimiter", ";", "--ignore", "Secret"]);
    let tool = tool.args(&["--map", "id=CustomerNumber,name=Full Name", "--map", "status=State"]);
    good(&tool.input(text).run().await);
    assert_eq!(customers(&database).await, [r#"acme42|01|Ann Lee|active|{"id": "7"}|1"#]);
}

#[tokio::test]
async fn a_line_of_another_tenant_than_the_one_given_is_bad() {
    let database = Database::new().await;
    let outcome = import(&database, "csv").args(&["--tenant", "globex7"]).input(many(1, "Ann")).run().await;
    assert!(outcome.code == Some(1) && outcome.stderr.contains("another tenant than that of --tenant"), "{}", outcome.printed());
}

#[tokio::test]
async fn a_header_that_cannot_be_meant_is_refused() {
    let database = Database::new().await;
    for (head, reason) in [
        ("", "the file is empty"),
        ("tenant_id,id,name,name,status", "names `name` twice"),
        ("tenant_id;id;name;status", "no column `tenant_id`"),
        ("tenant_id,id,status", "no column `name`: see --map name=COLUMN"),
        ("id,name,status", "--tenant or --map tenant_id=COLUMN"),
    ] {
        let outcome = import(&database, "csv").input(head).run().await;
        assert!(outcome.code == Some(1) && outcome.stderr.contains(reason), "{head}: {}", outcome.printed());
    }
    for args in [["--map", "nobody=x"], ["--map", "id"], ["--delimiter", "ab"], ["--tenant", "acme-42"]] {
        assert_eq!(import(&database, "csv").args(&args).run().await.code, Some(2), "{args:?}");
    }
}

#[tokio::test]
async fn a_header_has_at_most_2000_columns() {
    let database = Database::new().await;
    let wide = |columns: usize| {
        let more: Vec<_> = (4..columns).map(|nth| format!("c{nth}")).collect();
        format!("tenant_id,id,name,status,{}\nacme42,{},Ann,active{}\n", more.join(","), id(1), ",".repeat(columns - 4))
    };
    good(&import(&database, "csv").input(wide(2000)).run().await);
    for columns in [2001, 50_000] {
        let outcome = import(&database, "csv").input(wide(columns)).run().await;
        let reason = format!("the header has {columns} columns: at most 2000 are taken");
        assert!(outcome.code == Some(1) && outcome.stderr.contains(&reason), "{}", outcome.printed());
    }
    assert_eq!(customers(&database).await.len(), 1);
}

#[tokio::test]
async fn the_name_tells_the_format_and_gzip_tells_itself() {
    let database = Database::new().await;
    let run = async |name: &str, bytes: Vec<u8>| {
        let path = scratch_dir().join(name);
        std::fs::write(&path, bytes).unwrap();
        Tool::new(&["import"]).arg(path.display().to_string()).set("DATABASE_URL", &database.owner_url).run().await
    };
    let json = format!(r#"{{"tenant_id":"acme42","id":"{}","name":"Zoe","status":"active"}}"#, id(9));
    good(&run("a.csv", many(1, "Ann").into()).await);
    good(&run("a.csv.gz", gzip(&many(2, "Ann"))).await);
    good(&run("a.JSONL.gz", [gzip(&json), gzip("\n")].concat()).await);
    assert_eq!(customers(&database).await.len(), 3);
    good(&import(&database, "csv").input(gzip(&many(4, "Ann"))).run().await);
    assert_eq!(customers(&database).await.len(), 5);
    assert!(run("a.txt", many(1, "Ann").into()).await.stderr.contains("--format"));
    assert!(run("a.csv", b"\xff\xfet\0".to_vec()).await.stderr.contains("UTF-16"));
    let outcome = Tool::new(&["import", "/nowhere.csv"]).set("DATABASE_URL", &database.owner_url).run().await;
    assert!(outcome.stderr.contains("read /nowhere.csv"), "{}", outcome.printed());
}

#[tokio::test]
async fn a_file_that_breaks_off_loads_nothing() {
    let database = Database::new().await;
    let whole = gzip(&many(20_000, "Ann"));
    let outcome = import(&database, "csv").args(&["--skip-bad"]).input(&whole[..whole.len() / 2]).run().await;
    assert_eq!(outcome.code, Some(1), "{}", outcome.printed());
    assert_eq!(customers(&database).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_quote_that_is_never_closed_does_not_fill_the_memory() {
    let database = Database::new().await;
    let text = format!("tenant_id,id,name,status\nacme42,{},\"Ann,active\n", id(1)) + &"x".repeat(6 << 20);
    for format in ["csv", "jsonl"] {
        let text = if format == "csv" { text.clone() } else { "x".repeat(6 << 20) };
        let outcome = import(&database, format).args(&["--skip-bad"]).input(text).run().await;
        assert!(outcome.code == Some(1) && outcome.stderr.contains("longer than 4 MiB"), "{}", outcome.printed());
    }
}
