//! A real server process, and clients for its two doors.

#![allow(dead_code, unreachable_pub, reason = "every test binary uses its part")]

pub mod mqtt;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Output, Stdio};

/// A server on ports of its own. Killed when dropped.
pub struct Server {
    pub child: Child,
    pub stderr: BufReader<ChildStderr>,
    pub banner: String,
    pub beanstalk: String,
    pub admin: String,
}

/// Runs `longtail` in an empty directory with a clean environment.
pub fn longtail(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_longtail"))
        .args(args)
        .current_dir(dir)
        .env_remove("LONGTAIL_CONFIG")
        .env_remove("LONGTAIL_URL")
        .output()
        .unwrap()
}

fn command(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_longtail"));
    command
        .args([
            "serve",
            "--only",
            "--listen",
            "beanstalk=127.0.0.1:0",
            "--listen",
            "admin=127.0.0.1:0",
        ])
        .args(args)
        .current_dir(dir)
        .env_remove("LONGTAIL_CONFIG")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Runs a server that is expected not to start.
pub fn fails(dir: &Path, args: &[&str]) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = command(dir, args).output().unwrap();
    (status.code(), String::from_utf8(stderr).unwrap())
}

impl Server {
    pub fn start(dir: &Path, args: &[&str]) -> Server {
        Server::adopt(command(dir, args).spawn().unwrap())
    }

    /// Waits for the banner of a server that was just started.
    pub fn adopt(mut child: Child) -> Server {
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut banner = String::new();
        // The banner ends with the line that says what an acknowledgement means.
        loop {
            let mut line = String::new();
            assert!(
                stderr.read_line(&mut line).unwrap() > 0,
                "no banner: {banner}"
            );
            banner.push_str(&line);
            if line.trim_start().starts_with("durability ") {
                break;
            }
        }
        let address = |protocol: &str| {
            let line = banner
                .lines()
                .find(|line| line.trim_start().starts_with(&format!("{protocol} ")));
            // Empty: it is not spoken.
            let address = line.and_then(|line| line.split_whitespace().nth(1));
            let address = address.unwrap_or_default();
            address.trim_start_matches("http://").to_owned()
        };
        Server {
            beanstalk: address("beanstalk"),
            admin: address("admin"),
            child,
            stderr,
            banner,
        }
    }

    /// Where it speaks a protocol over TLS.
    pub fn address_with_tls(&self, protocol: &str) -> String {
        let line = self.banner.lines().find(|line| {
            line.trim_start().starts_with(&format!("{protocol} ")) && line.contains("(TLS)")
        });
        line.unwrap().split_whitespace().nth(1).unwrap().to_owned()
    }

    /// Where it speaks a protocol, as the banner says.
    fn address(&self, protocol: &str) -> String {
        let line = self
            .banner
            .lines()
            .find(|line| line.trim_start().starts_with(&format!("{protocol} ")))
            .unwrap();
        line.split_whitespace().nth(1).unwrap().to_owned()
    }

    /// Where it speaks a protocol, in the order of its listeners.
    pub fn addresses(&self, protocol: &str) -> Vec<String> {
        let lines = self.banner.lines();
        let lines = lines.filter(|line| line.trim_start().starts_with(&format!("{protocol} ")));
        let address = |line: &str| line.split_whitespace().nth(1).unwrap().to_owned();
        lines.map(address).collect()
    }

    /// Runs a server by the settings in the directory's `longtail.toml`, with the admin service on a port of its own.
    pub fn configured(dir: &Path, settings: &str) -> Server {
        std::fs::write(dir.join("longtail.toml"), settings).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_longtail"));
        command
            .args(["serve", "--listen", "admin=127.0.0.1:0"])
            .current_dir(dir)
            .env_remove("LONGTAIL_CONFIG")
            .stderr(Stdio::piped());
        Server::adopt(command.spawn().unwrap())
    }

    pub fn mqtt(&self) -> String {
        self.address("mqtt")
    }

    pub fn client(&self) -> Beanstalk<TcpStream> {
        Beanstalk(BufReader::new(TcpStream::connect(&self.beanstalk).unwrap()))
    }

    /// Status and body of a request to the admin service.
    pub fn http(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let mut socket = TcpStream::connect(&self.admin).unwrap();
        write!(
            socket,
            "{method} {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            self.admin,
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, body.to_owned())
    }

    pub fn get(&self, path: &str) -> serde_json::Value {
        let (status, body) = self.http("GET", path, "");
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap()
    }

    pub fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args([signal, &pid]).status().unwrap();
        assert!(sent.success());
    }

    /// Waits for its end; the exit code and what it said since the banner.
    pub fn end(mut self) -> (Option<i32>, String) {
        let mut said = String::new();
        self.stderr.read_to_string(&mut said).unwrap();
        (self.child.wait().unwrap().code(), said)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended long ago.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A beanstalkd client.
pub struct Beanstalk<S>(pub BufReader<S>);

impl<S: Read + Write> Beanstalk<S> {
    /// Sends a request, reads the first line of the answer.
    pub fn ask(&mut self, request: &str) -> String {
        self.0.get_mut().write_all(request.as_bytes()).unwrap();
        self.line()
    }

    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
}
