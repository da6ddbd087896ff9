//! The log says why a signature was refused, and `verify` says the same.

use super::*;
use crate::support::{Tool, send, wait_until};

/// The reason in the log.
async fn logged(service: &mut Service, path: &str, signature: &str, headers: &[(&str, &str)], body: &str) -> String {
    wait_until("the request is examined", async || {
        let call = service.call(reqwest::Method::POST, path).header(HEADER, signature).body(body.to_owned());
        let reply = send(headers.iter().fold(call, |call, (name, value)| call.header(*name, *value))).await;
        reply.problem(401, "invalid_signature");
        let line = service.request_line(&reply.request_id()).await;
        line["reason"].as_str().filter(|reason| *reason != "not_examined").map(str::to_owned)
    })
    .await
}

#[tokio::test]
async fn a_missing_and_an_unexpected_target_have_reasons_of_their_own() {
    let routes = [hook("/hooks/on", "'require'"), hook("/hooks/off", "'off'"), hook("/hooks/both", "'accept'")];
    let file = crate::support::scratch_file(settings_file(&routes));
    let settings = [("CXDA_SIGNING__SECRET", SECRET), ("CXDA_CONFIG", file.to_str().unwrap()), ("REDIS_URL", "redis://127.0.0.1:1")];
    let database = Database::new().await;
    let setup = settings.iter().fold(Setup::bare(), |setup, (name, value)| setup.set(name, *value));
    let mut service = setup.set("DATABASE_URL", &database.url).start().await;
    let newline = |path: &str| sign(format!("POST {path}.{BODY}\n"));
    let cases = [
        ("/hooks/on", sign(BODY), "no_target"),
        ("/hooks/off", bound("/hooks/off"), "target_unexpected"),
        ("/hooks/on", newline("/hooks/on"), "newline_lost"),
        ("/hooks/both", newline("/hooks/both"), "newline_lost"),
        ("/hooks/both", sign(format!("{BODY}\n")), "newline_lost"),
        ("/hooks/on", sign(format!("POST /hooks/on\n{BODY}")), "joined_otherwise"),
        ("/hooks/on", bound("/hooks/off"), "wrong_secret"),
        ("/hooks/on", bound("/hooks/on")[..40].to_owned(), "truncated"),
    ];
    for (path, signature, reason) in cases {
        assert_eq!(logged(&mut service, path, &signature, &[], BODY).await, reason, "{path}");
        let tool = Tool::new(&["verify", "--route", path, "--signature", &signature]).input(BODY);
        let outcome = settings.iter().fold(tool, |tool, (name, value)| tool.set(name, *value)).run().await;
        assert!(
            outcome.code == Some(1) && outcome.stderr.contains(&format!("(reason: {reason})")),
            "{path} {reason}: {}",
            outcome.printed()
        );
    }
    for (path, signature, said) in [
        ("/hooks/on", bound("/hooks/on"), None),
        ("/hooks/both", bound("/hooks/both"), None),
        ("/hooks/both", sign(BODY), Some("it does not cover POST /hooks/both")),
    ] {
        let tool = Tool::new(&["verify", "--route", path, "--signature", &signature]).input(BODY);
        let outcome = settings.iter().fold(tool, |tool, (name, value)| tool.set(name, *value)).run().await;
        assert_eq!(outcome.code, Some(0), "{path}: {}", outcome.printed());
        assert_eq!(outcome.stdout.contains("does not cover"), said.is_some(), "{}", outcome.printed());
        assert!(said.is_none_or(|said| outcome.stdout.contains(said)), "{}", outcome.printed());
    }
}

#[tokio::test]
async fn a_body_that_imitates_a_target_is_an_unexpected_one() {
    let stage = Stage::new(&[hook("/hooks/off", "'off'")], &[]).await;
    let mut service = stage.service;
    let body = format!("POST {A}.{BODY}");
    assert_eq!(logged(&mut service, "/hooks/off", &sign(&body), &[], &body).await, "target_unexpected");
}
