//! The work that a body costs is linear in its length, with a small constant: counted in allocations, over the bodies that the
//! benchmark `worst-bodies` has found to cost most.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use allocation_counter::measure;
use bytes::Bytes;
use chrono::Utc;
use cxone_data_action::domain::canonical::canonical;
use cxone_data_action::domain::diagnosis::examine;
use cxone_data_action::domain::{
    Encoding, Evidence, FlatInput, Hasher, IdempotencyKey, KeySource, Keyring, Secret, SignedTarget, SigningKey, Target,
};
use cxone_data_action::http::{Bounds, pieces};
use serde::Deserialize;

const BOUNDS: Bounds = Bounds { max_body_bytes: 65_536, body_timeout: Duration::from_secs(5), max_batch: 100, max_response_bytes: 32_768 };

/// Bytes of a shorter and of a longer body.
const SIZES: [usize; 2] = [8 << 10, 64 << 10];

/// How a body is made: a unit, as often as it fits.
#[derive(Deserialize)]
#[serde(default)]
struct Recipe {
    name: String,
    before: String,
    unit: String,
    between: String,
    after: String,
    open: String,
    close: String,
    depth: usize,
}

impl Default for Recipe {
    fn default() -> Self {
        let empty = String::new;
        let [name, before, unit, between, after, open, close] = [empty(), empty(), empty(), empty(), empty(), empty(), empty()];
        Self { name, before, unit, between, after, open, close, depth: 1 }
    }
}

impl Recipe {
    fn body(&self, size: usize) -> Vec<u8> {
        let depth = if self.open.is_empty() { 0 } else { self.depth };
        let start = self.open.repeat(depth) + &self.before;
        let end = self.after.clone() + &self.close.repeat(depth);
        let room = size.saturating_sub(start.len() + end.len());
        let count = (room / (self.unit.len() + self.between.len()).max(1)).max(1);
        let units = (0..count).map(|nth| self.unit.replace("$X", &format!("{nth:012x}"))).collect::<Vec<_>>().join(&self.between);
        let mut body = format!("{start}{units}{end}").into_bytes();
        body.truncate(size);
        body
    }
}

fn corpus() -> Vec<Recipe> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("bench/corpus");
    let files = std::fs::read_dir(dir).unwrap().map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap());
    files.flat_map(|text| serde_json::from_str::<Vec<Recipe>>(&text).unwrap()).collect()
}

fn keyring() -> Keyring {
    Keyring::new(vec![SigningKey::new("key".to_owned(), Secret::new(&[7; 32]).unwrap())])
}

type Work = Box<dyn Fn(&[u8])>;

/// What is done with a body before it is refused or its work begins.
fn uses() -> Vec<(&'static str, Work)> {
    let scope: Arc<str> = "/hooks/x".into();
    let key = move |source: KeySource| {
        let (hasher, scope) = (Hasher::new(&[7; 32]).unwrap(), Arc::clone(&scope));
        Box::new(move |body: &[u8]| drop(IdempotencyKey::new(&hasher, &scope, "key", &source, Some("1"), body))) as Work
    };
    let keys = keyring();
    let diagnosis = move |body: &[u8]| {
        let signature = "ab".repeat(32);
        let evidence = Evidence {
            signature: &signature,
            encoding: Encoding::Hex,
            key_id: None,
            before: Vec::new(),
            timestamp: None,
            body,
            target: Target { method: "POST", path: "/data-action" },
            signed_target: SignedTarget::Accept,
        };
        assert!(examine(&evidence, &keys, Utc::now()).is_err());
    };
    let fields = ["a", "dialogId", "z"].map(|name| vec![name.to_owned()]).to_vec();
    vec![
        ("the parsing of a lookup", Box::new(|body: &[u8]| assert!(pieces::parse(body, &BOUNDS).is_none_or(|ids| ids > 0)))),
        ("a key of raw bytes", key(KeySource::RawBody)),
        ("a key of the canonical form", key(KeySource::CanonicalBody)),
        ("a key of fields", key(KeySource::Fields(fields))),
        ("a key of a header", key(KeySource::Header("x".to_owned()))),
        ("the input of a data action", Box::new(|body: &[u8]| drop(FlatInput::parse(Bytes::copy_from_slice(body), canonical(body))))),
        ("a diagnosis", Box::new(diagnosis)),
    ]
}

#[test]
fn no_body_of_the_corpus_costs_more_than_its_length_allows() {
    let corpus = corpus();
    assert!(corpus.len() > 40, "{} recipes", corpus.len());
    let mut worst = Vec::new();
    for (name, work) in uses() {
        for recipe in &corpus {
            let [shorter, longer] = SIZES.map(|size| {
                let body = recipe.body(size);
                (body.len() as u64, measure(|| work(&body)))
            });
            let what = format!("{name} of {}: {:?} and {:?}", recipe.name, shorter.1, longer.1);
            // Eight times the bytes, and no more than a little above eight times the work.
            assert!(longer.1.count_total <= 9 * shorter.1.count_total + 64, "{what}");
            assert!(longer.1.bytes_total <= 10 * shorter.1.bytes_total + 65_536, "{what}");
            // A diagnosis makes some twenty texts of the body twice, the longest four times as long.
            let times = if name == "a diagnosis" { 260 } else { 24 };
            assert!(longer.1.bytes_total <= times * longer.0 + 65_536, "{what}");
            worst.push((longer.1.count_total * 1000 / longer.0, what));
        }
    }
    worst.sort();
    println!("most allocations for 1,000 bytes: {:?}", worst.last());
}

#[test]
fn a_refusal_names_no_more_than_its_first_errors_and_makes_no_others() {
    for unit in [r#""""#, r#""x""#] {
        let ids = vec![unit; 10_000].join(",");
        let body = format!(r#"{{"action":"process_customer_batch","input":{{"tenant_id":"acme42","customer_ids":[{ids}]}}}}"#);
        let counted = measure(|| assert!(pieces::parse(body.as_bytes(), &BOUNDS).is_none()));
        assert!(counted.count_total < 400, "{} allocations for 20 errors of 10,000", counted.count_total);
    }
    let members: Vec<_> = (0..7_000).map(|nth| format!(r#""m{nth}":{nth}"#)).collect();
    let body = format!(
        r#"{{"action":"process_customer_batch","input":{{"tenant_id":"acme42","customer_ids":[]}},"context":{{{}}}}}"#,
        members.join(",")
    );
    let counted = measure(|| assert!(pieces::parse(body.as_bytes(), &BOUNDS).is_none()));
    assert!(counted.count_total < 400, "{} allocations for one error of 7,000 members", counted.count_total);
}
