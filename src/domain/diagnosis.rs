//! What is wrong with a signature or an API key: tries what usually goes wrong, and names it.
//!
//! Every change is tried with every key whatever comes, and tags are compared in constant time: how long it takes tells a caller
//! nothing about which of them it was. To add a reason: its row in [`super::reason`], and its try here.

mod bodies;
mod spelling;

use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::{Coverage, Encoding, Keyring, Reason, SignedTarget, SigningKey, Tag, Target};

/// A signature as it came, and what it should be of.
pub struct Evidence<'e> {
    /// The header's value.
    pub signature: &'e str,
    /// How it should be spelled.
    pub encoding: Encoding,
    /// The key that the caller names.
    pub key_id: Option<&'e str>,
    /// The values that are signed before the body, each with a dot after it.
    pub before: Vec<&'e str>,
    /// Which of them is a Unix time, and how far it may be from now.
    pub timestamp: Option<(usize, Duration)>,
    /// The raw body.
    pub body: &'e [u8],
    /// The method and path of the request.
    pub target: Target<'e>,
    /// Whether they are signed before all else.
    pub signed_target: SignedTarget,
}

/// What is wrong, and with the signature of which key, where that is known.
#[derive(Debug)]
pub struct Diagnosis<'k> {
    /// What is wrong.
    pub reason: Reason,
    /// The key that has signed, if one has.
    pub key: Option<&'k SigningKey>,
}

impl From<Reason> for Diagnosis<'_> {
    fn from(reason: Reason) -> Self {
        Self { reason, key: None }
    }
}

impl Evidence<'_> {
    /// The texts that may be signed, in parts, with what each covers; the one that should be signed comes first. None of them
    /// could be another route's: a text without a target must not begin as one with a target does.
    pub fn texts(&self) -> impl Iterator<Item = (Coverage, Vec<&[u8]>)> {
        let (with, without) = match self.signed_target {
            SignedTarget::Off => (None, Some(Coverage::Whole)),
            SignedTarget::Accept => (Some(Coverage::Whole), Some(Coverage::NoTarget)),
            SignedTarget::Require => (Some(Coverage::Whole), None),
        };
        let without = without.filter(|_| !self.imitates_target()).map(|coverage| (coverage, self.text().collect()));
        let with = with.map(|coverage| (coverage, self.target.parts().into_iter().chain(self.text()).collect()));
        with.into_iter().chain(without)
    }

    /// The text without the target, in parts.
    fn text(&self) -> impl Iterator<Item = &[u8]> {
        let before = self.before.iter().flat_map(|value| [value.as_bytes(), b"."]);
        before.chain([self.body])
    }

    fn imitates_target(&self) -> bool {
        let start = self.before.first().map_or(self.body, |value| value.as_bytes());
        self.target.is_imitated_by(start)
    }

    /// Whether the signed time, where there is one, is near enough to now.
    pub fn fresh(&self, now: DateTime<Utc>) -> Result<(), Reason> {
        let Some((stamp, tolerance)) = self.stamp() else { return Ok(()) };
        let seconds = i64::from_str(stamp).map_err(|_| Reason::TimestampMalformed)?;
        let tolerance = TimeDelta::from_std(tolerance).unwrap_or(TimeDelta::MAX);
        let is_near = |seconds| DateTime::from_timestamp(seconds, 0).map(|time| (now - time).abs() <= tolerance);
        match is_near(seconds) {
            None => Err(Reason::TimestampMalformed),
            Some(true) => Ok(()),
            Some(false) if is_near(seconds / 1000) == Some(true) => Err(Reason::Milliseconds),
            Some(false) => Err(Reason::Clock),
        }
    }

    fn stamp(&self) -> Option<(&str, Duration)> {
        let (at, tolerance) = self.timestamp?;
        Some((self.before.get(at)?, tolerance))
    }
}

/// The key whose signature this is and what the signature covers, or what is wrong with it.
pub fn examine<'k>(evidence: &Evidence<'_>, keys: &'k Keyring, now: DateTime<Utc>) -> Result<(&'k SigningKey, Coverage), Diagnosis<'k>> {
    if is_given_away(evidence.signature, keys) {
        return Err(Reason::SecretAsSignature.into());
    }
    let texts: Vec<_> = evidence.texts().collect();
    let Some(tag) = evidence.encoding.decode(evidence.signature) else {
        return Err(spelling::misspelt(evidence.signature, evidence.encoding, |start| {
            any(keys, |key| texts.iter().any(|(_, text)| key.signs_with_start(start, text))).is_some()
        })
        .into());
    };
    let matching = |(coverage, text): &(Coverage, Vec<&[u8]>)| any(keys, |key| key.matches(&tag, text)).map(|key| (key, *coverage));
    let as_expected = texts.iter().map(matching).fold(None, Option::or);
    let otherwise = otherwise(evidence, &tag, keys);
    match (as_expected, otherwise) {
        (Some((key, coverage)), _) => match misused(key, evidence.key_id, keys, now).map_or_else(|| evidence.fresh(now), Err) {
            Ok(()) => Ok((key, coverage)),
            Err(reason) => Err(Diagnosis { reason, key: Some(key) }),
        },
        (None, Some(diagnosis)) => Err(diagnosis),
        (None, None) if is_unknown(evidence.key_id, keys) => Err(Reason::UnknownKeyId.into()),
        (None, None) => Err(Reason::WrongSecret.into()),
    }
}

/// What is wrong with an API key, where `sent` knows a key by it.
pub fn examine_api_key(
    api_key: &str,
    key_id: Option<&str>,
    keys: &Keyring,
    sent: impl Fn(&SigningKey, &str) -> bool,
    now: DateTime<Utc>,
) -> Reason {
    let holder = any(keys, |key| sent(key, api_key));
    let quoted = any(keys, |key| sent(key, spelling::unquoted(api_key)));
    match (holder, quoted) {
        (Some(key), _) => misused(key, key_id, keys, now).unwrap_or(Reason::WrongApiKey),
        (None, Some(_)) => Reason::Quotes,
        (None, None) if is_given_away(api_key, keys) => Reason::SecretAsApiKey,
        (None, None) if is_unknown(key_id, keys) => Reason::UnknownKeyId,
        (None, None) => Reason::WrongApiKey,
    }
}

/// The last key of which this is so. Every one is asked.
fn any(keys: &Keyring, is_so: impl Fn(&SigningKey) -> bool) -> Option<&SigningKey> {
    keys.keys().iter().fold(None, |found, key| if is_so(key) { Some(key) } else { found })
}

/// What forbids to take what that key has proven.
fn misused(key: &SigningKey, key_id: Option<&str>, keys: &Keyring, now: DateTime<Utc>) -> Option<Reason> {
    if key.expired(now) {
        Some(Reason::ExpiredKey)
    } else if keys.goes_by(key, key_id) {
        None
    } else {
        Some(Reason::OtherKey)
    }
}

fn is_unknown(key_id: Option<&str>, keys: &Keyring) -> bool {
    !keys.keys().iter().any(|key| keys.goes_by(key, key_id))
}

fn is_given_away(text: &str, keys: &Keyring) -> bool {
    any(keys, |key| key.has_secret(text) | key.has_api_key(text)).is_some()
}

/// Tries other texts with the keys' secrets, and other readings of the secrets with the text as it should be.
fn otherwise<'k>(evidence: &Evidence<'_>, tag: &Tag, keys: &'k Keyring) -> Option<Diagnosis<'k>> {
    let mut first = None;
    let mut keep = |reason: Option<Reason>, key| {
        if let Some(reason) = reason {
            first.get_or_insert(Diagnosis { reason, key: Some(key) });
        }
    };
    for (reason, text) in texts(evidence) {
        for key in keys.keys() {
            keep(key.matches(tag, &[&text]).then_some(reason), key);
        }
    }
    for (_, text) in evidence.texts() {
        for key in keys.keys() {
            keep(key.misread(tag, &text), key);
        }
    }
    first
}

/// What may have been signed instead, with the reason that each would be.
fn texts(evidence: &Evidence<'_>) -> Vec<(Reason, Vec<u8>)> {
    let target = evidence.target.to_string();
    let with_target = [&[target.as_str()], &evidence.before[..]].concat();
    let with = || variants(&with_target, evidence.timestamp.map(|(at, _)| at + 1), evidence.body);
    let without = || variants(&evidence.before, evidence.timestamp.map(|(at, _)| at), evidence.body);
    let unexpected = |before: &[&str]| vec![(Reason::TargetUnexpected, joined(before, ".", evidence.body))];
    let imitation = if evidence.imitates_target() { unexpected(&evidence.before) } else { Vec::new() };
    match evidence.signed_target {
        SignedTarget::Off => [unexpected(&with_target), imitation, without()].concat(),
        SignedTarget::Accept => [imitation, with(), without()].concat(),
        SignedTarget::Require => [vec![(Reason::NoTarget, joined(&evidence.before, ".", evidence.body))], with()].concat(),
    }
}

fn joined(before: &[&str], by: &str, body: &[u8]) -> Vec<u8> {
    let before = before.iter().flat_map(|value| [value.as_bytes(), by.as_bytes()]);
    before.chain([body]).collect::<Vec<_>>().concat()
}

/// What may have been signed in the place of these values and the body. `stamp_at`: which of the values is the time.
fn variants(before: &[&str], stamp_at: Option<usize>, body: &[u8]) -> Vec<(Reason, Vec<u8>)> {
    let changed = bodies::changes(body).into_iter().map(|(reason, body)| (reason, joined(before, ".", &body)));
    let mut texts: Vec<_> = changed.collect();
    if !before.is_empty() {
        texts.push((Reason::BodyAlone, body.to_vec()));
        texts.extend(["", ":", "\n", "|"].map(|by| (Reason::JoinedOtherwise, joined(before, by, body))));
        let after = |by: &str| [body, by.as_bytes(), before.join(by).as_bytes()].concat();
        texts.extend([".", ""].map(|by| (Reason::JoinedOtherwise, after(by))));
    }
    if let Some((at, stamp)) = stamp_at.and_then(|at| Some((at, *before.get(at)?))) {
        let in_another_unit = [Some(format!("{stamp}000")), stamp.get(..stamp.len().saturating_sub(3)).map(str::to_owned)];
        texts.extend(in_another_unit.into_iter().flatten().map(|stamp| {
            let mut before = before.to_vec();
            before[at] = &stamp;
            (Reason::Milliseconds, joined(&before, ".", body))
        }));
    }
    texts
}
