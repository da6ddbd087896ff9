//! The answer of a lookup, put together from ready-made JSON and held to the platform's size cap.

use crate::app::lookup::LookupAnswer;
use crate::domain::CustomerId;

/// An id in an answer: 36 characters and two quotes.
const ID_LEN: usize = 38;

/// An answer without customers and ids, whose count has one digit.
const EMPTY_LEN: usize = r#"{"output":{"customers":[],"count":0,"missing":[],"truncated":false,"next_ids":[]}}"#.len();

/// The answer's JSON, at most `cap` bytes long; 0 for no cap. Customers are sent in the order asked until the next one
/// would not fit; that one and all after it are named in `next_ids`. A customer that is too long for any answer is passed
/// over and named there too, so that it does not keep the others from being sent.
pub(super) fn render(answer: &LookupAnswer, cap: usize) -> Vec<u8> {
    let missing = answer.missing.as_slice();
    let room = if cap == 0 { usize::MAX } else { cap };
    // The number of digits of `count` is taken at its longest.
    let frame = EMPTY_LEN + digits(answer.found.len()) - 1 + list_len(missing.len());
    let fits_alone = |json: &[u8]| EMPTY_LEN + json.len() <= room;
    let (mut sent, mut rest) = (Vec::with_capacity(answer.found.len()), Vec::new());
    let mut used = 0;
    let mut full = false;
    for (nth, (id, json)) in answer.found.iter().enumerate() {
        let later = answer.found.len() - nth - 1;
        let length = frame + list_len(rest.len() + later) + used + json.len() + sent.len();
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
    let mut json = Vec::with_capacity(frame + list_len(rest.len()) + used + sent.len());
    json.extend_from_slice(br#"{"output":{"customers":["#);
    for (nth, customer) in sent.iter().enumerate() {
        if nth > 0 {
            json.push(b',');
        }
        json.extend_from_slice(customer);
    }
    json.extend_from_slice(br#"],"count":"#);
    json.extend_from_slice(sent.len().to_string().as_bytes());
    json.extend_from_slice(br#","missing":["#);
    append_ids(&mut json, missing);
    json.extend_from_slice(if rest.is_empty() { br#"],"truncated":false,"next_ids":["# } else { br#"],"truncated":true,"next_ids":["# });
    append_ids(&mut json, &rest);
    json.extend_from_slice(b"]}}");
    json
}

fn append_ids(json: &mut Vec<u8>, ids: &[CustomerId]) {
    for (nth, id) in ids.iter().enumerate() {
        json.extend_from_slice(if nth == 0 { b"\"" } else { b",\"" });
        json.extend_from_slice(id.uuid().hyphenated().encode_lower(&mut [0; 36]).as_bytes());
        json.push(b'"');
    }
}

fn list_len(ids: usize) -> usize {
    ((ID_LEN + 1) * ids).saturating_sub(1)
}

fn digits(number: usize) -> usize {
    number.checked_ilog10().map_or(1, |log| log as usize + 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;
    use uuid::Uuid;

    use super::*;
    use crate::app::lookup::CacheUse;

    fn answer(lengths: &[usize], missing: usize) -> LookupAnswer {
        let ids: Vec<_> = (1u128..).take(lengths.len() + missing).filter_map(|n| CustomerId::from_uuid(Uuid::from_u128(n))).collect();
        let customer =
            |(id, length): (&CustomerId, &usize)| (*id, format!(r#"{{"id":"{id}","name":"{}"}}"#, "x".repeat(*length)).into_bytes().into());
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
            let json = render(&answer, cap);
            prop_assert!(json.len() <= cap, "{} over {cap}", json.len());
            let value: Value = serde_json::from_slice(&json)?;
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
        let value: Value = serde_json::from_slice(&render(&answer, 4300))?;
        assert_eq!(value["output"]["count"], 2);
        assert_eq!(strings(&value["output"]["next_ids"]), [answer.found[1].0.to_string()]);
        Ok(())
    }

    #[test]
    fn no_cap_sends_everybody() -> serde_json::Result<()> {
        let value: Value = serde_json::from_slice(&render(&answer(&[40_000, 40_000], 0), 0))?;
        assert_eq!((value["output"]["count"].as_u64(), value["output"]["truncated"].as_bool()), (Some(2), Some(false)));
        Ok(())
    }
}
