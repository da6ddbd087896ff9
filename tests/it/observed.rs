//! Alerts and dashboard: the rules do what they say, and ask for nothing that the service does not have.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use uuid::Uuid;

use crate::support::{Database, Genesys, Redis, Route, Setup, wait_until};

fn file(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docker").join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn each_alert_comes_for_its_defect_and_none_for_a_healthy_service() {
    let mut promtool = Command::new("promtool");
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("docker/prometheus/rules.test.yml");
    let run = promtool.args(["test", "rules"]).arg(tests).output();
    let run = run.expect("this test needs promtool: apt-get install prometheus (or: brew install prometheus)");
    assert!(run.status.success(), "{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    let (rules, tests) = (file("prometheus/rules.yml"), file("prometheus/rules.test.yml"));
    for alert in rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        assert!(tests.contains(&format!("alertname: {alert},")), "{alert} is not tried");
    }
}

/// The expressions of the rules, and the names that they record.
fn rules() -> (Vec<String>, BTreeSet<String>) {
    let text = file("prometheus/rules.yml");
    let values =
        |key: &'static str| text.lines().filter_map(move |line| line.trim_start_matches([' ', '-']).strip_prefix(key).map(str::to_owned));
    (values("expr: ").collect(), values("record: ").collect())
}

fn dashboard() -> Vec<String> {
    let json: Value = serde_json::from_str(&file("grafana/dashboards/cxone-data-action.json")).expect("JSON");
    let targets = json["panels"].as_array().expect("panels").iter().flat_map(|panel| panel["targets"].as_array().expect("targets").clone());
    targets.map(|target| target["expr"].as_str().expect("an expression").to_owned()).collect()
}

/// What an expression names: metrics, each with the labels that stand in braces behind it, and the labels that it groups by.
fn named(expression: &str) -> (Vec<(String, Vec<String>)>, BTreeSet<String>) {
    const WORDS: [&str; 8] = ["by", "and", "or", "unless", "offset", "without", "on", "s"];
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let (mut metrics, mut groups) = (Vec::new(), BTreeSet::new());
    let mut rest = expression;
    while let Some(at) = rest.find(|c: char| c.is_ascii_alphabetic() || "[(0123456789$".contains(c)) {
        rest = &rest[at..];
        if rest.starts_with('[') {
            rest = &rest[rest.find(']').expect("a closing bracket")..];
            continue;
        }
        let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len()).max(1);
        let (word, after) = rest.split_at(end);
        rest = after;
        if word == "by" {
            let (list, after) = after.trim_start_matches([' ', '(']).split_once(')').expect("a list of labels");
            groups.extend(list.split(',').map(|label| label.trim().to_owned()));
            rest = after;
        } else if word.starts_with(|c: char| c.is_ascii_alphabetic()) && !WORDS.contains(&word) && !after.trim_start().starts_with('(') {
            let is_function = after.trim_start().starts_with("by ") || after.trim_start().starts_with("by(");
            let braces = after.strip_prefix('{').and_then(|inner| inner.split_once('}'));
            let labels = braces.map(|(inner, after)| {
                rest = after;
                inner.split(',').filter_map(|pair| pair.split(['=', '!']).next()).map(|label| label.trim().to_owned()).collect()
            });
            if !is_function {
                metrics.push((word.to_owned(), labels.unwrap_or_default()));
            }
        }
    }
    (metrics, groups)
}

#[tokio::test]
async fn every_metric_and_label_of_alerts_and_dashboard_is_there() {
    let database = Database::new().await;
    let redis = Redis::start().await;
    let genesys = Genesys::start();
    let service = Setup::on(&database).redis(&redis).genesys(&genesys).webhooks(&[Route::new("/w")]).start().await;
    let id = database.customer("acme42", "Ann").await;
    service.lookup("acme42", &[id]).await;
    service.webhook("/w", "k", "{}").await;
    service.execute("{}").await;
    database.run("UPDATE customers SET name = 'Anne'").await;
    database.run("ALTER TABLE audit_log ADD CONSTRAINT nothing CHECK (action = '') NOT VALID").await;
    service.lookup("acme42", &[Uuid::from_u128(7)]).await;
    let metrics = wait_until("keys are counted and changes heard of", async || {
        let metrics = service.metrics().await;
        let there = |name| !metrics.labels_of(name).is_empty();
        (there("idempotency_records") && there("cxone_dataaction_cache_invalidations_total")).then_some(metrics)
    })
    .await;
    let (expressions, recorded) = rules();
    for expression in expressions.iter().chain(&dashboard()) {
        let (used, groups) = named(expression);
        assert!(!used.is_empty(), "{expression}");
        let mut known = BTreeSet::from(["le".to_owned(), "instance".to_owned(), "route".to_owned()]);
        for (metric, labels) in used.iter().filter(|(metric, _)| metric != "up" && !recorded.contains(metric)) {
            let has = metrics.labels_of(metric);
            assert!(metrics.kind(metric).is_some() || !has.is_empty(), "{metric} is no metric of the service: {expression}");
            for label in labels.iter().filter(|label| *label != "job") {
                assert!(has.contains(label), "{metric} has no label {label}: {expression}");
            }
            known.extend(has);
        }
        assert!(groups.is_subset(&known), "{groups:?} beside {known:?}: {expression}");
    }
}
