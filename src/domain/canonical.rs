//! Canonical JSON (RFC 8785): one text for all spellings of a value, and none for a text that two readers could understand in
//! two ways.
//!
//! The text is read once, and the work is linear in its length, since it comes from callers.

mod number;
mod object;
mod reader;

use std::borrow::Cow;
use std::fmt;

use serde_json::value::RawValue;

use reader::Reader;

/// Why there is no canonical form, or no one value at a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unclear {
    /// It is not JSON at all.
    NotJson,
    /// It is JSON that readers may take in different ways.
    At {
        /// Where, as a JSON pointer (RFC 6901).
        pointer: String,
        /// In what way.
        why: Ambiguity,
    },
}

/// What makes JSON ambiguous.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ambiguity {
    /// A number that a double cannot hold: readers round it, each in its own way (RFC 8785 section 3.2.2.3).
    InexactNumber,
    /// A member that its object has twice: readers take the first, the last or none (RFC 8259 section 4).
    DuplicateMember,
    /// A text that is not Unicode (RFC 7493 section 2.1), or more levels of arrays and objects than are read.
    Unreadable,
}

impl Ambiguity {
    /// The code of the field error.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InexactNumber => "inexact_number",
            Self::DuplicateMember => "duplicate_member",
            Self::Unreadable => "unreadable",
        }
    }
}

impl fmt::Display for Ambiguity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InexactNumber => "is a number that a double cannot hold exactly",
            Self::DuplicateMember => "is named twice",
            Self::Unreadable => "is not a Unicode text, or is nested too deeply",
        })
    }
}

/// The canonical form of a JSON text.
///
/// # Errors
/// [`Unclear::NotJson`], or the first ambiguity in the order of the text.
pub fn canonical(json: &[u8]) -> Result<String, Unclear> {
    Reader::new(document(json)?).canonical()
}

/// The members of a canonical object, each with its value in canonical form; `None` where the text is no object.
pub fn members(canonical: &str) -> Option<Vec<(Cow<'_, str>, &str)>> {
    Reader::new(canonical).members()
}

/// The canonical form of the value at a place, given by the member names and indices that lead there; `None` where the place is
/// missing or holds `null`. Ambiguities elsewhere in the document do not matter.
pub fn canonical_at(json: &[u8], path: &[String]) -> Result<Option<String>, Unclear> {
    let here = |depth: usize| pointer(path[..depth].iter().map(String::as_str));
    let found = Reader::new(document(json)?).find(path);
    let Some(value) = found.map_err(|(depth, why)| Unclear::At { pointer: here(depth), why })? else { return Ok(None) };
    if value == "null" {
        return Ok(None);
    }
    canonical(value.as_bytes()).map(Some).map_err(|error| match error {
        Unclear::At { pointer: within, why } => Unclear::At { pointer: here(path.len()) + &within, why },
        Unclear::NotJson => Unclear::NotJson,
    })
}

/// The same in a canonical form, which has no ambiguities.
pub fn value_at<'j>(canonical: &'j str, path: &[String]) -> Option<&'j str> {
    Reader::new(canonical).find(path).ok().flatten().filter(|value| *value != "null")
}

/// A JSON pointer (RFC 6901 section 3). Long names are cut: they are the caller's text.
pub fn pointer<'n>(names: impl Iterator<Item = &'n str>) -> String {
    names.fold(String::new(), |pointer, name| {
        let short: String = name.chars().take(64).collect();
        pointer + "/" + &short.replace('~', "~0").replace('/', "~1")
    })
}

/// The whole document, where it is one.
fn document(json: &[u8]) -> Result<&str, Unclear> {
    let value: Option<&RawValue> = std::str::from_utf8(json).ok().and_then(|text| serde_json::from_str(text).ok());
    value.map(RawValue::get).ok_or(Unclear::NotJson)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(json: &str) -> Result<String, Unclear> {
        canonical(json.as_bytes())
    }

    fn value() -> impl Strategy<Value = serde_json::Value> {
        let scalar = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i32>().prop_map(Into::into),
            any::<f64>().prop_map(Into::into),
            "[\\x00-\\x{10FFFF}]{0,6}".prop_map(Into::into),
        ];
        scalar.prop_recursive(4, 64, 24, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
                proptest::collection::hash_map("[a\"\\\\é\\x{E000}\\x{1F600}]{0,3}", inner, 0..24)
                    .prop_map(|members| members.into_iter().collect::<serde_json::Map<_, _>>().into()),
            ]
        })
    }

    fn refused(json: &str) -> Option<(String, Ambiguity)> {
        match of(json) {
            Err(Unclear::At { pointer, why }) => Some((pointer, why)),
            _ => None,
        }
    }

    #[test]
    fn the_examples_of_rfc_8785_come_out_as_printed_there() {
        let input = r#"{"numbers":[333333333.33333329,1E30,4.50,2e-3,0.000000000000000000000000001],"string":"\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/","literals":[null,true,false]}"#;
        let output =
            r#"{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],"string":"€$\u000f\nA'B\"\\\\\"/"}"#;
        // The double nearest to the first number is another number: 333333333.33333331, in 17 digits.
        assert_eq!(refused(input), Some(("/numbers/0".to_owned(), Ambiguity::InexactNumber)));
        assert_eq!(of(&input.replace("333.33333329", "333.3333333")).as_deref(), Ok(output));
        // Section 3.2.3: sorted by UTF-16 code units.
        let input = r#"{"\u20ac":"Euro Sign","\r":"Carriage Return","\ufb33":"Hebrew Letter Dalet With Dagesh","1":"One","\ud83d\ude00":"Emoji: Grinning Face","\u0080":"Control","\u00f6":"Latin Small Letter O With Diaeresis"}"#;
        let output = "{\"\\r\":\"Carriage Return\",\"1\":\"One\",\"\u{80}\":\"Control\",\"ö\":\"Latin Small Letter O With Diaeresis\",\"€\":\"Euro Sign\",\"😀\":\"Emoji: Grinning Face\",\"\u{fb33}\":\"Hebrew Letter Dalet With Dagesh\"}";
        assert_eq!(of(input).as_deref(), Ok(output));
    }

    #[test]
    fn numbers_that_mean_the_same_are_spelled_the_same() {
        for (json, expected) in [
            ("1.0", "1"),
            ("1e2", "100"),
            ("-0", "0"),
            ("0e99999999999999999999", "0"),
            ("1E21", "1e+21"),
            ("0.10", "0.1"),
            ("0.10000000000000001", "0.1"),
        ] {
            assert_eq!(of(json).as_deref(), Ok(expected), "{json}");
        }
        assert_eq!(of("9007199254740994").as_deref(), Ok("9007199254740994"));
        assert_eq!(of("18014398509481984").as_deref(), Ok("18014398509481984"));
    }

    #[test]
    fn a_number_that_a_double_cannot_hold_is_refused() {
        for json in [
            "9007199254740993",
            "1e400",
            "0.1000000000000000055",
            "0.30000000000000001",
            "1234567890123456.7",
            "1e-400",
            "12345678901234567890",
            "1e-99999999999999999999",
        ] {
            assert_eq!(refused(json), Some((String::new(), Ambiguity::InexactNumber)), "{json}");
        }
        assert_eq!(refused(r#"{"a":[0,{"b/c":9007199254740993}]}"#), Some(("/a/1/b~1c".to_owned(), Ambiguity::InexactNumber)));
    }

    #[test]
    fn a_member_named_twice_is_refused_however_it_is_spelled() {
        assert_eq!(refused(r#"{"a":{"b":1,"\u0062":2}}"#), Some(("/a/b".to_owned(), Ambiguity::DuplicateMember)));
    }

    #[test]
    fn what_no_reader_takes_is_told_from_what_is_not_json() {
        for json in ["", "{", "[1,]", "{\"a\" 1}", "nul", "1 2", "\u{feff}1", "01"] {
            assert_eq!(of(json), Err(Unclear::NotJson), "{json}");
        }
        assert_eq!(canonical(b"\"\xff\""), Err(Unclear::NotJson));
        assert_eq!(refused(r#"{"a":"\ud800"}"#), Some(("/a".to_owned(), Ambiguity::Unreadable)));
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        assert!(matches!(refused(&deep), Some((_, Ambiguity::Unreadable))));
    }

    #[test]
    fn a_value_is_found_by_its_place() {
        let json = br#" {"a":{"b/c":[10,{"d":"x"}]},"n":null,"t":1,"t":2,"big":9007199254740993} "#;
        let at = |path: &[&str]| canonical_at(json, &path.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        assert_eq!(at(&["a", "b/c", "1", "d"]), Ok(Some("\"x\"".to_owned())));
        assert_eq!(at(&["a", "b/c", "0"]), Ok(Some("10".to_owned())));
        for nothing in
            [&["n"][..], &["x"], &["a", "b/c", "2"], &["a", "b/c", "x"], &["a", "b/c", "00"], &["a", "b/c", "+0"], &["a", "b/c", "0", "y"]]
        {
            assert_eq!(at(nothing), Ok(None), "{nothing:?}");
        }
        let canonical = of(r#"{"a":{"b/c":[10,{"d":"x"}]},"n":null}"#).unwrap_or_default();
        let in_canonical = |path: &[&str]| value_at(&canonical, &path.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        for path in [&["a", "b/c", "1", "d"][..], &["a", "b/c", "0"], &["n"], &["x"], &["a", "b/c", "2"]] {
            assert_eq!(Ok(in_canonical(path).map(str::to_owned)), at(path), "{path:?}");
        }
        assert_eq!(at(&["t"]), Err(Unclear::At { pointer: "/t".to_owned(), why: Ambiguity::DuplicateMember }));
        assert_eq!(at(&["big"]), Err(Unclear::At { pointer: "/big".to_owned(), why: Ambiguity::InexactNumber }));
    }

    proptest! {
        #[test]
        fn every_double_is_exact_in_every_spelling(bits in any::<u64>()) {
            let double = f64::from_bits(bits);
            prop_assume!(double.is_finite());
            for text in [format!("{double:e}"), format!("{double:.16e}"), format!("{double}")] {
                prop_assert_eq!(number::tests::exact(&text), Some(double), "{}", text);
            }
            let text = of(&format!("{double:e}"));
            prop_assert_eq!(text.ok().and_then(|text| text.parse::<f64>().ok()), Some(double));
        }

        #[test]
        fn any_value_comes_out_as_an_independent_implementation_writes_it(value in value(), pretty in any::<bool>()) {
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) };
            let expected = serde_json_canonicalizer::to_string(&value).map_err(|_| Unclear::NotJson);
            prop_assert_eq!(of(&text.unwrap_or_default()), expected);
        }

        #[test]
        fn the_canonical_form_is_its_own_canonical_form(text in "[\\x00-\\x{FFFF}]{0,20}", number in any::<i32>()) {
            let json = serde_json::json!({ &text: [number, { "x": text }] }).to_string();
            let once = of(&json);
            prop_assert!(once.is_ok());
            prop_assert_eq!(of(&once.clone().unwrap_or_default()), once);
        }
    }
}
