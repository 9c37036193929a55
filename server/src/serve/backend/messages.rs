//! Messages: published, looked at where they lie, and followed while they go by.

use std::sync::Arc;
use std::time::Duration;

use longtail::{Broker, Message};
use longtail_admin::shapes::{Batch, Body, BrowsedMessage, LiveMessage, Published};
use longtail_admin::{AdminError, ErrorKind, NewMessage, StreamRef};
use longtail_broker::message::Quality;
use longtail_engine as engine;
use longtail_engine::{Command, Handle, Reply, Role, StreamConfig, StreamName, Wait};
use longtail_model::{Filter, GroupId, Link, Priority, Seq, Subject};
use tokio::sync::mpsc;

use super::{Answer, call, streams, wording};

/// Priority of messages that come without one, in the middle of what clients use.
const PRIORITY: Priority = Priority(1024);

/// Bytes of bodies in one answer; one message is always shown.
const BATCH_BYTES: u64 = 8 << 20;

/// Messages of a followed subject that wait for their reader; further ones are dropped and counted.
const FOLLOWED_MAX: usize = 1024;

/// Times that a search for messages in a sequence space of many streams is taken up again.
const SEARCHES_MAX: usize = 64;

pub(super) async fn browse(
    broker: &Arc<Broker>,
    stream: &StreamRef,
    from: u64,
    max: usize,
    wait: Duration,
) -> Answer<Batch> {
    let (name, shard, info) = streams::find(broker, stream).await?;
    let client = broker.client(shard);
    let mut from = Seq(from.max(info.first.0));
    let wait = match u64::try_from(wait.as_millis()).unwrap_or(u64::MAX) {
        0 => Wait::No,
        ms => Wait::Millis(ms),
    };
    let mut searches = 0;
    let (seqs, shown) = loop {
        let read = Command::Read {
            name: name.clone(),
            from,
            max: u32::try_from(max).unwrap_or(u32::MAX),
            max_bytes: BATCH_BYTES,
            wait,
        };
        let answer = call(&client, read).await?;
        let (seqs, next) = match answer.reply {
            Reply::Batch { messages, next } => (messages, next),
            Reply::NotFound => return Err(AdminError::no_stream(stream)),
            other => return Err(wording::unexpected(&other)),
        };
        let moved = next > from;
        from = next;
        searches += 1;
        if !seqs.is_empty() || !moved || searches == SEARCHES_MAX {
            break (seqs, answer.messages);
        }
    };
    let mut messages = Vec::with_capacity(seqs.len());
    for ((seq, _), shown) in seqs.into_iter().zip(shown) {
        // One that cannot be read is left out here; the server's log says so.
        let Some(shown) = shown else { continue };
        let describe = Command::DescribeMessage {
            message: Handle::Group(GroupId(info.stream.0), seq),
        };
        let found = match call(&client, describe).await?.reply {
            Reply::MessageInfo(found) => Some(found),
            _ => None,
        };
        let priority = found
            .as_ref()
            .map_or(shown.priority, |found| found.priority);
        messages.push(BrowsedMessage {
            seq: seq.0,
            state: found.map(|found| wording::state(found.state).to_owned()),
            priority: priority.0,
            created_ms: shown.created.0,
            bytes: shown.payload.len() as u64,
            body: Body::new(&shown.payload),
        });
    }
    Ok(Batch {
        messages,
        next: from.0,
    })
}

pub(super) fn follow(
    broker: &Arc<Broker>,
    space: &str,
    subject: &str,
) -> Answer<mpsc::Receiver<LiveMessage>> {
    let filter = Filter::parse_nats(subject).map_err(|error| wording::subject(subject, &error))?;
    let mut following = broker
        .subscribe(space, filter, FOLLOWED_MAX)
        .map_err(wording::broker)?;
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        loop {
            let message = tokio::select! {
                message = following.recv() => message,
                () = sender.closed() => return,
            };
            let live = LiveMessage {
                subject: message.subject.to_dotted(),
                dropped: following.take_dropped(),
                body: Body::new(&message.payload),
            };
            if sender.send(live).await.is_err() {
                return;
            }
        }
    });
    Ok(receiver)
}

pub(super) async fn publish_to_subject(
    broker: &Broker,
    space: &str,
    subject: &str,
    message: NewMessage,
) -> Answer<Published> {
    if message.priority.is_some() || message.delay_ms > 0 || message.ack_timeout_ms > 0 {
        return Err(AdminError::new(
            ErrorKind::Unsupported,
            "priority, delay_ms and ack_timeout_ms do not travel with a subject",
        )
        .hint("publish to a stream"));
    }
    let subject =
        Subject::parse_nats(subject).map_err(|error| wording::subject(subject, &error))?;
    let message = Arc::new(Message {
        // The answer says that the streams have it.
        quality: Quality::AtLeastOnce,
        ..Message::new(subject, message.body)
    });
    let published = broker
        .publish(space, message)
        .await
        .map_err(wording::broker)?;
    Ok(Published {
        seq: published.streams.first().map(|(_, _, seq)| seq.0),
    })
}

/// A stream that is not there is made with what `new_stream` says.
pub(super) async fn publish_to_stream(
    broker: &Arc<Broker>,
    stream: &StreamRef,
    message: NewMessage,
    new_stream: impl FnOnce(&StreamName) -> Answer<Box<StreamConfig>>,
) -> Answer<Published> {
    let name = StreamName::new(stream.space.as_str(), stream.name.as_str());
    let (shard, create) = match broker.find(&name).await.map_err(wording::broker)? {
        Some((shard, _)) => (shard, None),
        None => {
            let config = new_stream(&name)?;
            (broker.placement(&name, &config.numbering), Some(config))
        }
    };
    // The open link keeps a stream that disappears when it is empty until the message is in it.
    let client = broker.client(shard);
    let link = Link(0);
    let open = Command::Open {
        link,
        name,
        create,
        role: Role::Producer,
    };
    if call(&client, open).await?.reply == Reply::NotFound {
        return Err(AdminError::no_stream(stream));
    }
    let publish = Command::Publish {
        to: engine::Target::Link(link),
        also: Vec::new(),
        message: engine::NewMessage {
            priority: message.priority.map_or(PRIORITY, Priority),
            delay_ms: message.delay_ms,
            ack_timeout_ms: message.ack_timeout_ms,
            payload: message.body,
            ..engine::NewMessage::default()
        },
    };
    match call(&client, publish).await?.reply {
        Reply::Published { seq, .. } => Ok(Published { seq: Some(seq.0) }),
        other => Err(wording::unexpected(&other)),
    }
}
