//! How keys, leases, intents and records are spelled in Redis.

use anyhow::Context;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::domain::{Digest, IdempotencyKey, Owner, StoredReply};

/// Where a key's lease, record and intent are. Under one hash tag, so that a step finds all of them in one place.
pub(super) fn keys(hash: &Digest) -> [String; 3] {
    ["lease", "done", "intent"].map(|what| format!("cxda:idem:v1:{{{hash}}}:{what}"))
}

/// An intent, as it is written: whose lease it was, for how long it is kept after that, when it was put on record (both in
/// milliseconds), and the route.
pub(super) struct Intent {
    pub(super) lease: String,
    pub(super) since: u64,
    pub(super) scope: String,
}

impl Intent {
    pub(super) fn parse(text: &str) -> anyhow::Result<Self> {
        let parts: Vec<_> = text.splitn(4, ' ').collect();
        let [lease, _keep, since, scope] = parts[..] else { anyhow::bail!("this is no intent of this service's") };
        Ok(Self { lease: lease.to_owned(), since: since.parse()?, scope: scope.to_owned() })
    }
}

pub(super) fn lease_value(key: &IdempotencyKey, owner: Owner) -> String {
    format!("{}:{}", owner.uuid().simple(), key.fingerprint)
}

/// What a lease or an intent was for.
pub(super) fn fingerprint(value: &[u8]) -> anyhow::Result<Digest> {
    let text = std::str::from_utf8(value)?;
    let owner = text.split(' ').next().unwrap_or_default();
    owner.split_once(':').and_then(|(_, fingerprint)| Digest::parse(fingerprint)).context("this is no lease of this service's")
}

/// What stands before the body of a record, in one line.
#[derive(Serialize, Deserialize)]
struct Head {
    owner: Uuid,
    fingerprint: String,
    status: u16,
    headers: Vec<(String, String)>,
}

pub(super) fn encode(owner: Owner, fingerprint: &Digest, reply: &StoredReply) -> anyhow::Result<Vec<u8>> {
    let head = Head { owner: owner.uuid(), fingerprint: fingerprint.to_string(), status: reply.status, headers: reply.headers.clone() };
    let mut record = serde_json::to_vec(&head)?;
    record.push(b'\n');
    record.extend_from_slice(&reply.body);
    Ok(record)
}

pub(super) fn decode(record: &[u8]) -> anyhow::Result<(Owner, Digest, StoredReply)> {
    const FOREIGN: &str = "this is no record of this service's";
    let end = record.iter().position(|byte| *byte == b'\n').context(FOREIGN)?;
    let head: Head = serde_json::from_slice(&record[..end]).context(FOREIGN)?;
    let fingerprint = Digest::parse(&head.fingerprint).context(FOREIGN)?;
    let reply = StoredReply { status: head.status, headers: head.headers, body: Bytes::copy_from_slice(&record[end + 1..]) };
    Ok((Owner::from_uuid(head.owner), fingerprint, reply))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Hasher, KeySource};

    #[test]
    fn a_record_is_read_as_it_was_written_whatever_its_body() -> anyhow::Result<()> {
        let hasher = Hasher::new(&[7; 32]).context("a hasher")?;
        let key =
            IdempotencyKey::new(&hasher, &"/x".into(), "k", &KeySource::RawBody, None, b"{}").map_err(|_| anyhow::anyhow!("a key"))?;
        let owner = Owner::draw();
        for body in [&b""[..], b"\n", b"{\"a\":1}\n\xff\0"] {
            let headers = vec![("content-type".to_owned(), "text/plain; x=\"\n\"".to_owned())];
            let reply = StoredReply { status: 201, headers, body: Bytes::copy_from_slice(body) };
            assert_eq!(decode(&encode(owner, &key.fingerprint, &reply)?)?, (owner, key.fingerprint, reply));
        }
        for foreign in [&b""[..], b"x", b"{}\n", b"\n\n"] {
            assert!(decode(foreign).is_err());
        }
        Ok(())
    }
}
