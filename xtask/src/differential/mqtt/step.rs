//! What a client does next, chosen at random.

use crate::mqtt::{Ack, Publish, Version};
use crate::random::Random;

/// Levels of topics and filters: few, so that they meet.
const LEVELS: &[&str] = &["a", "b", "", "$x"];

/// The last level of topics that retain nothing.
const FORGETFUL: &str = "b";

/// How long a session lives without a connection, in seconds.
pub(super) const EXPIRY: u32 = 3600;

/// Packets that end the connection of whoever sends them, whatever its version, with both servers. A second CONNECT is not
/// among them: 2.0.11 ends the session too, and publishes no will (3.1.0-2 and 3.1.2.5: it does).
const BROKEN: &[&[u8]] = &[
    // A PUBLISH at QoS 3.
    &[0x36, 6, 0, 1, b'a', 0, 1, b'x'],
    // A PUBLISH to a wildcard.
    &[0x30, 4, 0, 2, b'a', b'#'],
    // A SUBSCRIBE without its flags.
    &[0x80, 6, 0, 1, 0, 1, b'a', 0],
    // A SUBSCRIBE without a filter.
    &[0x82, 2, 0, 1],
    // A reserved type.
    &[0x00, 0],
];

/// What is known of a client, on both servers.
#[derive(Clone, Debug)]
pub(super) struct Client {
    pub(super) version: Version,
    /// Whether it is connected.
    pub(super) is_here: bool,
    /// Whether it has left a will.
    pub(super) has_will: bool,
}

/// What becomes of a connection that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// DISCONNECT.
    Leave,
    /// It is closed without.
    Lose,
    /// It stays until the same client connects once more.
    TakeOver,
}

/// What a client does next.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// CONNECT, after the end of the connection that is there.
    Connect {
        end: End,
        clean: bool,
        /// Seconds; of 3.1.1, 0 is a clean session.
        expiry: u32,
        will: Option<Publish>,
    },
    /// Its connection ends, and it stays away.
    Away(End),
    /// Sends what ends its connection, and stays away.
    Break(&'static [u8]),
    Publish {
        message: Publish,
        /// 0: none.
        alias: u8,
    },
    /// PUBREL for the oldest of its own QoS 2 messages that has none yet, or for an id that means nothing.
    Release {
        known: bool,
    },
    /// Acknowledges all that it was sent and has not acknowledged, or an id that means nothing.
    Acknowledge {
        known: bool,
        stray: Ack,
    },
    Subscribe {
        filters: Vec<(String, u8)>,
        /// 0: none.
        identifier: u8,
    },
    Unsubscribe(Vec<String>),
}

/// The next step of `client`, which is the `number`th; `count` steps came before.
pub(super) fn step(random: &mut Random, client: &mut Client, number: usize, count: u64) -> Step {
    if !client.is_here {
        return connect(random, client, End::Leave, count);
    }
    match random.below(24) {
        0 => connect(random, client, End::Leave, count),
        1 => connect(random, client, End::Lose, count),
        // Whether that publishes a will is a choice of each server's.
        2 if !client.has_will => connect(random, client, End::TakeOver, count),
        3 => {
            client.is_here = false;
            Step::Away(*random.pick(&[End::Leave, End::Lose]))
        }
        4 if random.one_in(3) => {
            client.is_here = false;
            Step::Break(BROKEN[random.index(BROKEN.len())])
        }
        5..=8 => {
            let filters = (0..1 + random.index(2)).map(|_| wanted(random, client.version, number));
            Step::Subscribe {
                filters: filters.collect(),
                identifier: match client.version {
                    Version::V5 if random.one_in(2) => 1 + random.below(100) as u8,
                    _ => 0,
                },
            }
        }
        9..=10 => Step::Unsubscribe(vec![wanted(random, client.version, number).0]),
        11..=12 => Step::Release {
            known: !random.one_in(8),
        },
        13..=15 => Step::Acknowledge {
            known: !random.one_in(12),
            stray: *random.pick(&[Ack::Puback, Ack::Pubrec, Ack::Pubrel]),
        },
        _ => Step::Publish {
            message: message(random, count),
            alias: match client.version {
                Version::V5 if random.one_in(3) => 1 + random.below(3) as u8,
                _ => 0,
            },
        },
    }
}

fn connect(random: &mut Random, client: &mut Client, end: End, count: u64) -> Step {
    let will = random.one_in(3).then(|| Publish {
        payload: format!("will {count}").into_bytes(),
        ..message(random, count)
    });
    client.is_here = true;
    client.has_will = will.is_some();
    let expiry = if random.one_in(5) { 0 } else { EXPIRY };
    Step::Connect {
        end,
        // 3.1.1 cannot say the one without the other.
        clean: match client.version {
            Version::V4 => expiry == 0,
            Version::V5 => random.one_in(5),
        },
        expiry,
        will,
    }
}

/// A message that no other is like. Topics that end in [`FORGETFUL`] retain nothing, nor does `$x` alone: 2.0.11 does not
/// find it by `$x/#` unless there is a topic below it, though 4.7.1.2 says so, and `a` by `a/#` it does find.
fn message(random: &mut Random, count: u64) -> Publish {
    let topic = topic(random);
    let retain = random.one_in(4) && !topic.ends_with(FORGETFUL) && topic != "$x";
    Publish {
        topic,
        payload: if random.one_in(8) {
            Vec::new()
        } else {
            count.to_string().into_bytes()
        },
        qos: random.below(3) as u8,
        id: 0,
        retain,
        dup: false,
        properties: Vec::new(),
    }
}

/// A topic of one to three levels.
fn topic(random: &mut Random) -> String {
    let count = 1 + random.index(3);
    let levels: Vec<&str> = (0..count).map(|_| *random.pick(LEVELS)).collect();
    let topic = levels.join("/");
    if topic.is_empty() {
        "a".to_owned()
    } else {
        topic
    }
}

/// A filter that matches some of those topics, with its options.
fn wanted(random: &mut Random, version: Version, number: usize) -> (String, u8) {
    let mut levels: Vec<String> = topic(random).split('/').map(str::to_owned).collect();
    for level in &mut levels {
        if random.one_in(3) {
            "+".clone_into(level);
        }
    }
    if random.one_in(4) {
        levels.push("#".to_owned());
    }
    if random.one_in(8) {
        return share(version, number, levels);
    }
    let filter = levels.join("/");
    let mut options = random.below(3) as u8;
    if version == Version::V5 {
        let no_local = one_filter_in(4, &filter);
        let handling = if random.one_in(3) {
            1 + random.below(2) as u8
        } else {
            0
        };
        options |= u8::from(no_local) << 2 | as_published(&filter) | handling << 4;
    }
    (filter, options)
}

/// The same for a share. It has one member, and the things in which the servers differ are left out:
///
/// * what begins with `$`: 2.0.11 sends nothing of it to a share;
/// * what is retained: 2.0.11 sends it, though 5.0 forbids that (3.8.4). A 5.0 client says that it wants none, and the
///   filter of a 3.1.1 client ends in a level where nothing is retained;
/// * QoS 0, and another QoS than before: at which a message is sent that waited in the group is decided when a member draws
///   it, and by 2.0.11 when it is published.
fn share(version: Version, number: usize, mut levels: Vec<String>) -> (String, u8) {
    if let Some(first) = levels.first_mut()
        && first.starts_with('$')
    {
        "a".clone_into(first);
    }
    if let (Version::V4, Some(last)) = (version, levels.last_mut()) {
        FORGETFUL.clone_into(last);
    }
    let filter = format!("$share/g{number}/{}", levels.join("/"));
    let mut options = 1 + (number / 2 % 2) as u8;
    if version == Version::V5 {
        options |= as_published(&filter) | 2 << 4;
    }
    (filter, options)
}

/// The bit of retain as published, or not.
fn as_published(filter: &str) -> u8 {
    u8::from(one_filter_in(3, filter)) << 3
}

/// For an option that a filter always has or never: 2.0.11 keeps no-local and retain as published of the first SUBSCRIBE,
/// where 3.8.4 says that a second one replaces the subscription. The conformance suite has it.
fn one_filter_in(n: u32, filter: &str) -> bool {
    filter.bytes().map(u32::from).sum::<u32>() % n == 0
}
