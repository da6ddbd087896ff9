//! Mutants of recipes: a token repeated or swapped, a unit nested, wrapped or spliced. The order of draws depends on the seed alone.

use fastrand::Rng;

use super::body::{Form, Recipe};

/// What is costly somewhere in JSON, in UTF-8 or in a form's encoding.
const TOKENS: [&str; 36] = [
    "1e308",
    "-1e308",
    "1e-308",
    "5e-324",
    "2.2250738585072011e-308",
    "0.1",
    "123456789012345678",
    "9007199254740993",
    "1E400",
    "-0",
    "0.000000000000000000000000000001",
    "3.141592653589793238462643383279",
    "\"\"",
    "\"\\u0041\"",
    "\"\\ud83d\\ude00\"",
    "\"\\ud800\"",
    "\"\\u0000\"",
    "\"\\n\"",
    "\"\u{e9}\"",
    "\"\u{20ac}\"",
    "\"\u{1f600}\"",
    "\"$N\":",
    "\"a\":",
    "\"$X\"",
    "true",
    "null",
    "[",
    "]",
    "{",
    "}",
    ",",
    ":",
    " ",
    "\r\n",
    "%41",
    "+",
];
/// Longer units would fill the corpus.
const MAX_UNIT: usize = 512;
/// `serde_json` goes no deeper than 127.
const MAX_DEPTH: usize = 125;

/// A change of `parent`; `other` is spliced in where chance has it so.
pub(crate) fn mutate(rng: &mut Rng, parent: &Recipe, other: &Recipe) -> Recipe {
    let mut mutant = parent.clone();
    for _ in 0..rng.usize(1..=3) {
        change(rng, &mut mutant, other);
    }
    if mutant.unit.len() > MAX_UNIT {
        mutant.unit.clone_from(&parent.unit);
    }
    mutant.depth = mutant.depth.min(MAX_DEPTH);
    let origin = parent.name.split(" / ").next().unwrap_or_default();
    mutant.name = format!("{origin} / {:08x}", rng.u32(..));
    mutant
}

fn change(rng: &mut Rng, mutant: &mut Recipe, other: &Recipe) {
    let mut tokens = tokens(&mutant.unit);
    let at = rng.usize(0..tokens.len().max(1));
    match rng.u8(0..8) {
        0 if !tokens.is_empty() => {
            let token = tokens[at].clone();
            let again = std::iter::repeat_n(token, rng.usize(1..=4));
            tokens.splice(at..at, again);
            mutant.unit = tokens.concat();
        }
        1 | 2 if !tokens.is_empty() => {
            TOKENS[rng.usize(0..TOKENS.len())].clone_into(&mut tokens[at]);
            mutant.unit = tokens.concat();
        }
        3 => {
            let (open, close) = if rng.bool() { ("[", "]") } else { ("{\"a\":", "}") };
            (mutant.open, mutant.close) = (open.to_owned(), close.to_owned());
            mutant.depth = [1, 2, 8, 30, 60, 118][rng.usize(0..6)];
        }
        4 => mutant.unit = format!("{}{}{}", mutant.unit, mutant.between, other.unit),
        5 if mutant.form == Form::Value => {
            // As text in a string, or as members of the request itself.
            let (before, after) = if rng.bool() { ("[", "]") } else { ("{", "}") };
            let member = if before == "{" { "\"$N\":" } else { "" };
            mutant.unit = format!("{member}{}", mutant.unit.trim_start_matches("\"$N\":"));
            (mutant.before, mutant.after, mutant.between) = (before.to_owned(), after.to_owned(), ",".to_owned());
        }
        6 => mutant.unit.clone_from(&other.unit),
        _ => {
            (mutant.before, mutant.after) = (other.before.clone(), other.after.clone());
            (mutant.between, mutant.form) = (other.between.clone(), other.form);
        }
    }
}

/// Words, strings and signs of JSON, one by one.
fn tokens(text: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let end = match first {
            '"' => rest[1..].find('"').map_or(rest.len(), |end| end + 2),
            _ if is_word(first) => rest.find(|letter| !is_word(letter)).unwrap_or(rest.len()),
            _ => first.len_utf8(),
        };
        tokens.push(rest[..end].to_owned());
        rest = &rest[end..];
    }
    tokens
}

fn is_word(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || "+-.$".contains(letter)
}
