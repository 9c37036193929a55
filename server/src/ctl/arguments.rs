//! From words to what a command is called with. A command's own arguments are read from its usage text, so that the text
//! cannot be wrong.

use std::collections::BTreeMap;

use serde_json::Value;

use super::commands::Command;
use super::error::CtlError;
use super::render::Format;
use crate::config::suggest;

/// Options of every command that take a value: long name, short one.
const VALUED: &[(&str, &str)] = &[
    ("--vhost", "-p"),
    ("--node", "-n"),
    ("--formatter", "-f"),
    ("--format", ""),
    ("--timeout", "-t"),
    ("--uri", "-U"),
    ("--host", "-H"),
    ("--user", ""),
    ("--password", ""),
];
/// Options of every command without one.
const FLAGS: &[(&str, &str)] = &[
    ("--quiet", "-q"),
    ("--silent", "-s"),
    ("--longnames", "-l"),
    ("--no-table-headers", ""),
    ("--help", "-h"),
];

/// What a usage text says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Shape {
    required: Vec<&'static str>,
    optional: Vec<&'static str>,
    /// Whether any number of words may follow.
    rest: bool,
    /// Long name, short one, whether it takes a value.
    switches: Vec<(&'static str, &'static str, bool)>,
}

impl Shape {
    pub(super) fn of(usage: &'static str) -> Self {
        let mut shape = Shape::default();
        let mut words = usage.split_whitespace().peekable();
        while let Some(word) = words.next() {
            let bare = word.trim_matches(|c| "[]<>".contains(c));
            if let Some(switch) = word.strip_prefix('[').filter(|word| word.starts_with('-')) {
                let (long, short) = bare.split_once('|').unwrap_or((bare, ""));
                let takes = !switch.ends_with(']');
                if takes {
                    words.next();
                }
                shape.switches.push((long, short, takes));
            } else if bare.ends_with("...") {
                shape.rest = true;
            } else if word.starts_with('[') {
                shape.optional.push(bare);
            } else {
                shape.required.push(bare);
            }
        }
        shape
    }

    /// The long name of an option, and whether it takes a value: the command's own come first.
    fn option(&self, word: &str) -> Option<(&'static str, bool)> {
        let own = self.switches.iter().copied();
        let all = |list: &'static [(&'static str, &'static str)], takes: bool| {
            list.iter().map(move |(long, short)| (*long, *short, takes))
        };
        own.chain(all(VALUED, true))
            .chain(all(FLAGS, false))
            .find(|(long, short, _)| *long == word || !short.is_empty() && *short == word)
            .map(|(long, _, takes)| (long, takes))
    }

    fn is_own(&self, name: &str) -> bool {
        self.switches.iter().any(|(long, _, _)| *long == name)
    }
}

/// What was typed, but for the command: its name, options of every command, and what is the command's own.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) vhost: Option<String>,
    pub(super) quiet: bool,
    pub(super) silent: bool,
    pub(super) headers_off: bool,
    pub(super) help: bool,
    pub(super) format: Format,
    pub(super) timeout_s: Option<u64>,
    pub(super) uri: Option<String>,
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
}

impl Options {
    fn set(&mut self, name: &str, value: String) -> Result<(), CtlError> {
        match name {
            "--vhost" => self.vhost = Some(value),
            "--uri" | "--host" => self.uri = Some(value),
            "--user" => self.user = Some(value),
            "--password" => self.password = Some(value),
            "--quiet" => self.quiet = true,
            "--silent" => self.silent = true,
            "--no-table-headers" => self.headers_off = true,
            "--help" => self.help = true,
            "--formatter" | "--format" => self.format = Format::of(&value)?,
            "--timeout" => {
                let seconds = value.parse();
                self.timeout_s = Some(seconds.map_err(|_| {
                    CtlError::Usage(format!("--timeout takes seconds, not '{value}'"))
                })?);
            }
            // There is one node, which --uri names, however it calls itself.
            _ => {}
        }
        Ok(())
    }
}

/// A command with everything it was given.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) command: &'static Command,
    pub(super) options: Options,
    pub(super) rest: Vec<String>,
    values: BTreeMap<&'static str, String>,
}

impl Call {
    /// An argument by its name in the usage text, or a switch by its long name.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        match name {
            "vhost" => Some(
                self.values
                    .get("vhost")
                    .map_or(self.vhost(), String::as_str),
            ),
            name => self.values.get(name).map(String::as_str),
        }
    }

    /// The same; empty when it was not given.
    pub(super) fn text(&self, name: &str) -> &str {
        self.get(name).unwrap_or_default()
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    pub(super) fn vhost(&self) -> &str {
        self.options.vhost.as_deref().unwrap_or("/")
    }

    /// An argument that is JSON.
    pub(super) fn json(&self, name: &str) -> Result<Value, CtlError> {
        serde_json::from_str(self.text(name))
            .map_err(|error| CtlError::Data(format!("{name} is no JSON: {error}")))
    }

    /// A switch that is a whole number.
    pub(super) fn integer(&self, name: &str) -> Result<Option<i64>, CtlError> {
        let read = |text: &str| {
            text.parse()
                .map_err(|_| CtlError::Data(format!("{name} takes a whole number, not '{text}'")))
        };
        self.get(name).map(read).transpose()
    }

    /// `{name}` in a template replaced by what `{name}` is, as `written` writes it.
    pub(super) fn fill(&self, template: &str, written: impl Fn(&str) -> String) -> String {
        let mut out = String::new();
        let mut left = template;
        while let Some((before, after)) = left.split_once('{') {
            let (name, after) = after.split_once('}').unwrap_or((after, ""));
            out.push_str(before);
            match name {
                "rest" => out.push_str(&self.rest.join(", ")),
                name => out.push_str(&written(self.text(name))),
            }
            left = after;
        }
        out + left
    }
}

/// What was typed.
#[derive(Debug)]
pub(super) enum Typed {
    /// Nothing, or a wish for help; with the command that it is about.
    Help(Option<String>),
    /// A command's name, the words after it in order, and options before it.
    Words {
        name: String,
        before: Vec<String>,
        after: Vec<String>,
    },
}

/// Finds the command among the words: options may be before it.
pub(super) fn split(words: Vec<String>) -> Typed {
    let shape = Shape::default();
    let mut before = Vec::new();
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        if !word.starts_with('-') {
            if word == "help" {
                return Typed::Help(words.next());
            }
            let after = words.collect();
            return Typed::Words {
                name: word,
                before,
                after,
            };
        }
        let takes = shape.option(&word).is_some_and(|(_, takes)| takes);
        before.push(word);
        if takes {
            before.extend(words.next());
        }
    }
    Typed::Help(None)
}

/// Reads what a command was given.
///
/// # Errors
/// [`CtlError::Usage`].
pub(super) fn parse(
    command: &'static Command,
    before: Vec<String>,
    after: Vec<String>,
) -> Result<Call, CtlError> {
    let shape = Shape::of(command.usage);
    let mut options = Options::default();
    let mut values = BTreeMap::new();
    let mut given = Vec::new();
    let general = Shape::default();
    read(&general, before, &mut given, |name, value| {
        options.set(name, value)
    })?;
    read(&shape, after, &mut given, |name, value| {
        if shape.is_own(name) {
            values.insert(name, value);
            return Ok(());
        }
        options.set(name, value)
    })?;
    let mut given = given.into_iter();
    let mut names = shape.required.iter().chain(&shape.optional);
    let named = shape.required.len() + shape.optional.len();
    for (name, value) in names.by_ref().take(named).zip(given.by_ref()) {
        values.insert(*name, value);
    }
    let rest: Vec<String> = given.collect();
    if !options.help {
        if let Some(missing) = shape
            .required
            .iter()
            .find(|name| !values.contains_key(*name))
        {
            return Err(CtlError::Usage(format!(
                "{} needs <{missing}>",
                command.name
            )));
        }
        if !rest.is_empty() && !shape.rest {
            return Err(CtlError::Usage(format!(
                "{} takes fewer arguments: '{}' is one too many",
                command.name,
                rest.join(" ")
            )));
        }
    }
    Ok(Call {
        command,
        options,
        rest,
        values,
    })
}

/// Tells options from arguments. After `--` there are no options.
fn read(
    shape: &Shape,
    words: Vec<String>,
    given: &mut Vec<String>,
    mut set: impl FnMut(&'static str, String) -> Result<(), CtlError>,
) -> Result<(), CtlError> {
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        if word == "--" {
            given.extend(words);
            return Ok(());
        }
        if word == "-" || !word.starts_with('-') || word.parse::<f64>().is_ok() {
            given.push(word);
            continue;
        }
        let (name, attached) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (word.as_str(), None),
        };
        let Some((long, takes)) = shape.option(name) else {
            let own = shape.switches.iter().map(|(long, _, _)| *long);
            let all = own.chain(VALUED.iter().chain(FLAGS).map(|(long, _)| *long));
            let hint = suggest::hint(name, all);
            return Err(CtlError::Usage(format!("unknown option {name}{hint}")));
        };
        let value = match (takes, attached) {
            (true, Some(value)) => value,
            (true, None) => words
                .next()
                .ok_or_else(|| CtlError::Usage(format!("{name} needs a value")))?,
            (false, Some(_)) => {
                return Err(CtlError::Usage(format!("{name} takes no value")));
            }
            (false, None) => "true".to_owned(),
        };
        set(long, value)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
