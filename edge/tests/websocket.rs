//! WebSocket listeners, driven by an independent client.

#![allow(
    clippy::unwrap_used,
    reason = "a test fails by panicking, its helpers too"
)]

mod support;

use std::net::SocketAddr;

use futures_util::{SinkExt, StreamExt};
use longtail_edge::testing::LineEcho;
use longtail_edge::{Connection, Input, Out, Protocol, Refusal, RefusalCause, WebSocketConfig};
use std::sync::Arc;
use support::*;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

/// An echo that goes by the subprotocol `echo`.
struct NamedEcho;

impl Protocol for NamedEcho {
    type Session = ();

    fn name(&self) -> &'static str {
        "echo"
    }

    fn websocket_subprotocols(&self) -> &'static [&'static str] {
        &["echo"]
    }

    fn open(
        self: &Arc<Self>,
        _conn: &Arc<Connection<Self>>,
        _out: &mut Out,
    ) -> Result<(), Refusal> {
        Ok(())
    }

    fn input(&self, _session: &mut (), input: &[u8], out: &mut Out) -> Input {
        out.put(input);
        Input::read(input.len())
    }
}

type Answer = Result<(WebSocketStream<TcpStream>, Option<String>), Error>;

async fn open(address: SocketAddr, headers: &[(&'static str, &str)]) -> Answer {
    let mut request = format!("ws://{address}/").into_client_request()?;
    for (name, value) in headers {
        request
            .headers_mut()
            .insert(*name, HeaderValue::from_str(value).unwrap());
    }
    let stream = TcpStream::connect(address).await.unwrap();
    let (socket, response) = client_async(request, stream).await?;
    let chosen = response.headers().get("sec-websocket-protocol");
    let chosen = chosen.map(|value| value.to_str().unwrap().to_owned());
    Ok((socket, chosen))
}

fn status(answer: Answer) -> u16 {
    match answer {
        Err(Error::Http(response)) => response.status().as_u16(),
        other => panic!("not refused: {other:?}"),
    }
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime
        .block_on(async { tokio::time::timeout(PATIENCE, test).await })
        .unwrap();
}

async fn read(socket: &mut WebSocketStream<TcpStream>, length: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < length {
        match socket.next().await.unwrap().unwrap() {
            Message::Binary(part) => bytes.extend_from_slice(&part),
            Message::Pong(_) => {}
            other => panic!("{other:?}"),
        }
    }
    bytes
}

#[test]
fn frames_carry_a_stream_whose_borders_mean_nothing() {
    run(async {
        let edge = start();
        let address = listen_with(&edge, LineEcho, |config| {
            config.websocket = Some(WebSocketConfig::default());
        });
        let (mut socket, _) = open(address, &[]).await.unwrap();
        socket
            .send(Message::binary(b"one\ntw".to_vec()))
            .await
            .unwrap();
        assert_eq!(read(&mut socket, 4).await, b"one\n");
        socket.send(Message::binary(b"o\n".to_vec())).await.unwrap();
        assert_eq!(read(&mut socket, 4).await, b"two\n");
        let line = [vec![b'x'; 1_000_000], vec![b'\n']].concat();
        socket.send(Message::binary(line.clone())).await.unwrap();
        assert!(read(&mut socket, line.len()).await == line);
        socket
            .send(Message::binary(b"last\nquit\n".to_vec()))
            .await
            .unwrap();
        assert_eq!(read(&mut socket, 5).await, b"last\n");
        assert!(matches!(socket.next().await, Some(Ok(Message::Close(_)))));
        assert!(socket.next().await.is_none());
        eventually("the connection is gone", || edge.connections().is_empty());
    });
}

#[test]
fn pings_are_answered_and_text_is_not_taken() {
    run(async {
        let edge = start();
        let address = listen_with(&edge, LineEcho, |config| {
            config.websocket = Some(WebSocketConfig::default());
        });
        let (mut socket, _) = open(address, &[]).await.unwrap();
        socket
            .send(Message::Ping(b"are you there".as_slice().into()))
            .await
            .unwrap();
        assert_eq!(
            socket.next().await.unwrap().unwrap(),
            Message::Pong(b"are you there".as_slice().into())
        );
        socket.send(Message::text("hello\n")).await.unwrap();
        let end = socket.next().await;
        assert!(!matches!(end, Some(Ok(Message::Binary(_)))), "{end:?}");
        eventually("the connection is gone", || edge.connections().is_empty());
    });
}

#[test]
fn subprotocols_are_agreed_on() {
    run(async {
        let edge = start();
        let address = listen_with(&edge, NamedEcho, |config| {
            config.websocket = Some(WebSocketConfig::default());
        });
        let offer = |list| [("sec-websocket-protocol", list)];
        let (_socket, chosen) = open(address, &offer("chat, echo")).await.unwrap();
        assert_eq!(chosen.as_deref(), Some("echo"));
        let (_socket, chosen) = open(address, &[]).await.unwrap();
        assert_eq!(chosen, None);
        assert_eq!(status(open(address, &offer("chat")).await), 400);
        eventually("it is counted", || {
            edge.metrics()[0].refused.by(RefusalCause::WebSocket) == 1
        });
    });
}

#[test]
fn web_pages_need_to_be_listed() {
    run(async {
        let edge = start();
        let origins = vec!["https://app.example.org".to_owned()];
        let address = listen_with(&edge, LineEcho, |config| {
            config.websocket = Some(WebSocketConfig {
                origins,
                ..WebSocketConfig::default()
            });
        });
        assert!(
            open(address, &[("origin", "https://app.example.org")])
                .await
                .is_ok()
        );
        assert_eq!(
            status(open(address, &[("origin", "https://evil.example")]).await),
            403
        );
        // Clients that are no browsers name the address they connect to.
        let own = format!("http://{address}");
        assert!(open(address, &[("origin", &own)]).await.is_ok());
        // A page whose name leads here is a page nevertheless.
        let rebound = [("host", "evil.example"), ("origin", "http://evil.example")];
        assert_eq!(status(open(address, &rebound).await), 403);
    });
}

#[test]
fn a_frame_beyond_the_limit_ends_the_connection() {
    run(async {
        let edge = start();
        let address = listen_with(&edge, LineEcho, |config| {
            config.websocket = Some(WebSocketConfig {
                frame_max_bytes: 1000,
                ..WebSocketConfig::default()
            });
        });
        let (mut socket, _) = open(address, &[]).await.unwrap();
        let _ = socket.send(Message::binary(vec![b'x'; 2000])).await;
        let end = socket.next().await;
        assert!(!matches!(end, Some(Ok(Message::Binary(_)))), "{end:?}");
        eventually("the connection is gone", || edge.connections().is_empty());
    });
}
