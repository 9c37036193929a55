//! WebSocket as a stream of bytes: binary frames in both directions, whose borders mean nothing.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::{Sink, Stream};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::header::{
    HOST, HeaderValue, ORIGIN, SEC_WEBSOCKET_PROTOCOL,
};
use tokio_tungstenite::tungstenite::http::{self, StatusCode};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig as Settings;
use tokio_tungstenite::tungstenite::{Error, Message, error::ProtocolError};

use crate::cidr::Cidr;
use crate::stream::Duplex;

/// Buffer of each WebSocket connection, in bytes; allocated whether it is busy or not.
const BUFFER_BYTES: usize = 4 * 1024;

/// Payload of one outgoing frame at most.
const OUT_FRAME_BYTES_MAX: usize = 64 * 1024;

/// WebSocket settings of a listener.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WebSocketConfig {
    /// Payload of one incoming frame or message at most (default 16 MiB); a larger one ends the connection.
    pub frame_max_bytes: usize,
    /// Web pages that may connect, as their browser states them (`https://app.example.org`), or `*` for all. The default
    /// is none: a page from anywhere could otherwise use the broker through the browser of somebody who can
    /// reach it. Clients that are no browsers send no origin, or the address they connect to, and are not affected;
    /// one that names the host by a name other than `localhost` in its origin has to be listed.
    pub origins: Vec<String>,
    /// Proxies whose `X-Forwarded-For` says where a client comes from (default none: the header is passed over). The
    /// client is the last address in it that is none of these proxies: what stands before that, anybody may have
    /// written. On a Unix socket everybody who can open it is one.
    pub trusted_proxies: Vec<Cidr>,
}

impl Default for WebSocketConfig {
    fn default() -> Self {
        WebSocketConfig {
            frame_max_bytes: 16 * 1024 * 1024,
            origins: Vec::new(),
            trusted_proxies: Vec::new(),
        }
    }
}

/// Answers the client's request to upgrade. `peer` is where the socket leads to; answers as well which address a trusted
/// proxy there says that the client has, if one does.
pub(crate) async fn accept(
    stream: Box<dyn Duplex>,
    peer: Option<IpAddr>,
    config: &WebSocketConfig,
    subprotocols: &'static [&'static str],
) -> Result<(WebSocketBytes, Option<IpAddr>), Error> {
    let settings = Settings::default()
        .read_buffer_size(BUFFER_BYTES)
        .write_buffer_size(BUFFER_BYTES)
        .max_frame_size(Some(config.frame_max_bytes))
        .max_message_size(Some(config.frame_max_bytes));
    let origins = config.origins.clone();
    let mut client = None;
    let trusted = &config.trusted_proxies;
    let is_proxied = !trusted.is_empty() && peer.is_none_or(|peer| is_among(trusted, peer));
    #[expect(clippy::result_large_err, reason = "the callback's type is given")]
    let answer = |request: &Request, response: Response| {
        if is_proxied {
            client = forwarded_for(request, trusted);
        }
        answer(request, response, &origins, subprotocols)
    };
    let socket =
        tokio_tungstenite::accept_hdr_async_with_config(stream, answer, Some(settings)).await?;
    let bytes = WebSocketBytes {
        socket,
        current: Bytes::new(),
    };
    Ok((bytes, client))
}

fn is_among(ranges: &[Cidr], address: IpAddr) -> bool {
    ranges.iter().any(|range| range.contains(address))
}

/// Whom `X-Forwarded-For` names: each proxy has written whom it was called by behind what it was told, so that the
/// list is read from its end, for as long as it names proxies that are trusted.
fn forwarded_for(request: &Request, trusted: &[Cidr]) -> Option<IpAddr> {
    let headers = request.headers().get_all(FORWARDED_FOR);
    let said: Vec<_> = headers
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|list| list.split(','))
        .map(|text| address(text.trim()))
        .collect();
    let mut client = None;
    for address in said.into_iter().rev() {
        // What cannot be read was written by nobody who is trusted.
        client = Some(address?);
        if !is_among(trusted, address?) {
            break;
        }
    }
    client
}

/// An address as proxies write it, some with a port.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let with_port = || text.parse::<SocketAddr>().map(|address| address.ip()).ok();
    let address = bare.unwrap_or(text).parse().ok().or_else(with_port)?;
    Some(IpAddr::to_canonical(&address))
}

const FORWARDED_FOR: &str = "x-forwarded-for";

#[expect(clippy::result_large_err, reason = "the callback's type is given")]
fn answer(
    request: &Request,
    mut response: Response,
    origins: &[String],
    subprotocols: &[&'static str],
) -> Result<Response, ErrorResponse> {
    if let Some(origin) = request.headers().get(ORIGIN) {
        let allowed = origins
            .iter()
            .any(|allowed| allowed == "*" || allowed.as_bytes() == origin.as_bytes());
        let own = is_own(origin, request.headers().get(HOST));
        if !allowed && !own {
            return Err(refusal(
                StatusCode::FORBIDDEN,
                "this origin is not in the listener's `websocket.origins`",
            ));
        }
    }
    let offers = request.headers().get_all(SEC_WEBSOCKET_PROTOCOL);
    let mut offered = offers
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|list| list.split(','));
    match choose(&mut offered, subprotocols) {
        Choice::Nothing => {}
        Choice::Use(chosen) => {
            response
                .headers_mut()
                .insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(chosen));
        }
        Choice::Unknown => {
            return Err(refusal(
                StatusCode::BAD_REQUEST,
                "none of the subprotocols offered is spoken here",
            ));
        }
    }
    Ok(response)
}

/// Whether an origin names nothing but the address that the client has connected to, as clients that are no browsers
/// write it. A host name proves nothing: a page can have its own lead to this machine.
fn is_own(origin: &HeaderValue, host: Option<&HeaderValue>) -> bool {
    let (Ok(origin), Some(Ok(host))) = (origin.to_str(), host.map(HeaderValue::to_str)) else {
        return false;
    };
    let Some((_, authority)) = origin.split_once("://") else {
        return false;
    };
    let is_address = host.parse::<SocketAddr>().is_ok()
        || host.parse::<IpAddr>().is_ok()
        || host.split(':').next() == Some("localhost");
    is_address && authority == host
}

enum Choice {
    Nothing,
    Use(&'static str),
    Unknown,
}

/// The first subprotocol the client offers that is spoken here. A client that offers none is taken at its word, and so
/// is any offer to a protocol that has no subprotocols.
fn choose(offered: &mut dyn Iterator<Item = &str>, spoken: &[&'static str]) -> Choice {
    let mut any = false;
    for name in offered {
        any = true;
        if let Some(chosen) = spoken
            .iter()
            .find(|spoken| name.trim().eq_ignore_ascii_case(spoken))
        {
            return Choice::Use(chosen);
        }
    }
    if any && !spoken.is_empty() {
        Choice::Unknown
    } else {
        Choice::Nothing
    }
}

fn refusal(status: StatusCode, why: &str) -> ErrorResponse {
    let mut response = http::Response::new(Some(format!("{why}\n")));
    *response.status_mut() = status;
    response
}

/// The stream of bytes.
pub(crate) struct WebSocketBytes {
    socket: WebSocketStream<Box<dyn Duplex>>,
    /// What is left of the last frame.
    current: Bytes,
}

impl AsyncRead for WebSocketBytes {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.current.is_empty() {
            match ready!(Pin::new(&mut self.socket).poll_next(cx)) {
                Some(Ok(Message::Binary(bytes))) => self.current = bytes,
                Some(Ok(Message::Text(_))) => {
                    return Poll::Ready(Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "a text frame",
                    )));
                }
                // Pings are answered within.
                Some(Ok(
                    Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_),
                )) => {}
                Some(Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake))) | None => {
                    return Poll::Ready(Ok(()));
                }
                Some(Err(error)) => return Poll::Ready(Err(into_io(error))),
            }
        }
        let count = self.current.len().min(buf.remaining());
        buf.put_slice(&self.current.split_to(count));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for WebSocketBytes {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(Pin::new(&mut self.socket).poll_ready(cx)).map_err(into_io)?;
        let bytes = &bytes[..bytes.len().min(OUT_FRAME_BYTES_MAX)];
        let frame = Message::Binary(Bytes::copy_from_slice(bytes));
        Pin::new(&mut self.socket)
            .start_send(frame)
            .map_err(into_io)?;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx).map_err(into_io)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_close(cx).map_err(into_io)
    }
}

fn into_io(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        Error::ConnectionClosed | Error::AlreadyClosed => io::ErrorKind::NotConnected.into(),
        other => io::Error::new(io::ErrorKind::InvalidData, other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_trusted_proxies_have_written_says_where_a_client_comes_from() {
        let trusted = ["10.0.0.0/8".parse().unwrap(), "::1".parse().unwrap()];
        let client = |values: &[&str]| {
            let mut request = Request::new(());
            for value in values {
                let value = HeaderValue::from_str(value).unwrap();
                request.headers_mut().append(FORWARDED_FOR, value);
            }
            forwarded_for(&request, &trusted).map(|address| address.to_string())
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(client(&[]), None);
        assert_eq!(client(&["192.0.2.1"]), some("192.0.2.1"));
        assert_eq!(client(&["1.1.1.1, 192.0.2.1, 10.1.1.1"]), some("192.0.2.1"));
        assert_eq!(client(&["192.0.2.1", "10.1.1.1"]), some("192.0.2.1"));
        assert_eq!(client(&["10.2.2.2, 10.1.1.1"]), some("10.2.2.2"));
        assert_eq!(client(&["192.0.2.1:443"]), some("192.0.2.1"));
        assert_eq!(client(&["[2001:db8::1]:443, [::1]"]), some("2001:db8::1"));
        assert_eq!(client(&["::ffff:192.0.2.1"]), some("192.0.2.1"));
        assert_eq!(client(&["192.0.2.1, unknown, 10.1.1.1"]), None);
    }

    #[test]
    fn the_clients_first_known_subprotocol_is_chosen() {
        let chosen = |offer: &str, spoken: &[&'static str]| {
            let mut offered = offer.split(',').filter(|name| !name.is_empty());
            match choose(&mut offered, spoken) {
                Choice::Nothing => "nothing",
                Choice::Use(name) => name,
                Choice::Unknown => "unknown",
            }
        };
        assert_eq!(chosen("mqttv3.1, MQTT", &["mqtt"]), "mqtt");
        assert_eq!(chosen("b,a", &["a", "b"]), "b");
        assert_eq!(chosen("", &["mqtt"]), "nothing");
        assert_eq!(chosen("amqp", &["mqtt"]), "unknown");
        assert_eq!(chosen("amqp", &[]), "nothing");
    }
}
