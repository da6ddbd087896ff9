//! How the simulated platform proves who it is: by a signature, or by a key where it cannot sign.

use super::double::Defect;
use super::stage::{Stage, check, report};
use super::tool;
use crate::support::{Database, Route, SECRET, Setup, Tool, scratch_file, settings_file};
use crate::tls::{authority, pem_file};

const KEY: &str = "an-API-key-of-at-least-32-bytes,-for-the-simulator";

const HOOK: &str = "/hooks/of-our-own";

#[tokio::test]
async fn a_key_is_sent_in_place_of_a_signature_and_no_signing_key_is_needed() {
    let database = Database::new().await;
    let id = database.customer("acme42", "Ann Lee").await.to_string();
    let service = Setup::on(&database).set("CXDA_SIGNING__API_KEY", KEY).start().await;
    let file = scratch_file(format!("{KEY}\n"));
    for flags in [&[][..], &["--api-key-header", "Authorization"]] {
        let tool = Tool::new(&["simulate", "genesys", "--url", &service.url, "--tenant", "acme42", "--customer-id", &id]);
        let outcome = tool.args(flags).args(&["--api-key-file", file.to_str().unwrap(), "--json"]).run().await;
        let report = report(&outcome);
        assert_eq!((&report["skipped"], report["notes"].as_array().map(Vec::len)), (&0.into(), Some(0)), "{report}");
        assert!(!outcome.printed().contains(KEY), "{}", outcome.printed());
    }
}

#[tokio::test]
async fn the_settings_say_in_which_header_a_key_is_sent() {
    let database = Database::new().await;
    let header = ("CXDA_SIGNING__API_KEY_HEADER", "X-Our-Key");
    let service = Setup::on(&database).set("CXDA_SIGNING__API_KEY", KEY).set(header.0, header.1).start().await;
    let file = scratch_file(KEY);
    let simulate = || tool("genesys", &service.url).args(&["--api-key-file", file.to_str().unwrap(), "--only", "missing"]);
    assert_eq!(simulate().set(header.0, header.1).run().await.code, Some(0));
    assert_eq!(simulate().args(&["--api-key-header", header.1]).run().await.code, Some(0));
    assert_eq!(simulate().run().await.code, Some(1), "sent in another one");
}

#[tokio::test]
async fn a_service_that_takes_any_key_is_found() {
    let stage = Stage::new().await;
    stage.double.spoil(Defect::request(|call| {
        if call.header("x-api-key").is_some() {
            call.sign();
        }
    }));
    let file = scratch_file(KEY);
    let tool = stage.simulate(&stage.double.url, "genesys").args(&["--api-key-file", file.to_str().unwrap(), "--only", "wrong-signature"]);
    let outcome = tool.run().await;
    assert!(outcome.code == Some(1) && outcome.stdout.contains("FAIL    wrong-signature"), "{}", outcome.printed());
}

#[tokio::test]
async fn a_signature_is_noted_where_the_platform_could_not_make_one() {
    let stage = Stage::new().await;
    let outcome = stage.simulate(&stage.service.url, "genesys").args(&["--only", "unsigned"]).run().await;
    assert!(outcome.stdout.contains("note: Genesys cannot sign"), "{}", outcome.printed());
}

#[tokio::test]
async fn signatures_are_made_as_the_settings_say() {
    let database = Database::new().await;
    let scheme = [("HEADER", "X-Our-Signature"), ("ENCODING", "base64"), ("TIMESTAMP_HEADER", "X-Our-Time")];
    let scheme = scheme.map(|(name, value)| (format!("CXDA_SIGNING__{name}"), value));
    let setup = scheme.iter().fold(Setup::on(&database), |setup, (name, value)| setup.set(name, *value));
    let service = setup.start().await;
    let tool = scheme.iter().fold(tool("cxone", &service.url), |tool, (name, value)| tool.set(name, *value));
    let outcome = tool.run().await;
    assert_eq!(outcome.code, Some(0), "{}", outcome.printed());
}

#[tokio::test]
async fn a_webhook_is_proven_as_the_settings_say_and_else_with_a_signed_key() {
    let database = Database::new().await;
    let with_timestamp = format!(
        r#"{{ hmac = {{ secret = "{SECRET}+", encoding = "base64", timestamp_header = "X-Time", signed_headers = ["X-Other"] }} }}"#
    );
    let not_described = Route::new(HOOK).set("auth", r#"{ hmac = { signed_headers = ["X-Correlation-Id"] } }"#);
    let described = [
        Route::new(HOOK).set("auth", &with_timestamp).set("key", r#"{ header = "Idempotency-Key" }"#),
        Route::new(HOOK).set("auth", r#"{ api_key = { header = "X-Hook-Key" } }"#),
    ];
    let key_file = scratch_file(KEY);
    let with_key = ["--api-key-file", key_file.to_str().unwrap()];
    let cases = [(&not_described, &[][..], &[][..]), (&described[0], &described[..1], &[]), (&described[1], &described[1..], &with_key)];
    for (route, told, flags) in cases {
        let service = Setup::on(&database).set("CXDA_SIGNING__API_KEY", KEY).webhooks(std::slice::from_ref(route)).start().await;
        let tool = tool("cognigy", &service.url).args(&["--webhook-path", HOOK, "--json"]).args(flags);
        let report = report(&tool.set("CXDA_CONFIG", scratch_file(settings_file(told)).to_str().expect("a plain path")).run().await);
        for name in ["webhook-retry", "webhook-reused-key", "webhook-unsigned"] {
            assert_eq!(check(&report, name)["result"], "passed", "{report}");
        }
    }
}

#[tokio::test]
async fn a_route_that_cannot_be_played_is_refused_at_once() {
    let cases = [
        (Route::new(HOOK).set("key", r#"{ body = "raw" }"#), "no key in a header"),
        (Route::new(HOOK).set("auth", "{ api_key = {} }"), "--api-key-file"),
        (Route::new(HOOK).set("auth", "{ standard_webhooks = {} }"), "Standard Webhooks"),
    ];
    for (route, why) in cases {
        let settings = scratch_file(settings_file(&[route]));
        let tool = tool("cognigy", "http://127.0.0.1:1").args(&["--webhook-path", HOOK]);
        let outcome = tool.set("CXDA_CONFIG", settings.to_str().unwrap()).run().await;
        assert!(outcome.code == Some(1) && outcome.stderr.contains(why), "{why}: {}", outcome.printed());
    }
    let list = scratch_file("[]");
    let tool = tool("cognigy", "http://127.0.0.1:1").args(&["--webhook-path", HOOK, "--webhook-body", list.to_str().unwrap()]);
    let outcome = tool.run().await;
    assert!(outcome.code == Some(1) && outcome.stderr.contains("JSON object"), "{}", outcome.printed());
}

#[tokio::test]
async fn an_authority_that_cannot_be_read_is_told() {
    let file = pem_file(&authority());
    let nobody = tool("cxone", "https://127.0.0.1:1");
    let outcome = nobody.clone().args(&["--ca-file", file.to_str().unwrap()]).run().await;
    assert!(outcome.code == Some(1) && outcome.stdout.contains("FAIL    reachable"), "{}", outcome.printed());
    let outcome = nobody.args(&["--ca-file", "/nowhere"]).run().await;
    assert!(outcome.code == Some(1) && outcome.stderr.contains("/nowhere"), "{}", outcome.printed());
}
