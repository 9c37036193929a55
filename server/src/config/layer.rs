//! The sources of settings, each turned into a flat list of entries, weakest first.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

use super::address::ListenFlag;
use super::origin::Origin;
use super::schema::{self, KEYS, Kind, PROTOCOLS};
use super::{Entry, Problem, check};

/// Prefix of environment variables that are settings.
pub(crate) const ENVIRONMENT_PREFIX: &str = "LONGTAIL__";

/// Files that are read when none is named, the first that exists.
const FILES: &[&str] = &["longtail.toml", "/etc/longtail/longtail.toml"];

/// Largest configuration file, in bytes.
const FILE_MAX: u64 = 4 << 20;

/// What flags say.
#[derive(Clone, Debug, Default)]
pub(crate) struct Overrides {
    /// `--set KEY=VALUE`, in order.
    pub(crate) set: Vec<String>,
    /// `--data`.
    pub(crate) data: Option<PathBuf>,
    /// `--durability`.
    pub(crate) durability: Option<String>,
    /// `--listen`, in order.
    pub(crate) listen: Vec<ListenFlag>,
    /// `--only`.
    pub(crate) only: bool,
    /// `--log-format`.
    pub(crate) log_format: Option<String>,
    /// `--log-level`.
    pub(crate) log_level: Option<String>,
}

/// Everything settings are read from.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sources {
    /// The file, if there is one.
    pub(crate) file: Option<PathBuf>,
    /// The environment.
    pub(crate) environment: Vec<(String, String)>,
    /// The flags.
    pub(crate) overrides: Overrides,
}

impl Sources {
    /// The sources of this process: `file`, or else the usual files, and the environment.
    pub(crate) fn of_process(file: Option<PathBuf>, overrides: Overrides) -> Self {
        let file = file.or_else(|| FILES.iter().map(PathBuf::from).find(|path| path.is_file()));
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| {
                Some((
                    name.into_string().ok()?,
                    value.to_string_lossy().into_owned(),
                ))
            })
            .filter(|(name, _)| name.starts_with(ENVIRONMENT_PREFIX))
            .collect();
        Sources {
            file,
            environment,
            overrides,
        }
    }
}

/// All entries, weakest source first. Mistakes go to `problems`.
pub(super) fn entries(sources: &Sources, problems: &mut Vec<Problem>) -> Vec<Entry> {
    let mut entries = Vec::new();
    defaults(&mut entries, problems);
    if let Some(path) = &sources.file {
        file(path, &mut entries, problems);
    }
    for (name, text) in &sources.environment {
        let path = name
            .strip_prefix(ENVIRONMENT_PREFIX)
            .unwrap_or(name)
            .to_lowercase()
            .replace("__", ".");
        from_text(
            &path,
            text,
            Origin::Environment(name.clone()),
            &mut entries,
            problems,
        );
    }
    for setting in &sources.overrides.set {
        match setting.split_once('=') {
            Some((key, text)) => {
                let key = key.trim();
                from_text(
                    key,
                    text.trim(),
                    Origin::Set(key.to_owned()),
                    &mut entries,
                    problems,
                );
            }
            None => problems.push(Problem::new(
                Origin::Set(setting.clone()),
                "write --set section.key=value",
            )),
        }
    }
    flags(&sources.overrides, &mut entries, problems);
    entries
}

/// The defaults as entries; they pass the same checks as everything else.
fn defaults(entries: &mut Vec<Entry>, problems: &mut Vec<Problem>) {
    for key in KEYS {
        if let Some(default) = key.default {
            from_text(key.path, default, Origin::Default, entries, problems);
        }
    }
    for (protocol, address) in PROTOCOLS {
        let Some(address) = address else { continue };
        from_text(
            &format!("listeners.{protocol}"),
            address,
            Origin::Default,
            entries,
            problems,
        );
    }
}

fn from_text(
    path: &str,
    text: &str,
    origin: Origin,
    entries: &mut Vec<Entry>,
    problems: &mut Vec<Problem>,
) {
    match schema::kind_of(path) {
        Some(kind) => push(
            path,
            kind,
            check::from_text(kind, text),
            origin,
            entries,
            problems,
        ),
        None if schema::is_section(path) => {
            problems.push(Problem::new(
                origin,
                format!("`{path}` is a section, not a key"),
            ));
        }
        None => problems.push(Problem::new(origin, schema::unknown(path))),
    }
}

fn push(
    path: &str,
    kind: Kind,
    value: Value,
    origin: Origin,
    entries: &mut Vec<Entry>,
    problems: &mut Vec<Problem>,
) {
    match check::canonical(path, kind, value) {
        Ok(value) => entries.push(Entry {
            path: path.to_owned(),
            value,
            origin,
        }),
        Err(message) => problems.push(Problem::new(origin, message)),
    }
}

fn file(path: &Path, entries: &mut Vec<Entry>, problems: &mut Vec<Problem>) {
    let whole = |message: String| {
        Problem::new(
            Origin::File {
                path: path.to_owned(),
                line: 0,
            },
            message,
        )
    };
    let text = match read(path) {
        Ok(text) => text,
        Err(error) => return problems.push(whole(format!("cannot be read: {error}"))),
    };
    let (table, spans) = match (toml::from_str::<Table>(&text), DeTable::parse(&text)) {
        (Ok(table), Ok(spans)) => (table, spans),
        (Err(error), _) | (_, Err(error)) => {
            let line = error.span().map_or(0, |span| line_at(&text, span.start));
            let origin = Origin::File {
                path: path.to_owned(),
                line,
            };
            return problems.push(Problem::new(origin, error.message()));
        }
    };
    FileWalk {
        path,
        text: &text,
        entries,
        problems,
    }
    .table("", table, spans.get_ref());
}

fn read(path: &Path) -> std::io::Result<String> {
    let bytes = std::fs::metadata(path)?.len();
    if bytes > FILE_MAX {
        return Err(std::io::Error::other(format!(
            "{bytes} bytes are more than the limit of {FILE_MAX}"
        )));
    }
    std::fs::read_to_string(path)
}

fn line_at(text: &str, offset: usize) -> usize {
    text.bytes()
        .take(offset)
        .filter(|byte| *byte == b'\n')
        .count()
        + 1
}

/// Walks a parsed file beside its spans, so that every complaint names its line.
struct FileWalk<'a> {
    path: &'a Path,
    text: &'a str,
    entries: &'a mut Vec<Entry>,
    problems: &'a mut Vec<Problem>,
}

impl FileWalk<'_> {
    fn table(&mut self, prefix: &str, table: Table, spans: &DeTable<'_>) {
        for (name, value) in table {
            let path = if prefix.is_empty() {
                name.clone()
            } else {
                format!("{prefix}.{name}")
            };
            let found = spans.iter().find(|(key, _)| key.get_ref().as_ref() == name);
            let line = found.map_or(0, |(key, _)| line_at(self.text, key.span().start));
            let origin = Origin::File {
                path: self.path.to_owned(),
                line,
            };
            match (schema::kind_of(&path), value) {
                (Some(kind), value) => {
                    push(&path, kind, value, origin, self.entries, self.problems);
                }
                (None, Value::Table(inner)) if schema::is_section(&path) => {
                    if let Some(DeValue::Table(spans)) = found.map(|(_, value)| value.get_ref()) {
                        self.table(&path, inner, spans);
                    }
                }
                (None, value) if schema::is_section(&path) => {
                    let message =
                        format!("`{path}` is a section: write [{path}], not {path} = {value}");
                    self.problems.push(Problem::new(origin, message));
                }
                (None, _) => self
                    .problems
                    .push(Problem::new(origin, schema::unknown(&path))),
            }
        }
    }
}

fn flags(overrides: &Overrides, entries: &mut Vec<Entry>, problems: &mut Vec<Problem>) {
    let data = overrides
        .data
        .as_ref()
        .map(|path| path.to_string_lossy().into_owned());
    let plain = [
        ("data", "--data", &data),
        ("durability", "--durability", &overrides.durability),
        ("logging.format", "--log-format", &overrides.log_format),
        ("logging.level", "--log-level", &overrides.log_level),
    ];
    for (path, flag, value) in plain {
        if let (Some(text), Some(kind)) = (value, schema::kind_of(path)) {
            push(
                path,
                kind,
                Value::String(text.clone()),
                Origin::Flag(flag),
                entries,
                problems,
            );
        }
    }
    let mut listeners: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for flag in &overrides.listen {
        listeners
            .entry(&flag.protocol)
            .or_default()
            .push(Value::String(flag.address.to_string()));
    }
    for (protocol, addresses) in listeners {
        let origin = Origin::Flag("--listen");
        if protocol == schema::ADMIN {
            // One port: the last one named counts, as with every other setting.
            if let Some(address) = addresses.into_iter().next_back() {
                push(
                    "admin.listen",
                    Kind::AddressOrOff,
                    address,
                    origin,
                    entries,
                    problems,
                );
            }
        } else if schema::is_protocol(protocol) {
            let path = format!("listeners.{protocol}");
            push(
                &path,
                Kind::Listeners,
                Value::Array(addresses),
                origin,
                entries,
                problems,
            );
        } else {
            problems.push(Problem::new(
                origin,
                schema::unknown(&format!("listeners.{protocol}")),
            ));
        }
    }
}

/// `--only`: switches off whatever `--listen` does not name.
pub(super) fn apply_only(
    only: bool,
    listen: &[ListenFlag],
    values: &mut BTreeMap<String, (Value, Origin)>,
) {
    if !only {
        return;
    }
    let named = |name: &str| listen.iter().any(|flag| flag.protocol == name);
    let origin = || Origin::Flag("--only");
    for (protocol, _) in PROTOCOLS.iter().filter(|(protocol, _)| !named(protocol)) {
        values.insert(
            format!("listeners.{protocol}"),
            (Value::Array(Vec::new()), origin()),
        );
    }
    if !named(schema::ADMIN) {
        values.insert(
            "admin.listen".to_owned(),
            (Value::String("off".to_owned()), origin()),
        );
    }
}
