//! The command line that scripts of RabbitMQ and LavinMQ expect, as a client of the management API: `longtail
//! rabbitmqctl`, `longtail lavinmqctl`, and the binary under either name.
//!
//! [`commands`] is a table: how each command is called and the request that it is. [`arguments`] reads what was typed,
//! [`client`] asks, [`render`] prints, [`error`] has the exit codes.

mod arguments;
mod client;
mod commands;
mod error;
mod render;

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use serde_json::Value;

use self::arguments::{Call, Typed};
use self::client::Client;
use self::commands::{Action, Column, Command};
use self::error::CtlError;
use self::render::Output;
use crate::commands::client::escaped;
use crate::config::suggest;

/// Names under which the binary is this command line.
const NAMES: &[&str] = &["rabbitmqctl", "lavinmqctl"];

/// The name of those that the program was started under, if it was.
pub(crate) fn is_started_as(program: Option<&OsStr>) -> bool {
    let name = program.and_then(|program| Path::new(program).file_stem());
    name.and_then(OsStr::to_str)
        .is_some_and(|name| NAMES.contains(&name))
}

/// Carries out what was typed after the name.
pub(crate) fn run(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let words = words.into_iter().map(OsString::into_string);
    let Ok(words) = words.collect::<Result<Vec<_>, _>>() else {
        return failed(CtlError::Usage("arguments have to be UTF-8".to_owned()));
    };
    match arguments::split(words) {
        Typed::Help(about) => help(about.as_deref()),
        Typed::Words {
            name,
            before,
            after,
        } => {
            let Some(command) = commands::all().find(|command| command.name == name) else {
                return failed(unknown(&name));
            };
            match arguments::parse(command, before, after) {
                Ok(call) if call.options.help => help(Some(command.name)),
                Ok(call) => carry_out(&call).map_or_else(failed, |()| ExitCode::SUCCESS),
                Err(error) => {
                    let code = failed(error);
                    eprintln!("\n{}", usage(command));
                    code
                }
            }
        }
    }
}

fn failed(error: CtlError) -> ExitCode {
    eprintln!("Error: {error}");
    error.into()
}

/// A command that there is none of.
fn unknown(name: &str) -> CtlError {
    match commands::instead_of(name) {
        Some(instead) => CtlError::Unavailable(format!("{name} is not available: {instead}")),
        None => {
            let hint = suggest::hint(name, commands::all().map(|command| command.name));
            CtlError::Usage(format!(
                "unknown command '{name}'{hint}\n  `rabbitmqctl help` lists all"
            ))
        }
    }
}

/// Prints; that nobody listens any more is no failure.
fn print(text: &str) -> Result<(), CtlError> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(CtlError::Software(format!("standard output: {error}")))
        }
        _ => Ok(()),
    }
}

fn usage(command: &Command) -> String {
    format!(
        "Usage\n\nrabbitmqctl [--uri <uri>] [--user <name>] [--password <password>] [--vhost|-p <vhost>] [--quiet|-q] \
         [--silent|-s] [--formatter|-f table|csv|json] [--timeout|-t <seconds>] {} {}\n",
        command.name, command.usage
    )
}

fn help(about: Option<&str>) -> ExitCode {
    let text = match about {
        None => {
            let lines = commands::all()
                .map(|command| format!("   {:<28} {}\n", command.name, command.about));
            format!(
                "Usage\n\nrabbitmqctl [options] <command> [arguments]\n\nThe server's management API is asked, at \
                 --uri or LONGTAIL_MANAGEMENT_URL [http://127.0.0.1:15672],\nas --user and --password or \
                 LONGTAIL_MANAGEMENT_USER and LONGTAIL_MANAGEMENT_PASSWORD [guest].\n`help <command>` shows options \
                 and arguments.\n\nCommands\n\n{}",
                lines.collect::<String>()
            )
        }
        Some(name) => match commands::all().find(|command| command.name == name) {
            Some(command) => format!("{}\n{}\n", usage(command), described(command)),
            None => return failed(unknown(name)),
        },
    };
    print(&text).map_or_else(failed, |()| ExitCode::SUCCESS)
}

fn described(command: &Command) -> String {
    let Action::List { columns, .. } = command.action else {
        return command.about.to_owned();
    };
    let names: Vec<_> = columns.iter().map(|(name, _)| *name).collect();
    format!("{}. Columns: {}", command.about, names.join(", "))
}

fn carry_out(call: &Call) -> Result<(), CtlError> {
    let client = Client::new(&call.options)?;
    if let Action::List { columns, shown, .. } = call.command.action {
        // Before anything is printed.
        picked(call, columns, shown)?;
    }
    if render::announces(&call.options) && !call.command.banner.is_empty() {
        print(&(call.fill(call.command.banner, str::to_owned) + "\n"))?;
    }
    let output = match call.command.action {
        Action::Own(run) => run(call, &client)?,
        Action::Do { method, path, body } => {
            let body = body(call)?;
            client
                .ask(method, &call.fill(path, escaped), body.as_ref(), None)
                .map_err(|refused| client.explain(call, refused))?;
            Output::Nothing
        }
        Action::List {
            path,
            columns,
            shown,
        } => {
            let answer = client.get(&call.fill(path, escaped));
            let answer = answer.map_err(|refused| client.explain(call, refused))?;
            rows(&answer, &picked(call, columns, shown)?)
        }
    };
    print(&render::render(&output, &call.options))
}

/// The columns that were asked for, or those that are shown unless others are.
fn picked(
    call: &Call,
    columns: &'static [Column],
    shown: &'static [&'static str],
) -> Result<Vec<Column>, CtlError> {
    let find = |name: &str| {
        let known = columns.iter().find(|(known, _)| *known == name);
        known.copied().ok_or_else(|| {
            let hint = suggest::hint(name, columns.iter().map(|(known, _)| *known));
            CtlError::Usage(format!("unknown column '{name}'{hint}"))
        })
    };
    // Some scripts name all columns in one word.
    let words = call.rest.iter().flat_map(|word| word.split([' ', ',']));
    let mut named = words.filter(|word| !word.is_empty()).peekable();
    match named.peek() {
        None => shown.iter().map(|name| find(name)).collect(),
        Some(_) => named.map(find).collect(),
    }
}

fn rows(answer: &Value, columns: &[Column]) -> Output {
    let cell = |item: &Value, path: &'static str| {
        if let Some(constant) = path.strip_prefix('=') {
            return constant.into();
        }
        let (path, as_json) = path.strip_prefix('#').map_or((path, false), |p| (p, true));
        let found = path.split('.').try_fold(item, |at, name| at.get(name));
        match found {
            Some(found) if as_json => found.to_string().into(),
            found => found.cloned().unwrap_or_default(),
        }
    };
    let items = answer.as_array().into_iter().flatten();
    let rows = items.map(|item| columns.iter().map(|(_, path)| cell(item, path)).collect());
    Output::Rows {
        columns: columns.iter().map(|(name, _)| (*name).to_owned()).collect(),
        rows: rows.collect(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_binary_has_other_names() {
        let started = |program: &str| is_started_as(Some(OsStr::new(program)));
        assert!(started("/usr/sbin/rabbitmqctl"));
        assert!(started("lavinmqctl"));
        assert!(!started("/opt/longtail"));
        assert!(!is_started_as(None));
    }

    #[test]
    fn columns_are_fields_of_fields_constants_and_json() {
        let answer = json!([{"a": {"b": 1}, "d": {"x": [2]}}]);
        let columns = [
            ("one", "a.b"),
            ("two", "=exchange"),
            ("three", "#d"),
            ("none", "a.c"),
        ];
        let Output::Rows { columns, rows } = rows(&answer, &columns) else {
            panic!("no rows");
        };
        assert_eq!(columns, ["one", "two", "three", "none"]);
        assert_eq!(
            rows,
            [[
                json!(1),
                json!("exchange"),
                json!("{\"x\":[2]}"),
                json!(null)
            ]]
        );
    }

    #[test]
    fn what_is_unknown_or_absent_says_what_there_is() {
        let error = unknown("list_queue");
        assert_eq!(error.code(), 64);
        assert!(error.to_string().contains("`list_queues`"), "{error}");
        let error = unknown("stop_app");
        assert_eq!(error.code(), 69);
        assert!(error.to_string().contains("SIGTERM"), "{error}");
    }
}
