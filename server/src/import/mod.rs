//! `longtail import`: settings of another broker as ours.
//!
//! ```text
//! file ──▶ lines ──▶ one reader per subject (options, listeners, accounts) ──▶ Imported ──▶ TOML
//!                                                                                └──▶ notes
//! ```
//!
//! Nothing is dropped silently: an option that has no counterpart becomes a note with its place and the reason.

mod mosquitto;

use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use toml::{Table, Value};

use crate::cli::ImportArgs;
use crate::exit_codes::{Exit, Failure};

/// Something that was not carried over as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Note {
    /// Where it stands.
    pub(crate) place: Place,
    /// What about it.
    pub(crate) text: String,
}

/// A line of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) file: PathBuf,
    pub(crate) line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// What a file of another broker came to.
#[derive(Debug, Default)]
pub(crate) struct Imported {
    /// Our settings.
    pub(crate) settings: Table,
    /// What could not be carried over, in the order of the file.
    pub(crate) notes: Vec<Note>,
}

impl Imported {
    /// Sets `path` (names joined by dots).
    fn set(&mut self, path: &str, value: impl Into<Value>) {
        let mut table = &mut self.settings;
        let mut names = path.split('.').peekable();
        while let Some(name) = names.next() {
            if names.peek().is_none() {
                table.insert(name.to_owned(), value.into());
                return;
            }
            let entry = table
                .entry(name)
                .or_insert_with(|| Value::Table(Table::new()));
            match entry {
                Value::Table(inner) => table = inner,
                _ => return,
            }
        }
    }

    fn note(&mut self, place: &Place, text: impl Into<String>) {
        self.notes.push(Note {
            place: place.clone(),
            text: text.into(),
        });
    }
}

/// Writes the settings to standard output or a new file, and what was left out to standard error.
pub(crate) fn run(args: &ImportArgs) -> Result<Exit, Failure> {
    let imported =
        mosquitto::import(&args.file).map_err(|error| Failure::new(Exit::Usage, error))?;
    let text = document(&args.file, &imported)?;
    match &args.output {
        None => io::stdout().write_all(text.as_bytes())?,
        Some(path) => {
            let mut file = std::fs::File::create_new(path)
                .with_context(|| format!("cannot create {}", path.display()))
                .map_err(|error| Failure::new(Exit::Usage, error))?;
            file.write_all(text.as_bytes())?;
            writeln!(io::stderr(), "wrote {}", path.display())?;
        }
    }
    for note in &imported.notes {
        writeln!(io::stderr(), "{}: {}", note.place, note.text)?;
    }
    Ok(Exit::Ok)
}

/// The settings as a document that says where they come from and what is missing.
fn document(source: &Path, imported: &Imported) -> Result<String, Failure> {
    let mut text = format!("# Imported from {}.\n", source.display());
    for note in &imported.notes {
        text.push_str(&format!("# {}: {}\n", note.place, note.text));
    }
    text.push('\n');
    let settings = toml::to_string_pretty(&imported.settings).map_err(|error| anyhow!(error))?;
    text.push_str(&settings);
    Ok(text)
}
