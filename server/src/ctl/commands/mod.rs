//! The commands there are: how each is called, what it says, and the request that it is.

mod absent;
mod access;
mod links;
mod running;
mod settings;
mod topology;

use serde_json::Value;

use super::arguments::Call;
use super::client::Client;
use super::error::CtlError;
use super::render::Output;

pub(super) use absent::instead_of;

/// A command.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) name: &'static str,
    /// Its arguments: `<needed>`, `[<optional>]`, `[<any number>...]`, `[--switch]`, `[--switch|-s <value>]`.
    pub(super) usage: &'static str,
    pub(super) about: &'static str,
    /// What is printed first, with `{argument}`; empty: nothing.
    pub(super) banner: &'static str,
    pub(super) action: Action,
}

/// What a command does.
#[derive(Debug)]
pub(super) enum Action {
    /// One request. `{argument}` in the path is replaced, escaped.
    Do {
        method: &'static str,
        path: &'static str,
        body: fn(&Call) -> Result<Option<Value>, CtlError>,
    },
    /// A list that is asked for.
    List {
        path: &'static str,
        columns: &'static [Column],
        /// The columns that are shown unless others are named.
        shown: &'static [&'static str],
    },
    /// More than that.
    Own(fn(&Call, &Client) -> Result<Output, CtlError>),
}

/// A column's name, and what it is of an object: field names joined with dots, behind `#` shown as JSON,
/// or a constant behind `=`.
pub(super) type Column = (&'static str, &'static str);

/// All commands.
pub(super) fn all() -> impl Iterator<Item = &'static Command> {
    [
        access::COMMANDS,
        topology::COMMANDS,
        running::COMMANDS,
        settings::COMMANDS,
        links::COMMANDS,
    ]
    .into_iter()
    .flatten()
}

/// A request without a body.
fn none(_: &Call) -> Result<Option<Value>, CtlError> {
    Ok(None)
}

/// A value as a parameter's body has it.
fn value(call: &Call) -> Result<Option<Value>, CtlError> {
    let value = call.json("value")?;
    Ok(Some(serde_json::json!({ "value": value })))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn commands_are_there_once_and_are_none_that_are_absent() {
        let mut names = HashSet::new();
        for command in all() {
            assert!(names.insert(command.name), "{} twice", command.name);
            assert!(instead_of(command.name).is_none(), "{}", command.name);
        }
    }

    #[test]
    fn lists_show_columns_that_they_have() {
        for command in all() {
            if let Action::List { columns, shown, .. } = command.action {
                for name in shown {
                    let mut names = columns.iter().map(|(name, _)| name);
                    assert!(names.any(|known| known == name), "{name}");
                }
            }
        }
    }
}
