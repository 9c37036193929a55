//! Exchanges that pick one of their bindings.
//!
//! The consistent hash is a weighted rendezvous: every binding draws a number from its own hash and the message's, with
//! chances by its weight, and the highest has it. A binding that comes or goes moves the messages that it has, or had,
//! and no others; there is no ring to be built.

use longtail_broker::stable_hash;

use super::kind::{HashOn, weight};
use super::{Destination, Kind, Routing};
use crate::codec::Value;

/// A binding that may be picked.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) destination: Destination,
    hash: u64,
    weight: f64,
}

impl Candidate {
    pub(super) fn new(key: &str, arguments: &[u8], destination: &Destination) -> Self {
        let (kind, name) = match destination {
            Destination::Queue(name) => (0, name),
            Destination::Exchange(name) => (1, name),
        };
        let key_end = key.bytes().chain([0]);
        let bytes = key_end
            .chain([kind])
            .chain(name.bytes().chain([0]))
            .chain(arguments.iter().copied());
        Candidate {
            destination: destination.clone(),
            hash: stable_hash(bytes),
            weight: weight(key).unwrap_or(1).into(),
        }
    }
}

/// The one that gets a message.
pub(super) fn pick<'c>(
    kind: Kind,
    on: &HashOn,
    candidates: &'c [Candidate],
    routing: &Routing<'_>,
    key: &str,
) -> Option<&'c Destination> {
    let count = u64::try_from(candidates.len())
        .ok()
        .filter(|count| *count > 0)?;
    let nth = |number: u64| {
        let at = usize::try_from(number % count).ok()?;
        candidates.get(at).map(|candidate| &candidate.destination)
    };
    match kind {
        Kind::Random | Kind::LocalRandom => nth(rand::random()),
        Kind::ModulusHash => nth(mixed(stable_hash(key.bytes()))),
        Kind::ConsistentHash => {
            let hash = message_hash(on, routing, key);
            let best = candidates.iter().max_by(|a, b| {
                let (a, b) = (score(a, hash), score(b, hash));
                a.total_cmp(&b)
            });
            best.map(|candidate| &candidate.destination)
        }
        _ => None,
    }
}

/// What a candidate draws for a message: above 0, and the more probably the highest the greater its weight.
fn score(candidate: &Candidate, hash: u64) -> f64 {
    let drawn = mixed(candidate.hash ^ hash) >> 11;
    // 53 bits, so exact; never 0 or 1.
    #[allow(clippy::cast_precision_loss)]
    let uniform = (drawn as f64 + 0.5) / (1_u64 << 53) as f64;
    candidate.weight / -uniform.ln()
}

fn message_hash(on: &HashOn, routing: &Routing<'_>, key: &str) -> u64 {
    let text = |text: Option<&str>| stable_hash(text.unwrap_or_default().bytes());
    let properties = routing.properties;
    let hash = match on {
        HashOn::Key => text(Some(key)),
        HashOn::MessageId => text(properties.message_id),
        HashOn::CorrelationId => text(properties.correlation_id),
        HashOn::Timestamp => stable_hash(properties.timestamp.unwrap_or_default().to_be_bytes()),
        HashOn::Header(name) => match routing.headers().get(name) {
            None => text(None),
            Some(Value::LongString(bytes) | Value::Bytes(bytes)) => {
                stable_hash(bytes.iter().copied())
            }
            Some(value) => match value.as_i64() {
                Some(number) => stable_hash(number.to_be_bytes()),
                None => stable_hash(format!("{value:?}").bytes()),
            },
        },
    };
    mixed(hash)
}

/// Spreads every bit over all (the finalizer of splitmix64).
fn mixed(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}
