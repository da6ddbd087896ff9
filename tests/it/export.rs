//! What platforms are told of the service is true: the committed copies are what `export` prints, and what a platform makes of
//! them is answered.

mod cognigy;
mod cxone;
mod genesys;
mod terraform;
mod velocity;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{Database, Outcome, Reply, Service, Setup, Tool, scratch_dir, send};

/// The API key of a service that takes one.
const API_KEY: &str = "an-api-key-of-the-tests-at-least-32-bytes-long";

/// The copies, and the command whose output each is.
const COPIES: [(&str, &[&str]); 4] = [
    ("cxone.md", &["cxone"]),
    ("genesys-lookup.json", &["genesys"]),
    ("genesys-ping.json", &["genesys", "--action", "ping"]),
    ("genesys.tf", &["terraform"]),
];

/// The one that no template is filled for.
const DOCUMENT: (&str, &[&str]) = ("openapi.json", &["openapi"]);

fn copies() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/registration")
}

/// Runs `export`.
async fn export(args: &[&str]) -> Outcome {
    let outcome = Tool::new(&["export"]).args(args).run().await;
    assert_eq!(outcome.code, Some(0), "{args:?}: {}", outcome.printed());
    outcome
}

/// A service that takes an API key.
async fn service(database: &Database) -> Service {
    Setup::on(database).set("CXDA_SIGNING__API_KEY", API_KEY).start().await
}

/// Sends a body as a platform would that was told to, with those headers.
async fn call(service: &Service, headers: &BTreeMap<String, String>, body: &str) -> Reply {
    let request = service.call(reqwest::Method::POST, "/data-action");
    send(headers.iter().fold(request, |request, (name, value)| request.header(name, value)).body(body.to_owned())).await
}

/// Whether the copies are to be written anew.
#[expect(clippy::disallowed_methods, reason = "tests have no settings of their own")]
fn rewriting() -> bool {
    std::env::var_os("UPDATE_EXPECT").is_some()
}

fn hold(copy: &Path, exported: &[u8]) {
    if rewriting() {
        fs::create_dir_all(copy.parent().expect("a folder")).expect("a folder");
        fs::write(copy, exported).expect("a file that can be written");
    }
    let committed = fs::read(copy).unwrap_or_default();
    assert!(committed == exported, "{} is not what is exported; run the test with UPDATE_EXPECT=1", copy.display());
}

#[tokio::test]
async fn the_committed_copies_are_what_export_prints() {
    for (name, args) in COPIES.into_iter().chain([DOCUMENT]) {
        hold(&copies().join(name), format!("{}\n", export(args).await.stdout).as_bytes());
    }
}

#[tokio::test]
async fn the_committed_extension_is_what_export_writes() {
    let written = scratch_dir();
    export(&["cognigy", "--output", written.to_str().expect("a plain path")]).await;
    let names = |dir: &Path| {
        let mut names: Vec<_> = files(dir).iter().map(|file| file.strip_prefix(dir).expect("inside").to_owned()).collect();
        names.sort();
        names
    };
    let committed = copies().join("cognigy");
    for name in names(&written) {
        hold(&committed.join(&name), &fs::read(written.join(&name)).expect("a file"));
    }
    assert_eq!(names(&committed), names(&written));
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry").path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[tokio::test]
async fn no_mark_of_a_template_is_left() {
    let written = scratch_dir();
    let named = ["--tenant", "acme42", "--url", "http://lookup.example.com:8080/base"];
    let output = written.to_str().expect("a plain path");
    export(&[&["cognigy", "--output", output][..], &named].concat()).await;
    let mut texts: Vec<_> =
        files(&written).iter().map(|file| String::from_utf8_lossy(&fs::read(file).expect("a file")).into_owned()).collect();
    for (_, args) in COPIES {
        texts.push(export(&[args, &named].concat()).await.stdout);
    }
    for text in texts {
        let marks: Vec<_> = text.split('@').skip(1).filter(|mark| mark.chars().all(|c| c.is_ascii_lowercase() || c == '_')).collect();
        assert!(marks.is_empty(), "{marks:?} in {text}");
        assert!(!text.contains("lookup.example.com") || text.contains("http://lookup.example.com:8080/base"), "{text}");
    }
}

#[tokio::test]
async fn a_url_that_a_template_would_change_is_refused() {
    for url in ["lookup.example.com", "ftp://x", "https://x/?a=b", "https://x/#a", "https://x/$a", "https://u:p@x", "https://x/'"] {
        let outcome = Tool::new(&["export", "genesys", "--url", url]).run().await;
        assert_eq!(outcome.code, Some(2), "{url}: {}", outcome.printed());
    }
    for url in ["https://x", "https://x/", "http://127.0.0.1:8080", "http://[::1]:8080/a/b"] {
        let exported = export(&["genesys", "--url", url]).await.stdout;
        assert!(exported.contains(&format!("\"{}/data-action\"", url.trim_end_matches('/'))), "{exported}");
    }
}

#[tokio::test]
async fn a_tenant_that_is_none_is_refused() {
    let outcome = Tool::new(&["export", "cxone", "--tenant", "acme-42"]).run().await;
    assert_eq!(outcome.code, Some(2), "{}", outcome.printed());
}
