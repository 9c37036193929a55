//! The routes over a backend in memory, through a real socket.

use std::sync::Mutex;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc, oneshot};

use super::*;
use crate::backend::{Notation, SessionFilter, SubscriptionFilter};
use crate::listener::{AdminListener, serve};
use crate::metrics::Metrics;
use crate::shapes::{
    BanStatus, Batch, Body as MessageBody, BrowsedMessage, ConnectionStatus, DropStatus, Drops,
    GroupStatus, Health, Listing, LiveMessage, Published, Purged, RetainedMessage, RetainedStatus,
    SessionStatus, SlowStatus, Status, StreamCounts, StreamStatus, SubscriptionStatus, TopicStatus,
    TraceLines, TraceStatus,
};
use crate::watching::{DropFilter, NewTrace, SlowChange, Watching};

/// One space, streams by name, messages in order.
#[derive(Default)]
struct Fake {
    streams: Mutex<Vec<(String, Vec<Bytes>)>>,
    published: Notify,
    pauses: Mutex<Vec<(String, u64)>>,
    kicked: Mutex<Vec<u64>>,
    unready: Mutex<Vec<String>>,
    last: Mutex<Option<NewMessage>>,
}

impl Fake {
    fn describe(name: &str, messages: &[Bytes]) -> StreamStatus {
        let count = messages.len() as u64;
        StreamStatus {
            space: "default".to_owned(),
            name: name.to_owned(),
            counts: StreamCounts {
                messages: count,
                ready: count,
                ..StreamCounts::default()
            },
            first: 1,
            next: count + 1,
            ..StreamStatus::default()
        }
    }

    fn read(&self, stream: &StreamRef, from: u64, max: usize) -> Result<Batch, AdminError> {
        let streams = self.streams.lock().unwrap();
        let (_, messages) = streams
            .iter()
            .find(|(name, _)| *name == stream.name)
            .ok_or_else(|| AdminError::no_stream(stream))?;
        let from = from.max(1);
        let messages: Vec<BrowsedMessage> = messages
            .iter()
            .zip(1..)
            .filter(|(_, seq)| *seq >= from)
            .take(max)
            .map(|(body, seq)| BrowsedMessage {
                seq,
                state: Some("ready".to_owned()),
                priority: 0,
                created_ms: 7,
                bytes: body.len() as u64,
                body: MessageBody::new(body),
            })
            .collect();
        let next = messages.last().map_or(from, |message| message.seq + 1);
        Ok(Batch { messages, next })
    }
}

impl AdminBackend for Fake {
    fn health(&self) -> Health {
        let reasons = self.unready.lock().unwrap().clone();
        Health {
            ready: reasons.is_empty(),
            reasons,
        }
    }

    async fn status(&self) -> Result<Status, AdminError> {
        Ok(Status {
            version: "test".to_owned(),
            health: self.health(),
            ..Status::default()
        })
    }

    async fn streams(
        &self,
        space: Option<&str>,
        page: Page,
    ) -> Result<Listing<StreamStatus>, AdminError> {
        if space.is_some_and(|space| space != "default") {
            return Ok(Listing {
                items: Vec::new(),
                next: None,
            });
        }
        let streams = self.streams.lock().unwrap();
        let rest = streams
            .iter()
            .skip_while(|(name, _)| page.after.as_ref().is_some_and(|after| name <= after));
        let items: Vec<StreamStatus> = rest
            .take(page.limit)
            .map(|(name, messages)| Fake::describe(name, messages))
            .collect();
        let next = items
            .last()
            .filter(|_| items.len() == page.limit)
            .map(|stream| stream.name.clone());
        Ok(Listing { items, next })
    }

    async fn stream(&self, stream: &StreamRef) -> Result<StreamStatus, AdminError> {
        let streams = self.streams.lock().unwrap();
        let found = streams.iter().find(|(name, _)| *name == stream.name);
        found
            .map(|(name, messages)| Fake::describe(name, messages))
            .ok_or_else(|| AdminError::no_stream(stream))
    }

    async fn groups(&self, stream: &StreamRef) -> Result<Vec<GroupStatus>, AdminError> {
        let stream = self.stream(stream).await?;
        Ok(vec![GroupStatus {
            ready: stream.counts.ready,
            ..GroupStatus::default()
        }])
    }

    async fn browse(
        &self,
        stream: &StreamRef,
        from: u64,
        max: usize,
        wait: Duration,
    ) -> Result<Batch, AdminError> {
        loop {
            let published = self.published.notified();
            let batch = self.read(stream, from, max)?;
            if wait.is_zero() || !batch.messages.is_empty() {
                return Ok(batch);
            }
            published.await;
        }
    }

    async fn subscribe(
        &self,
        _: &str,
        subject: &str,
    ) -> Result<mpsc::Receiver<LiveMessage>, AdminError> {
        if subject == "unsupported" {
            return Err(AdminError::new(ErrorKind::Unsupported, "no subjects here"));
        }
        let (sender, receiver) = mpsc::channel(4);
        for n in 0..2 {
            let message = LiveMessage {
                subject: subject.to_owned(),
                dropped: n,
                body: MessageBody::new(&[0xff, 0xfe]),
            };
            sender.try_send(message).unwrap();
        }
        Ok(receiver)
    }

    async fn publish(&self, target: Target, message: NewMessage) -> Result<Published, AdminError> {
        *self.last.lock().unwrap() = Some(message.clone());
        let Target::Stream(stream) = target else {
            return Ok(Published { seq: None });
        };
        let mut streams = self.streams.lock().unwrap();
        let index = streams
            .iter()
            .position(|(name, _)| *name == stream.name)
            .unwrap_or(streams.len());
        if index == streams.len() {
            streams.push((stream.name, Vec::new()));
        }
        streams[index].1.push(message.body);
        self.published.notify_waiters();
        Ok(Published {
            seq: Some(streams[index].1.len() as u64),
        })
    }

    async fn purge(&self, stream: &StreamRef) -> Result<Purged, AdminError> {
        let messages = self.stream(stream).await?.counts.messages;
        self.streams
            .lock()
            .unwrap()
            .iter_mut()
            .filter(|(name, _)| *name == stream.name)
            .for_each(|(_, m)| m.clear());
        Ok(Purged { messages })
    }

    async fn pause(&self, stream: &StreamRef, ms: u64) -> Result<(), AdminError> {
        self.pauses.lock().unwrap().push((stream.name.clone(), ms));
        Ok(())
    }

    async fn connections(&self, _: Page) -> Result<Listing<ConnectionStatus>, AdminError> {
        let connection = ConnectionStatus {
            id: 7,
            protocol: "beanstalk".to_owned(),
            ..ConnectionStatus::default()
        };
        Ok(Listing {
            items: vec![connection],
            next: None,
        })
    }

    async fn kick(&self, connection: u64) -> Result<(), AdminError> {
        if connection != 7 {
            return Err(AdminError::new(
                ErrorKind::NotFound,
                "there is no such connection",
            ));
        }
        self.kicked.lock().unwrap().push(connection);
        Ok(())
    }

    async fn sessions(
        &self,
        filter: &SessionFilter,
        page: Page,
    ) -> Result<Listing<SessionStatus>, AdminError> {
        let session = SessionStatus {
            id: format!("{}/{:?}", filter.contains, filter.connected),
            account: filter.matches.clone(),
            queued: page.limit as u64,
            ..SessionStatus::default()
        };
        Ok(Listing {
            items: vec![session],
            next: None,
        })
    }

    async fn session(&self, id: &str) -> Result<SessionStatus, AdminError> {
        Ok(SessionStatus {
            id: id.to_owned(),
            ..SessionStatus::default()
        })
    }

    async fn end_session(&self, id: &str, forget: bool) -> Result<(), AdminError> {
        if forget || id == "a/b" {
            Ok(())
        } else {
            Err(AdminError::new(ErrorKind::Refused, "it is away"))
        }
    }

    async fn bans(&self, page: Page) -> Result<Listing<BanStatus>, AdminError> {
        let ban = BanStatus {
            value: format!("{:?}/{}", page.after, page.limit),
            ..BanStatus::default()
        };
        Ok(Listing {
            items: vec![ban],
            next: None,
        })
    }

    async fn ban(
        &self,
        kind: &str,
        value: &str,
        for_ms: Option<u64>,
        reason: &str,
    ) -> Result<BanStatus, AdminError> {
        Ok(BanStatus {
            kind: kind.to_owned(),
            value: value.to_owned(),
            until_ms: for_ms,
            reason: reason.to_owned(),
            ..BanStatus::default()
        })
    }

    async fn unban(&self, kind: &str, value: &str) -> Result<(), AdminError> {
        if (kind, value) == ("address", "10.0.0.0/8") {
            return Ok(());
        }
        Err(AdminError::new(ErrorKind::NotFound, "there is no such ban"))
    }

    async fn subscriptions(
        &self,
        filter: &SubscriptionFilter,
        _: Page,
    ) -> Result<Listing<SubscriptionStatus>, AdminError> {
        let subscription = SubscriptionStatus {
            session: filter.session.clone().unwrap_or_default(),
            filter: filter
                .matches
                .clone()
                .unwrap_or_else(|| filter.contains.clone()),
            ..SubscriptionStatus::default()
        };
        Ok(Listing {
            items: vec![subscription],
            next: None,
        })
    }

    async fn retained(
        &self,
        space: &str,
        filter: Option<&str>,
        notation: Notation,
        _: Page,
    ) -> Result<Listing<RetainedStatus>, AdminError> {
        let retained = RetainedStatus {
            subject: format!("{space} {filter:?} {notation:?}"),
            ..RetainedStatus::default()
        };
        Ok(Listing {
            items: vec![retained],
            next: None,
        })
    }

    async fn retained_message(
        &self,
        space: &str,
        subject: &str,
        notation: Notation,
    ) -> Result<RetainedMessage, AdminError> {
        Ok(RetainedMessage {
            status: RetainedStatus {
                subject: format!("{space} {subject} {notation:?}"),
                ..RetainedStatus::default()
            },
            headers: vec![("unit".to_owned(), "C".to_owned())],
            body: MessageBody::new(b"21"),
        })
    }

    async fn forget_retained(&self, _: &str, subject: &str, _: Notation) -> Result<(), AdminError> {
        if subject == "a/b" {
            Ok(())
        } else {
            Err(AdminError::new(ErrorKind::NotFound, "nothing is retained"))
        }
    }

    async fn metrics(&self, _: usize) -> Result<Metrics, AdminError> {
        let streams = self
            .streams
            .lock()
            .unwrap()
            .iter()
            .map(|(name, m)| Fake::describe(name, m))
            .collect();
        Ok(Metrics {
            ready: self.health().ready,
            streams,
            ..Metrics::default()
        })
    }
}

impl Watching for Fake {
    fn traces(&self) -> Result<Vec<TraceStatus>, AdminError> {
        Ok(vec![self.trace("one")?])
    }

    fn trace(&self, name: &str) -> Result<TraceStatus, AdminError> {
        if name == "none" {
            return Err(AdminError::new(ErrorKind::NotFound, "there is no trace"));
        }
        Ok(TraceStatus {
            name: name.to_owned(),
            ..TraceStatus::default()
        })
    }

    fn begin_trace(&self, trace: NewTrace) -> Result<TraceStatus, AdminError> {
        Ok(TraceStatus {
            name: trace.name,
            kind: trace.kind,
            value: trace.value,
            payload: trace.payload.unwrap_or_default(),
            end_ms: trace.for_ms.unwrap_or_default(),
            ..TraceStatus::default()
        })
    }

    fn stop_trace(&self, name: &str) -> Result<TraceStatus, AdminError> {
        let status = "stopped".to_owned();
        Ok(TraceStatus {
            status,
            ..self.trace(name)?
        })
    }

    fn delete_trace(&self, name: &str) -> Result<(), AdminError> {
        self.trace(name).map(|_| ())
    }

    fn trace_lines(&self, _: &str, from: u64, max: usize) -> Result<TraceLines, AdminError> {
        Ok(TraceLines {
            text: format!("{max}\n"),
            next: from + 1,
            open: false,
        })
    }

    fn slow(&self) -> Result<SlowStatus, AdminError> {
        Ok(SlowStatus::default())
    }

    fn change_slow(&self, change: SlowChange) -> Result<SlowStatus, AdminError> {
        Ok(SlowStatus {
            enabled: change.enabled.unwrap_or_default(),
            threshold_ms: change.threshold_ms.unwrap_or(500),
            span: change.span.unwrap_or_default(),
            ..SlowStatus::default()
        })
    }

    fn clear_slow(&self) -> Result<(), AdminError> {
        Ok(())
    }

    fn topics(&self) -> Result<Vec<TopicStatus>, AdminError> {
        Ok(vec![self.watch_topic("a")?])
    }

    fn watch_topic(&self, topic: &str) -> Result<TopicStatus, AdminError> {
        Ok(TopicStatus {
            topic: topic.to_owned(),
            ..TopicStatus::default()
        })
    }

    fn reset_topic(&self, topic: &str) -> Result<(), AdminError> {
        if topic == "a/b" {
            Ok(())
        } else {
            Err(AdminError::new(ErrorKind::NotFound, "it is not watched"))
        }
    }

    fn forget_topic(&self, topic: &str) -> Result<(), AdminError> {
        self.reset_topic(topic)
    }

    fn drops(&self, filter: &DropFilter, max: usize) -> Result<Drops, AdminError> {
        let item = DropStatus {
            session: filter.session.clone().unwrap_or_default(),
            topic: filter.topic.clone().unwrap_or_default(),
            ..DropStatus::default()
        };
        Ok(Drops {
            items: vec![item],
            unlisted: max as u64,
        })
    }
}

/// A service on a port of its own.
struct Service {
    fake: Arc<Fake>,
    address: std::net::SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    task: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl Service {
    async fn start(access: Access) -> Self {
        let fake = Arc::new(Fake::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let options = Options {
            access,
            body_bytes: 1024,
            streams_max: 2,
        };
        let task = tokio::spawn(serve(
            AdminListener::Tcp(listener),
            Arc::clone(&fake),
            options,
            async {
                let _ = stopped.await;
            },
        ));
        Service {
            fake,
            address,
            stop: Some(stop),
            task,
        }
    }

    async fn send(&self, request: &str) -> TcpStream {
        let mut socket = TcpStream::connect(self.address).await.unwrap();
        socket.write_all(request.as_bytes()).await.unwrap();
        socket
    }

    /// Status and body.
    async fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> (u16, String) {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n{body}",
            self.address,
            body.len()
        );
        let mut text = String::new();
        self.send(&request)
            .await
            .read_to_string(&mut text)
            .await
            .unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (
            head.split(' ').nth(1).unwrap().parse().unwrap(),
            body.to_owned(),
        )
    }

    async fn get(&self, path: &str) -> (u16, String) {
        self.ask("GET", path, "", "").await
    }

    async fn post(&self, path: &str, body: &str) -> (u16, String) {
        self.ask("POST", path, "", body).await
    }
}

#[tokio::test]
async fn probes_need_no_token_and_say_why() {
    let service = Service::start(Access::Token("secret".into())).await;
    assert_eq!(service.get("/healthz").await, (200, "ok\n".to_owned()));
    assert_eq!(service.get("/readyz").await.0, 200);
    service
        .fake
        .unready
        .lock()
        .unwrap()
        .push("draining".to_owned());
    assert_eq!(
        service.get("/readyz").await,
        (503, r#"{"ready":false,"reasons":["draining"]}"#.to_owned())
    );
    assert_eq!(service.get("/healthz").await.0, 200, "alive all the same");
}

#[tokio::test]
async fn everything_else_needs_the_token() {
    let service = Service::start(Access::Token("secret".into())).await;
    for path in ["/", "/metrics", "/api/v1/status", "/api/v1/nonsense"] {
        let (status, body) = service.get(path).await;
        assert_eq!(status, 401, "{path}");
        assert!(body.contains("\"hint\""), "{body}");
        let (status, _) = service
            .ask("GET", path, "authorization: Bearer secret\r\n", "")
            .await;
        assert_ne!(status, 401, "{path}");
    }
}

#[tokio::test]
async fn what_is_published_can_be_browsed_and_purged() {
    let service = Service::start(Access::LocalOnly).await;
    let base = "/api/v1/spaces/default/streams/a%2Fb";
    let path = format!("{base}/messages?priority=3&delay_ms=50&ack_timeout_ms=9");
    assert_eq!(
        service.post(&path, "hello").await,
        (201, r#"{"seq":1}"#.to_owned())
    );
    let last = service.fake.last.lock().unwrap().clone().unwrap();
    assert_eq!(
        (last.priority, last.delay_ms, last.ack_timeout_ms),
        (Some(3), 50, 9)
    );

    let (status, body) = service.get(&format!("{base}/messages")).await;
    assert_eq!(status, 200);
    let batch: Batch = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (batch.messages[0].body.clone(), batch.next),
        (MessageBody::Body("hello".to_owned()), 2)
    );
    assert_eq!(service.get(base).await.0, 200);
    assert!(
        service
            .get(&format!("{base}/groups"))
            .await
            .1
            .contains(r#""ready":1"#)
    );
    assert_eq!(
        service.post(&format!("{base}/purge"), "").await,
        (200, r#"{"messages":1}"#.to_owned())
    );
    assert_eq!(
        service
            .post(&format!("{base}/pause?duration_ms=60"), "")
            .await
            .0,
        204
    );
    assert_eq!(
        *service.fake.pauses.lock().unwrap(),
        [("a/b".to_owned(), 60)]
    );
}

#[tokio::test]
async fn listings_come_in_pages() {
    let service = Service::start(Access::LocalOnly).await;
    for name in ["a", "b", "c"] {
        service
            .post(
                &format!("/api/v1/spaces/default/streams/{name}/messages"),
                "x",
            )
            .await;
    }
    let (_, body) = service.get("/api/v1/streams?limit=2").await;
    let page: Listing<StreamStatus> = serde_json::from_str(&body).unwrap();
    assert_eq!(page.items.len(), 2);
    let (_, body) = service
        .get(&format!(
            "/api/v1/streams?limit=2&after={}",
            page.next.unwrap()
        ))
        .await;
    let page: Listing<StreamStatus> = serde_json::from_str(&body).unwrap();
    assert_eq!((page.items[0].name.as_str(), page.next), ("c", None));
    let (_, body) = service.get("/metrics").await;
    assert!(
        body.contains("stream=\"b\"") && !body.contains("stream=\"c\""),
        "{body}"
    );
    assert!(body.contains("stream=\"other\""), "{body}");
}

#[tokio::test]
async fn mistakes_are_answered_with_what_is_wrong() {
    let service = Service::start(Access::LocalOnly).await;
    let base = "/api/v1/spaces/default/streams/jobs";
    for (status, (got, body)) in [
        (404, service.get(base).await),
        (404, service.get("/api/v1/nonsense").await),
        (400, service.get("/api/v1/streams?limit=0").await),
        (400, service.get("/api/v1/streams?limt=5").await),
        (
            400,
            service.get(&format!("{base}/messages?limit=100000")).await,
        ),
        (400, service.post(&format!("{base}/pause"), "").await),
        (
            400,
            service.post("/api/v1/spaces/default/publish", "x").await,
        ),
        (405, service.post("/api/v1/status", "").await),
        (
            413,
            service
                .post(&format!("{base}/messages"), &"x".repeat(1025))
                .await,
        ),
        (
            501,
            service
                .get("/api/v1/spaces/default/follow?subject=unsupported")
                .await,
        ),
        (
            400,
            service.ask("DELETE", "/api/v1/connections/x", "", "").await,
        ),
        (
            404,
            service.ask("DELETE", "/api/v1/connections/8", "", "").await,
        ),
        (
            403,
            service
                .ask(
                    "GET",
                    "/api/v1/status",
                    "origin: http://evil.example\r\n",
                    "",
                )
                .await,
        ),
    ] {
        assert_eq!(got, status, "{body}");
        let problem: crate::shapes::Problem = serde_json::from_str(&body).unwrap();
        assert!(!problem.error.is_empty());
    }
    assert_eq!(
        service
            .ask("DELETE", "/api/v1/connections/7", "", "")
            .await
            .0,
        204
    );
    assert_eq!(*service.fake.kicked.lock().unwrap(), [7]);
}

#[tokio::test]
async fn a_long_poll_waits_for_the_first_message() {
    let service = Service::start(Access::LocalOnly).await;
    let base = "/api/v1/spaces/default/streams/jobs";
    service.post(&format!("{base}/messages"), "one").await;
    let path = format!("{base}/messages?from=2&wait_ms=30000");
    let publish = format!("{base}/messages");
    let (batch, _) = tokio::join!(service.get(&path), service.post(&publish, "two"));
    let batch: Batch = serde_json::from_str(&batch.1).unwrap();
    assert_eq!(batch.messages[0].body, MessageBody::Body("two".to_owned()));
}

/// Reads until `wanted` was seen.
async fn read_until(socket: &mut TcpStream, seen: &mut String, wanted: &str) {
    let mut buffer = [0; 1024];
    while !seen.contains(wanted) {
        let length = socket.read(&mut buffer).await.unwrap();
        assert!(length > 0, "ended before {wanted}: {seen}");
        seen.push_str(std::str::from_utf8(&buffer[..length]).unwrap());
    }
}

#[tokio::test]
async fn following_a_stream_goes_on_until_the_service_stops() {
    let mut service = Service::start(Access::LocalOnly).await;
    let base = "/api/v1/spaces/default/streams/jobs";
    service.post(&format!("{base}/messages"), "one").await;
    let request = format!("GET {base}/follow?from=1 HTTP/1.1\r\nhost: localhost\r\n\r\n");
    let (mut socket, mut seen) = (service.send(&request).await, String::new());
    read_until(&mut socket, &mut seen, r#""body":"one"}"#).await;
    service.post(&format!("{base}/messages"), "two").await;
    read_until(&mut socket, &mut seen, r#""body":"two"}"#).await;
    service.stop.take().unwrap().send(()).unwrap();
    read_until(&mut socket, &mut seen, "0\r\n\r\n").await;
    service.task.await.unwrap().unwrap();
}

#[tokio::test]
async fn following_a_subject_carries_bytes_that_are_no_text() {
    let service = Service::start(Access::LocalOnly).await;
    let (status, body) = service
        .get("/api/v1/spaces/default/follow?subject=a.%3E")
        .await;
    assert_eq!(status, 200);
    let line = r#"{"subject":"a.>","dropped":1,"body_base64":"//4="}"#;
    assert!(body.contains(line), "{body}");
}

#[tokio::test]
async fn bans_are_set_by_kind_and_value_listed_and_ended() {
    let service = Service::start(Access::LocalOnly).await;
    let path = "/api/v1/bans/address/10.0.0.0%2F8";
    let (status, body) = service.post(&format!("{path}?for_ms=5&reason=x"), "").await;
    assert_eq!(status, 200, "{body}");
    for part in [
        "\"kind\":\"address\"",
        "\"value\":\"10.0.0.0/8\"",
        "\"until_ms\":5",
        "\"reason\":\"x\"",
    ] {
        assert!(body.contains(part), "{body}");
    }
    let (_, body) = service.get("/api/v1/bans?after=a%2Fb&limit=3").await;
    assert!(body.contains("Some(\\\"a/b\\\")/3"), "{body}");
    assert_eq!(service.ask("DELETE", path, "", "").await.0, 204);
    let other = "/api/v1/bans/client/nobody";
    assert_eq!(service.ask("DELETE", other, "", "").await.0, 404);
    let (status, _) = service.post(&format!("{other}?fro_ms=5"), "").await;
    assert_eq!(status, 400);
}

#[tokio::test]
async fn a_trace_follows_one_thing_and_is_read_stopped_and_deleted() {
    let service = Service::start(Access::LocalOnly).await;
    let path = "/api/v1/traces/why";
    let (status, body) = service
        .post(
            &format!("{path}?topic=a%2F%23&for_ms=60000&payload=text"),
            "",
        )
        .await;
    assert_eq!(status, 201, "{body}");
    let trace: TraceStatus = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (&*trace.kind, &*trace.value, trace.end_ms, &*trace.payload),
        ("topic", "a/#", 60_000, "text")
    );
    for nothing in ["", "?client=a&topic=b", "?clent=a"] {
        assert_eq!(
            service.post(&format!("{path}{nothing}"), "").await.0,
            400,
            "{nothing}"
        );
    }
    let (_, body) = service.get("/api/v1/traces").await;
    assert!(body.contains(r#""name":"one""#), "{body}");
    let (_, body) = service
        .get(&format!("{path}/lines?from=7&max_bytes=10"))
        .await;
    assert_eq!(body, r#"{"text":"10\n","next":8,"open":false}"#);
    let too_many = format!("{path}/lines?max_bytes=2000000");
    assert_eq!(service.get(&too_many).await.0, 400);
    let (_, body) = service.post(&format!("{path}/stop"), "").await;
    assert!(body.contains(r#""status":"stopped""#), "{body}");
    assert_eq!(service.ask("DELETE", path, "", "").await.0, 204);
    let none = "/api/v1/traces/none";
    assert_eq!(service.get(none).await.0, 404);
    assert_eq!(service.ask("DELETE", none, "", "").await.0, 404);
}

#[tokio::test]
async fn slow_subscriptions_topics_and_drops_are_asked_for() {
    let service = Service::start(Access::LocalOnly).await;
    let (status, body) = service
        .post(
            "/api/v1/slow?enabled=true&threshold_ms=20&span=response",
            "",
        )
        .await;
    assert_eq!(status, 200);
    let slow: SlowStatus = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (slow.enabled, slow.threshold_ms, &*slow.span),
        (true, 20, "response")
    );
    assert_eq!(service.ask("DELETE", "/api/v1/slow", "", "").await.0, 204);
    let topic = "/api/v1/topic-metrics/a%2Fb";
    assert_eq!(service.post(topic, "").await.0, 201);
    assert_eq!(service.post(&format!("{topic}/reset"), "").await.0, 204);
    let other = "/api/v1/topic-metrics/x/reset";
    assert_eq!(service.post(other, "").await.0, 404);
    assert_eq!(service.ask("DELETE", topic, "", "").await.0, 204);
    let (_, body) = service
        .get("/api/v1/drops?session=c&topic=a%2F%23&limit=3")
        .await;
    let drops: Drops = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (&*drops.items[0].session, &*drops.items[0].topic),
        ("c", "a/#")
    );
    assert_eq!(drops.unlisted, 3);
    let (_, body) = service.get("/api/v1/subscriptions?matches=a%2Fb").await;
    assert!(body.contains(r#""filter":"a/b""#), "{body}");
    let (_, body) = service.get("/api/v1/sessions?matches=a%2Fb").await;
    assert!(body.contains(r#""account":"a/b""#), "{body}");
}
