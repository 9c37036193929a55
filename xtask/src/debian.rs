//! Programs that come from Debian: the originals that Longtail is compared with, and their clients.

use std::path::PathBuf;

use anyhow::Result;

use crate::process;

/// Makes sure that a program is there; or says why this machine cannot have it.
///
/// # Errors
/// When `apt-get` cannot be started.
pub(crate) fn program(name: &str, package: &str) -> Result<Result<(), String>> {
    let look = format!("command -v {name}");
    let found = || process::ask("sh", &["-c", &look]).is_some();
    if found() {
        return Ok(Ok(()));
    }
    if process::ask("apt-get", &["--version"]).is_none()
        || process::ask("id", &["-u"]).as_deref() != Some("0")
    {
        return Ok(Err(format!(
            "{name} is not installed, and only root of a Debian can install it"
        )));
    }
    let install = ["install", "-y", "--no-install-recommends", package];
    if !process::run(&mut process::command("apt-get", &install))? {
        process::run(&mut process::command("apt-get", &["update"]))?;
        process::run(&mut process::command("apt-get", &install))?;
    }
    Ok(if found() {
        Ok(())
    } else {
        Err(format!("apt-get could not install {package}"))
    })
}

/// The script that starts RabbitMQ: the program in the path is a wrapper that changes the user. Or why this machine cannot
/// have it.
///
/// # Errors
/// When `apt-get` cannot be started.
pub(crate) fn rabbitmq() -> Result<Result<PathBuf, String>> {
    let installed = program("rabbitmq-server", "rabbitmq-server")?;
    Ok(installed.map(|()| "/usr/lib/rabbitmq/bin/rabbitmq-server".into()))
}
