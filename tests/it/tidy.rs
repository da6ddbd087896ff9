//! The house keeps its own rules: which room may know which, every setting documented, migrations numbered.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use cxone_data_action::config::Config;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry").path());
    let files = entries.flat_map(|path| if path.is_dir() { rust_files(&path) } else { vec![path] });
    files.filter(|path| path.extension().is_some_and(|extension| extension == "rs")).collect()
}

/// The rooms of `src` that a file names.
fn named_rooms(file: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(file).expect("text");
    let code = text.split("#[cfg(test)]").next().expect("a first part");
    let after = code.split("crate::").skip(1);
    after.map(|rest| rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()).collect()
}

#[test]
fn rooms_know_only_those_that_they_may() {
    let allowed: [(&str, &[&str]); 11] = [
        ("domain", &["domain"]),
        ("metrics.rs", &[]),
        ("metrics", &[]),
        ("telemetry.rs", &[]),
        ("config", &["domain"]),
        ("app", &["app", "domain", "metrics"]),
        ("http", &["app", "domain", "metrics", "config", "http"]),
        ("adapters", &["adapters", "app", "domain", "metrics", "config"]),
        ("server.rs", &["adapters", "app", "config", "http", "metrics", "telemetry"]),
        ("server", &["adapters", "app", "config", "domain", "http", "metrics"]),
        ("cli", &["adapters", "config", "domain", "server", "telemetry"]),
    ];
    let src = root().join("src");
    for (room, may_know) in allowed {
        let place = src.join(room);
        let files = if place.is_dir() { rust_files(&place) } else { vec![place] };
        for file in files {
            let strangers: Vec<_> = named_rooms(&file).into_iter().filter(|named| !may_know.contains(&named.as_str())).collect();
            assert!(strangers.is_empty(), "{} names {strangers:?}", file.display());
        }
    }
}

#[test]
fn use_cases_know_no_http_no_sql_and_no_redis() {
    for file in rust_files(&root().join("src/app")).into_iter().chain(rust_files(&root().join("src/domain"))) {
        let text = fs::read_to_string(&file).expect("text");
        for word in ["actix", "postgres", "redis", "reqwest", "failsafe", "moka"] {
            assert!(!text.contains(&format!("{word}::")) && !text.contains(&format!("{word}_web")), "{} names {word}", file.display());
        }
    }
}

#[test]
fn no_file_is_too_long_to_read() {
    for file in rust_files(&root().join("src")).into_iter().chain(rust_files(&root().join("tests"))) {
        let lines = fs::read_to_string(&file).expect("text").lines().count();
        assert!(lines <= 450, "{} has {lines} lines", file.display());
    }
}

#[test]
fn every_setting_is_in_the_example_and_in_the_readme() {
    let example = fs::read_to_string(root().join(".env.example")).expect("the example");
    let readme = fs::read_to_string(root().join("README.md")).expect("the README");
    let env_names = example.lines().filter_map(|line| line.trim_start_matches("# ").split_once('=').map(|(name, _)| name));
    let shown: BTreeSet<_> = env_names.filter(|name| name.chars().all(|c| c.is_ascii_uppercase() || c == '_')).map(str::to_owned).collect();
    let mut known: BTreeSet<_> = Config::setting_names().iter().map(|name| Config::env_name(name)).collect();
    known.insert("CXDA_CONFIG".to_owned());
    assert_eq!(shown, known, ".env.example (left) and the settings (right)");
    for name in known {
        let without_file = name.strip_suffix("_FILE").unwrap_or(&name);
        let told = [name.as_str(), without_file].iter().any(|name| readme.contains(&format!("`{name}`")));
        assert!(told, "the README's table lacks {name}");
    }
}

#[test]
fn migrations_are_numbered_from_one_without_a_gap() {
    let names: Vec<_> = fs::read_dir(root().join("migrations"))
        .expect("migrations")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("text"))
        .collect();
    let mut numbers: Vec<u32> = names
        .iter()
        .filter_map(|name| name.strip_prefix('V'))
        .map(|rest| rest.split_once("__").expect("V<number>__<name>.sql").0.parse().expect("a number"))
        .collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=u32::try_from(numbers.len()).expect("few")).collect::<Vec<_>>());
}
