//! What only Genesys Cloud does: inputs are scalars, put into the body by a template.

use serde_json::Value;

use super::super::profile::{GENESYS_MAX_DEPTH, joined, rendered};
use super::super::target::Target;
use super::super::verdict::{Verdict, failed};
use super::lookups::all_known;
use super::places;

pub(super) async fn empty_optional(target: &Target) -> Verdict {
    let sample = target.sample();
    let with_comma = target.ask(&rendered(&target.tenant, &format!("{},", joined(&sample)))).await?;
    let output = with_comma.output()?;
    if output.missing != [target.nobody] || output.found() != target.few() {
        return Err(failed("the answer to the ids before the comma", output.form()));
    }
    Ok(String::new())
}

pub(super) async fn unfilled(target: &Target) -> Verdict {
    // What a template prints for an input that is null.
    let answer = target.ask(&rendered(&target.tenant, "${input.customer_ids}")).await?;
    answer.is_problem(400, "invalid_input")?;
    Ok(String::new())
}

pub(super) async fn flat_output(target: &Target) -> Verdict {
    let document = all_known(target).await?.json().unwrap_or_default();
    for place in places(&document) {
        if place.in_list && matches!(place.value, Value::Array(_)) {
            return Err(failed("no list within a list", format!("one at {}", place.path.join("."))));
        }
        if place.path.len() > GENESYS_MAX_DEPTH {
            return Err(failed(format!("at most {GENESYS_MAX_DEPTH} levels"), format!("more at {}", place.path.join("."))));
        }
    }
    Ok(String::new())
}
