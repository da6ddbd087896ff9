//! Where settings come from: a TOML file, the environment, flags; laid over each other by the `config` crate.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::reader::{EMPTY_LIST, EMPTY_TABLE};
use config::{Environment, File, FileFormat, Source, Value, ValueKind};

/// What the command line says about settings.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// `--config`; else `CXDA_CONFIG`.
    pub file: Option<PathBuf>,
    /// `--set name=value`.
    pub set: Vec<(String, String)>,
    /// A file whose secret signs in place of whatever else is set.
    pub secret_file: Option<PathBuf>,
    /// Values that are weaker than everything else, such as those of `dev`.
    pub defaults: Vec<(String, String)>,
}

/// Names that everybody spells without our prefix, and the settings they are.
const COMMON: [(&str, &str); 5] = [
    ("DATABASE_URL", "CXDA_DATABASE__URL"),
    ("DATABASE_URL_FILE", "CXDA_DATABASE__URL_FILE"),
    ("REDIS_URL", "CXDA_REDIS__URL"),
    ("REDIS_URL_FILE", "CXDA_REDIS__URL_FILE"),
    ("RUST_LOG", "CXDA_LOG__FILTER"),
];

/// All values by dotted name, and what was wrong with their sources.
pub(super) fn collect(flags: &Flags) -> (BTreeMap<String, String>, Vec<String>) {
    let mut problems = Vec::new();
    let mut values: BTreeMap<String, String> = flags.defaults.iter().cloned().collect();
    let mut env = environment(&mut problems);
    let named = env.remove("CXDA_CONFIG").map(PathBuf::from);
    if let Some(file) = flags.file.clone().or(named) {
        values.extend(from_file(&file, &mut problems));
    }
    // Without `try_parsing`: that would turn the password 007 into 7. With `prefix_separator`: else it is `__` as well.
    let layer = Environment::with_prefix("CXDA").prefix_separator("_").separator("__").ignore_empty(true).source(Some(env));
    values.extend(flattened(&layer, "environment", &mut problems));
    values.extend(flags.set.iter().cloned());
    if let Some(path) = &flags.secret_file {
        let names_keys = |name: &str| name.starts_with("genesys.keys[") || (name.starts_with("webhooks[") && name.contains("].keys["));
        values.retain(|name, _| name != "signing.secret" && !name.starts_with("signing.keys[") && !names_keys(name));
        values.insert("signing.secret_file".to_owned(), path.display().to_string());
    }
    (values, problems)
}

/// The value of `PATH`, for `dev` to find PostgreSQL's programs.
#[expect(clippy::disallowed_methods, reason = "the module that may read the environment")]
pub fn search_path() -> Option<OsString> {
    std::env::var_os("PATH")
}

#[expect(clippy::disallowed_methods, reason = "the module that may read the environment")]
fn environment(problems: &mut Vec<String>) -> HashMap<String, String> {
    let text = |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value.into_string().ok()?));
    let mut env: HashMap<_, _> = std::env::vars_os().filter_map(text).filter(|(_, value)| !value.is_empty()).collect();
    for (common, ours) in COMMON {
        if let Some(value) = env.remove(common) {
            if env.get(ours).is_some_and(|other| *other != value) {
                problems.push(format!("{common}: {ours} is set too, to something else"));
            }
            env.insert(ours.to_owned(), value);
        }
    }
    env.retain(|name, _| name.starts_with("CXDA_"));
    env
}

fn from_file(path: &Path, problems: &mut Vec<String>) -> BTreeMap<String, String> {
    match std::fs::read_to_string(path) {
        Ok(text) => {
            // Its own message shows the line, which may hold a secret.
            if let Err(error) = text.parse::<toml::Table>() {
                let line = error.span().map_or(1, |span| text[..span.start].lines().count().max(1));
                problems.push(format!("{}: line {line}: {}", path.display(), error.message()));
                return BTreeMap::new();
            }
            flattened(&File::from_str(&text, FileFormat::Toml), &path.display().to_string(), problems)
        }
        Err(error) => {
            problems.push(format!("{}: cannot be read: {error}", path.display()));
            BTreeMap::new()
        }
    }
}

fn flattened(source: &dyn Source, origin: &str, problems: &mut Vec<String>) -> BTreeMap<String, String> {
    let mut flat = BTreeMap::new();
    match source.collect() {
        Ok(values) => values.into_iter().for_each(|(name, value)| flatten(name, value, &mut flat)),
        Err(error) => problems.push(format!("{origin}: {error}")),
    }
    flat
}

/// `a.b` for members, `a[0]` for items.
fn flatten(name: String, value: Value, flat: &mut BTreeMap<String, String>) {
    match value.kind {
        // In a list, a table may say something by merely being there.
        ValueKind::Table(members) if members.is_empty() && name.contains('[') => drop(flat.insert(name, EMPTY_TABLE.to_owned())),
        ValueKind::Table(members) => members.into_iter().for_each(|(member, value)| flatten(format!("{name}.{member}"), value, flat)),
        // Kept, so that a list emptied by mistake is not read as one that was never given.
        ValueKind::Array(items) if items.is_empty() => drop(flat.insert(name, EMPTY_LIST.to_owned())),
        ValueKind::Array(items) => items.into_iter().enumerate().for_each(|(at, value)| flatten(format!("{name}[{at}]"), value, flat)),
        ValueKind::Nil => {}
        scalar => {
            flat.insert(name, scalar.to_string());
        }
    }
}
