//! The hook that writes the lines: who does what, in words.

use std::fmt::Write as _;

use longtail_broker::message::{Message, SharedMessage};
use longtail_edge::Endpoint;
use longtail_model::SubjectRef;

use super::{Payload, Status, Subject, Table};
use crate::codec::Packet;
use crate::hooks::{ClientInfo, ConnectChange, Connecting, Event, Hook, Points, Verdict};
use crate::message::qos;

/// Who does something.
#[derive(Clone, Copy)]
struct Actor<'a> {
    client: Option<&'a str>,
    remote: Option<&'a Endpoint>,
}

impl<'a> Actor<'a> {
    fn of(client: &'a ClientInfo) -> Self {
        Actor {
            client: Some(&client.id),
            remote: client.remote.as_ref(),
        }
    }

    fn is(&self, subject: &Subject) -> bool {
        match subject {
            Subject::Client(id) => self.client == Some(id),
            Subject::Address(address) => self.remote.and_then(Endpoint::ip) == Some(*address),
            Subject::Topic(_) => false,
        }
    }
}

impl Table {
    /// Writes a line to the traces that follow this.
    fn note(
        &self,
        actor: Actor<'_>,
        topic: Option<SubjectRef<'_>>,
        what: impl Fn(Payload, &mut String),
    ) {
        let now = self.clock.now();
        for trace in self.traces.lock().values_mut() {
            let follows = match (&trace.subject, topic) {
                (Subject::Topic(filter), Some(topic)) => filter.matches(topic),
                (subject, _) => actor.is(subject),
            };
            if !follows || trace.status(now) != Status::Running {
                continue;
            }
            let mut line = format!("client={:?}", actor.client.unwrap_or("-"));
            if let Some(remote) = actor.remote {
                let _ = write!(line, " peer={remote}");
            }
            line.push(' ');
            what(trace.payload, &mut line);
            trace.write(now, &line);
        }
    }

    fn message(&self, actor: Actor<'_>, verb: &str, message: &Message) {
        let topic = Some(message.subject.as_ref());
        self.note(actor, topic, |payload, line| {
            let (topic, qos) = (message.subject.as_str(), qos(message.quality).bits());
            let _ = write!(
                line,
                "{verb} topic={topic:?} qos={qos} retain={}",
                message.retain
            );
            payload.show(&message.payload, line);
        });
    }
}

/// A packet in words, but for PUBLISH and CONNECT.
fn packet_text(packet: &Packet<'_>) -> String {
    let name = packet.packet_type();
    match packet {
        Packet::Subscribe(subscribe) => {
            let filters = subscribe.subscriptions.iter();
            let filters: Vec<_> = filters
                .map(|one| format!("{:?}@{}", one.filter, one.options.qos.bits()))
                .collect();
            format!("{name:?} {}", filters.join(" "))
        }
        Packet::Unsubscribe(unsubscribe) => format!("{name:?} {:?}", unsubscribe.filters),
        Packet::Suback(suback) => format!("{name:?} {:?}", suback.reasons),
        Packet::Disconnect(disconnect) => format!("{name:?} {:?}", disconnect.reason),
        _ => format!("{name:?}"),
    }
}

impl Hook for Table {
    fn name(&self) -> &str {
        "trace"
    }

    fn points(&self) -> Points {
        Points::CONNECT
            | Points::REFUSED
            | Points::ESTABLISHED
            | Points::DISCONNECTED
            | Points::PACKET_READ
            | Points::PACKET_ENCODE
            | Points::PUBLISHED
            | Points::DELIVER
            | Points::DROPPED
            | Points::SESSION
    }

    fn connect(&self, connecting: &Connecting) -> Verdict<ConnectChange> {
        let actor = Actor {
            client: Some(&connecting.client_id),
            remote: Some(&connecting.remote),
        };
        self.note(actor, None, |_, line| {
            let _ = write!(
                line,
                "received CONNECT version={:?} username={:?} clean_start={} keep_alive={} session_expiry={}",
                connecting.version,
                connecting.username.as_deref().unwrap_or(""),
                connecting.clean_start,
                connecting.keep_alive_s,
                connecting.session_expiry_s
            );
        });
        Verdict::Continue
    }

    fn packet_read(&self, client: &ClientInfo, packet: &Packet<'_>) -> Verdict<Vec<u8>> {
        self.note(Actor::of(client), None, |payload, line| match packet {
            Packet::Publish(publish) => {
                let _ = write!(
                    line,
                    "received PUBLISH topic={:?} qos={} retain={} dup={}",
                    publish.topic,
                    publish.qos.bits(),
                    publish.retain,
                    publish.dup
                );
                payload.show(publish.payload, line);
            }
            _ => {
                let _ = write!(line, "received {}", packet_text(packet));
            }
        });
        Verdict::Continue
    }

    fn packet_encode(&self, client: &ClientInfo, packet: &Packet<'_>) -> Verdict<Vec<u8>> {
        self.note(Actor::of(client), None, |_, line| {
            let _ = write!(line, "sent {}", packet_text(packet));
        });
        Verdict::Continue
    }

    fn deliver(&self, client: &ClientInfo, message: &SharedMessage) -> Verdict<Message> {
        self.message(Actor::of(client), "sent PUBLISH", message);
        Verdict::Continue
    }

    fn notify(&self, event: &Event) {
        let nobody = Actor {
            client: None,
            remote: None,
        };
        match event {
            Event::Refused {
                client_id,
                remote,
                reason,
            } => {
                let actor = Actor {
                    client: Some(client_id),
                    remote: Some(remote),
                };
                self.note(actor, None, |_, line| {
                    let _ = write!(line, "refused {reason:?}");
                });
            }
            Event::Established { client, present } => {
                self.note(Actor::of(client), None, |_, line| {
                    let account = client.account.as_deref().unwrap_or("");
                    let _ = write!(line, "let in account={account:?} session_present={present}");
                });
            }
            Event::Disconnected {
                client,
                why,
                session_ends,
            } => self.note(Actor::of(client), None, |_, line| {
                let _ = write!(line, "disconnected: {why:?} session_ends={session_ends}");
            }),
            Event::Published {
                client,
                message,
                reason,
            } => {
                let actor = client.as_deref().map_or(nobody, Actor::of);
                self.message(actor, &format!("published {reason:?}"), message);
            }
            Event::Dropped {
                client,
                message,
                reason,
            } => {
                let verb = format!("dropped {}", reason.as_str());
                self.message(Actor::of(client), &verb, message);
            }
            Event::Session { client_id, change } => {
                let actor = Actor {
                    client: Some(client_id),
                    remote: None,
                };
                self.note(actor, None, |_, line| {
                    let _ = write!(line, "session {change:?}");
                });
            }
            _ => {}
        }
    }
}
