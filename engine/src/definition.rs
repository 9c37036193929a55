//! How a stream's name and configuration lie in the log and in checkpoints.

use std::sync::Arc;

use longtail_model::{Durability, Seq, Timestamp};

use crate::command::Start;
use crate::config::{
    GroupConfig, Keep, Limits, Numbering, Order, Overflow, StreamConfig, StreamName,
};
use crate::event::{Malformed, get, get_u32, take};
use crate::structures::varint;

fn put_str(out: &mut Vec<u8>, text: &str) {
    varint::put(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

fn get_str(input: &mut &[u8]) -> Result<Arc<str>, Malformed> {
    let len = get(input)?;
    let text = std::str::from_utf8(take(input, len)?).map_err(|_| Malformed::Damaged)?;
    Ok(text.into())
}

fn put_option_str(out: &mut Vec<u8>, text: Option<&str>) {
    out.push(u8::from(text.is_some()));
    if let Some(text) = text {
        put_str(out, text);
    }
}

fn get_flag(input: &mut &[u8]) -> Result<bool, Malformed> {
    match take(input, 1)? {
        [0] => Ok(false),
        [1] => Ok(true),
        _ => Err(Malformed::Damaged),
    }
}

fn get_option_str(input: &mut &[u8]) -> Result<Option<Arc<str>>, Malformed> {
    if get_flag(input)? {
        get_str(input).map(Some)
    } else {
        Ok(None)
    }
}

pub(crate) fn put_stream(out: &mut Vec<u8>, name: &StreamName, config: &StreamConfig) {
    put_str(out, &name.space);
    put_str(out, &name.name);
    match &config.numbering {
        Numbering::Own => put_option_str(out, None),
        Numbering::Shared(with) => put_option_str(out, Some(with)),
    }
    out.push(match config.keep {
        Keep::UntilSettled => 0,
        Keep::UntilLimit => 1,
    });
    varint::put(out, config.limits.max_messages);
    varint::put(out, config.limits.max_bytes);
    varint::put(out, config.limits.max_age_ms);
    out.push(match config.overflow {
        Overflow::RefuseNew => 0,
        Overflow::DropOldest => 1,
    });
    out.push(match config.durability {
        None => 0,
        Some(Durability::Memory) => 1,
        Some(Durability::Interval) => 2,
        Some(Durability::Sync) => 3,
    });
    out.push(u8::from(config.auto_delete));
    put_group(out, &config.group);
}

pub(crate) fn get_stream(input: &mut &[u8]) -> Result<(StreamName, StreamConfig), Malformed> {
    let name = StreamName {
        space: get_str(input)?,
        name: get_str(input)?,
    };
    let config = StreamConfig {
        numbering: match get_option_str(input)? {
            None => Numbering::Own,
            Some(with) => Numbering::Shared(with),
        },
        keep: match take(input, 1)? {
            [0] => Keep::UntilSettled,
            [1] => Keep::UntilLimit,
            _ => return Err(Malformed::Damaged),
        },
        limits: Limits {
            max_messages: get(input)?,
            max_bytes: get(input)?,
            max_age_ms: get(input)?,
        },
        overflow: match take(input, 1)? {
            [0] => Overflow::RefuseNew,
            [1] => Overflow::DropOldest,
            _ => return Err(Malformed::Damaged),
        },
        durability: match take(input, 1)? {
            [0] => None,
            [1] => Some(Durability::Memory),
            [2] => Some(Durability::Interval),
            [3] => Some(Durability::Sync),
            _ => return Err(Malformed::Damaged),
        },
        auto_delete: get_flag(input)?,
        group: get_group(input)?,
    };
    Ok((name, config))
}

pub(crate) fn put_group(out: &mut Vec<u8>, config: &GroupConfig) {
    out.push(match config.order {
        Order::Sequence => 0,
        Order::Priority => 1,
    });
    let (kind, value) = match config.start {
        Start::First => (0, 0),
        Start::Next => (1, 0),
        Start::Last => (2, 0),
        Start::At(seq) => (3, seq.0),
        Start::Since(when) => (4, when.0),
    };
    out.push(kind);
    varint::put(out, value);
    varint::put(out, config.ack_timeout_ms);
    varint::put(out, u64::from(config.max_deliveries));
    varint::put(out, config.backoff_ms.len() as u64);
    for ms in &config.backoff_ms {
        varint::put(out, *ms);
    }
    put_option_str(out, config.dead_letter.as_deref());
}

pub(crate) fn get_group(input: &mut &[u8]) -> Result<GroupConfig, Malformed> {
    let order = match take(input, 1)? {
        [0] => Order::Sequence,
        [1] => Order::Priority,
        _ => return Err(Malformed::Damaged),
    };
    let kind = take(input, 1)?[0];
    let value = get(input)?;
    let start = match kind {
        0 => Start::First,
        1 => Start::Next,
        2 => Start::Last,
        3 => Start::At(Seq(value)),
        4 => Start::Since(Timestamp(value)),
        _ => return Err(Malformed::Damaged),
    };
    let ack_timeout_ms = get(input)?;
    let max_deliveries = get_u32(input)?;
    let steps = get(input)?;
    let mut backoff_ms = Vec::new();
    for _ in 0..steps {
        backoff_ms.push(get(input)?);
    }
    Ok(GroupConfig {
        order,
        start,
        ack_timeout_ms,
        max_deliveries,
        backoff_ms,
        dead_letter: get_option_str(input)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
            },
            overflow: Overflow::DropOldest,
            durability: Some(Durability::Interval),
            auto_delete: true,
            group: GroupConfig {
                order: Order::Priority,
                start: Start::At(Seq(7)),
                ack_timeout_ms: 60_000,
                max_deliveries: 5,
                backoff_ms: vec![10, 100],
                dead_letter: Some("dead".into()),
            },
        };
        let mut bytes = Vec::new();
        put_stream(&mut bytes, &name, &config);
        assert_eq!(get_stream(&mut bytes.as_slice()), Ok((name, config)));
    }
}
