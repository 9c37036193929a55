//! Installs the pinned clients into `.cache/`. Each answers where it put them, or why this machine cannot have them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::{process, workspace};

/// A Python with the clients of `harness/requirements.txt`.
///
/// # Errors
/// When the machine could but the installation fails.
pub(super) fn python() -> Result<Result<PathBuf, String>> {
    let home = workspace::cache().join("python");
    let python = home.join("bin/python");
    let requirements = workspace::root().join("conformance/harness/requirements.txt");
    if is_current(&home, &requirements)? {
        return Ok(Ok(python));
    }
    if !python.exists()
        && !process::run(&mut process::command(
            "python3",
            &["-m", "venv", &home.display().to_string()],
        ))?
    {
        return Ok(Err(
            "python3 cannot create a virtual environment (is python3-venv installed?)".to_owned(),
        ));
    }
    let file = requirements.display().to_string();
    let pip = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "-r",
        &file,
    ];
    if !process::run(&mut process::command(&python, &pip))? {
        anyhow::bail!("pip could not install the clients of {file}");
    }
    stamp(&home, &requirements)?;
    Ok(Ok(python))
}

/// A `node_modules` with the clients of `harness/package.json`.
///
/// # Errors
/// When the machine could but the installation fails.
pub(super) fn node() -> Result<Result<PathBuf, String>> {
    let Some(version) = process::ask("node", &["--version"]) else {
        return Ok(Err("node is not installed".to_owned()));
    };
    if process::ask("npm", &["--version"]).is_none() {
        return Ok(Err(format!("node {version} is installed, npm is not")));
    }
    let home = workspace::cache().join("node");
    let modules = home.join("node_modules");
    let package = workspace::root().join("conformance/harness/package.json");
    if is_current(&home, &package)? {
        return Ok(Ok(modules));
    }
    std::fs::create_dir_all(&home)?;
    std::fs::copy(&package, home.join("package.json"))?;
    let lock = package.with_file_name("package-lock.json");
    std::fs::copy(&lock, home.join("package-lock.json"))?;
    let mut npm = process::command(
        "npm",
        &[
            "ci",
            "--silent",
            "--ignore-scripts",
            "--no-audit",
            "--no-fund",
        ],
    );
    if !process::run(npm.current_dir(&home))? {
        anyhow::bail!("npm could not install the clients of {}", package.display());
    }
    stamp(&home, &package)?;
    Ok(Ok(modules))
}

/// RabbitMQ's second command line client, which is no library that a program could be linked to.
const RABBITMQADMIN: &str = "2.35.0";

/// `rabbitmqadmin` of that version.
///
/// # Errors
/// When cargo cannot be started.
pub(super) fn rabbitmqadmin() -> Result<Result<PathBuf, String>> {
    let root = workspace::cache().join(format!("rabbitmqadmin-{RABBITMQADMIN}"));
    let program = root.join("bin/rabbitmqadmin");
    if program.exists() {
        return Ok(Ok(program));
    }
    let mut install = process::cargo(&["install", "rabbitmqadmin", "--version", RABBITMQADMIN]);
    install
        .args(["--locked", "--no-default-features", "--debug", "--root"])
        .arg(&root);
    Ok(if process::run(&mut install)? {
        Ok(program)
    } else {
        Err(format!(
            "cargo could not install rabbitmqadmin {RABBITMQADMIN}"
        ))
    })
}

/// A binary of `conformance/rust`.
///
/// # Errors
/// When cargo does not build it.
pub(super) fn rust(name: &str) -> Result<Result<PathBuf, String>> {
    let target = workspace::cache().join("rust");
    let manifest = workspace::root().join("conformance/rust/Cargo.toml");
    let mut build = process::cargo(&["build", "--locked", "--bin", name, "--manifest-path"]);
    build.arg(&manifest).arg("--target-dir").arg(&target);
    if !process::run(&mut build)? {
        anyhow::bail!("cargo could not build {name} of {}", manifest.display());
    }
    Ok(Ok(target.join("debug").join(name)))
}

/// Whether what is installed in `home` was made from this list.
fn is_current(home: &Path, list: &Path) -> Result<bool> {
    let wanted = std::fs::read(list).with_context(|| format!("cannot read {}", list.display()))?;
    Ok(std::fs::read(home.join("installed")).is_ok_and(|found| found == wanted))
}

fn stamp(home: &Path, list: &Path) -> Result<()> {
    std::fs::copy(list, home.join("installed"))?;
    Ok(())
}
