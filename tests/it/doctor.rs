//! Why a request was refused: told to the log by a code and to nobody else, and the same to whoever asks `verify`.

mod bodies;
mod limits;
mod proofs;
mod spellings;
mod times;

use std::path::PathBuf;

use reqwest::Method;
use serde_json::Value;
use uuid::Uuid;

use crate::support::{Database, SECRET, Service, Setup, Tool, scratch_file, send, sign, wait_until};

/// Members out of order, and letters beyond ASCII.
const BODY: &str = r#"{"input":{"tenant_id":"acme42","customer_ids":["6f1c0000-0000-4000-8000-000000000001"]},"action":"process_customer_batch","context":{"contactId":"Zoë & Jürgen"}}"#;

const NEXT: &str = "the next secret of the tests, 32 bytes at least";
const ENDED: &str = "a secret past its end, of 32 bytes and more";
const HEX: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
const BASE64: &str = "c29tZSByYXRoZXIgbG9uZyBhbmQgcmFuZG9tIGJ5dGVzLi4u";
const API_KEY: &str = "an-api-key-of-the-tests-with-40-letters.";
const ENDED_API_KEY: &str = "an-api-key-past-its-end-with-40-letters..";
const WRONG: &str = "quite another secret, of 32 bytes and more";

/// A service, and settings that `verify` has in common with it.
struct Stage {
    service: Service,
    settings: Vec<(&'static str, String)>,
    _database: Database,
}

/// A request, all but its path.
struct Sent {
    signature: String,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

fn sent(signature: impl Into<String>, body: impl Into<Vec<u8>>) -> Sent {
    Sent { signature: signature.into(), headers: Vec::new(), body: body.into() }
}

impl Sent {
    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

fn keys_file(more: &str) -> PathBuf {
    let key = |id: &str, members: &str| format!("[[signing.keys]]\nid = \"{id}\"\n{members}\n");
    let keys = [
        key("main", &format!("secret = \"{SECRET}\"\napi_key = \"{API_KEY}\"")),
        key("next", &format!("secret = \"{NEXT}\"")),
        key("ended", &format!("secret = \"{ENDED}\"\napi_key = \"{ENDED_API_KEY}\"\nnot_after = \"2020-01-01T00:00:00Z\"")),
        key("hex", &format!("secret = \"{HEX}\"")),
        key("base64", &format!("secret = \"{BASE64}\"")),
    ];
    scratch_file(format!("{more}\n{}", keys.concat()))
}

impl Stage {
    async fn new(settings: &[(&'static str, &str)]) -> Self {
        Self::with_file(keys_file(""), settings).await
    }

    async fn with_file(file: PathBuf, settings: &[(&'static str, &str)]) -> Self {
        let database = Database::new().await;
        let file = ("CXDA_CONFIG", file.to_str().unwrap());
        let settings: Vec<_> = settings.iter().copied().chain([file]).map(|(name, value)| (name, value.to_owned())).collect();
        let setup = Setup::bare().set("DATABASE_URL", &database.url);
        let service = settings.iter().fold(setup, |setup, (name, value)| setup.set(name, value)).start().await;
        Self { service, settings, _database: database }
    }

    /// The reason in the log line of a request that is refused; the caller is not told it.
    async fn logged(&mut self, path: &str, header: &str, sent: &Sent) -> String {
        let line = wait_until("the request is examined", async || {
            let headers = sent.headers.iter().map(|(name, value)| (*name, value.as_str()));
            // Of its own, since another id of the caller's may be among the signed headers.
            let call = self.service.call(Method::POST, path).header("X-Request-Id", Uuid::new_v4().to_string()).body(sent.body.clone());
            let headers = headers.chain([(header, sent.signature.as_str())]).filter(|(name, _)| !name.is_empty());
            let reply = send(headers.fold(call, |call, (name, value)| call.header(name, value))).await;
            assert_eq!(reply.status, 401, "{}", reply.text());
            let line = self.service.request_line(&reply.request_id()).await;
            assert!(!reply.text().contains(line["reason"].as_str().expect("a reason")), "{}", reply.text());
            (line["reason"] != "not_examined").then_some(line)
        })
        .await;
        let text = line.to_string();
        let private = [SECRET, NEXT, HEX, API_KEY, "acme42", &sign(BODY)];
        assert!(private.iter().all(|private| !text.contains(private)), "{text}");
        assert!(sent.signature.len() < 16 || !text.contains(&sent.signature), "{text}");
        line["reason"].as_str().expect("a reason").to_owned()
    }

    /// What `verify` prints about the same request.
    async fn verified(&self, args: &[&str], sent: &Sent) -> String {
        let tool = Tool::new(&[&["verify", "--signature", &sent.signature], args].concat()).input(&sent.body);
        let outcome = self.settings.iter().fold(tool, |tool, (name, value)| tool.set(name, value)).run().await;
        assert_eq!(outcome.code, Some(1), "{}", outcome.printed());
        assert!([SECRET, NEXT, HEX].iter().all(|secret| !outcome.printed().contains(secret)), "{}", outcome.printed());
        assert!(sent.signature == sign(BODY) || !outcome.printed().contains(&sign(BODY)), "the right signature is not given away");
        outcome.stderr
    }

    /// Both say the same.
    async fn both_say(&mut self, code: &str, args: &[&str], sent: Sent) {
        assert_eq!(self.logged("/data-action", "X-CXone-Signature", &sent).await, code, "{}", String::from_utf8_lossy(&sent.body));
        let printed = self.verified(args, &sent).await;
        assert!(printed.contains(&format!("(reason: {code})")), "{code}: {printed}");
    }
}

#[tokio::test]
async fn a_right_request_has_no_reason_and_verify_says_so() {
    let mut stage = Stage::new(&[]).await;
    let reply = send(stage.service.signed(BODY)).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(stage.service.request_line(&reply.request_id()).await.get("reason"), None::<&Value>);
    let tool = Tool::new(&["verify", "--signature", &sign(BODY)]).set("CXDA_SIGNING__SECRET", SECRET).input(BODY);
    assert_eq!(tool.run().await.code, Some(0));
}

#[test]
fn every_reason_is_in_the_readme_and_no_other() {
    use std::collections::BTreeSet;
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let section = readme.split("### When a signature does not match").nth(1).expect("the section").split("\n#").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `") && !line.contains("`reason`"));
    let told: BTreeSet<_> = rows.flat_map(|row| row.split('|').nth(1).unwrap().split('`').skip(1).step_by(2)).collect();
    let known: BTreeSet<_> = cxone_data_action::domain::Reason::ALL.iter().map(|reason| reason.code()).collect();
    assert_eq!(told, known);
}
