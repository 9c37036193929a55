//! What the edge itself costs: a line echoed over plain TCP.
//!
//! ```text
//! cargo bench -p longtail-edge --bench echo                  requests a second and server CPU, 1, 16, 256 connections
//! cargo bench -p longtail-edge --bench echo -- idle 5000     resident bytes an idle connection
//! cargo bench -p longtail-edge --bench echo -- serve         only the server, until the end of input: for strace
//! cargo bench -p longtail-edge --bench echo -- load PORT CONNECTIONS DEPTH SECONDS
//! ```
//!
//! The load comes from a process of its own, so that the CPU time and memory counted are the server's.

use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use longtail_edge::testing::LineEcho;
use longtail_edge::{Edge, EdgeConfig, Endpoint, ListenerConfig, NoTick};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const LINE: &[u8] = b"put 0 0 60 5 hello, this is about as long as a small request\n";
const SECONDS: u64 = 2;

fn main() {
    // `cargo bench` adds --bench, `cargo test --benches` runs it without.
    let args: Vec<String> = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with("--"))
        .collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        [] => throughput(),
        ["idle", count] => idle(number(count)),
        ["serve"] => serve_until_end_of_input(),
        ["load", port, connections, depth, seconds] => {
            load(
                number(port),
                number(connections),
                number(depth),
                number(seconds),
            );
        }
        ["hold", port, connections] => hold(number(port), number(connections)),
        _ => panic!("see the head of edge/benches/echo.rs for the arguments"),
    }
}

fn number<N: std::str::FromStr>(text: &str) -> N {
    text.parse()
        .unwrap_or_else(|_| panic!("not a number in range: {text}"))
}

fn start() -> (Edge, u16) {
    let config = EdgeConfig {
        workers: 1,
        ..EdgeConfig::default()
    };
    let edge = Edge::start(config, NoTick).expect("a worker");
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listener = edge
        .listen(ListenerConfig::new(address.into()), Arc::new(LineEcho))
        .expect("a free port");
    let Endpoint::Tcp(address) = listener.local() else {
        unreachable!("asked for TCP")
    };
    let port = address.port();
    (edge, port)
}

fn child(args: &[String]) -> Child {
    let me = std::env::current_exe().expect("own path");
    Command::new(me)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a second process")
}

fn throughput() {
    let (_edge, port) = start();
    println!("| connections | depth | requests a second | server CPU, us a request |");
    println!("|---|---|---|---|");
    for (connections, depth) in [(1, 1), (16, 1), (256, 1), (16, 32)] {
        let cpu = cpu_time();
        let args = [
            "load".into(),
            port.to_string(),
            connections.to_string(),
            depth.to_string(),
            SECONDS.to_string(),
        ];
        let mut report = String::new();
        let mut child = child(&args);
        child
            .stdout
            .take()
            .expect("piped")
            .read_to_string(&mut report)
            .expect("a report");
        child.wait().expect("its end");
        let requests: u64 = number(report.trim());
        let cpu = (cpu_time() - cpu).as_secs_f64() * 1e6 / requests as f64;
        println!(
            "| {connections} | {depth} | {} | {cpu:.2} |",
            requests / SECONDS
        );
    }
}

fn serve_until_end_of_input() {
    let (_edge, port) = start();
    println!("{port}");
    std::io::stdin()
        .read_to_end(&mut Vec::new())
        .expect("standard input");
}

fn load(port: u16, connections: usize, depth: usize, seconds: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let deadline = Instant::now() + Duration::from_secs(seconds);
    let request = LINE.repeat(depth);
    let done: u64 = runtime.block_on(async {
        let clients: Vec<_> = (0..connections)
            .map(|_| {
                let request = request.clone();
                tokio::spawn(async move {
                    let mut stream =
                        tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
                    stream.set_nodelay(true)?;
                    let mut reply = vec![0; request.len()];
                    let mut done = 0;
                    while Instant::now() < deadline {
                        stream.write_all(&request).await?;
                        stream.read_exact(&mut reply).await?;
                        assert!(reply == request);
                        done += depth as u64;
                    }
                    std::io::Result::Ok(done)
                })
            })
            .collect();
        let mut done = 0;
        for client in clients {
            done += client.await.expect("no panic").expect("an echo");
        }
        done
    });
    println!("{done}");
}

fn idle(count: usize) {
    let (edge, port) = start();
    let before = resident_bytes();
    let mut holder = child(&["hold".into(), port.to_string(), count.to_string()]);
    let mut ready = String::new();
    BufReader::new(holder.stdout.as_mut().expect("piped"))
        .read_line(&mut ready)
        .expect("its word");
    assert_eq!(edge.connections().len(), count);
    let each = (resident_bytes() - before) / count;
    println!("{count} connections that have each echoed one line: {each} resident bytes each");
    drop(holder.stdin.take());
    holder.wait().expect("its end");
}

/// Opens connections, echoes one line over each, and keeps them until the end of input.
fn hold(port: u16, count: usize) {
    use std::io::Write;
    let streams: Vec<TcpStream> = (0..count)
        .map(|_| {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("a connection");
            stream.write_all(LINE).expect("a request");
            stream
                .read_exact(&mut vec![0; LINE.len()])
                .expect("an echo");
            stream
        })
        .collect();
    println!("ready");
    std::io::stdin()
        .read_to_end(&mut Vec::new())
        .expect("standard input");
    drop(streams);
}

fn proc_self(file: &str) -> String {
    std::fs::read_to_string(format!("/proc/self/{file}")).expect("/proc")
}

/// CPU time of this process; Linux counts it in hundredths of a second here.
fn cpu_time() -> Duration {
    let stat = proc_self("stat");
    let after_name = stat.rsplit_once(") ").expect("a name in parentheses").1;
    let fields: Vec<&str> = after_name.split(' ').collect();
    Duration::from_millis((number::<u64>(fields[11]) + number::<u64>(fields[12])) * 10)
}

fn resident_bytes() -> usize {
    let pages: usize = number(
        proc_self("statm")
            .split(' ')
            .nth(1)
            .expect("resident pages"),
    );
    pages * 4096
}
