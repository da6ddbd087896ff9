//! What a line may say, and what is told of one that says something else.

use super::{customers, fingerprint, good, id, import};
use crate::support::Database;

const HEAD: &str = "tenant_id,id,name,status,updated_at,attributes,tier";

#[tokio::test]
async fn a_bad_line_is_named_with_its_number_and_keeps_everything_out() {
    let (one, two) = (id(1), id(2));
    let bad: &[(String, &str)] = &[
        (format!("acme-42,{one},Ann,active,,,"), "a tenant is 1 to 64 ASCII letters and digits"),
        (format!(",{one},Ann,active,,,"), "`tenant_id` is missing"),
        ("acme42,12345,Ann,active,,,".to_owned(), "`id` is no UUID"),
        ("acme42,00000000-0000-0000-0000-000000000000,Ann,active,,,".to_owned(), "`id` is no UUID"),
        (format!("acme42,{one},,active,,,"), "`name` is missing"),
        (format!("acme42,{one},Ann,,,,"), "`status` is missing"),
        (format!("acme42,{one},A\0n,active,,,"), "`name` holds a NUL"),
        (format!("acme42,{one},Ann,active,,,g\0ld"), "`tier` holds a NUL"),
        (format!("acme42,{one},Ann,active,2026-01-02T03:04:05,,"), "`updated_at` is no time"),
        (format!("acme42,{one},Ann,active,9999-12-31T00:00:00Z,,"), "`updated_at` is no time"),
        (format!("acme42,{one},Ann,active,0000-12-31T23:59:59Z,,"), "`updated_at` is no time"),
        (format!("acme42,{one},Ann,active,,[1],"), "`attributes` is no JSON object"),
        (format!("acme42,{one},Ann,active,,{{,"), "`attributes`:"),
        (format!(r#"acme42,{one},Ann,active,,"{{""a"":""\u0000""}}","#), "NUL"),
        (format!(r#"acme42,{one},Ann,active,,"{{""\u0000"":1}}","#), "NUL"),
        (format!(r#"acme42,{one},Ann,active,,"{{""a"":""\ud800""}}","#), "`attributes`:"),
        (format!(r#"acme42,{one},Ann,active,,"{{""a"":1e999999}}","#), "out of range"),
        (format!(r#"acme42,{one},Ann,active,,"{{""tier"":1}}",gold"#), "`tier` is in `attributes`, and beside it"),
        (format!("acme42,{one},Ann"), "it has 3 fields, the header has 7"),
        (format!("acme42,{two},Ann,active,,,"), "the same customer as in line 2"),
    ];
    let database = Database::new().await;
    for (line, reason) in bad {
        let text = format!("{HEAD}\r\nacme42,{two},Bob,active,,,\r\n\r\n{line}\r\n");
        let outcome = import(&database, "csv").input(text).run().await;
        assert_eq!(outcome.code, Some(1), "{line}: {}", outcome.printed());
        assert!(outcome.stderr.contains("line 4: ") && outcome.stderr.contains(reason), "{line}: {}", outcome.printed());
        assert_eq!(customers(&database).await, Vec::<String>::new(), "{line}");
    }
}

#[tokio::test]
async fn bad_utf_8_is_a_bad_line_in_both_formats() {
    let database = Database::new().await;
    let csv = [format!("tenant_id,id,name,status\nacme42,{},A", id(1)).as_bytes(), b"\xff,active\n"].concat();
    let json = [format!(r#"{{"tenant_id":"acme42","id":"{}","status":"x","name":"A"#, id(1)).as_bytes(), b"\xff\"}\n"].concat();
    for (format, text, line) in [("csv", csv, 2), ("jsonl", json, 1)] {
        let outcome = import(&database, format).input(text).run().await;
        assert!(outcome.code == Some(1) && outcome.stderr.contains(&format!("line {line}: it is not UTF-8")), "{}", outcome.printed());
    }
}

#[tokio::test]
async fn the_good_lines_are_loaded_where_bad_ones_may_be_skipped() {
    let database = Database::new().await;
    let text = format!(
        "tenant_id,id,name,status\nacme42,{one},Ann,active\nacme42,x,Bob,active\nacme42,{one},Cid,active\nacme42,{two},\"D\n\nd\",active\nacme42,y,E,active",
        one = id(1),
        two = id(2)
    );
    let outcome = import(&database, "csv").args(&["--skip-bad"]).input(text).run().await;
    assert_eq!(good(&outcome), "read 5: inserted 2, updated 0, unchanged 0, bad 3");
    for told in ["line 3: `id`", "line 8: `id`", "line 4: the same customer as in line 2"] {
        assert!(outcome.stderr.contains(told), "{told}: {}", outcome.printed());
    }
    assert_eq!(customers(&database).await, ["acme42|01|Ann|active|{}|1", "acme42|02|D\n\nd|active|{}|1"]);
}

#[tokio::test]
async fn twenty_bad_lines_are_told_and_the_others_counted() {
    let database = Database::new().await;
    let text = "tenant_id,id,name,status\n".to_owned() + &"acme42,x,Ann,active\n".repeat(50);
    let outcome = import(&database, "csv").input(text).run().await;
    assert_eq!(outcome.stderr.lines().filter(|line| line.contains("`id` is no UUID")).count(), 20);
    assert!(outcome.stderr.contains("and 30 bad lines more"), "{}", outcome.printed());
    assert!(outcome.stderr.contains("of 50 rows 50 are bad"), "{}", outcome.printed());
}

#[tokio::test]
async fn what_is_left_over_becomes_attributes() {
    let database = Database::new().await;
    let csv = format!("\u{feff}{HEAD}\nacme42,{},Ann,active,,\"{{\"\"n\"\": 1}}\",\"go\"\"ld\"\nacme42,{},Bob,active,,,\n", id(1), id(2));
    good(&import(&database, "csv").input(csv).run().await);
    assert_eq!(customers(&database).await, [r#"acme42|01|Ann|active|{"n": 1, "tier": "go\"ld"}|1"#, "acme42|02|Bob|active|{}|1"]);
    let before = fingerprint(&database).await;
    let json = format!(
        "\u{feff}{{\"tenant_id\":\"acme42\",\"id\":\"{}\",\"name\":\"Ann\",\"status\":\"active\",\"tier\":\"go\\\"ld\",\"attributes\":{{\"n\":1}}}}\n\n\
         {{\"tenant_id\":\"acme42\",\"id\":\"{}\",\"name\":\"Bob\",\"status\":\"active\",\"attributes\":null}}",
        id(1),
        id(2)
    );
    assert_eq!(good(&import(&database, "jsonl").input(json).run().await), "read 2: inserted 0, updated 0, unchanged 2, bad 0");
    assert_eq!(fingerprint(&database).await, before, "both formats say the same");
    let json = format!(r#"{{"tenant_id":"acme42","id":"{}","name":"Cid","status":"active","list":[1,{{"a":null}}],"on":true}}"#, id(3));
    good(&import(&database, "jsonl").input(json).run().await);
    assert_eq!(customers(&database).await[2], r#"acme42|03|Cid|active|{"on": true, "list": [1, {"a": null}]}|1"#);
}

#[tokio::test]
async fn a_line_of_json_is_held_to_the_same() {
    let database = Database::new().await;
    let one = id(1);
    let bad = [
        ("[1]".to_owned(), "it is not one JSON object"),
        ("{} {}".to_owned(), "it is not one JSON object"),
        (format!(r#"{{"tenant_id":"acme42","id":"{one}","name":7,"status":"x"}}"#), "`name` is no text"),
        (format!(r#"{{"tenant_id":"acme42","id":"{one}","status":"x"}}"#), "`name` is missing"),
        (format!(r#"{{"tenant_id":"acme42","id":"{one}","name":"A\u0000","status":"x"}}"#), "`name` holds a NUL"),
        (format!(r#"{{"tenant_id":"acme42","id":"{one}","name":"A","name":"B","status":"x"}}"#), "a member is there twice"),
        (format!(r#"{{"tenant_id":"acme42","id":"{one}","name":"A","status":"x","t":["\u0000"]}}"#), "`t`: a text holds a NUL"),
        (format!(r#"{{"tenant_id":"acme42","id":"{one}","name":"A","status":"x","t":{}1{}}}"#, "[".repeat(500), "]".repeat(500)), "`t`: "),
    ];
    for (line, reason) in bad {
        let outcome = import(&database, "jsonl").input(format!("\n{line}\n")).run().await;
        assert!(outcome.code == Some(1) && outcome.stderr.contains("line 2: "), "{line}: {}", outcome.printed());
        assert!(outcome.stderr.contains(reason), "{line}: {}", outcome.printed());
    }
}
