//! Reply lines.

/// Longest reply line that can be legal: a name of 200 bytes and a word before it.
const LINE_BYTES_MAX: usize = 256;

/// A whole line at the front of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Line<'a> {
    /// Without its CR LF.
    pub(super) text: &'a [u8],
    /// Length with it.
    pub(super) bytes: usize,
}

/// The line at the front of `input`; None while it is incomplete; the offending bytes when it cannot be a reply.
pub(super) fn line(input: &[u8]) -> Result<Option<Line<'_>>, &[u8]> {
    let Some(end) = memchr::memchr(b'\n', input) else {
        return if input.len() > LINE_BYTES_MAX {
            Err(input)
        } else {
            Ok(None)
        };
    };
    let line = input.get(..end).unwrap_or_default();
    match line.strip_suffix(b"\r") {
        Some(text) if end <= LINE_BYTES_MAX => Ok(Some(Line {
            text,
            bytes: end + 1,
        })),
        _ => Err(line),
    }
}

/// The digits of the id and the body's length, of `RESERVED <id> <bytes>`.
pub(super) fn reserved(text: &[u8]) -> Option<(&[u8], usize)> {
    let rest = text.strip_prefix(b"RESERVED ")?;
    let space = memchr::memchr(b' ', rest)?;
    let (id, bytes) = (rest.get(..space)?, rest.get(space + 1..)?);
    if id.is_empty()
        || id.len() > 20
        || !id.iter().all(u8::is_ascii_digit)
        || bytes.is_empty()
        || bytes.len() > 10
    {
        return None;
    }
    let mut length = 0usize;
    for &digit in bytes {
        if !digit.is_ascii_digit() {
            return None;
        }
        length = length * 10 + usize::from(digit - b'0');
    }
    Some((id, length))
}

/// The protocol's name of a refusal, if `text` is one.
pub(super) fn refusal(text: &[u8]) -> Option<&'static str> {
    const WORDS: [&str; 12] = [
        "OUT_OF_MEMORY",
        "INTERNAL_ERROR",
        "DRAINING",
        "BAD_FORMAT",
        "UNKNOWN_COMMAND",
        "EXPECTED_CRLF",
        "JOB_TOO_BIG",
        "BURIED",
        "NOT_FOUND",
        "DEADLINE_SOON",
        "TIMED_OUT",
        "NOT_IGNORED",
    ];
    let word = text.split(|&byte| byte == b' ').next()?;
    WORDS.into_iter().find(|name| name.as_bytes() == word)
}
