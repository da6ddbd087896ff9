//! The sheet for NICE CXone: what is copied from it is answered.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{API_KEY, call, export, service};
use crate::support::{Database, Tool};

/// The text of the sheet's one fence under that heading.
fn fenced<'s>(sheet: &'s str, heading: &str) -> &'s str {
    let section = sheet.split("\n## ").find(|section| section.starts_with(heading)).unwrap_or_else(|| panic!("no {heading} in {sheet}"));
    section.split("```").nth(1).and_then(|fence| fence.split_once('\n')).expect("a fence").1.trim_end()
}

/// A text with Studio's variables filled in.
fn filled(text: &str, variables: &[(&str, &str)]) -> String {
    variables.iter().fold(text.to_owned(), |text, (name, value)| text.replace(&format!("{{{name}}}"), value))
}

/// The dynamic object that assignments to `lookup` make: `asjson()` writes every value as a text.
fn dynamic(script: &str) -> Value {
    let mut object = json!({});
    for line in script.lines().filter(|line| line.starts_with("lookup.")) {
        let (path, value) = line.split_once(" = ").expect("an assignment");
        let place = path.split('.').skip(1).fold(&mut object, |at, member| &mut at[member]);
        *place = value.trim_matches('"').into();
    }
    object
}

fn headers() -> BTreeMap<String, String> {
    let form = ("Content-Type".to_owned(), "application/x-www-form-urlencoded".to_owned());
    BTreeMap::from([("X-API-Key".to_owned(), API_KEY.to_owned()), form])
}

#[tokio::test]
async fn the_body_is_one_line_and_is_answered_under_the_content_type_of_forms() {
    let database = Database::new().await;
    let service = service(&database).await;
    let ids = database.customers("acme42", 2).await;
    let both = format!("{},{}", ids[0], ids[1]);
    for args in [&["cxone"][..], &["cxone", "--tenant", "acme42"]] {
        let sheet = export(args).await.stdout;
        let variables = [("customerIds", both.as_str()), ("tenantId", "acme42"), ("contactId", "4711")];
        let body = filled(fenced(&sheet, "The body"), &variables);
        assert!(!body.contains('\n') && body.is_ascii(), "{body}");
        let made = filled(fenced(&sheet, "Studio: the body, made by a script"), &variables);
        assert_eq!(dynamic(&made), serde_json::from_str::<Value>(&body).expect("JSON"), "the script makes the same");
        for body in [body, dynamic(&made).to_string()] {
            let reply = call(&service, &headers(), &body).await;
            assert_eq!(reply.names().len(), 2);
            assert!(reply.body.len() <= 32_768);
            assert_eq!(database.audit_row(&reply.request_id()).await.contact_id.as_deref(), Some("4711"));
        }
    }
}

#[tokio::test]
async fn the_dry_run_is_answered() {
    let database = Database::new().await;
    let service = service(&database).await;
    for args in [&["cxone"][..], &["cxone", "--tenant", "acme42"]] {
        let ping = filled(fenced(&export(args).await.stdout, "The dry run"), &[("tenantId", "acme42")]);
        assert_eq!(call(&service, &headers(), &ping).await.output()["status"], "ok");
    }
}

#[tokio::test]
async fn the_sheet_tells_the_limits_that_are_set() {
    let set = |name: &str, value: &str| Tool::new(&["export", "cxone"]).set(name, value);
    let sheet = set("CXDA_LOOKUP__MAX_BATCH", "7").set("CXDA_LOOKUP__DEADLINE", "4s").run().await.stdout;
    for told in ["1 to 7", "32768 bytes", "`7000` milliseconds", "https://lookup.example.com/data-action"] {
        assert!(sheet.contains(told), "{told:?} not in {sheet}");
    }
}

#[tokio::test]
async fn a_service_whose_answers_are_too_long_for_cxone_gets_no_sheet() {
    for cap in ["0", "32769"] {
        let outcome = Tool::new(&["export", "cxone"]).set("CXDA_LOOKUP__MAX_RESPONSE_BYTES", cap).run().await;
        assert_eq!(outcome.code, Some(1), "{}", outcome.printed());
        assert!(outcome.stderr.contains("lookup.max_response_bytes"), "{}", outcome.printed());
    }
}
