//! Servers that the generator starts itself, on a free loopback port with a directory of their own. A new peer is one
//! file here.

pub(crate) mod beanstalkd;
pub(crate) mod longtail;
pub(crate) mod mosquitto;
pub(crate) mod rabbitmq;
pub(crate) mod rumqttd;

use std::fs::File;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use longtail_model::Durability;
use tempfile::TempDir;

use crate::error::BenchError;
use crate::pin::pinned;

/// How long a server may take until it accepts connections: RabbitMQ needs some ten seconds of one processor.
const START: Duration = Duration::from_secs(60);
/// Time between two looks.
const POLL: Duration = Duration::from_millis(5);
/// How much of a failed server's last words is shown.
const OUTPUT_BYTES_MAX: usize = 2000;

/// A server program.
pub(crate) trait Peer {
    /// Its name in tables.
    fn name(&self) -> &'static str;

    /// The program.
    fn program(&self) -> PathBuf;

    /// The flag that makes it print its version.
    fn version_flag(&self) -> &'static str;

    /// Its version, where the program does not print it.
    fn version(&self) -> Option<String> {
        None
    }

    /// How to get the program, for those who do not have it.
    fn install(&self) -> &'static str;

    /// The command that serves in the foreground as `place` says; writes the configuration that it needs.
    fn command(&self, place: &Place<'_>) -> Result<Command, BenchError>;

    /// A process that it needs beside it and that would outlive it.
    fn companion(&self, _place: &Place<'_>) -> Option<Command> {
        None
    }

    /// In what its acknowledgements fall short of `durability`, if they do.
    fn shortfall(&self, _durability: Durability) -> Option<&'static str> {
        None
    }
}

/// How a server should run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    /// An existing empty directory for its data.
    pub(crate) data: &'a Path,
    /// Where its configuration may be written.
    pub(crate) config: &'a Path,
    /// The port of 127.0.0.1 to listen on.
    pub(crate) port: u16,
    /// Two more free ports, for what it does not serve.
    pub(crate) spare_ports: [u16; 2],
    /// What it must be able to do.
    pub(crate) needs: Needs,
}

/// What a server must be able to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Needs {
    /// What an acknowledgement must mean.
    pub(crate) durability: Durability,
    /// The largest body that will be sent.
    pub(crate) body_bytes: usize,
    /// Connections that will be open at the same time.
    pub(crate) connections: u64,
}

/// A server process; killed, and its directory removed, when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    child: Child,
    companion: Option<Child>,
    _directory: TempDir,
}

impl Server {
    /// Starts `peer` below `directory` on these processors and waits until it accepts connections.
    pub(crate) fn start(
        peer: &dyn Peer,
        directory: &Path,
        needs: Needs,
        cpus: Option<&[usize]>,
    ) -> Result<Self, BenchError> {
        let scratch = tempfile::Builder::new()
            .prefix("longtail-bench-")
            .tempdir_in(directory)
            .map_err(BenchError::io("creating a data directory"))?;
        let data = scratch.path().join("data");
        std::fs::create_dir(&data).map_err(BenchError::io("creating a data directory"))?;
        let output = scratch.path().join("stderr");
        let stderr = File::create(&output).map_err(BenchError::io("creating a data directory"))?;
        let [port, spare_ports @ ..] = free_ports()?;
        let config = scratch.path().join("config");
        let place = Place {
            data: &data,
            config: &config,
            port,
            spare_ports,
            needs,
        };
        let mut command = peer.command(&place)?;
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr);
        let cannot = |source| BenchError::Start {
            program: peer.program(),
            install: peer.install(),
            source,
        };
        let companion = peer.companion(&place).map(|mut companion| {
            companion.stdin(Stdio::null()).stdout(Stdio::null());
            companion.stderr(Stdio::null()).spawn().map_err(cannot)
        });
        let companion = companion.transpose()?;
        let child = pinned(cpus, || command.spawn().map_err(cannot))?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut server = Server {
            address,
            child,
            companion,
            _directory: scratch,
        };
        server.wait_until_listening(peer, &output)?;
        Ok(server)
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    fn wait_until_listening(&mut self, peer: &dyn Peer, output: &Path) -> Result<(), BenchError> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self
                .child
                .try_wait()
                .map_err(BenchError::io("waiting for a server to start"))?
            {
                return Err(BenchError::Exited {
                    program: peer.program(),
                    status,
                    output: last_words(output),
                });
            }
            if TcpStream::connect(self.address).is_ok() {
                return Ok(());
            }
            if begun.elapsed() > START {
                return Err(BenchError::NotListening {
                    program: peer.program(),
                    address: self.address,
                    after: START,
                });
            }
            thread::sleep(POLL);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to kill.
        for child in std::iter::once(&mut self.child).chain(&mut self.companion) {
            let _killed = child.kill();
            let _waited = child.wait();
        }
    }
}

/// Writes a configuration where `place` says.
pub(crate) fn configure(place: &Place<'_>, text: &str) -> Result<(), BenchError> {
    std::fs::write(place.config, text).map_err(BenchError::io("writing a configuration"))
}

/// The first line a program prints about its version.
pub(crate) fn version(peer: &dyn Peer) -> Result<String, BenchError> {
    if let Some(version) = peer.version() {
        return Ok(version);
    }
    let program = peer.program();
    let output = Command::new(&program)
        .arg(peer.version_flag())
        .stdin(Stdio::null())
        .output()
        .map_err(|source| BenchError::Start {
            program,
            install: peer.install(),
            source,
        })?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().next().unwrap_or("unknown version").to_owned())
}

/// Three that are not in use, found while all are held.
fn free_ports() -> Result<[u16; 3], BenchError> {
    let looking = "looking for a free port";
    let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(BenchError::io(looking));
    let held = [bind()?, bind()?, bind()?];
    let mut ports = [0; 3];
    for (port, listener) in ports.iter_mut().zip(&held) {
        *port = listener
            .local_addr()
            .map_err(BenchError::io(looking))?
            .port();
    }
    Ok(ports)
}

fn last_words(output: &Path) -> String {
    let mut text = Vec::new();
    // Without its words the status alone must do.
    let _read = File::open(output).and_then(|mut file| file.read_to_end(&mut text));
    let from = text.len().saturating_sub(OUTPUT_BYTES_MAX);
    String::from_utf8_lossy(text.get(from..).unwrap_or_default())
        .trim()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Broken;

    impl Peer for Broken {
        fn name(&self) -> &'static str {
            "broken"
        }

        fn program(&self) -> PathBuf {
            "sh".into()
        }

        fn version_flag(&self) -> &'static str {
            "--version"
        }

        fn install(&self) -> &'static str {
            "nobody wants it"
        }

        fn command(&self, _place: &Place<'_>) -> Result<Command, BenchError> {
            let mut command = Command::new("sh");
            command.args(["-c", "echo no disk >&2; exit 3"]);
            Ok(command)
        }
    }

    #[test]
    fn a_server_that_ends_at_once_is_quoted() {
        let directory = tempfile::tempdir().expect("a directory");
        let needs = Needs {
            durability: Durability::Memory,
            body_bytes: 64,
            connections: 1,
        };
        let error = Server::start(&Broken, directory.path(), needs, None).expect_err("it ends");
        assert!(
            matches!(&error, BenchError::Exited { status, .. } if status.code() == Some(3)),
            "{error}"
        );
        assert!(error.to_string().contains("no disk"), "{error}");
    }
}
