//! The pieces of a lookup that need no network, by themselves: `cargo bench --bench pieces`.

#![expect(clippy::expect_used, reason = "a bench that panics has failed")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use cxone_data_action::app::lookup::{CacheUse, LookupAnswer};
use cxone_data_action::domain::{CustomerId, CustomerRecord, Encoding, Hasher, IdempotencyKey, KeySource, Keyring, Secret, SigningKey};
use cxone_data_action::http::{Bounds, pieces};
use uuid::Uuid;

/// Ids of a request.
const BATCHES: [u128; 3] = [1, 10, 100];

const BOUNDS: Bounds = Bounds { max_body_bytes: 65_536, body_timeout: Duration::from_secs(5), max_batch: 100, max_response_bytes: 32_768 };

fn ids(batch: u128) -> impl Iterator<Item = CustomerId> {
    (1..=batch).map(|n| CustomerId::from_uuid(Uuid::from_u128(n << 64 | n)).expect("not nil"))
}

fn body(batch: u128) -> String {
    let ids: Vec<_> = ids(batch).map(|id| format!("\"{id}\"")).collect();
    format!(r#"{{"action":"process_customer_batch","input":{{"customer_ids":[{}],"tenant_id":"acme42"}}}}"#, ids.join(","))
}

fn record(id: CustomerId) -> CustomerRecord<'static> {
    CustomerRecord {
        id,
        version: 1,
        name: "Customer number 4711",
        status: "active",
        updated_at: DateTime::from_timestamp_micros(1_767_323_045_678_901).expect("a time"),
        attributes: r#"{"tier": "gold", "language": "en"}"#,
    }
}

/// From the raw body and its signature's header to values that cannot be wrong.
fn verify_and_parse(criterion: &mut Criterion) {
    let key = SigningKey::new("default".to_owned(), Secret::new(&[7; 32]).expect("long enough"));
    let ring = Keyring::new(vec![key.clone()]);
    let mut verify = criterion.benchmark_group("verify");
    for batch in BATCHES {
        let body = body(batch);
        let header = Encoding::Hex.encode(&key.sign(&[body.as_bytes()]).expect("a secret"));
        verify.throughput(Throughput::Bytes(body.len() as u64));
        verify.bench_function(BenchmarkId::from_parameter(batch), |bench| {
            bench.iter(|| {
                let tag = Encoding::Hex.decode(black_box(&header)).expect("a tag");
                ring.verify(None, &tag, &[body.as_bytes()], Utc::now()).expect("the key").id().len()
            });
        });
    }
    verify.finish();
    let mut parse = criterion.benchmark_group("parse");
    for batch in BATCHES {
        let body = body(batch);
        parse.throughput(Throughput::Elements(u64::try_from(batch).expect("few")));
        parse.bench_function(BenchmarkId::from_parameter(batch), |bench| {
            bench.iter(|| pieces::parse(black_box(body.as_bytes()), &BOUNDS).expect("a batch"));
        });
    }
    parse.finish();
}

/// The idempotency key of a webhook, by what it is made from.
fn key_building(criterion: &mut Criterion) {
    let hasher = Hasher::new(&[7; 32]).expect("long enough");
    let (scope, body) = (Arc::from("/webhooks/dialog"), br#"{"dialogId":"dialog-4711","nodeId":"node-7","sequence":3,"amount":12.5}"#);
    let fields = KeySource::Fields(["dialogId", "nodeId", "sequence"].map(|name| vec![name.to_owned()]).to_vec());
    let mut keys = criterion.benchmark_group("key");
    for (name, source) in [("raw", KeySource::RawBody), ("canonical", KeySource::CanonicalBody), ("fields", fields)] {
        keys.bench_function(name, |bench| {
            bench.iter(|| IdempotencyKey::new(&hasher, &scope, "caller", &source, None, black_box(body)).expect("a key"));
        });
    }
    keys.finish();
}

/// From a database's record to a customer's JSON, and from those to an answer.
fn answer_assembly(criterion: &mut Criterion) {
    let id = ids(1).next().expect("one");
    criterion.bench_function("document", |bench| bench.iter(|| record(black_box(id)).document().expect("JSON")));
    let mut render = criterion.benchmark_group("render");
    for batch in BATCHES {
        let found = || ids(batch).map(|id| (id, record(id).document().expect("JSON").json)).collect();
        render.throughput(Throughput::Elements(u64::try_from(batch).expect("few")));
        render.bench_function(BenchmarkId::from_parameter(batch), |bench| {
            let answer = || LookupAnswer { found: found(), missing: Vec::new(), cache: CacheUse::Hit };
            bench.iter_batched_ref(answer, |answer| pieces::render(answer, BOUNDS.max_response_bytes), BatchSize::SmallInput);
        });
    }
    render.finish();
}

criterion_group!(all, verify_and_parse, key_building, answer_assembly);
criterion_main!(all);
