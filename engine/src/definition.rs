//! How the definitions of streams and groups lie in the log and in checkpoints.
//!
//! A name, then settings: the length of all of them, and for each that differs from its default a tag, a length and a
//! value. A tag or a value that this release does not know is an error that says so: a setting that was skipped would
//! be a stream that does not do what it was made for.

use std::sync::Arc;

use longtail_model::{Durability, Seq, Timestamp};

use crate::command::Start;
use crate::config::{
    Counted, DeadLetter, GroupConfig, GroupName, Keep, Numbering, Order, Overflow, Reasons,
    StreamConfig, StreamName,
};
use crate::event::{Malformed, get, get_u32, take};
use crate::structures::varint;

/// Settings of a stream.
mod stream {
    pub(super) const SHARES: u64 = 1;
    pub(super) const KEEP: u64 = 2;
    pub(super) const MAX_MESSAGES: u64 = 3;
    pub(super) const MAX_BYTES: u64 = 4;
    pub(super) const MAX_AGE: u64 = 5;
    pub(super) const OVERFLOW: u64 = 6;
    pub(super) const DURABILITY: u64 = 7;
    pub(super) const AUTO_DELETE: u64 = 8;
    pub(super) const GROUP: u64 = 9;
    pub(super) const COUNTED: u64 = 10;
    pub(super) const EXPIRES: u64 = 11;
}

/// Settings of a group.
mod group {
    pub(super) const ORDER: u64 = 1;
    pub(super) const START: u64 = 2;
    pub(super) const ACK_TIMEOUT: u64 = 3;
    pub(super) const MAX_DELIVERIES: u64 = 4;
    pub(super) const BACKOFF: u64 = 5;
    pub(super) const DEAD_LETTER: u64 = 6;
    /// What of [`DEAD_LETTER`] is not as usual.
    pub(super) const DEATHS: u64 = 7;
    pub(super) const MAX_FAILURES: u64 = 8;
    pub(super) const COUNT_LOSSES: u64 = 9;
    pub(super) const NOTE: u64 = 10;
}

/// How dead letters are laid, where that is not as usual.
const HEADERS_ONLY: u64 = 1;
const KEEP: u64 = 2;

/// Settings on their way into the log.
#[derive(Default)]
struct Settings(Vec<u8>);

impl Settings {
    fn put(&mut self, tag: u64, value: &[u8]) {
        varint::put(&mut self.0, tag);
        varint::put(&mut self.0, value.len() as u64);
        self.0.extend_from_slice(value);
    }

    fn put_numbers(&mut self, tag: u64, numbers: &[u64]) {
        let mut value = Vec::new();
        for number in numbers {
            varint::put(&mut value, *number);
        }
        self.put(tag, &value);
    }

    /// A number that is not there when it is 0.
    fn put_if(&mut self, tag: u64, number: u64) {
        if number != 0 {
            self.put_numbers(tag, &[number]);
        }
    }

    fn end(&self, out: &mut Vec<u8>) {
        put_bytes(out, &self.0);
    }
}

/// Calls `with` for each setting; it must use up the value.
fn each_setting<'a>(
    mut settings: &'a [u8],
    mut with: impl FnMut(u64, &mut &'a [u8]) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    while !settings.is_empty() {
        let tag = get(&mut settings)?;
        let mut value = get_bytes(&mut settings)?;
        with(tag, &mut value)?;
        if !value.is_empty() {
            return Err(Malformed::Damaged);
        }
    }
    Ok(())
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    varint::put(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn get_bytes<'a>(input: &mut &'a [u8]) -> Result<&'a [u8], Malformed> {
    let len = get(input)?;
    take(input, len)
}

fn text(bytes: &[u8]) -> Result<Arc<str>, Malformed> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.into()),
        Err(_) => Err(Malformed::Damaged),
    }
}

/// Everything that is left.
fn rest(value: &mut &[u8]) -> Result<Arc<str>, Malformed> {
    text(std::mem::take(value))
}

pub(crate) fn put_stream(out: &mut Vec<u8>, name: &StreamName, config: &StreamConfig) {
    put_bytes(out, name.space.as_bytes());
    put_bytes(out, name.name.as_bytes());
    let mut settings = Settings::default();
    if let Numbering::Shared(with) = &config.numbering {
        settings.put(stream::SHARES, with.as_bytes());
    }
    let keep = match config.keep {
        Keep::UntilSettled => 0,
        Keep::UntilLimit => 1,
        Keep::Interest => 2,
    };
    settings.put_if(stream::KEEP, keep);
    settings.put_if(stream::MAX_MESSAGES, config.limits.max_messages);
    settings.put_if(stream::MAX_BYTES, config.limits.max_bytes);
    settings.put_if(stream::MAX_AGE, config.limits.max_age_ms);
    let overflow = match config.overflow {
        Overflow::RefuseNew => 0,
        Overflow::DropOldest => 1,
        Overflow::DropLeastUrgent => 2,
    };
    settings.put_if(stream::OVERFLOW, overflow);
    let durability = match config.durability {
        None => 0,
        Some(Durability::Memory) => 1,
        Some(Durability::Interval) => 2,
        Some(Durability::Sync) => 3,
    };
    settings.put_if(stream::DURABILITY, durability);
    settings.put_if(stream::AUTO_DELETE, u64::from(config.auto_delete));
    if let Some(group) = &config.group {
        settings.put(stream::GROUP, &group_settings(group).0);
    }
    let counted = match config.limits.of {
        Counted::All => 0,
        Counted::Ready => 1,
    };
    settings.put_if(stream::COUNTED, counted);
    if let Some(ms) = config.expires_ms {
        settings.put_numbers(stream::EXPIRES, &[ms]);
    }
    settings.end(out);
}

pub(crate) fn get_stream(input: &mut &[u8]) -> Result<(StreamName, StreamConfig), Malformed> {
    let name = StreamName {
        space: text(get_bytes(input)?)?,
        name: text(get_bytes(input)?)?,
    };
    let mut config = StreamConfig::default();
    each_setting(get_bytes(input)?, |tag, value| {
        let later = || Malformed::Later {
            what: "a stream with the setting",
            number: tag,
        };
        match tag {
            stream::SHARES => config.numbering = Numbering::Shared(rest(value)?),
            stream::KEEP => {
                config.keep = match get(value)? {
                    1 => Keep::UntilLimit,
                    2 => Keep::Interest,
                    _ => return Err(later()),
                }
            }
            stream::MAX_MESSAGES => config.limits.max_messages = get(value)?,
            stream::MAX_BYTES => config.limits.max_bytes = get(value)?,
            stream::MAX_AGE => config.limits.max_age_ms = get(value)?,
            stream::OVERFLOW => {
                config.overflow = match get(value)? {
                    1 => Overflow::DropOldest,
                    2 => Overflow::DropLeastUrgent,
                    _ => return Err(later()),
                }
            }
            stream::EXPIRES => config.expires_ms = Some(get(value)?),
            stream::COUNTED => {
                config.limits.of = match get(value)? {
                    1 => Counted::Ready,
                    _ => return Err(later()),
                }
            }
            stream::DURABILITY => {
                config.durability = match get(value)? {
                    1 => Some(Durability::Memory),
                    2 => Some(Durability::Interval),
                    3 => Some(Durability::Sync),
                    _ => return Err(later()),
                }
            }
            stream::AUTO_DELETE => {
                config.auto_delete = match get(value)? {
                    1 => true,
                    _ => return Err(later()),
                }
            }
            stream::GROUP => config.group = Some(from_settings(std::mem::take(value))?),
            _ => return Err(later()),
        }
        Ok(())
    })?;
    Ok((name, config))
}

/// A group with its name.
pub(crate) fn put_named_group(out: &mut Vec<u8>, name: &str, config: &GroupConfig) {
    put_bytes(out, name.as_bytes());
    put_group(out, config);
}

pub(crate) fn get_named_group(input: &mut &[u8]) -> Result<(GroupName, GroupConfig), Malformed> {
    Ok((text(get_bytes(input)?)?, get_group(input)?))
}

pub(crate) fn put_group(out: &mut Vec<u8>, config: &GroupConfig) {
    group_settings(config).end(out);
}

pub(crate) fn get_group(input: &mut &[u8]) -> Result<GroupConfig, Malformed> {
    from_settings(get_bytes(input)?)
}

fn group_settings(config: &GroupConfig) -> Settings {
    let mut settings = Settings::default();
    let order = match config.order {
        Order::Sequence => 0,
        Order::Priority => 1,
    };
    settings.put_if(group::ORDER, order);
    match config.start {
        Start::First => {}
        Start::Next => settings.put_numbers(group::START, &[1]),
        Start::Last => settings.put_numbers(group::START, &[2]),
        Start::At(seq) => settings.put_numbers(group::START, &[3, seq.0]),
        Start::Since(when) => settings.put_numbers(group::START, &[4, when.0]),
        Start::Backlog => settings.put_numbers(group::START, &[5]),
    }
    settings.put_if(group::ACK_TIMEOUT, config.ack_timeout_ms);
    settings.put_if(group::MAX_DELIVERIES, u64::from(config.max_deliveries));
    if !config.backoff_ms.is_empty() {
        settings.put_numbers(group::BACKOFF, &config.backoff_ms);
    }
    if let Some(max) = config.max_failures {
        settings.put_numbers(group::MAX_FAILURES, &[max.into()]);
    }
    settings.put_if(group::COUNT_LOSSES, u64::from(config.count_losses));
    if let Some(dead_letter) = &config.dead_letter {
        settings.put(group::DEAD_LETTER, dead_letter.stream.as_bytes());
        let how = u64::from(!dead_letter.body) * HEADERS_ONLY + u64::from(dead_letter.keep) * KEEP;
        if dead_letter.on != Reasons::USUAL || how != 0 {
            settings.put_numbers(group::DEATHS, &[dead_letter.on.bits().into(), how]);
        }
        if !dead_letter.note.is_empty() {
            settings.put(group::NOTE, &dead_letter.note);
        }
    }
    settings
}

fn from_settings(settings: &[u8]) -> Result<GroupConfig, Malformed> {
    let mut config = GroupConfig::default();
    each_setting(settings, |tag, value| {
        let later = || Malformed::Later {
            what: "a group with the setting",
            number: tag,
        };
        match tag {
            group::ORDER => {
                config.order = match get(value)? {
                    1 => Order::Priority,
                    _ => return Err(later()),
                }
            }
            group::START => {
                config.start = match get(value)? {
                    1 => Start::Next,
                    2 => Start::Last,
                    3 => Start::At(Seq(get(value)?)),
                    4 => Start::Since(Timestamp(get(value)?)),
                    5 => Start::Backlog,
                    _ => return Err(later()),
                }
            }
            group::ACK_TIMEOUT => config.ack_timeout_ms = get(value)?,
            group::MAX_DELIVERIES => config.max_deliveries = get_u32(value)?,
            group::MAX_FAILURES => config.max_failures = Some(get_u32(value)?),
            group::COUNT_LOSSES => {
                config.count_losses = match get(value)? {
                    1 => true,
                    _ => return Err(later()),
                }
            }
            group::NOTE => {
                let dead_letter = config.dead_letter.as_mut().ok_or(Malformed::Damaged)?;
                dead_letter.note = std::mem::take(value).into();
            }
            group::BACKOFF => {
                while !value.is_empty() {
                    config.backoff_ms.push(get(value)?);
                }
            }
            group::DEAD_LETTER => config.dead_letter = Some(DeadLetter::to(rest(value)?)),
            group::DEATHS => {
                let dead_letter = config.dead_letter.as_mut().ok_or(Malformed::Damaged)?;
                let (on, how) = (get(value)?, get(value)?);
                dead_letter.on = Reasons::from_bits(on).ok_or_else(later)?;
                if how & !(HEADERS_ONLY | KEEP) != 0 {
                    return Err(later());
                }
                dead_letter.body = how & HEADERS_ONLY == 0;
                dead_letter.keep = how & KEEP != 0;
            }
            _ => return Err(later()),
        }
        Ok(())
    })?;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Limits, Reason};

    #[test]
    fn a_definition_round_trips() {
        let name = StreamName::new("default", "mail/out");
        let config = StreamConfig {
            numbering: Numbering::Shared("beanstalk".into()),
            keep: Keep::UntilLimit,
            limits: Limits {
                max_messages: 1,
                max_bytes: 2,
                max_age_ms: 3,
                of: Counted::Ready,
            },
            overflow: Overflow::DropLeastUrgent,
            expires_ms: Some(0),
            durability: Some(Durability::Interval),
            auto_delete: true,
            group: Some(GroupConfig {
                order: Order::Priority,
                start: Start::At(Seq(7)),
                ack_timeout_ms: 60_000,
                max_deliveries: 5,
                backoff_ms: vec![10, 100],
                max_failures: Some(0),
                count_losses: true,
                dead_letter: Some(DeadLetter {
                    note: (*b"note").into(),
                    stream: "dead".into(),
                    on: [Reason::Rejected, Reason::Limit].into_iter().collect(),
                    body: false,
                    keep: true,
                }),
            }),
        };
        let mut bytes = Vec::new();
        put_stream(&mut bytes, &name, &config);
        assert_eq!(get_stream(&mut bytes.as_slice()), Ok((name, config)));
    }

    #[test]
    fn what_is_as_usual_costs_nothing() {
        let mut bytes = Vec::new();
        let name = StreamName::new("a", "b");
        put_stream(&mut bytes, &name, &StreamConfig::default());
        assert_eq!(bytes, [1, b'a', 1, b'b', 0]);
        assert_eq!(
            get_stream(&mut bytes.as_slice()),
            Ok((name, StreamConfig::default()))
        );
        bytes.clear();
        put_group(&mut bytes, &GroupConfig::default());
        assert_eq!(bytes, [0]);
    }

    #[test]
    fn a_setting_of_a_later_release_is_named() {
        // The setting 99 with a value of one byte, and a value of a known setting that is not known.
        for (settings, number) in [([99, 1, 7], 99), ([2, 1, 9], stream::KEEP)] {
            let mut bytes = vec![1, b'a', 1, b'b', 3];
            bytes.extend(settings);
            let why = get_stream(&mut bytes.as_slice()).unwrap_err();
            assert_eq!(
                why,
                Malformed::Later {
                    what: "a stream with the setting",
                    number
                }
            );
            assert!(why.to_string().contains("later release"), "{why}");
        }
        let group = [3_u8, 50, 1, 0];
        assert!(matches!(
            get_group(&mut group.as_slice()),
            Err(Malformed::Later { number: 50, .. })
        ));
        let too_long = [4_u8, 3, 2, 1, 1];
        assert_eq!(
            get_group(&mut too_long.as_slice()),
            Err(Malformed::Damaged),
            "more than the setting has"
        );
    }
}
