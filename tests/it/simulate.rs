//! `simulate`: a right service satisfies every platform, and each defect is found by the check that is there for it.

mod defects;
mod double;
mod proofs;
mod stage;

use std::collections::BTreeSet;
use std::path::PathBuf;

use reqwest::StatusCode;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{Outcome, Reply, SECRET, Tool, scratch_file, sign};
use double::Defect;
use stage::{PLATFORMS, Stage, check, report};

#[tokio::test]
async fn this_service_satisfies_every_platform() {
    let stage = Stage::new().await;
    for platform in PLATFORMS {
        let outcome = stage.simulate(&stage.service.url, platform).run().await;
        assert_eq!(outcome.code, Some(0), "{platform}: {}", outcome.printed());
        assert!(!outcome.stdout.contains("FAIL"), "{}", outcome.stdout);
        for shown in ["pass    lookup ", "pass    full-batch ", "pass    ping ", "failed: 0, skipped: 0"] {
            assert!(outcome.stdout.contains(shown), "{shown:?} not in {}", outcome.stdout);
        }
    }
}

#[tokio::test]
async fn the_document_for_machines_has_stable_members() {
    let stage = Stage::new().await;
    stage.double.spoil(Defect::answer(|call| call.has("\"ping\""), || problem(400, "unknown_action", &[])));
    let report = report(&stage.simulate(&stage.double.url, "cxone").arg("--json").run().await);
    let names = |value: &Value| value.as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
    let members =
        ["checks", "failed", "max_answer_bytes", "notes", "passed", "platform", "skipped", "tenant", "url", "within_ms"].map(str::to_owned);
    assert_eq!(names(&report), members);
    assert_eq!((&report["platform"], &report["tenant"], &report["within_ms"]), (&json!("cxone"), &json!("acme42"), &json!(2000.0)));
    assert_eq!(report["url"], format!("{}/data-action", stage.double.url));
    let checks = report["checks"].as_array().expect("a list");
    let counted = ["passed", "failed", "skipped"].map(|result| checks.iter().filter(|check| check["result"] == result).count());
    assert_eq!(json!(counted), json!([report["passed"], report["failed"], report["skipped"]]));
    assert_eq!(names(check(&report, "lookup")), ["name", "promise", "remark", "result", "took_ms"]);
    let without_ping = check(&report, "ping");
    assert_eq!((&without_ping["result"], &without_ping["reason"]), (&json!("skipped"), &json!("the service has no action `ping`")));
    assert_eq!(names(without_ping), ["name", "promise", "reason", "result", "took_ms"]);
}

#[tokio::test]
async fn a_failure_tells_what_was_expected_and_what_came_and_ends_with_1() {
    let stage = Stage::new().await;
    stage.double.spoil(Defect::output(|output| output["missing"] = json!([])));
    let outcome = stage.simulate(&stage.double.url, "cxone").args(&["--only", "missing,lookup", "--json"]).run().await;
    assert_eq!(outcome.code, Some(1), "{}", outcome.printed());
    assert!(outcome.stderr.contains("checks that failed: 1"), "{}", outcome.stderr);
    let report: Value = serde_json::from_str(&outcome.stdout).unwrap();
    let failed = check(&report, "missing");
    assert_eq!(failed["expected"], "customers: 3, and the unknown id in `missing`");
    assert_eq!(failed["came"], "customers: 3, count: 3, missing: 0, truncated: false, next_ids: 0");
    assert_eq!(check(&report, "lookup")["result"], "passed");

    let table = stage.simulate(&stage.double.url, "cxone").args(&["--only", "missing"]).run().await;
    assert_eq!(table.code, Some(1));
    for shown in ["FAIL    missing ", "expected: customers: 3", "came:     customers: 3"] {
        assert!(table.stdout.contains(shown), "{shown:?} not in {}", table.stdout);
    }
}

#[tokio::test]
async fn an_answer_that_does_not_fit_is_followed_until_everybody_is_there() {
    let stage = Stage::new().await;
    let file = many_of_a_kilobyte(&stage).await;
    for (platform, calls) in [("cxone", "calls: 4"), ("genesys", "calls: 1,"), ("cognigy", "calls: 1,")] {
        let service = stage.service_with(&[("CXDA_LOOKUP__MAX_RESPONSE_BYTES", if platform == "cxone" { "32768" } else { "0" })]).await;
        let tool = stage.simulate(&service.url, platform).args(&["--customer-ids-file", file.to_str().unwrap(), "--json"]);
        let full = check(&report(&tool.args(&["--only", "full-batch"]).run().await), "full-batch").clone();
        assert!(full["result"] == "passed" && full["remark"].as_str().unwrap().starts_with(calls), "{platform}: {full}");
    }
}

#[tokio::test]
async fn an_answer_over_the_platforms_cap_is_found_with_the_service_alone() {
    let stage = Stage::new().await;
    let file = many_of_a_kilobyte(&stage).await;
    let uncapped = stage.service_with(&[("CXDA_LOOKUP__MAX_RESPONSE_BYTES", "0")]).await;
    let tool = stage.simulate(&uncapped.url, "cxone").args(&["--customer-ids-file", file.to_str().unwrap()]);
    let outcome = tool.args(&["--only", "full-batch"]).run().await;
    assert!(outcome.code == Some(1) && outcome.stdout.contains("expected: at most 32768 bytes"), "{}", outcome.printed());
}

#[tokio::test]
async fn calls_that_are_turned_away_in_good_manner_are_no_failure() {
    let stage = Stage::new().await;
    stage.double.spoil(Defect::every_other_time(|| problem(503, "overloaded", &[("retry-after", "1")])));
    let report = report(&stage.simulate(&stage.double.url, "cxone").args(&["--only", "burst", "--json"]).run().await);
    let burst = check(&report, "burst");
    assert!(burst["remark"].as_str().unwrap().starts_with("calls: 100, turned away: 50,"), "{burst}");
}

#[tokio::test]
async fn where_nobody_answers_the_rest_is_not_tried() {
    let port = crate::support::free_port();
    let outcome = tool("cxone", &format!("http://127.0.0.1:{port}")).arg("--json").run().await;
    assert_eq!(outcome.code, Some(1), "{}", outcome.printed());
    let report: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!((&report["failed"], &report["passed"]), (&json!(1), &json!(0)));
    assert_eq!(check(&report, "reachable")["expected"], "an answer");
    assert_eq!(check(&report, "lookup")["reason"], "the service was not reached");
}

#[tokio::test]
async fn without_customers_only_the_missing_are_asked_for_and_that_is_said() {
    let stage = Stage::new().await;
    for platform in PLATFORMS {
        let outcome = tool(platform, &stage.service.url).run().await;
        assert_eq!(outcome.code, Some(0), "{}", outcome.printed());
        assert!(outcome.stdout.contains("note: without --customer-id"), "{}", outcome.stdout);
        assert!(outcome.stdout.contains("skip    lookup ") && outcome.stdout.contains("pass    missing "), "{}", outcome.stdout);
    }
}

#[tokio::test]
async fn audit_rows_of_a_simulation_can_be_told() {
    let stage = Stage::new().await;
    let tool = stage.simulate(&stage.service.url, "genesys").args(&["--only", "lookup"]);
    assert_eq!(tool.run().await.code, Some(0));
    let told: i64 = stage.database.value("SELECT count(*) FROM audit_log WHERE contact_id = 'simulated'").await;
    assert_eq!((told, stage.database.audit_count().await), (2, 2));
}

#[tokio::test]
async fn nothing_that_is_printed_holds_a_secret_or_a_customer() {
    let stage = Stage::new().await;
    stage.double.spoil(Defect::before(|call| {
        let mut reply = problem(500, "internal", &[]);
        reply.body = [SECRET.as_bytes(), b" Ann Lee ", &call.body].concat();
        Some(reply)
    }));
    for url in [&stage.service.url, &stage.double.url] {
        for form in [&["--json"][..], &[]] {
            let printed = stage.simulate(url, "cognigy").args(form).run().await.printed();
            for hidden in [SECRET, "Ann Lee", &sign("x")[..16]] {
                assert!(!printed.contains(hidden), "{hidden} in {printed}");
            }
        }
    }
}

#[tokio::test]
async fn wrong_usage_ends_with_2_and_bad_settings_with_78() {
    let (url, hook) = (["--url", "http://127.0.0.1:1"], ["--webhook-path", "/hook"]);
    let bad: [&[&str]; 8] = [
        &["simulate"],
        &["simulate", "teams"],
        &["simulate", "cxone", "--tenant", "acme42"],
        &["simulate", "cxone", "--tenant", "acme-42", url[0], url[1]],
        &["simulate", "cxone", "--tenant", "acme42", "--url", "ftp://127.0.0.1"],
        &["simulate", "cxone", "--tenant", "acme42", "--url", "http://user:word@127.0.0.1"],
        &["simulate", "cxone", "--tenant", "acme42", url[0], url[1], "--customer-id", "7"],
        &["simulate", "cxone", "--tenant", "acme42", url[0], url[1], hook[0], hook[1]],
    ];
    for args in bad {
        let outcome = Tool::new(args).set("CXDA_SIGNING__SECRET", SECRET).run().await;
        assert_eq!(outcome.code, Some(2), "{args:?}: {}", outcome.printed());
    }
    let unset: Outcome = Tool::new(&["simulate", "cxone", "--tenant", "acme42", url[0], url[1]]).run().await;
    assert_eq!(unset.code, Some(78), "{}", unset.printed());
    assert!(unset.stderr.contains("CXDA_SIGNING__SECRET"), "{}", unset.stderr);
    let unknown = tool("cxone", url[1]).args(&["--only", "everything"]).run().await;
    assert!(unknown.code == Some(1) && unknown.stderr.contains("full-batch"), "{}", unknown.printed());
}

#[tokio::test]
async fn every_check_has_a_defect_that_it_finds() {
    let stage = Stage::new().await;
    let mut names = BTreeSet::new();
    for platform in PLATFORMS {
        let report = report(&stage.simulate(&stage.double.url, platform).arg("--json").run().await);
        assert_eq!(report["failed"], 0, "what stands in between spoils nothing by itself: {report}");
        names.extend(report["checks"].as_array().unwrap().iter().map(|check| check["name"].as_str().unwrap().to_owned()));
    }
    let tried: BTreeSet<_> = defects::all().into_iter().map(|(_, check, ..)| check.to_owned()).collect();
    assert_eq!(names, tried, "checks (left), and those with a defect (right)");
}

/// A file with the ids of ninety customers, each of more than a kilobyte.
async fn many_of_a_kilobyte(stage: &Stage) -> PathBuf {
    let many = stage.database.customers("acme42", 90).await;
    stage.database.run("UPDATE customers SET attributes = jsonb_build_object('note', repeat('x', 1000))").await;
    let lines: Vec<_> = many.iter().map(Uuid::to_string).collect();
    scratch_file(lines.join("\n\n"))
}

/// A run with nothing but what is needed.
fn tool(platform: &str, url: &str) -> Tool {
    Tool::new(&["simulate", platform, "--url", url, "--tenant", "acme42"]).set("CXDA_SIGNING__SECRET", SECRET)
}

/// A failure as this service would tell it, but for the request's id.
fn problem(status: u16, code: &str, headers: &[(&'static str, &'static str)]) -> Reply {
    assert!(StatusCode::from_u16(status).is_ok());
    let body = json!({ "status": status, "code": code, "request_id": "given" }).to_string().into_bytes();
    let fixed = [("content-type", "application/problem+json"), ("x-request-id", "given")];
    let headers = fixed.iter().chain(headers).map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
    Reply { status, headers, body }
}
