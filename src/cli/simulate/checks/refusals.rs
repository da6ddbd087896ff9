//! Requests that must be refused, in a way that a script can tell why.

use reqwest::StatusCode;
use uuid::Uuid;

use super::super::target::Target;
use super::super::verdict::{Verdict, failed};
use crate::domain::data_action::LOOKUP;

pub(super) async fn unproven(target: &Target) -> Verdict {
    let answer = target.send(target.unproven(&target.lookup(&target.sample()))).await?;
    answer.is_problem(401, "missing_signature")?;
    Ok(String::new())
}

pub(super) async fn wrongly_proven(target: &Target) -> Verdict {
    let body = target.lookup(&target.sample());
    let answer = target.send(target.proof.add_wrong(target.unproven(&body), target.url.path(), body.as_bytes())).await?;
    answer.is_problem(401, "invalid_signature")?;
    Ok(String::new())
}

pub(super) async fn foreign(target: &Target) -> Verdict {
    let body = (target.profile.lookup)(&target.foreign_tenant, target.known()?);
    let answer = target.ask(&body).await?;
    if answer.status == StatusCode::FORBIDDEN {
        answer.is_problem(403, "tenant_not_allowed")?;
        return Ok("it is not allowed".to_owned());
    }
    let output = answer.output()?;
    if !output.customers.is_empty() || output.truncated {
        return Err(failed("403, or nobody", output.form()));
    }
    Ok("it has none of these customers".to_owned())
}

pub(super) async fn not_json(target: &Target) -> Verdict {
    let whole = target.lookup(&target.sample());
    let answer = target.ask(&whole[..whole.len() - 1]).await?;
    answer.is_problem(400, "invalid_json")?;
    Ok(String::new())
}

pub(super) async fn invalid_input(target: &Target) -> Verdict {
    let body = target.lookup(&[target.nobody]).replace(&target.nobody.to_string(), "12345");
    target.ask(&body).await?.is_problem(400, "invalid_input")?;
    Ok(String::new())
}

pub(super) async fn unknown_action(target: &Target) -> Verdict {
    let body = target.lookup(&target.sample()).replace(LOOKUP, "no_such_action");
    target.ask(&body).await?.is_problem(400, "unknown_action")?;
    Ok(String::new())
}

pub(super) async fn too_many(target: &Target) -> Verdict {
    let ids: Vec<_> = (0..=target.max_batch).map(|_| Uuid::new_v4()).collect();
    target.ask(&target.lookup(&ids)).await?.is_problem(400, "invalid_input")?;
    Ok(format!("ids: {}", ids.len()))
}
