//! The extension for NICE Cognigy: it knows of the service what is so.

use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Database, SECRET, Setup, Tool, hmac, scratch_dir, send, unix_now};

/// What an exported extension knows of the service.
fn known(extension: &Path) -> Value {
    let script = fs::read_to_string(extension.join("src/service.ts")).expect("a script");
    let json = script.split_once("const service: Service = ").expect("what it knows").1;
    serde_json::from_str(json.trim_end().trim_end_matches(';')).expect("JSON")
}

#[tokio::test]
async fn the_extension_knows_how_the_service_wants_a_lookup_signed() {
    let database = Database::new().await;
    let id = database.customer("acme42", "Ann").await;
    let plain: &[(&str, &str)] = &[];
    let changed: &[(&str, &str)] =
        &[("CXDA_SIGNING__HEADER", "X-Signed"), ("CXDA_SIGNING__ENCODING", "base64"), ("CXDA_SIGNING__TIMESTAMP_HEADER", "X-Signed-At")];
    let bound: &[(&str, &str)] = &[("CXDA_SIGNING__SIGNED_TARGET", "require")];
    for settings in [plain, changed, bound] {
        let service = settings.iter().fold(Setup::on(&database), |setup, (name, value)| setup.set(name, *value)).start().await;
        let extension = scratch_dir();
        let args =
            ["export", "cognigy", "--tenant", "acme42", "--url", &service.url, "--output", extension.to_str().expect("a plain path")];
        let tool = settings.iter().fold(Tool::new(&args), |tool, (name, value)| tool.set(name, *value));
        assert_eq!(tool.run().await.code, Some(0));

        let known = known(&extension);
        let text = |pointer: &str| known.pointer(pointer).and_then(Value::as_str).unwrap_or_else(|| panic!("no {pointer}: {known}"));
        let input = json!({ "customer_ids": id, "tenant_id": text("/tenant") });
        let body = json!({ "action": text("/action"), "input": input }).to_string();
        let (time, time_header) = (unix_now().to_string(), text("/signature/timestampHeader"));
        let target = if known["signature"]["target"] == true { format!("POST {}.", text("/path")) } else { String::new() };
        let signed = if time_header.is_empty() { format!("{target}{body}") } else { format!("{target}{time}.{body}") };
        let mac = hmac(SECRET, signed.as_bytes());
        let signature = if text("/signature/encoding") == "hex" { hex::encode(mac) } else { BASE64.encode(mac) };
        let path = text("/path");
        assert_eq!(format!("{}{path}", text("/url")), format!("{}/data-action", service.url));
        let request = service.call(Method::POST, path).header(text("/signature/header"), signature).header(text("/keyIdHeader"), "default");
        let request = if time_header.is_empty() { request } else { request.header(time_header, time) };
        assert_eq!(send(request.body(body)).await.names(), ["Ann"]);
    }
}

#[tokio::test]
async fn the_icon_is_a_picture_of_64_by_64() {
    let extension = scratch_dir();
    let outcome = Tool::new(&["export", "cognigy", "--output", extension.to_str().expect("a plain path")]).run().await;
    assert_eq!(outcome.code, Some(0), "{}", outcome.printed());
    let icon = fs::read(extension.join("icon.png")).expect("an icon");
    assert_eq!((&icon[..8], &icon[16..24]), (&b"\x89PNG\r\n\x1a\n"[..], &[0, 0, 0, 64, 0, 0, 0, 64][..]));
}

#[tokio::test]
async fn an_extension_that_cannot_be_written_is_a_failure_that_says_where() {
    let outcome = Tool::new(&["export", "cognigy", "--output", "/dev/null/x"]).run().await;
    assert_eq!(outcome.code, Some(1), "{}", outcome.printed());
    assert!(outcome.stderr.contains("/dev/null/x"), "{}", outcome.printed());
}

#[tokio::test]
async fn every_package_of_the_extension_has_one_version_and_a_hash() {
    let extension = scratch_dir();
    let outcome = Tool::new(&["export", "cognigy", "--output", extension.to_str().expect("a plain path")]).run().await;
    assert_eq!(outcome.code, Some(0), "{}", outcome.printed());
    let read = |name: &str| -> Value { serde_json::from_slice(&fs::read(extension.join(name)).expect("a file")).expect("JSON") };
    let (package, lock) = (read("package.json"), read("package-lock.json"));
    let locked = lock["packages"].as_object().expect("packages");
    assert_eq!(locked[""]["version"], package["version"]);
    for kind in ["dependencies", "devDependencies"] {
        assert_eq!(locked[""][kind], package[kind]);
        for (name, version) in package[kind].as_object().expect("versions") {
            assert_eq!(&locked[&format!("node_modules/{name}")]["version"], version, "{name} is an exact version");
        }
    }
    for (name, entry) in locked.iter().filter(|(name, _)| !name.is_empty()) {
        assert!(entry["integrity"].as_str().is_some_and(|hash| hash.starts_with("sha512-")), "{name}");
        assert_eq!(entry.get("resolved"), None, "{name} names no registry");
    }
}
