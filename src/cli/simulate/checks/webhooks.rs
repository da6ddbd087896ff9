//! A webhook route, whose work is done once for each key.

use futures_util::future::join_all;
use reqwest::StatusCode;
use uuid::Uuid;

use super::super::answer::Answer;
use super::super::hook::Hook;
use super::super::target::{Target, millis};
use super::super::verdict::{NotPassed, Verdict, failed, skipped};

/// Deliveries of the same at once.
const TWINS: usize = 5;

/// What an answer says that was given before.
const REPLAYED: &str = "idempotent-replayed";

fn hook(target: &Target) -> Result<&Hook, NotPassed> {
    target.hook.as_ref().ok_or_else(|| skipped("no --webhook-path was given"))
}

fn new_key() -> String {
    Uuid::new_v4().to_string()
}

fn is_replayed(answer: &Answer) -> bool {
    answer.header(REPLAYED) == Some("true")
}

/// An answer to a delivery that was taken.
fn taken(target: &Target, answer: &Answer) -> Result<(), NotPassed> {
    if !answer.status.is_success() {
        return Err(failed("2xx", answer.form()));
    }
    target.fits(answer)
}

/// The answer to the first delivery with that key.
async fn first(target: &Target, hook: &Hook, key: &str) -> Result<Answer, NotPassed> {
    let answer = target.send(hook.delivery(target, Some(key), &hook.body)).await?;
    taken(target, &answer)?;
    if is_replayed(&answer) {
        return Err(failed("an answer that is new", "one with Idempotent-Replayed, to a key never used before"));
    }
    Ok(answer)
}

pub(super) async fn retry(target: &Target) -> Verdict {
    let (hook, key) = (hook(target)?, new_key());
    let first = first(target, hook, &key).await?;
    let again = target.send(hook.delivery(target, Some(&key), &hook.body)).await?;
    if (again.status, &again.body) != (first.status, &first.body) {
        return Err(failed(format!("{} and the same {} bytes", first.status.as_u16(), first.body.len()), again.form()));
    }
    if !is_replayed(&again) {
        return Err(failed("Idempotent-Replayed: true", "an answer without it"));
    }
    Ok(format!("{}, the first in {}", first.status.as_u16(), millis(first.took)))
}

pub(super) async fn twins(target: &Target) -> Verdict {
    let (hook, key) = (hook(target)?, new_key());
    let deliveries = (0..TWINS).map(|_| target.send(hook.delivery(target, Some(&key), &hook.body)));
    let (mut done, mut in_flight) = (0, 0);
    for answer in join_all(deliveries).await {
        let answer = answer?;
        if answer.status == StatusCode::CONFLICT {
            answer.is_problem(409, "in_flight")?;
            if !answer.has_retry_after() {
                return Err(failed("Retry-After with 409", "none"));
            }
            in_flight += 1;
            continue;
        }
        taken(target, &answer)?;
        done += usize::from(!is_replayed(&answer));
    }
    if done != 1 {
        return Err(failed(format!("of {TWINS} deliveries, one that is not replayed"), format!("{done}")));
    }
    let seen = if in_flight == 0 { "none came while the first was at work" } else { "the others got 409 or its answer" };
    Ok(format!("deliveries: {TWINS}, with 409: {in_flight}; {seen}"))
}

pub(super) async fn reused_key(target: &Target) -> Verdict {
    let (hook, key) = (hook(target)?, new_key());
    first(target, hook, &key).await?;
    let answer = target.send(hook.delivery(target, Some(&key), &hook.other_body)).await?;
    answer.is_problem(422, "idempotency_key_reused")?;
    Ok(String::new())
}

pub(super) async fn no_key(target: &Target) -> Verdict {
    let hook = hook(target)?;
    let answer = target.send(hook.delivery(target, None, &hook.body)).await?;
    answer.is_problem(400, "missing_idempotency_key")?;
    Ok(String::new())
}

pub(super) async fn unproven(target: &Target) -> Verdict {
    let hook = hook(target)?;
    let answer = target.send(hook.unproven(target, Some(&new_key()), &hook.body)).await?;
    answer.is_problem(401, "missing_signature")?;
    Ok(String::new())
}
