//! Reads settings by name and keeps every complaint, so that all of them are told at once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use super::{Invalid, Setting};

/// No wait of this service is shorter than the clock of Postgres's settings, nor longer than anybody means.
const SHORTEST: Duration = Duration::from_millis(2);
const LONGEST: Duration = Duration::from_hours(7 * 24);

/// How the source spells a table or a list with nothing in it.
pub(super) const EMPTY_TABLE: &str = "{}";
pub(super) const EMPTY_LIST: &str = "[]";

/// The values not yet read, what was read, and what was wrong.
pub(super) struct Reader {
    values: BTreeMap<String, String>,
    effective: Vec<Setting>,
    problems: Vec<String>,
    /// What items of a list are called, by their place in it.
    labels: BTreeMap<String, String>,
}

impl Reader {
    pub(super) fn new(values: BTreeMap<String, String>, problems: Vec<String>) -> Self {
        Self { values, effective: Vec::new(), problems, labels: BTreeMap::new() }
    }

    /// Notes what is wrong with a setting.
    pub(super) fn complain(&mut self, name: &str, problem: impl Display) {
        let name = self.display_name(name);
        self.problems.push(format!("{name}: {problem}"));
    }

    /// Gives an item of a list a name, for complaints.
    pub(super) fn label(&mut self, item: &str, label: &str) {
        self.labels.insert(item.to_owned(), label.to_owned());
    }

    /// Whether there is anything under this name.
    pub(super) fn has(&self, name: &str) -> bool {
        let within = |key: &String| key.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']));
        self.values.keys().any(within)
    }

    /// Takes a table that has no members, where it is one.
    pub(super) fn empty_table(&mut self, name: &str) {
        self.take_exactly(name, EMPTY_TABLE);
    }

    /// How many items a list has that may be empty, and must be a list.
    pub(super) fn list_len(&mut self, name: &str) -> usize {
        self.take_exactly(name, EMPTY_LIST);
        if self.values.remove(name).is_some() {
            self.complain(name, "must be a list");
        }
        self.table_len(name)
    }

    fn take_exactly(&mut self, name: &str, value: &str) {
        if self.values.get(name).is_some_and(|found| found == value) {
            self.values.remove(name);
        }
    }

    /// Whether there is a complaint about a setting whose name begins like this.
    pub(super) fn complained(&self, name: &str) -> bool {
        self.problems.iter().any(|problem| problem.starts_with(name))
    }

    /// Any type that parses from text.
    pub(super) fn parsed<T: FromStr<Err: Display> + Display>(&mut self, name: &str, default: T) -> T {
        let value = self.take(name, |text| text.parse::<T>().map_err(|e| e.to_string())).unwrap_or(default);
        self.note(name, Some(value.to_string()));
        value
    }

    /// A number within bounds.
    pub(super) fn within<T: FromStr<Err: Display> + Display + PartialOrd>(
        &mut self,
        name: &str,
        default: T,
        bounds: RangeInclusive<T>,
    ) -> T {
        let value = self.take_within(name, &bounds).unwrap_or(default);
        self.note(name, Some(value.to_string()));
        value
    }

    /// The same, and it may be missing.
    pub(super) fn optional_within<T: FromStr + Display + PartialOrd>(&mut self, name: &str, bounds: RangeInclusive<T>) -> Option<T> {
        let value = self.take_within(name, &bounds);
        self.note(name, value.as_ref().map(T::to_string));
        value
    }

    fn take_within<T: FromStr + Display + PartialOrd>(&mut self, name: &str, bounds: &RangeInclusive<T>) -> Option<T> {
        self.take(name, |text| match text.parse::<T>() {
            Ok(value) if bounds.contains(&value) => Ok(value),
            _ => Err(format!("must be a whole number from {} to {}", bounds.start(), bounds.end())),
        })
    }

    /// A duration with its unit, such as `250ms` or `1m 30s`.
    pub(super) fn duration(&mut self, name: &str, default: Duration) -> Duration {
        self.duration_within(name, default, SHORTEST..=LONGEST)
    }

    /// The same, or `0`, which needs no unit.
    pub(super) fn duration_or_zero(&mut self, name: &str, default: Duration) -> Duration {
        self.duration_within(name, default, Duration::ZERO..=LONGEST)
    }

    /// The same, within bounds.
    pub(super) fn duration_within(&mut self, name: &str, default: Duration, bounds: RangeInclusive<Duration>) -> Duration {
        let value = self.take(name, |text| {
            let parsed = if text == "0" { Ok(Duration::ZERO) } else { humantime::parse_duration(text) };
            let value = parsed.map_err(|_| "must be a duration with its unit, such as 250ms, 30s or 5m".to_owned())?;
            let [least, most] = [bounds.start(), bounds.end()].map(|bound| humantime::format_duration(*bound));
            if bounds.contains(&value) { Ok(value) } else { Err(format!("must be from {least} to {most}")) }
        });
        let value = value.unwrap_or(default);
        self.note(name, Some(humantime::format_duration(value).to_string()));
        value
    }

    /// A value that may be missing.
    pub(super) fn optional<T: FromStr<Err: Display>>(&mut self, name: &str) -> Option<T> {
        let text = self.values.get(name).cloned();
        self.note(name, text);
        self.take(name, |text| text.parse::<T>().map_err(|e| e.to_string()))
    }

    /// The name of an HTTP header.
    pub(super) fn header(&mut self, name: &str, default: Option<&str>) -> Option<String> {
        let value = self.take(name, |text| match reqwest::header::HeaderName::from_str(text) {
            Ok(_) => Ok(text.to_owned()),
            Err(_) => Err("must be the name of an HTTP header".to_owned()),
        });
        let value = value.or(default.map(str::to_owned));
        self.note(name, value.clone());
        value
    }

    /// A secret, or the file that holds it (`…_file`); a newline at the file's end is not part of it.
    pub(super) fn secret(&mut self, name: &str) -> Option<SecretString> {
        let file_name = format!("{name}_file");
        let direct = self.values.remove(name);
        let file = self.values.remove(&file_name);
        self.note(name, direct.as_ref().or(file.as_ref()).map(|_| "********".to_owned()));
        self.note(&file_name, file.clone());
        match (direct, file) {
            (Some(_), Some(_)) => {
                self.complain(name, format!("{} is set too: set one of them", self.display_name(&file_name)));
                None
            }
            (Some(text), None) => Some(text.into()),
            (None, Some(path)) => match std::fs::read_to_string(&path) {
                Ok(text) if text.trim_end().is_empty() => {
                    self.complain(&file_name, "the file is empty");
                    None
                }
                Ok(text) => Some(text.trim_end_matches(['\r', '\n']).to_owned().into()),
                Err(error) => {
                    self.complain(&file_name, format!("the file cannot be read: {error}"));
                    None
                }
            },
            (None, None) => None,
        }
    }

    /// A URL that its client understands. It may hold a password: what stands in it is never repeated.
    pub(super) fn url(&mut self, name: &str, understood: impl FnOnce(&str) -> bool) -> Option<SecretString> {
        // libpq's two ways to ask for what `require` does here: the certificate is always verified, and the host's name.
        let url = self
            .secret(name)?
            .expose_secret()
            .replace("sslmode=verify-full", "sslmode=require")
            .replace("sslmode=verify-ca", "sslmode=require");
        if !understood(&url) {
            self.complain(name, "is not a URL of this kind");
        }
        Some(url.into())
    }

    /// The path of a file that must serve its purpose.
    pub(super) fn file(&mut self, name: &str, check: impl FnOnce(&Path) -> Result<(), String>) -> Option<PathBuf> {
        let path = self.optional::<PathBuf>(name)?;
        if let Err(problem) = check(&path) {
            self.complain(name, format!("{}: {problem}", path.display()));
        }
        Some(path)
    }

    /// A list in the file; `None` where there is none.
    pub(super) fn list<T: FromStr<Err: Display> + Ord>(&mut self, name: &str) -> Option<BTreeSet<T>> {
        if self.values.remove(name).is_some() {
            self.complain(name, "must be a list of at least one");
        }
        let len = self.table_len(name);
        (len > 0).then(|| (0..len).filter_map(|at| self.optional(&format!("{name}[{at}]"))).collect())
    }

    /// How many items a list of the file has.
    pub(super) fn table_len(&self, name: &str) -> usize {
        (0..self.values.len()).take_while(|at| self.values.keys().any(|key| key.starts_with(&format!("{name}[{at}]")))).count()
    }

    /// Everything read so far.
    pub(super) fn effective(&self) -> Vec<Setting> {
        self.effective.clone()
    }

    /// All complaints; a value that nobody asked for is one too.
    pub(super) fn finish(mut self) -> Result<(), Invalid> {
        for name in std::mem::take(&mut self.values).keys() {
            self.complain(name, "there is no such setting");
        }
        self.problems.sort();
        if self.problems.is_empty() { Ok(()) } else { Err(Invalid(self.problems)) }
    }

    /// Both spellings, so that the reader finds the one that was used, `http.listen (CXDA_HTTP__LISTEN)`; for items of lists,
    /// which only a file has, with the name that they go by: `webhooks[0].lease of /webhooks/dialog`.
    fn display_name(&self, name: &str) -> String {
        if !name.contains('[') {
            return format!("{name} ({})", env_name(name));
        }
        let label = self.labels.iter().find(|(item, _)| name.strip_prefix(item.as_str()).is_some_and(|rest| rest.starts_with('.')));
        label.map_or_else(|| name.to_owned(), |(_, label)| format!("{name} of {label}"))
    }

    fn take<T>(&mut self, name: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        match parse(self.values.remove(name)?.trim()) {
            Ok(value) => Some(value),
            Err(problem) => {
                self.complain(name, problem);
                None
            }
        }
    }

    fn note(&mut self, name: &str, value: Option<String>) {
        self.effective.push(Setting { name: name.to_owned(), value });
    }
}

/// The environment's spelling of a setting.
pub(super) fn env_name(name: &str) -> String {
    match name {
        "database.url" => "DATABASE_URL".to_owned(),
        "database.url_file" => "DATABASE_URL_FILE".to_owned(),
        "redis.url" => "REDIS_URL".to_owned(),
        "redis.url_file" => "REDIS_URL_FILE".to_owned(),
        "log.filter" => "RUST_LOG".to_owned(),
        _ => format!("CXDA_{}", name.replace('.', "__").to_uppercase()),
    }
}
