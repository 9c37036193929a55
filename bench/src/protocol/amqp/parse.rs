//! Frames of a server, as far as a load needs to understand them. Sections are those of the AMQP 0-9-1 specification.

/// Class and method.
pub(super) type Id = (u16, u16);

/// Types of frames (4.2.3).
pub(super) mod kind {
    pub(in super::super) const METHOD: u8 = 1;
    pub(in super::super) const HEADER: u8 = 2;
    pub(in super::super) const BODY: u8 = 3;
    pub(in super::super) const HEARTBEAT: u8 = 8;
}

/// Methods.
pub(super) mod id {
    use super::Id;

    pub(in super::super) const START: Id = (10, 10);
    pub(in super::super) const START_OK: Id = (10, 11);
    pub(in super::super) const TUNE: Id = (10, 30);
    pub(in super::super) const TUNE_OK: Id = (10, 31);
    pub(in super::super) const OPEN: Id = (10, 40);
    pub(in super::super) const OPEN_OK: Id = (10, 41);
    pub(in super::super) const CONNECTION_CLOSE: Id = (10, 50);
    pub(in super::super) const CONNECTION_CLOSE_OK: Id = (10, 51);
    pub(in super::super) const CHANNEL_OPEN: Id = (20, 10);
    pub(in super::super) const CHANNEL_OPEN_OK: Id = (20, 11);
    pub(in super::super) const FLOW: Id = (20, 20);
    pub(in super::super) const FLOW_OK: Id = (20, 21);
    pub(in super::super) const CHANNEL_CLOSE: Id = (20, 40);
    pub(in super::super) const EXCHANGE_DECLARE: Id = (40, 10);
    pub(in super::super) const EXCHANGE_DECLARE_OK: Id = (40, 11);
    pub(in super::super) const QUEUE_DECLARE: Id = (50, 10);
    pub(in super::super) const QUEUE_DECLARE_OK: Id = (50, 11);
    pub(in super::super) const QUEUE_BIND: Id = (50, 20);
    pub(in super::super) const QUEUE_BIND_OK: Id = (50, 21);
    pub(in super::super) const QUEUE_DELETE: Id = (50, 40);
    pub(in super::super) const QUEUE_DELETE_OK: Id = (50, 41);
    pub(in super::super) const QOS: Id = (60, 10);
    pub(in super::super) const QOS_OK: Id = (60, 11);
    pub(in super::super) const CONSUME: Id = (60, 20);
    pub(in super::super) const CONSUME_OK: Id = (60, 21);
    pub(in super::super) const PUBLISH: Id = (60, 40);
    pub(in super::super) const DELIVER: Id = (60, 60);
    pub(in super::super) const ACK: Id = (60, 80);
    pub(in super::super) const NACK: Id = (60, 120);
    pub(in super::super) const CONFIRM_SELECT: Id = (85, 10);
    pub(in super::super) const CONFIRM_SELECT_OK: Id = (85, 11);
}

/// Bytes before a frame's payload.
pub(super) const FRAME_HEADER: usize = 7;
/// The octet behind it (4.2.3).
pub(super) const FRAME_END: u8 = 0xCE;

/// The start of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) channel: u16,
    /// Bytes of its payload.
    pub(super) size: usize,
}

/// The start of the frame at the front of `input`; None while it is incomplete; what is wrong when it cannot be one.
pub(super) fn frame(input: &[u8]) -> Result<Option<Frame>, String> {
    let Some(&[kind, high, low, a, b, c, d]) = input.first_chunk::<FRAME_HEADER>() else {
        return Ok(None);
    };
    if !matches!(
        kind,
        kind::METHOD | kind::HEADER | kind::BODY | kind::HEARTBEAT
    ) {
        return Err(format!("no frame of a server: type {kind}"));
    }
    let size = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
    Ok(Some(Frame {
        kind,
        channel: u16::from_be_bytes([high, low]),
        size,
    }))
}

/// Which method a method frame has.
pub(super) fn method(payload: &[u8]) -> Option<Id> {
    let &[a, b, c, d] = payload.first_chunk()?;
    Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
}

/// A short string at `at`, and where it ends.
pub(super) fn short(payload: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let length = usize::from(*payload.get(at)?);
    let end = at + 1 + length;
    Some((payload.get(at + 1..end)?, end))
}

/// Eight bytes at `at`.
pub(super) fn long_long(payload: &[u8], at: usize) -> Option<u64> {
    let bytes = payload.get(at..)?.first_chunk()?;
    Some(u64::from_be_bytes(*bytes))
}

/// The delivery tag of a `basic.deliver`.
pub(super) fn delivery_tag(payload: &[u8]) -> Option<u64> {
    let (_, at) = short(payload, 4)?;
    long_long(payload, at)
}

/// Bytes of the body that a content header announces.
pub(super) fn body_size(payload: &[u8]) -> Option<u64> {
    long_long(payload, 4)
}

/// Tag and `multiple` (of a nack: and `requeue`) of a `basic.ack` or `basic.nack`.
pub(super) fn acknowledged(payload: &[u8]) -> Option<(u64, bool)> {
    Some((long_long(payload, 4)?, payload.get(12)? & 1 == 1))
}

/// A method for people: a close with its text, the rest by number.
pub(super) fn describe(payload: &[u8]) -> String {
    match method(payload) {
        Some(id::CONNECTION_CLOSE | id::CHANNEL_CLOSE) => {
            let text = short(payload, 6).map(|(text, _)| text).unwrap_or_default();
            format!("closed: {}", String::from_utf8_lossy(text))
        }
        Some((class, method)) => format!("method {class},{method}"),
        None => format!("{payload:02x?}"),
    }
}
