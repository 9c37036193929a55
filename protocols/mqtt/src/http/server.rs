//! The sockets, and which API a path belongs to.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Request, State};
use axum::http::{Method, header};
use axum::response::Response;
use longtail_web::{Query, Server, Socket, decode, is_of_another_site};

use super::request::{Asked, BODY_MAX, Reply, Trouble};
use super::{Api, emqx, mosquitto, nanomq, vernemq};

/// Answers at these sockets.
///
/// # Errors
/// When the system gives no thread.
pub fn serve(api: &Arc<Api>, sockets: Vec<Socket>) -> io::Result<Server> {
    let router = || {
        Router::new()
            .fallback(answer)
            // Bodies have a limit of their own.
            .layer(DefaultBodyLimit::disable())
            .with_state(Arc::clone(api))
    };
    let sites = sockets.into_iter().map(|socket| (router(), socket));
    Server::start("mqtt-http", sites.collect(), None)
}

/// The systems whose APIs there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum System {
    Emqx,
    NanoMq,
    VerneMq,
    Mosquitto,
    /// Nobody's: a list of the others.
    Index,
}

fn system(path: &[&str]) -> System {
    match path {
        ["api", "v5", ..] | ["status"] => System::Emqx,
        ["api", "v4", ..] => System::NanoMq,
        ["api", "v1", "systree" | "listeners" | "version"] => System::Mosquitto,
        ["api", "v1" | "v2", ..] | ["restmqtt" | "health", ..] | ["metrics" | "status.json"] => {
            System::VerneMq
        }
        _ => System::Index,
    }
}

const INDEX: &str = "HTTP APIs of MQTT brokers, as docs/mqtt-http.md lists them:\n\n\
    /api/v5      as EMQX 5 has it\n\
    /api/v4      as NanoMQ and EMQX 4 have it\n\
    /api/v1, /api/v2, /metrics, /status.json, /health, /restmqtt/api/v1/publish\n             as VerneMQ has them\n\
    /api/v1/systree, /api/v1/listeners, /api/v1/version\n             as Mosquitto has them\n";

async fn answer(
    State(api): State<Arc<Api>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response {
    let head = request.method() == Method::HEAD;
    let segments: Vec<String> = request.uri().path().split('/').map(decode).collect();
    let mut path: Vec<&str> = segments.iter().skip(1).map(String::as_str).collect();
    // A slash at the end says nothing.
    if path.last() == Some(&"") {
        path.pop();
    }
    let system = system(&path);
    let reply = match respond(&api, system, &path, peer, request).await {
        Ok(reply) => reply,
        Err(trouble) => match system {
            System::Emqx => emqx::refuse(&trouble),
            System::NanoMq => nanomq::refuse(&trouble),
            System::VerneMq => vernemq::refuse(&trouble),
            System::Mosquitto => mosquitto::refuse(&trouble),
            System::Index => Reply::text(format!("{trouble}\n")).with(trouble.status()),
        },
    };
    let response = reply.into_response();
    if head {
        let (parts, _) = response.into_parts();
        return Response::from_parts(parts, Body::empty());
    }
    response
}

async fn respond(
    api: &Arc<Api>,
    system: System,
    path: &[&str],
    peer: SocketAddr,
    request: Request,
) -> Result<Reply, Trouble> {
    let (parts, body) = request.into_parts();
    if is_of_another_site(&parts.headers) {
        return Err(Trouble::OtherSite);
    }
    let length = parts.headers.get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
    if length.is_some_and(|length: usize| length > BODY_MAX) {
        return Err(Trouble::TooLarge);
    }
    let body = axum::body::to_bytes(body, BODY_MAX).await;
    let asked = Asked {
        api: Arc::clone(api),
        method: if parts.method == Method::HEAD {
            Method::GET
        } else {
            parts.method
        },
        peer: peer.ip(),
        query: Query::parse(parts.uri.query().unwrap_or_default()),
        headers: parts.headers,
        body: body.map_err(|_| Trouble::TooLarge)?,
    };
    match (system, path) {
        (System::Emqx, ["status"]) => emqx::status(&asked),
        (System::Emqx, ["api", "v5", path @ ..]) => emqx::answer(&asked, path).await,
        (System::NanoMq, ["api", "v4", path @ ..]) => nanomq::answer(&asked, path).await,
        (System::Mosquitto, ["api", "v1", what]) => mosquitto::answer(&asked, what).await,
        (System::VerneMq, path) => vernemq::answer(&asked, path).await,
        (_, []) => Ok(Reply::text(INDEX)),
        _ => Err(Trouble::NoPath),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_belongs_to_one_system() {
        for (path, of) in [
            ("api/v5/clients", System::Emqx),
            ("api/v4", System::NanoMq),
            ("api/v1/listeners", System::Mosquitto),
            ("api/v1/listener/show", System::VerneMq),
            ("api/v2/client", System::VerneMq),
            ("metrics", System::VerneMq),
            ("nothing", System::Index),
        ] {
            let segments: Vec<&str> = path.split('/').collect();
            assert_eq!(system(&segments), of, "{path}");
        }
    }
}
