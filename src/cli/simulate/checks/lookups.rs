//! Lookups that must be answered.

use std::time::Duration;

use reqwest::header::CONTENT_TYPE;
use serde_json::json;
use uuid::Uuid;

use super::super::answer::Answer;
use super::super::target::{Target, millis};
use super::super::verdict::{NotPassed, Verdict, failed, skipped};
use super::places;

/// Content types that platforms and their users send; the last one is none.
const TYPES: [Option<&str>; 4] = [Some("application/x-www-form-urlencoded"), Some("application/json"), Some("text/plain"), None];

/// Lookups whose times are taken.
const TIMED: usize = 5;

pub(super) async fn reachable(target: &Target) -> Verdict {
    let answer = target.ask(&target.lookup(&[target.nobody])).await?;
    if answer.status.is_redirection() {
        return Err(failed("an answer", answer.form()));
    }
    Ok(format!("with {}", answer.status.as_u16()))
}

pub(super) async fn found(target: &Target) -> Verdict {
    let known = target.known()?;
    let (_, output) = target.look_up(known).await?;
    if output.found() != known {
        return Err(failed(format!("the {} customers asked for, in that order", known.len()), output.form()));
    }
    Ok(format!("customers: {}", known.len()))
}

pub(super) async fn missing(target: &Target) -> Verdict {
    // In the middle of the others, where there are any.
    let known = target.few();
    let (before, after) = known.split_at(known.len() / 2);
    let (_, output) = target.look_up(&[before, &[target.nobody], after].concat()).await?;
    if output.missing != [target.nobody] || output.found() != known {
        return Err(failed(format!("customers: {}, and the unknown id in `missing`", known.len()), output.form()));
    }
    Ok(String::new())
}

pub(super) async fn in_time(target: &Target) -> Verdict {
    let mut slowest = Duration::ZERO;
    for _ in 0..TIMED {
        let (answer, _) = target.look_up(&target.sample()).await?;
        target.fits(&answer)?;
        slowest = slowest.max(answer.took);
    }
    Ok(format!("the slowest of {TIMED} took {}", millis(slowest)))
}

pub(super) async fn any_type(target: &Target) -> Verdict {
    let body = target.lookup(&target.sample());
    for media_type in TYPES {
        let request = target.client.post(target.url.clone()).body(body.clone());
        let request = media_type.iter().fold(request, |request, media_type| request.header(CONTENT_TYPE, *media_type));
        let answer = target.send(target.prove(request, &body)).await?;
        let shown = media_type.unwrap_or("no content type");
        answer.output().map_err(|_| failed(format!("200 for a body sent as {shown}"), answer.form()))?;
    }
    Ok(String::new())
}

pub(super) async fn request_id(target: &Target) -> Verdict {
    let body = target.lookup(&target.sample());
    let answers = [target.ask(&body).await?, target.ask(&body).await?, target.send(target.unproven(&body)).await?];
    let ids: Vec<_> = answers.iter().filter_map(|answer| answer.header("x-request-id")).collect();
    let [first, second, refused] = ids[..] else {
        return Err(failed("an X-Request-Id in 3 answers", format!("in {}", ids.len())));
    };
    if first == second || first == refused || second == refused {
        return Err(failed("3 answers with an X-Request-Id each", "one that comes twice"));
    }
    Ok(String::new())
}

pub(super) async fn correlated(target: &Target) -> Verdict {
    let (header, id) = (target.profile.correlation_header, (target.profile.correlation_id)());
    let answer = target.send(target.proven(&target.lookup(&target.sample())).header(header, &id)).await?;
    if answer.header("x-request-id") != Some(&id) {
        return Err(failed(format!("X-Request-Id is what was sent as {header}"), "another one, or none"));
    }
    Ok(header.to_owned())
}

pub(super) async fn repeated(target: &Target) -> Verdict {
    let (sample, tries) = (target.sample(), target.profile.tries);
    let (first, _) = target.look_up(&sample).await?;
    for nth in 2..=tries {
        let (again, _) = target.look_up(&sample).await?;
        if again.json() != first.json() {
            return Err(failed("the same answer", format!("another one at try {nth}")));
        }
    }
    Ok(format!("tries: {tries}"))
}

pub(super) async fn ping(target: &Target) -> Verdict {
    let body = json!({ "action": "ping", "input": { "tenant_id": target.tenant.as_str() } }).to_string();
    let answer = target.ask(&body).await?;
    if answer.code().as_deref() == Some("unknown_action") {
        return Err(skipped("the service has no action `ping`"));
    }
    let output = &answer.json().unwrap_or_default()["output"];
    if !answer.status.is_success() || output["status"] != "ok" || output["tenant_id"] != target.tenant.as_str() {
        return Err(failed("200 with the status `ok` and the tenant", answer.form()));
    }
    Ok(String::new())
}

pub(super) async fn strings(target: &Target) -> Verdict {
    let body = target.lookup(&target.sample());
    let spelled = body.replace(r#""contactId":"simulated""#, r#""contactId":"simulated","queue":"7","vip":"true","note":"","none":"null""#);
    target.ask(&spelled).await?.output()?;
    Ok(String::new())
}

pub(super) async fn reserved_name(target: &Target) -> Verdict {
    let answer = all_known(target).await?;
    let document = answer.json().unwrap_or_default();
    let reserved = places(&document).into_iter().find(|place| place.path.last().is_some_and(|name| name == "__type"));
    match reserved {
        Some(place) => Err(failed("no member named `__type`", format!("one at {}", place.path.join(".")))),
        None => Ok(String::new()),
    }
}

/// As many of the known customers as fit one call.
pub(super) async fn all_known(target: &Target) -> Result<Answer, NotPassed> {
    target.known()?;
    let ids: Vec<Uuid> = target.customers.iter().take(target.max_batch).copied().collect();
    Ok(target.look_up(&ids).await?.0)
}
