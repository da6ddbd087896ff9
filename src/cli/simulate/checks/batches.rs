//! As much as a platform asks for: in one call, and at once.

use std::time::Duration;

use futures_util::future::join_all;
use reqwest::StatusCode;
use uuid::Uuid;

use super::super::answer::Answer;
use super::super::target::{Target, millis};
use super::super::verdict::{NotPassed, Verdict, failed};

pub(super) async fn full(target: &Target) -> Verdict {
    let known: Vec<Uuid> = target.customers.iter().take(target.max_batch).copied().collect();
    let nobody: Vec<Uuid> = std::iter::repeat_with(Uuid::new_v4).take(target.max_batch - known.len()).collect();
    let mut asked = [known.as_slice(), &nobody].concat();
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    let (mut calls, mut longest) = (0, 0);
    while !asked.is_empty() {
        let (answer, output) = target.look_up(&asked).await?;
        target.fits(&answer)?;
        (calls, longest) = (calls + 1, longest.max(answer.body.len()));
        let told = output.customers.len() + output.missing.len();
        if told == 0 {
            let came = format!("nobody, and {} ids for a next call that would bring no more", output.next_ids.len());
            return Err(failed("some of those asked for", came));
        }
        if told + output.next_ids.len() != asked.len() {
            return Err(failed(format!("{} ids, each told of once", asked.len()), output.form()));
        }
        found.extend(output.found());
        missing.extend(output.missing);
        asked = output.next_ids;
    }
    if found != known || missing != nobody {
        let came = format!("customers: {}, missing: {}, or in another order", found.len(), missing.len());
        return Err(failed(format!("customers: {}, missing: {}, in the order asked", known.len(), nobody.len()), came));
    }
    let cut = if calls == 1 { "; nothing was held back, so `next_ids` were not needed" } else { "" };
    Ok(format!("calls: {calls}, the longest answer: {longest} bytes{cut}"))
}

/// What became of one of many calls.
enum Fate {
    Answered(Duration),
    TurnedAway,
}

pub(super) async fn burst(target: &Target) -> Verdict {
    let at_once = target.profile.at_once;
    let calls = (0..at_once).map(|_| async {
        // Each asks for somebody else, so that none can be given another one's answer unnoticed.
        let own = Uuid::new_v4();
        let answer = target.ask(&target.lookup(&[target.few(), &[own]].concat())).await?;
        fate(target, &answer, own)
    });
    let fates = join_all(calls).await;
    let failures = fates.iter().filter(|fate| fate.is_err()).count();
    let fates: Vec<_> = fates.into_iter().collect::<Result<_, _>>().map_err(|first| match first {
        NotPassed::Failed { expected, came } => failed(expected, format!("{came} (failed: {failures} of {at_once})")),
        skipped @ NotPassed::Skipped { .. } => skipped,
    })?;
    let times: Vec<_> = fates.iter().filter_map(|fate| if let Fate::Answered(took) = fate { Some(*took) } else { None }).collect();
    let Some(slowest) = times.iter().max() else {
        return Err(failed(format!("answers to {at_once} calls at once"), "every call was turned away"));
    };
    let turned_away = at_once - times.len();
    Ok(format!("calls: {at_once}, turned away: {turned_away}, the slowest took {}", millis(*slowest)))
}

fn fate(target: &Target, answer: &Answer, own: Uuid) -> Result<Fate, NotPassed> {
    if matches!(answer.status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
        if !answer.has_retry_after() {
            return Err(failed("Retry-After with 503 and 429", format!("none with {}", answer.form())));
        }
        return Ok(Fate::TurnedAway);
    }
    let output = answer.output()?;
    target.fits(answer)?;
    if output.missing != [own] || output.found() != target.few() {
        return Err(failed("each call's own answer", output.form()));
    }
    Ok(Fate::Answered(answer.took))
}
