//! The answer of a lookup, put together from ready-made JSON and held to the platform's size cap.

use crate::app::lookup::LookupAnswer;
use crate::domain::CustomerId;

/// An id in an answer: 36 characters and two quotes.
const ID_LEN: usize = 38;

/// The answer's JSON, at most `cap` bytes long; 0 for no cap. Customers are sent in the order asked until the next one
/// would not fit; that one and all after it are named in `next_ids`. A customer that is too long for any answer is passed
/// over and named there too, so that it does not keep the others from being sent.
pub(super) fn render(answer: &LookupAnswer, cap: usize) -> String {
    let missing = answer.missing.as_slice();
    let room = if cap == 0 { usize::MAX } else { cap };
    // The number of digits of `count` is taken at its longest.
    let (empty_frame, this_frame) = (frame(1, &[], &[]).len(), frame(answer.found.len(), missing, &[]).len());
    let fits_alone = |json: &[u8]| empty_frame + json.len() <= room;
    let (mut sent, mut rest) = (Vec::new(), Vec::new());
    let mut used = 0;
    let mut full = false;
    for (nth, (id, json)) in answer.found.iter().enumerate() {
        let later = answer.found.len() - nth - 1;
        let unsent = rest.len() + later;
        let count = sent.len() + 1;
        let length = this_frame + ids_len(unsent) + used + json.len() + count;
        full |= length > room && fits_alone(json);
        if full || length > room {
            if !fits_alone(json) {
                tracing::warn!(bytes = json.len(), "a customer is longer than any answer may be (lookup.max_response_bytes)");
            }
            rest.push(*id);
        } else {
            used += json.len();
            sent.push(json);
        }
    }
    let mut text = frame(sent.len(), missing, &rest);
    let at = text.find('[').map_or(0, |bracket| bracket + 1);
    let customers: Vec<_> = sent.iter().map(|json| String::from_utf8_lossy(json)).collect();
    text.insert_str(at, &customers.join(","));
    text
}

/// The answer without its customers.
fn frame(count: usize, missing: &[CustomerId], next: &[CustomerId]) -> String {
    let truncated = !next.is_empty();
    format!(
        r#"{{"output":{{"customers":[],"count":{count},"missing":[{}],"truncated":{truncated},"next_ids":[{}]}}}}"#,
        joined(missing),
        joined(next)
    )
}

fn joined(ids: &[CustomerId]) -> String {
    ids.iter().map(|id| format!(r#""{id}""#)).collect::<Vec<_>>().join(",")
}

fn ids_len(ids: usize) -> usize {
    (ID_LEN + 1) * ids
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use serde_json::Value;
    use uuid::Uuid;

    use super::*;
    use crate::app::lookup::CacheUse;

    fn answer(lengths: &[usize], missing: usize) -> LookupAnswer {
        let ids: Vec<_> = (1u128..).take(lengths.len() + missing).filter_map(|n| CustomerId::from_uuid(Uuid::from_u128(n))).collect();
        let customer =
            |(id, length): (&CustomerId, &usize)| (*id, Bytes::from(format!(r#"{{"id":"{id}","name":"{}"}}"#, "x".repeat(*length))));
        LookupAnswer {
            found: ids.iter().zip(lengths).map(customer).collect(),
            missing: ids[lengths.len()..].to_vec(),
            cache: CacheUse::Miss,
        }
    }

    fn strings(value: &Value) -> Vec<String> {
        value.as_array().into_iter().flatten().map(|v| v.as_str().or(v["id"].as_str()).unwrap_or_default().to_owned()).collect()
    }

    proptest! {
        #[test]
        fn an_answer_keeps_to_its_cap_and_names_everybody_once(lengths in proptest::collection::vec(0usize..900, 0..60), missing in 0usize..40, cap in 4300usize..20_000) {
            let answer = answer(&lengths, missing);
            let text = render(&answer, cap);
            prop_assert!(text.len() <= cap, "{} over {cap}", text.len());
            let value: Value = serde_json::from_str(&text)?;
            let output = &value["output"];
            let (sent, next) = (strings(&output["customers"]), strings(&output["next_ids"]));
            prop_assert_eq!(output["count"].as_u64(), Some(sent.len() as u64));
            prop_assert_eq!(output["truncated"].as_bool(), Some(!next.is_empty()));
            let everybody: Vec<_> = answer.found.iter().map(|(id, _)| id.to_string()).collect();
            prop_assert_eq!([sent, next].concat(), everybody, "in the order asked");
            prop_assert_eq!(strings(&output["missing"]).len(), missing);
        }
    }

    #[test]
    fn a_customer_too_long_for_any_answer_does_not_hold_up_the_others() -> serde_json::Result<()> {
        let answer = answer(&[10, 9000, 10], 0);
        let value: Value = serde_json::from_str(&render(&answer, 4300))?;
        assert_eq!(value["output"]["count"], 2);
        assert_eq!(strings(&value["output"]["next_ids"]), [answer.found[1].0.to_string()]);
        Ok(())
    }

    #[test]
    fn no_cap_sends_everybody() -> serde_json::Result<()> {
        let value: Value = serde_json::from_str(&render(&answer(&[40_000, 40_000], 0), 0))?;
        assert_eq!((value["output"]["count"].as_u64(), value["output"]["truncated"].as_bool()), (Some(2), Some(false)));
        Ok(())
    }
}
