//! Sessions over two streams: publishes to them, consumers that begin anywhere, credit, and what streams refuse.
//!
//! What is a difference (docs/amqp.md) or an accident of RabbitMQ 3.10 is left out: it counts no messages of a stream, begins
//! with a chunk where `last` is asked for, and stores messages as those of AMQP 1.0, so that properties that have no
//! counterpart there do not come back as they were.

use super::step::{Arguments, Known, Step, call};
use crate::amqp::wire::{long, short};
use crate::random::Random;

/// The first of so many queues are streams.
const STREAMS: usize = 2;

/// Deliveries that a consumer may have: RabbitMQ delivers whole chunks.
const PREFETCH: u16 = 2_000;

/// What is there before anything else is.
pub(super) fn first(known: &Known) -> Vec<Step> {
    let mut steps: Vec<Step> = (0..STREAMS)
        .map(|number| {
            declare(
                &known.queue(number),
                [false, true, false, false, false],
                None,
            )
        })
        .collect();
    let exchange = Arguments::ticket().short(&known.exchange(0)).short("topic");
    let flags = [false, true, false, false, false];
    steps.push(call((40, 10), exchange.bits(&flags).table(&[])));
    steps.push(qos());
    steps
}

fn qos() -> Step {
    let mut arguments = vec![0; 4];
    arguments.extend_from_slice(&PREFETCH.to_be_bytes());
    arguments.push(0);
    call((60, 10), Arguments(arguments))
}

fn declare(name: &str, flags: [bool; 5], more: Option<&str>) -> Step {
    let mut table = Vec::new();
    short(&mut table, "x-queue-type");
    table.push(b'S');
    long(&mut table, b"stream");
    if let Some(key) = more {
        short(&mut table, key);
        table.extend_from_slice(b"I\0\0\0\x05");
    }
    let arguments = Arguments::ticket().short(name);
    call((50, 10), arguments.bits(&flags).table(&table))
}

/// The next one.
pub(super) fn step(random: &mut Random, known: &Known, count: u64) -> Step {
    let stream = known.queue(random.index(STREAMS));
    match random.index(100) {
        0..50 => publish(random, known, &stream, count),
        50..58 => bind(random, known, &stream),
        58..75 if known.consumers.len() < 4 => consume(random, &stream, count),
        58..82 => {
            // All that were delivered, however many these are by now.
            let mut arguments = vec![0; 8];
            arguments.push(1);
            Step::Cast {
                id: (60, 80),
                arguments,
            }
        }
        82..90 => {
            let tag = known.consumers.first().map_or("none", |(tag, ..)| tag);
            call((60, 30), Arguments(Vec::new()).short(tag).bits(&[false]))
        }
        90..95 => qos(),
        95..96 => call((60, 70), Arguments::ticket().short(&stream).bits(&[false])),
        96..97 => call((50, 30), Arguments::ticket().short(&stream).bits(&[false])),
        _ => refused(random, known),
    }
}

/// A declaration that a stream does not allow.
fn refused(random: &mut Random, known: &Known) -> Step {
    let name = known.queue(STREAMS);
    let durable = [false, true, false, false, false];
    match random.index(4) {
        0 => declare(&name, [false; 5], None),
        1 => declare(&name, durable, Some("x-max-priority")),
        2 => declare(&name, durable, Some("x-message-ttl")),
        _ => declare(&name, [false, true, false, true, false], None),
    }
}

fn consume(random: &mut Random, stream: &str, count: u64) -> Step {
    let mut table = Vec::new();
    let said = random.index(4);
    if said < 3 {
        short(&mut table, "x-stream-offset");
    }
    match said {
        0 | 1 => {
            table.push(b'S');
            long(&mut table, if said == 0 { b"first" } else { b"next" });
        }
        2 => {
            table.push(b'l');
            table.extend_from_slice(&random.below(30).to_be_bytes());
        }
        _ => {}
    }
    let arguments = Arguments::ticket()
        .short(stream)
        .short(&format!("c{count}"));
    let no_ack = random.index(30) == 0;
    let arguments = arguments.bits(&[false, no_ack, false, false]);
    call((60, 20), arguments.table(&table))
}

fn bind(random: &mut Random, known: &Known, stream: &str) -> Step {
    let key = ["#", "a.#", "*.b", "a"][random.index(4)];
    let arguments = Arguments::ticket()
        .short(stream)
        .short(&known.exchange(0))
        .short(key);
    if random.index(3) == 0 {
        return call((50, 50), arguments.table(&[]));
    }
    call((50, 20), arguments.bits(&[false]).table(&[]))
}

fn publish(random: &mut Random, known: &Known, stream: &str, count: u64) -> Step {
    let exchange = known.exchange(0);
    let (exchange, key) = match random.index(3) {
        0 => (exchange.as_str(), ["a", "a.b", "b.b"][random.index(3)]),
        _ => ("", stream),
    };
    let mandatory = random.index(2) == 0;
    // Content type, headers, delivery mode.
    let mut properties = 0b1011_0000_0000_0000_u16.to_be_bytes().to_vec();
    short(&mut properties, "text/plain");
    let mut table = Vec::new();
    short(&mut table, "h");
    table.push(b'S');
    long(&mut table, b"1");
    long(&mut properties, &table);
    properties.push(2);
    let arguments = Arguments::ticket().short(exchange).short(key);
    Step::Publish {
        arguments: arguments.bits(&[mandatory, false]).0,
        properties,
        body: format!("message {count}").into_bytes(),
    }
}
