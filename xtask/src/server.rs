//! Starting and stopping a server under test: on a free port, with its own data directory and a captured log.

use std::fs::File;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::ports::free_port;
use crate::{process, workspace};

/// How long a server may take from its start until it accepts connections.
const START_LIMIT: Duration = Duration::from_secs(60);

/// How many of the log's last bytes are shown when a server fails.
const LOG_TAIL: usize = 4000;

/// How to start a server: words, and the text of a configuration file if it needs one, in which `{port}`, `{ws}` (the
/// port for WebSocket), `{dist}` (one for its own kind), `{data}` and `{config}` (the file) are replaced.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ServerCommand {
    words: Vec<String>,
    config: Option<String>,
    /// How a test that ends it and looks at what it kept does so.
    stop: Stop,
    /// What ends that which it leaves behind.
    sweep: Vec<String>,
}

/// How a server is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Stop {
    /// `SIGKILL`: what it acknowledged is on disk.
    Kill,
    /// `SIGTERM`: it writes when it ends.
    Term,
}

/// Mosquitto with what Longtail has by default: it keeps what it has to keep, and anybody of this machine may connect.
const MOSQUITTO: &str = "listener {port} 127.0.0.1
listener {ws} 127.0.0.1
protocol websockets
allow_anonymous true
persistence true
persistence_location {data}/
set_tcp_nodelay true
user root
";

/// The environment of RabbitMQ; the configuration file is its list of plug-ins. Its port for other nodes would be 20,000
/// above that for clients, among those that the system gives to anybody. What Erlang writes when it crashes would be in
/// the directory that the server is started in.
const RABBITMQ: &str = "env RABBITMQ_ALLOW_INPUT=true RABBITMQ_SERVER_START_ARGS=-noinput ERL_EPMD_PORT={ws} \
    RABBITMQ_NODENAME=bench@localhost RABBITMQ_NODE_IP_ADDRESS=127.0.0.1 RABBITMQ_NODE_PORT={port} RABBITMQ_LOGS=- \
    RABBITMQ_DIST_PORT={dist} \
    RABBITMQ_ENABLED_PLUGINS_FILE={config} RABBITMQ_MNESIA_BASE={data} RABBITMQ_LOG_BASE={data} HOME={data} \
    ERL_CRASH_DUMP={data}/erl_crash.dump";

impl ServerCommand {
    /// Splits a command line at blanks.
    ///
    /// # Errors
    /// When it is empty or does not mention `{port}`.
    pub(crate) fn parse(line: &str) -> Result<Self> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        if words.is_empty() || !line.contains("{port}") {
            bail!(
                "a server command needs a program and {{port}} among its arguments, got {line:?}"
            );
        }
        Ok(ServerCommand {
            words,
            config: None,
            stop: Stop::Kill,
            sweep: Vec::new(),
        })
    }

    /// Debian's Mosquitto.
    pub(crate) fn mosquitto() -> Self {
        ServerCommand {
            words: ["mosquitto", "-c", "{config}"].map(str::to_owned).into(),
            config: Some(MOSQUITTO.to_owned()),
            stop: Stop::Term,
            sweep: Vec::new(),
        }
    }

    /// Debian's RabbitMQ without plug-ins, by its script that replaces itself with the server; with a port mapper that
    /// is swept away. It ends by `SIGTERM`: what classic queues have not synced yet is written then.
    pub(crate) fn rabbitmq(program: &Path) -> Self {
        let mut words: Vec<String> = RABBITMQ.split_whitespace().map(str::to_owned).collect();
        words.push(program.display().to_string());
        ServerCommand {
            words,
            config: Some("[].".to_owned()),
            stop: Stop::Term,
            sweep: ["epmd", "-port", "{ws}", "-kill"].map(str::to_owned).into(),
        }
    }

    /// The same with the management plug-in, on a port that the system chooses.
    pub(crate) fn rabbitmq_managed(program: &Path) -> Self {
        let mut command = Self::rabbitmq(program);
        let port = r#"-rabbitmq_management tcp_config [{ip,"127.0.0.1"},{port,0}]"#;
        let port = format!("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS={port}");
        command.words.insert(1, port);
        command.config = Some("[rabbitmq_management].".to_owned());
        command
    }

    /// Debian's Mosquitto with no limit on what waits for a client, and with a copy for each subscription that matches:
    /// otherwise it sends one, at the QoS of any of them.
    pub(crate) fn patient_mosquitto() -> Self {
        let mut command = Self::mosquitto();
        command.config = Some(format!(
            "{MOSQUITTO}max_queued_messages 0\nmax_inflight_messages 65535\nallow_duplicate_messages true\n"
        ));
        command
    }

    /// Longtail's release binary with two listeners for MQTT, the second inside WebSocket.
    pub(crate) fn longtail_mqtt(durability: Option<&str>) -> Self {
        let mut command = Self::longtail("mqtt", durability);
        command
            .words
            .extend(["--listen", "mqtt-ws=127.0.0.1:{ws}"].map(str::to_owned));
        command
    }

    /// Longtail's release binary with a listener of a second protocol where `{ws}` is.
    pub(crate) fn longtail_beside(protocol: &str, beside: &str) -> Self {
        let mut command = Self::longtail(protocol, None);
        let listen = format!("{beside}=127.0.0.1:{{ws}}");
        command.words.extend(["--listen".to_owned(), listen]);
        command
    }

    /// Longtail's release binary with a listener for AMQP, and the management API where `{ws}` is.
    pub(crate) fn longtail_managed(durability: Option<&str>) -> Self {
        let mut command = Self::longtail("amqp", durability);
        command
            .words
            .extend(["--listen", "amqp-management=127.0.0.1:{ws}"].map(str::to_owned));
        command
    }

    /// Longtail's release binary with a listener for MQTT and the admin service where `{ws}` is, for what it counts.
    pub(crate) fn longtail_counted(durability: &str) -> Self {
        let mut command = Self::longtail("mqtt", Some(durability));
        command
            .words
            .extend(["--listen", "admin=127.0.0.1:{ws}"].map(str::to_owned));
        command
    }

    /// The same server with so many file descriptors and no more.
    pub(crate) fn with_descriptors(&self, soft: u64, hard: u64) -> Self {
        let script = format!("ulimit -Sn {soft} && ulimit -Hn {hard} && exec \"$0\" \"$@\"");
        let mut command = self.clone();
        command.words = ["sh".to_owned(), "-c".to_owned(), script].into();
        command.words.extend(self.words.iter().cloned());
        command
    }

    /// The same, for a comparison with [`ServerCommand::patient_mosquitto`]: nothing waits for a window, since what is
    /// first when there is room again is no rule.
    pub(crate) fn longtail_beside_mosquitto() -> Self {
        let mut command = Self::longtail_mqtt(None);
        command
            .words
            .extend(["--set", "mqtt.window=65535"].map(str::to_owned));
        command
    }

    /// For a suite that starts such servers itself.
    ///
    /// # Errors
    /// None that this type can have.
    pub(crate) fn to_json(&self) -> Result<String> {
        Ok(serde_json::to_string(self)?)
    }

    /// Whether it also speaks WebSocket.
    fn has_websocket(&self) -> bool {
        self.config
            .as_ref()
            .is_some_and(|text| text.contains("{ws}"))
            || self.words.iter().any(|word| word.contains("{ws}"))
    }

    /// Longtail's release binary with only the listener of `protocol`.
    pub(crate) fn longtail(protocol: &str, durability: Option<&str>) -> Self {
        let program = workspace::longtail().display().to_string();
        let listen = format!("{protocol}=127.0.0.1:{{port}}");
        let mut words: Vec<String> = [
            &program, "serve", "--data", "{data}", "--listen", &listen, "--only",
        ]
        .map(str::to_owned)
        .into();
        if let Some(durability) = durability {
            words.extend(["--durability".to_owned(), durability.to_owned()]);
        }
        ServerCommand {
            words,
            config: None,
            stop: Stop::Kill,
            sweep: Vec::new(),
        }
    }

    fn with(&self, port: u16, websocket: u16, home: &Path) -> Result<(Command, Vec<String>)> {
        let config = home.join("config");
        let mut values = vec![
            ("{port}", port.to_string()),
            ("{ws}", websocket.to_string()),
            ("{data}", home.join("data").display().to_string()),
            ("{config}", config.display().to_string()),
        ];
        if self.words.iter().any(|word| word.contains("{dist}")) {
            values.push(("{dist}", free_port()?.to_string()));
        }
        let filled = |text: &str| {
            values.iter().fold(text.to_owned(), |text, (name, value)| {
                text.replace(name, value)
            })
        };
        if let Some(text) = &self.config {
            std::fs::write(&config, filled(text))
                .with_context(|| format!("cannot write {}", config.display()))?;
        }
        let mut words = self.words.iter().map(|word| filled(word));
        let mut command = process::command(words.next().unwrap_or_default(), &[]);
        command.args(words);
        Ok((
            command,
            self.sweep.iter().map(|word| filled(word)).collect(),
        ))
    }
}

/// A running server. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    address: SocketAddr,
    websocket: Option<SocketAddr>,
    stop: Stop,
    sweep: Vec<String>,
    log: std::path::PathBuf,
}

impl Server {
    /// Starts a server on a free port and waits until it accepts connections. Its log goes to `server.log` in `home`,
    /// its data into `data` there; both are kept from an earlier start.
    ///
    /// # Errors
    /// When it cannot be started, ends, or does not accept connections in time; with the end of its log.
    pub(crate) fn start(command: &ServerCommand, home: &Path) -> Result<Server> {
        let data = home.join("data");
        std::fs::create_dir_all(&data)
            .with_context(|| format!("cannot create {}", data.display()))?;
        let log = home.join("server.log");
        let output = File::options().create(true).append(true).open(&log)?;
        let (port, websocket) = (free_port()?, free_port()?);
        let (stop, has_websocket) = (command.stop, command.has_websocket());
        let (mut command, sweep) = command.with(port, websocket, home)?;
        command
            .stdout(output.try_clone()?)
            .stderr(output)
            .stdin(Stdio::null());
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().to_string_lossy()))?;
        let mut server = Server {
            child,
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            websocket: has_websocket.then(|| SocketAddr::from((Ipv4Addr::LOCALHOST, websocket))),
            stop,
            sweep,
            log,
        };
        server.wait_until_it_accepts()?;
        Ok(server)
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it speaks WebSocket, or serves its counters.
    pub(crate) fn websocket(&self) -> Option<SocketAddr> {
        self.websocket
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it at once (`SIGKILL`) and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        // Both fail only when the process is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.sweep();
    }

    fn sweep(&mut self) {
        let words: Vec<&str> = self.sweep.iter().map(String::as_str).collect();
        if let Some((program, arguments)) = words.split_first() {
            process::ask(program, arguments);
        }
        self.sweep.clear();
    }

    /// Ends it the way it is said to survive: at once, or for one that writes when it ends, by asking.
    pub(crate) fn end(&mut self) {
        if self.stop == Stop::Term {
            let pid = self.pid().to_string();
            if process::ask("kill", &["-TERM", &pid]).is_some() {
                // It fails only when the process is gone already.
                let _ = self.child.wait();
                self.sweep();
                return;
            }
        }
        self.kill();
    }

    /// The end of its log.
    pub(crate) fn log_tail(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&text[text.len().saturating_sub(LOG_TAIL)..]).into_owned()
    }

    /// Waits for both listeners: one may be open long before the other.
    fn wait_until_it_accepts(&mut self) -> Result<()> {
        let start = Instant::now();
        self.wait_until_it_accepts_at(self.address, start)?;
        self.websocket.map_or(Ok(()), |second| {
            self.wait_until_it_accepts_at(second, start)
        })
    }

    fn wait_until_it_accepts_at(&mut self, address: SocketAddr, start: Instant) -> Result<()> {
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!(
                    "the server ended at its start ({status}); its log:\n{}",
                    self.log_tail()
                );
            }
            match TcpStream::connect_timeout(&address, Duration::from_secs(1)) {
                // Somebody else's server may have answered.
                Ok(_) if self.child.try_wait()?.is_none() => return Ok(()),
                Ok(_) => {}
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::ConnectionRefused | ErrorKind::TimedOut
                    ) && start.elapsed() < START_LIMIT =>
                {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(error) => bail!(
                    "the server does not accept connections after {:?}: {error}; its log:\n{}",
                    start.elapsed(),
                    self.log_tail()
                ),
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::{Server, ServerCommand};

    #[test]
    fn a_command_must_say_where_the_port_goes() {
        assert!(ServerCommand::parse("beanstalkd -p 11300").is_err());
        assert!(ServerCommand::parse("").is_err());
        assert!(ServerCommand::parse("beanstalkd -p {port}").is_ok());
    }

    #[test]
    fn a_server_that_ends_is_reported_with_its_log() {
        let home = tempfile::tempdir().expect("a temporary directory");
        let command = ServerCommand::parse("ls {data} /nowhere-{port}").expect("a valid command");
        let error = Server::start(&command, home.path())
            .expect_err("ls is no server")
            .to_string();
        assert!(
            error.contains("ended at its start") && error.contains("/nowhere-"),
            "{error}"
        );
    }
}
