//! The corpus of costly bodies: recipes in `bench/corpus/*.json`, which found mutants are added to.

use std::fs;
use std::path::{Path, PathBuf};

use super::body::Recipe;

/// Where mutants go that cost more than every body before them.
const FOUND: &str = "found.json";
/// The corpus is read by people too.
const MAX_BYTES: usize = 64 << 10;

fn dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("bench/corpus")
}

fn read(file: &Path) -> Vec<Recipe> {
    let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// Every recipe, in the order of the files' names.
pub(crate) fn load() -> Vec<Recipe> {
    let mut files: Vec<_> = fs::read_dir(dir()).expect("a corpus").map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "json")).flat_map(|file| read(file)).collect()
}

/// Adds mutants, as far as there is room.
pub(crate) fn keep(mutants: impl Iterator<Item = Recipe>) {
    let file = dir().join(FOUND);
    let mut all = if file.exists() { read(&file) } else { Vec::new() };
    let others: usize = fs::read_dir(dir())
        .expect("a corpus")
        .flatten()
        .filter(|entry| entry.path() != file)
        .filter_map(|entry| Some(entry.metadata().ok()?.len()))
        .map(|len| usize::try_from(len).unwrap_or(MAX_BYTES))
        .sum();
    let mut text = None;
    for mutant in mutants {
        if all.contains(&mutant) {
            continue;
        }
        all.push(mutant);
        let longer = lines(&all);
        if others + longer.len() > MAX_BYTES {
            eprintln!("the corpus is full: the last mutants are not kept");
            break;
        }
        text = Some(longer);
    }
    if let Some(text) = text {
        fs::write(&file, text).expect("the corpus can be written");
    }
}

/// One recipe a line.
fn lines(recipes: &[Recipe]) -> String {
    let lines: Vec<_> = recipes.iter().map(|recipe| serde_json::to_string(recipe).expect("JSON")).collect();
    format!("[\n{}\n]\n", lines.join(",\n"))
}
