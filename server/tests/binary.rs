//! The built binary: exit codes, and what goes to which stream.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod support;

use std::process::{Command, Output};

use support::longtail;

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn help_and_version_are_answers() {
    let dir = tempfile::tempdir().unwrap();
    for args in [
        &["--help"][..],
        &["--version"],
        &["serve", "--help"],
        &["config", "check", "--help"],
    ] {
        let output = longtail(dir.path(), args);
        assert_eq!(code(&output), Some(0), "{args:?}");
        assert!(
            !output.stdout.is_empty() && output.stderr.is_empty(),
            "{args:?}"
        );
    }
}

#[test]
fn usage_errors_are_code_2() {
    let dir = tempfile::tempdir().unwrap();
    for args in [
        &["--nonsense"][..],
        &["serve", "--listen", "beanstalk"],
        &["serve", "--listen", "zenoh=127.0.0.1:7447"],
        &["serve", "--set", "nonsense"],
        &["serve", "--durability", "syn"],
        &["serve", "--log-level", "longtail=loud"],
        &["config", "check", "--config", "absent.toml"],
        &["config", "check", "--only"],
    ] {
        let output = longtail(dir.path(), args);
        assert_eq!(code(&output), Some(2), "{args:?}: {}", stderr(&output));
        assert!(
            output.stdout.is_empty() && !output.stderr.is_empty(),
            "{args:?}"
        );
    }
}

#[test]
fn config_check_reads_the_file_of_the_working_directory() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(code(&longtail(dir.path(), &["config", "check"])), Some(0));
    std::fs::write(dir.path().join("longtail.toml"), "durabilty = \"sync\"\n").unwrap();
    let output = longtail(dir.path(), &["config", "check"]);
    assert_eq!(code(&output), Some(2));
    assert_eq!(
        stderr(&output),
        "longtail: longtail.toml:1: unknown key `durabilty`: did you mean `durability`?\n"
    );
}

#[test]
fn config_default_is_a_file_that_can_be_used() {
    let dir = tempfile::tempdir().unwrap();
    let document = longtail(dir.path(), &["config", "default"]).stdout;
    std::fs::write(dir.path().join("full.toml"), document).unwrap();
    let output = longtail(dir.path(), &["config", "check", "--config", "full.toml"]);
    assert_eq!(code(&output), Some(0), "{}", stderr(&output));
}

#[test]
fn config_show_names_the_environment() {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_longtail"))
        .args(["config", "show"])
        .current_dir(dir.path())
        .env("LONGTAIL__LOG__SEGMENT_BYTES", "32MiB")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("segment_bytes = 33554432  # environment LONGTAIL__LOG__SEGMENT_BYTES"),
        "{text}"
    );
}

#[test]
fn trouble_with_the_data_directory_is_code_3() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), "").unwrap();
    let output = longtail(
        dir.path(),
        &[
            "serve",
            "--only",
            "--listen",
            "beanstalk=127.0.0.1:0",
            "--data",
            "file",
        ],
    );
    assert_eq!(code(&output), Some(3), "{}", stderr(&output));
}
