//! Random methods over a few names, most of which make sense.

use crate::amqp::wire::{Id, long, short};
use crate::random::Random;

/// What both sides agree that there is.
#[derive(Clone, Debug)]
pub(super) struct Known {
    /// What all names begin with.
    prefix: String,
    /// Deliveries that are not settled, by tag.
    pub(super) unsettled: Vec<u64>,
    /// Tags of consumers, the queue of each, and whether it has that for itself.
    pub(super) consumers: Vec<(String, usize, bool)>,
}

/// Queues and exchanges.
pub(super) const QUEUES: usize = 4;
pub(super) const EXCHANGES: usize = 3;
const KEYS: [&str; 5] = ["a", "a.b", "a.b.c", "b.b", ""];
const PATTERNS: [&str; 6] = ["#", "a.#", "*.b", "a.*.c", "a", "a.b"];
const KINDS: [&str; 4] = ["direct", "fanout", "topic", "headers"];

impl Known {
    pub(super) fn new(seed: u64) -> Known {
        Known {
            prefix: format!("d{seed}"),
            unsettled: Vec::new(),
            consumers: Vec::new(),
        }
    }

    pub(super) fn queue(&self, number: usize) -> String {
        format!("{}.q{number}", self.prefix)
    }

    pub(super) fn exchange(&self, number: usize) -> String {
        format!("{}.x{number}", self.prefix)
    }

    /// Nothing of a channel that is gone.
    pub(super) fn forget_channel(&mut self) {
        self.unsettled.clear();
        self.consumers.clear();
    }
}

/// One method.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// One with this answer.
    Call {
        id: Id,
        arguments: Vec<u8>,
        answer: Id,
    },
    /// One without.
    Cast { id: Id, arguments: Vec<u8> },
    Publish {
        arguments: Vec<u8>,
        properties: Vec<u8>,
        body: Vec<u8>,
    },
}

/// The flags of a method: the first is the lowest bit.
pub(super) fn bits(flags: &[bool]) -> u8 {
    flags
        .iter()
        .rev()
        .fold(0, |bits, flag| bits << 1 | u8::from(*flag))
}

pub(super) struct Arguments(pub(super) Vec<u8>);

impl Arguments {
    pub(super) fn ticket() -> Self {
        Arguments(vec![0, 0])
    }

    pub(super) fn short(mut self, text: &str) -> Self {
        short(&mut self.0, text);
        self
    }

    pub(super) fn bits(mut self, flags: &[bool]) -> Self {
        self.0.push(bits(flags));
        self
    }

    pub(super) fn table(mut self, table: &[u8]) -> Self {
        long(&mut self.0, table);
        self
    }
}

pub(super) fn call((class, id): Id, arguments: Arguments) -> Step {
    // `exchange.unbind` has another number than all others.
    let answer = if (class, id) == (40, 40) { 51 } else { id + 1 };
    Step::Call {
        id: (class, id),
        arguments: arguments.0,
        answer: (class, answer),
    }
}

/// The next one.
pub(super) fn step(random: &mut Random, known: &Known, count: u64) -> Step {
    let queue = random.index(QUEUES);
    let exchange = random.index(EXCHANGES);
    let (q, x) = (known.queue(queue), known.exchange(exchange));
    let mut chance = |percent: usize| random.index(100) < percent;
    let (rarely, often, even) = (chance(8), chance(85), chance(50));
    match random.index(100) {
        0..12 => declare_queue(random, &q, rarely),
        12..22 => {
            let kind = KINDS[if often {
                exchange
            } else {
                random.index(KINDS.len())
            }];
            let flags = [
                rarely,
                random.index(10) == 0,
                false,
                random.index(20) == 0,
                false,
            ];
            let arguments = Arguments::ticket().short(&x).short(kind);
            call((40, 10), arguments.bits(&flags).table(&[]))
        }
        22..32 => bind(random, (50, 20), &q, &x),
        32..35 => bind(random, (50, 50), &q, &x),
        35..38 => {
            let other = known.exchange(random.index(EXCHANGES));
            bind(random, (40, 30), &other, &x)
        }
        38..39 => {
            let other = known.exchange(random.index(EXCHANGES));
            bind(random, (40, 40), &other, &x)
        }
        39..64 => publish(random, (&q, &x), even, count),
        // What an exclusive consumer means to `basic.get` is a difference: docs/amqp.md.
        64..74
            if known
                .consumers
                .iter()
                .all(|consumer| consumer.1 != queue || !consumer.2) =>
        {
            call((60, 70), Arguments::ticket().short(&q).bits(&[even]))
        }
        74..82 => settle(random, known),
        82..86 if known.consumers.iter().all(|consumer| consumer.1 != queue) => {
            let tag = format!("c{count}");
            let arguments = Arguments::ticket().short(&q).short(&tag);
            call(
                (60, 20),
                arguments.bits(&[false, even, rarely, false]).table(&[]),
            )
        }
        82..89 => {
            let tag = known.consumers.first().map_or("none", |(tag, ..)| tag);
            call((60, 30), Arguments(Vec::new()).short(tag).bits(&[false]))
        }
        89..91 => call((50, 30), Arguments::ticket().short(&q).bits(&[false])),
        91..94 => call(
            (50, 40),
            Arguments::ticket().short(&q).bits(&[even, rarely, false]),
        ),
        94..96 => call((40, 20), Arguments::ticket().short(&x).bits(&[even, false])),
        96..97 => call((60, 110), Arguments(vec![1])),
        97..98 => {
            let prefetch = random.index(4) as u8;
            call((60, 10), Arguments(vec![0, 0, 0, 0, 0, prefetch, 0]))
        }
        // Passive: what there is, and how much is in it.
        _ => call(
            (50, 10),
            Arguments::ticket().short(&q).bits(&[true]).table(&[]),
        ),
    }
}

fn declare_queue(random: &mut Random, name: &str, rarely: bool) -> Step {
    let flags = [
        false,
        random.index(3) == 0,
        rarely,
        random.index(12) == 0,
        false,
    ];
    let mut table = Vec::new();
    let mut number = |key: &str, value: u32| {
        short(&mut table, key);
        table.push(b'I');
        table.extend_from_slice(&value.to_be_bytes());
    };
    match random.index(12) {
        0 => number("x-max-length", 3),
        1 => number("x-max-priority", 5),
        _ => {}
    }
    let arguments = Arguments::ticket().short(name);
    call((50, 10), arguments.bits(&flags).table(&table))
}

fn bind(random: &mut Random, id: Id, destination: &str, source: &str) -> Step {
    let key = PATTERNS[random.index(PATTERNS.len())];
    let mut arguments = Arguments::ticket()
        .short(destination)
        .short(source)
        .short(key);
    if id != (50, 50) {
        arguments = arguments.bits(&[false]);
    }
    let mut table = Vec::new();
    if random.index(4) == 0 {
        for (key, value) in [("x-match", "any"), ("h", "1")] {
            short(&mut table, key);
            table.push(b'S');
            long(&mut table, value.as_bytes());
        }
    }
    call(id, arguments.table(&table))
}

fn publish(
    random: &mut Random,
    (queue, exchange): (&str, &str),
    mandatory: bool,
    count: u64,
) -> Step {
    let (exchange, key) = match random.index(10) {
        0..4 => ("", queue),
        4..9 => (exchange, KEYS[random.index(KEYS.len())]),
        _ => ("amq.fanout", "a"),
    };
    let arguments = Arguments::ticket().short(exchange).short(key);
    // Flags, then in their order: content type, headers, delivery mode, priority.
    let mut properties = Vec::new();
    let (typed, headed) = (random.index(2) == 0, random.index(3) == 0);
    let (mode, priority) = (random.index(2) == 0, random.index(3) == 0);
    let flags = u16::from(typed) << 15
        | u16::from(headed) << 13
        | u16::from(mode) << 12
        | u16::from(priority) << 11;
    properties.extend_from_slice(&flags.to_be_bytes());
    if typed {
        short(&mut properties, "text/plain");
    }
    if headed {
        let mut table = Vec::new();
        short(&mut table, "h");
        table.push(b'S');
        long(&mut table, b"1");
        long(&mut properties, &table);
    }
    if mode {
        properties.push(2);
    }
    if priority {
        properties.push(random.index(8) as u8);
    }
    let body = match random.index(12) {
        0 => Vec::new(),
        1 => vec![b'l'; 9000],
        _ => format!("message {count}").into_bytes(),
    };
    Step::Publish {
        arguments: arguments.bits(&[mandatory, false]).0,
        properties,
        body,
    }
}

/// One that was delivered mostly, sometimes all up to it; rarely one that was not.
fn settle(random: &mut Random, known: &Known) -> Step {
    let some = known.unsettled.len();
    let tag = if some == 0 || random.index(25) == 0 {
        random.index(50) as u64
    } else {
        known.unsettled[random.index(some)]
    };
    let multiple = random.index(4) == 0;
    let requeue = random.index(2) == 0;
    let mut arguments = tag.to_be_bytes().to_vec();
    let id = match random.index(4) {
        0 => {
            arguments.push(bits(&[requeue]));
            (60, 90)
        }
        1 => {
            arguments.push(bits(&[multiple, requeue]));
            (60, 120)
        }
        _ => {
            arguments.push(bits(&[multiple]));
            (60, 80)
        }
    };
    Step::Cast { id, arguments }
}
