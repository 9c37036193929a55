//! Queues, exchanges and bindings: what a client asks of the topology is checked against its rights here, and answered
//! here when it is done.

use std::sync::Arc;

use longtail_broker::auth::Action as Right;
use longtail_edge::Out;

use super::channel::{Channel, one_line};
use super::shared::Answerer;
use super::{Action, Op, Outcome, Request, Shared, say};
use crate::codec::{Method, ReplyCode, Table};
use crate::exception::Exception;
use crate::graph::{ALTERNATES, Destination, Kind};
use crate::topology::{Bind, DeclareExchange, DeclareQueue, fresh_name};

/// Whether the client wants no answer, and what it asks for.
type Asked = (bool, Request);

impl Channel {
    fn ask_topology(
        &self,
        method: &Method<'_>,
        no_wait: bool,
        request: Request,
        shared: &mut Shared,
    ) {
        shared.busy = Some(Answerer::Service);
        let op = Op {
            channel: self.number(),
            incarnation: self.incarnation(),
            no_wait,
            id: method.id(),
            request,
        };
        shared.actions.push(Action::Topology(Box::new(op)));
    }

    pub(super) fn topology_method(
        &mut self,
        method: &Method<'_>,
        shared: &mut Shared,
    ) -> Result<(), Exception> {
        let asked = match self.about_queues(method, shared)? {
            None => about_exchanges(method, shared)?,
            asked => asked,
        };
        let Some((no_wait, request)) = asked else {
            return Err(Exception::new(
                ReplyCode::CommandInvalid,
                "this method is the server's, or of channel 0",
            ));
        };
        self.ask_topology(method, no_wait, request, shared);
        Ok(())
    }

    /// What a method wants of queues and their bindings; `None`: it is not about them.
    fn about_queues(
        &self,
        method: &Method<'_>,
        shared: &mut Shared,
    ) -> Result<Option<Asked>, Exception> {
        let asked = match *method {
            Method::QueueDeclare {
                queue,
                passive,
                durable,
                exclusive,
                auto_delete,
                no_wait,
                arguments,
                ..
            } => {
                let named = one_line(queue);
                let is_server_named = named.is_empty() && !passive;
                let name = if passive {
                    self.queue_name(queue)?.to_string()
                } else if is_server_named {
                    fresh_name("amq.gen-")
                } else {
                    named.into_owned()
                };
                if passive {
                    shared.check_any("queue", &name)?;
                } else {
                    shared.check(Right::Configure, "queue", &name)?;
                    let queue = ("queue", name.as_str());
                    may_lead_to(queue, "x-dead-letter-exchange", &arguments, shared)?;
                }
                let declare = DeclareQueue {
                    name,
                    is_server_named,
                    passive,
                    durable,
                    exclusive,
                    auto_delete,
                    arguments: arguments.as_bytes().into(),
                };
                (no_wait, Request::DeclareQueue(declare))
            }
            Method::QueueBind {
                queue,
                exchange,
                routing_key,
                no_wait,
                arguments,
                ..
            } => {
                let bind = self.bind_queue((queue, exchange, routing_key), &arguments, shared)?;
                (no_wait, Request::Bind(bind))
            }
            Method::QueueUnbind {
                queue,
                exchange,
                routing_key,
                arguments,
                ..
            } => {
                let bind = self.bind_queue((queue, exchange, routing_key), &arguments, shared)?;
                (false, Request::Unbind(bind))
            }
            Method::QueuePurge { queue, no_wait, .. } => {
                let name = self.queue_name(queue)?;
                shared.check(Right::Consume, "queue", &name)?;
                (no_wait, Request::Purge(name.to_string()))
            }
            Method::QueueDelete {
                queue,
                if_unused,
                if_empty,
                no_wait,
                ..
            } => {
                let name = self.queue_name(queue)?.to_string();
                shared.check(Right::Configure, "queue", &name)?;
                let request = Request::DeleteQueue {
                    name,
                    if_unused,
                    if_empty,
                };
                (no_wait, request)
            }
            _ => return Ok(None),
        };
        Ok(Some(asked))
    }

    fn bind_queue(
        &self,
        (queue, source, key): (&str, &str, &str),
        arguments: &Table<'_>,
        shared: &mut Shared,
    ) -> Result<Bind, Exception> {
        let name = self.queue_name(queue)?;
        // Both empty: the queue's name is the key too.
        let key = if queue.is_empty() && key.is_empty() {
            name.to_string()
        } else {
            key.to_owned()
        };
        shared.check(Right::Publish, "queue", &name)?;
        let source = one_line(source);
        may_bind_to(&source, key.as_str(), shared)?;
        Ok(Bind {
            source: source.into_owned(),
            destination: Destination::Queue(name),
            key,
            arguments: arguments.as_bytes().into(),
        })
    }

    /// Something about the topology is done.
    pub(super) fn completed(&mut self, op: &Op, outcome: &Outcome, out: &mut Out) {
        let count = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
        if let Outcome::Queue(declared) = outcome {
            self.last_queue = Arc::clone(&declared.name);
        }
        if op.no_wait {
            return;
        }
        let answer = match (&op.request, outcome) {
            (_, Outcome::Queue(declared)) => Method::QueueDeclareOk {
                queue: &declared.name,
                message_count: count(declared.messages),
                consumer_count: declared.consumers,
            },
            (Request::Purge(_), Outcome::Count(messages)) => Method::QueuePurgeOk {
                message_count: count(*messages),
            },
            (_, Outcome::Count(messages)) => Method::QueueDeleteOk {
                message_count: count(*messages),
            },
            (Request::DeclareExchange(_), _) => Method::ExchangeDeclareOk {},
            (Request::DeleteExchange { .. }, _) => Method::ExchangeDeleteOk {},
            (Request::Bind(bind), _) => match bind.destination {
                Destination::Queue(_) => Method::QueueBindOk {},
                Destination::Exchange(_) => Method::ExchangeBindOk {},
            },
            (Request::Unbind(bind), _) => match bind.destination {
                Destination::Queue(_) => Method::QueueUnbindOk {},
                Destination::Exchange(_) => Method::ExchangeUnbindOk {},
            },
            (request, outcome) => {
                tracing::error!(?request, ?outcome, "an outcome that does not fit");
                return;
            }
        };
        say(&answer, self.number(), out);
    }
}

/// Reads from the source, and from a topic exchange with this key.
fn may_bind_to(source: &str, key: &str, shared: &mut Shared) -> Result<(), Exception> {
    shared.check(Right::Consume, "exchange", source)?;
    let topology = Arc::clone(shared.topology()?);
    let graph = topology.graph();
    let kind = graph.exchange(source).map(|known| known.config.kind);
    if kind == Some(Kind::Topic) {
        shared.check_topic(Right::Consume, source, key)?;
    }
    drop(graph);
    if topology.shares(source) {
        shared.check_subject(Right::Consume, source, key)?;
    }
    Ok(())
}

/// What messages go on to by way of an argument is written to, and what has the argument is read from.
fn may_lead_to(
    what: (&str, &str),
    argument: &str,
    arguments: &Table<'_>,
    shared: &mut Shared,
) -> Result<(), Exception> {
    if let Some(target) = arguments.get(argument).and_then(|value| value.as_str()) {
        shared.check(Right::Consume, what.0, what.1)?;
        shared.check(Right::Publish, "exchange", target)?;
    }
    Ok(())
}

fn bind_exchange(
    (destination, source, key): (&str, &str, &str),
    arguments: &Table<'_>,
    shared: &mut Shared,
) -> Result<Bind, Exception> {
    let (destination, source) = (one_line(destination), one_line(source));
    shared.check(Right::Publish, "exchange", &destination)?;
    may_bind_to(&source, key, shared)?;
    Ok(Bind {
        source: source.into_owned(),
        destination: Destination::Exchange((&*destination).into()),
        key: key.to_owned(),
        arguments: arguments.as_bytes().into(),
    })
}

/// What a method wants of exchanges and their bindings; `None`: it is not about them.
fn about_exchanges(method: &Method<'_>, shared: &mut Shared) -> Result<Option<Asked>, Exception> {
    let asked = match *method {
        Method::ExchangeDeclare {
            exchange,
            kind,
            passive,
            durable,
            auto_delete,
            internal,
            no_wait,
            arguments,
            ..
        } => {
            let name = one_line(exchange);
            if passive {
                shared.check_any("exchange", &name)?;
            } else {
                shared.check(Right::Configure, "exchange", &name)?;
                for alternate in ALTERNATES {
                    may_lead_to(("exchange", &name), alternate, &arguments, shared)?;
                }
            }
            let declare = DeclareExchange {
                name: name.into_owned(),
                kind: kind.to_owned(),
                passive,
                durable,
                auto_delete,
                internal,
                arguments: arguments.as_bytes().into(),
            };
            (no_wait, Request::DeclareExchange(declare))
        }
        Method::ExchangeDelete {
            exchange,
            if_unused,
            no_wait,
            ..
        } => {
            let name = one_line(exchange).into_owned();
            shared.check(Right::Configure, "exchange", &name)?;
            (no_wait, Request::DeleteExchange { name, if_unused })
        }
        Method::ExchangeBind {
            destination,
            source,
            routing_key,
            no_wait,
            arguments,
            ..
        } => {
            let bind = bind_exchange((destination, source, routing_key), &arguments, shared)?;
            (no_wait, Request::Bind(bind))
        }
        Method::ExchangeUnbind {
            destination,
            source,
            routing_key,
            no_wait,
            arguments,
            ..
        } => {
            let bind = bind_exchange((destination, source, routing_key), &arguments, shared)?;
            (no_wait, Request::Unbind(bind))
        }
        _ => return Ok(None),
    };
    Ok(Some(asked))
}
