//! The command line: contract, section 4.

use uuid::Uuid;

use crate::support::{Cluster, Database, Redis, SECRET, Setup, Tool, scratch_file, sign, sign_with};

const BODY: &str = r#"{"action":"process_customer_batch"}"#;

fn tool(args: &[&str]) -> Tool {
    Tool::new(args).set("CXDA_SIGNING__SECRET", SECRET)
}

#[tokio::test]
async fn sign_prints_the_signature_and_nothing_else() {
    let file = scratch_file(BODY);
    let from_file = tool(&["sign", file.to_str().unwrap()]).run().await;
    let from_stdin = tool(&["sign"]).input(BODY).run().await;
    for outcome in [from_file, from_stdin] {
        assert_eq!((outcome.code, outcome.stdout.as_str(), outcome.stderr.as_str()), (Some(0), sign(BODY).as_str(), ""));
    }
}

#[tokio::test]
async fn sign_takes_the_bytes_as_they_are() {
    for body in ["", "\n", "a\r\nb\n", "\u{0}\u{feff}é"] {
        assert_eq!(tool(&["sign"]).input(body).run().await.stdout, sign(body));
    }
    let binary = [0xff, 0, 0xfe, b'\n'];
    assert_eq!(tool(&["sign"]).input(binary).run().await.stdout, sign(binary));
}

#[tokio::test]
async fn sign_takes_a_secret_from_a_file() {
    let secret = "a secret in a file, of 32 bytes or so";
    let path = scratch_file(format!("{secret}\n"));
    let outcome = Tool::new(&["sign", "--secret-file", path.to_str().unwrap()]).input(BODY).run().await;
    assert_eq!((outcome.code, outcome.stdout), (Some(0), sign_with(secret, BODY)));
}

#[tokio::test]
async fn sign_without_a_secret_is_a_bad_setting() {
    let outcome = Tool::new(&["sign"]).input(BODY).run().await;
    assert_eq!(outcome.code, Some(78), "{}", outcome.printed());
    assert!(outcome.stderr.contains("CXDA_SIGNING__SECRET"), "{}", outcome.stderr);
}

#[tokio::test]
async fn sign_needs_no_database() {
    assert_eq!(tool(&["sign"]).set("REDIS_URL", "redis://nowhere").input(BODY).run().await.code, Some(0));
}

#[tokio::test]
async fn what_sign_prints_serve_accepts() {
    let database = Database::new().await;
    let service = Setup::on(&database).start().await;
    let body = crate::support::request("acme42", &[Uuid::from_u128(7)]).to_string();
    let signature = tool(&["sign"]).input(&body).run().await.stdout;
    let call = service.call(reqwest::Method::POST, "/data-action").header("X-CXone-Signature", signature).body(body);
    assert_eq!(crate::support::send(call).await.status, 200);
}

#[tokio::test]
async fn verify_says_yes_with_0() {
    for good in [sign(BODY), sign(BODY).to_uppercase(), format!("sha256={}", sign(BODY))] {
        let outcome = tool(&["verify", "--signature", &good]).input(BODY).run().await;
        assert_eq!(outcome.code, Some(0), "{}", outcome.printed());
    }
    let file = scratch_file(BODY);
    assert_eq!(tool(&["verify", "--signature", &sign(BODY), file.to_str().unwrap()]).run().await.code, Some(0));
}

#[tokio::test]
async fn verify_says_no_with_1_and_why() {
    use base64::Engine as _;
    let base64 = base64::engine::general_purpose::STANDARD.encode(crate::support::hmac(SECRET, BODY.as_bytes()));
    let pretty = serde_json::to_string_pretty(&serde_json::from_str::<serde_json::Value>(BODY).unwrap()).unwrap();
    let cases = [
        (sign(format!("{BODY}\n")), BODY, "newline"),
        (sign(BODY), &format!("{BODY}\n"), "newline"),
        (sign(BODY), &pretty, "compact"),
        (base64, BODY, "base64"),
        (sign(BODY)[..62].to_owned(), BODY, "whole"),
        (sign_with("quite another secret, of 32 bytes..", BODY), BODY, "secret"),
    ];
    for (signature, body, why) in cases {
        let outcome = tool(&["verify", "--signature", &signature]).input(body).run().await;
        assert_eq!(outcome.code, Some(1), "{}", outcome.printed());
        assert!(outcome.printed().contains(why), "{why:?} not in {}", outcome.printed());
        assert!(!outcome.printed().contains(SECRET) && !outcome.printed().contains(&sign(body)), "the right signature is not given away");
    }
}

#[tokio::test]
async fn keygen_prints_a_new_secret_each_time() {
    let (first, second) = (Tool::new(&["keygen"]).run().await, Tool::new(&["keygen"]).run().await);
    for outcome in [&first, &second] {
        assert_eq!(outcome.code, Some(0));
        assert!(outcome.stdout.len() == 64 && outcome.stdout.bytes().all(|b| b.is_ascii_hexdigit()), "{}", outcome.stdout);
    }
    assert_ne!(first.stdout, second.stdout);
    let outcome = Tool::new(&["sign"]).set("CXDA_SIGNING__SECRET", &first.stdout).input(BODY).run().await;
    assert_eq!(outcome.stdout, sign_with(&first.stdout, BODY), "the text itself is the secret");
}

#[tokio::test]
async fn send_shows_the_answer_and_its_time() {
    let database = Cluster::shared().await.empty_database().await;
    let demo = Tool::new(&["migrate", "apply", "--demo"]).set("DATABASE_URL", &database.owner_url).run().await;
    assert_eq!(demo.code, Some(0), "{}", demo.printed());
    let service = Setup::on(&database).set("DATABASE_URL", &database.owner_url).start().await;
    let url = format!("{}/data-action", service.url);
    let outcome = tool(&["send", "--sample", "--url", &url]).run().await;
    assert_eq!(outcome.code, Some(0), "{}", outcome.printed());
    for shown in ["200", " ms", "\"customers\"", "\"tier\""] {
        assert!(outcome.stdout.contains(shown), "{shown} not in {}", outcome.stdout);
    }
    let ids = [Uuid::from_u128(1), Uuid::from_u128(2)].map(|id| id.to_string()).join(",");
    let outcome = tool(&["send", "--url", &url, "--tenant", "acme42", "--ids", &ids]).run().await;
    assert!(outcome.code == Some(0) && outcome.stdout.contains("\"missing\""), "{}", outcome.printed());

    let body = crate::support::request("acme42", &[Uuid::from_u128(7)]).to_string();
    let file = scratch_file(body);
    let outcome = tool(&["send", "--url", &url, file.to_str().unwrap()]).run().await;
    assert_eq!(outcome.code, Some(0), "{}", outcome.printed());
}

#[tokio::test]
async fn send_fails_where_the_answer_is_a_failure() {
    let database = Database::new().await;
    let service = Setup::on(&database).start().await;
    let url = format!("{}/data-action", service.url);
    let wrong = "quite another secret, of 32 bytes..";
    let outcome = Tool::new(&["send", "--sample", "--url", &url]).set("CXDA_SIGNING__SECRET", wrong).run().await;
    assert_eq!(outcome.code, Some(1), "{}", outcome.printed());
    assert!(outcome.printed().contains("invalid_signature"), "{}", outcome.printed());
    let outcome = tool(&["send", "--sample", "--url", "http://127.0.0.1:1/data-action"]).run().await;
    assert_eq!(outcome.code, Some(1), "{}", outcome.printed());
}

#[tokio::test]
async fn healthcheck_asks_the_running_service() {
    let database = Database::new().await;
    let redis = Redis::start().await;
    let service = Setup::on(&database).redis(&redis).start().await;
    let address = service.admin_url.trim_start_matches("http://").to_owned();
    let check = || Tool::new(&["healthcheck"]).set("CXDA_ADMIN__LISTEN", &address);
    let outcome = check().run().await;
    assert_eq!(outcome.code, Some(0), "{}", outcome.printed());
    assert_eq!(service.stop().await.code, Some(0));
    assert_eq!(check().run().await.code, Some(1));
}

#[tokio::test]
async fn healthcheck_finds_a_service_that_listens_on_every_address() {
    let database = Database::new().await;
    let service = Setup::on(&database).set("CXDA_ADMIN__LISTEN", "0.0.0.0:0").start().await;
    let port = service.admin_url.rsplit(':').next().unwrap().to_owned();
    let outcome = Tool::new(&["healthcheck"]).set("CXDA_ADMIN__LISTEN", format!("0.0.0.0:{port}")).run().await;
    assert_eq!(outcome.code, Some(0), "{}", outcome.printed());
}

#[tokio::test]
async fn wrong_usage_ends_with_2() {
    let none: &[&str] = &[];
    for args in
        [none, &["nonsense"], &["serve", "--nonsense"], &["migrate"], &["verify"], &["sign", "a", "b"], &["send", "--sample", "--ids", "x"]]
    {
        let outcome = tool(args).run().await;
        assert_eq!(outcome.code, Some(2), "{args:?}: {}", outcome.printed());
    }
}

#[tokio::test]
async fn help_and_version_end_with_0() {
    for args in [&["--help"][..], &["--version"], &["serve", "--help"], &["dev", "--help"], &["help", "migrate"]] {
        let outcome = Tool::new(args).run().await;
        assert!(outcome.code == Some(0) && !outcome.stdout.is_empty(), "{args:?}: {}", outcome.printed());
    }
}
