//! The subcommands that talk to a server, against canned answers.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Command, Output, Stdio};
use std::thread;

/// Answers connections one after the other with `answers`, and hands back what was asked.
fn serve(answers: Vec<(u16, &'static str)>) -> (String, thread::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let requests = thread::spawn(move || {
        let mut requests = Vec::new();
        for (status, body) in answers {
            let (socket, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(socket);
            let (mut head, mut length) = (String::new(), 0);
            while !head.ends_with("\r\n\r\n") {
                let start = head.len();
                assert!(reader.read_line(&mut head).unwrap() > 0, "{head}");
                if let Some(value) = head[start..].to_ascii_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
            }
            let mut sent = vec![0; length];
            reader.read_exact(&mut sent).unwrap();
            requests.push(head + &String::from_utf8(sent).unwrap());
            let answer =
                format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
            reader.get_mut().write_all(answer.as_bytes()).unwrap();
        }
        requests
    });
    (url, requests)
}

fn longtail(url: &str, args: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_longtail"))
        .args(args)
        .env("LONGTAIL_URL", url)
        .env_remove("LONGTAIL_TOKEN")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn without_a_server_the_answer_is_code_6_and_what_to_do() {
    // A port that was just given back: nobody listens there.
    let url = format!("http://{}", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
    for args in [&["status"][..], &["streams"], &["tail", "x"], &["publish", "x", "y"], &["top", "--once"]] {
        let output = longtail(&url, args, "");
        assert_eq!(output.status.code(), Some(6), "{args:?}");
        assert!(text(&output.stderr).contains("longtail serve"), "{}", text(&output.stderr));
    }
}

#[test]
fn streams_are_a_table_or_documents_over_all_pages() {
    let pages = vec![
        (200, r#"{"items":[{"space":"default","name":"a","ready":3}],"next":"default/a"}"#),
        (200, r#"{"items":[{"space":"default","name":"b","ready":40}]}"#),
    ];
    let (url, requests) = serve(pages.clone());
    let output = longtail(&url, &["streams"], "");
    let table = text(&output.stdout);
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0][..3], ["SPACE", "STREAM", "READY"]);
    assert_eq!((rows[1][1], rows[1][2], rows[2][1], rows[2][2]), ("a", "3", "b", "40"));
    assert!(requests.join().unwrap()[1].contains("after=default%2Fa"));

    let (url, _requests) = serve(pages);
    let output = longtail(&url, &["streams", "--json"], "");
    assert_eq!(text(&output.stdout).lines().count(), 2);
}

#[test]
fn publish_sends_arguments_or_standard_input() {
    let (url, requests) = serve(vec![(201, r#"{"seq":7}"#)]);
    let output = longtail(&url, &["publish", "a/b", "hello", "--priority", "5", "--delay", "2s"], "");
    assert_eq!(text(&output.stdout), "published as 7\n");
    let request = &requests.join().unwrap()[0];
    assert!(request.starts_with("POST /api/v1/spaces/default/streams/a%2Fb/messages?"), "{request}");
    assert!(request.contains("priority=5") && request.contains("delay_ms=2000"), "{request}");
    assert!(request.ends_with("\r\n\r\nhello"), "{request}");

    let (url, requests) = serve(vec![(201, r#"{"seq":8}"#)]);
    let output = longtail(&url, &["publish", "jobs", "--json", "--token", "secret"], "from a pipe");
    assert_eq!(text(&output.stdout), "{\"seq\":8}\n");
    let request = &requests.join().unwrap()[0];
    assert!(request.ends_with("\r\n\r\nfrom a pipe"), "{request}");
    assert!(request.contains("Bearer secret"), "{request}");
}

#[test]
fn tail_prints_bodies_until_the_server_ends() {
    let (url, requests) = serve(vec![(200, "{\"seq\":4,\"body\":\"one\"}\n\n{\"seq\":5,\"body_base64\":\"dHdv\"}\n")]);
    let output = longtail(&url, &["tail", "jobs", "--from", "4"], "");
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(0), "one\ntwo\n"));
    assert!(requests.join().unwrap()[0].starts_with("GET /api/v1/spaces/default/streams/jobs/follow?from=4 "));
}

#[test]
fn the_servers_errors_come_with_their_hints() {
    let (url, _requests) = serve(vec![(404, r#"{"error":"there is no stream","hint":"list them"}"#)]);
    let output = longtail(&url, &["groups", "nothing"], "");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stderr), "longtail: there is no stream\n  list them\n");
}

#[test]
fn purge_wants_to_be_sure() {
    let output = longtail("http://127.0.0.1:1", &["purge", "jobs"], "y\n");
    assert_eq!(output.status.code(), Some(2), "a script has to say --yes");
    let (url, requests) = serve(vec![(200, r#"{"messages":3}"#)]);
    let output = longtail(&url, &["purge", "jobs", "--yes"], "");
    assert_eq!(text(&output.stdout), "3 messages removed from jobs\n");
    assert!(requests.join().unwrap()[0].starts_with("POST /api/v1/spaces/default/streams/jobs/purge "));
}

#[test]
fn pause_takes_a_time() {
    let (url, requests) = serve(vec![(204, "")]);
    let output = longtail(&url, &["pause", "jobs", "5m"], "");
    assert_eq!(text(&output.stdout), "jobs delivers nothing for 5m 00s\n");
    assert!(requests.join().unwrap()[0].contains("duration_ms=300000"));
    assert_eq!(longtail(&url, &["pause", "jobs", "soon"], "").status.code(), Some(2));
}
