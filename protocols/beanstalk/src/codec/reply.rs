//! Replies as bytes. Each function appends one complete reply.

use super::request::Rejection;

/// A reply that is one fixed line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is the reply of that name")]
pub enum Word {
    Deleted,
    Released,
    Buried,
    Touched,
    Kicked,
    Paused,
    NotFound,
    NotIgnored,
    TimedOut,
    DeadlineSoon,
    Draining,
    ExpectedCrlf,
    JobTooBig,
    BadFormat,
    UnknownCommand,
    OutOfMemory,
    InternalError,
}

impl Word {
    /// The line, with its CR LF.
    #[must_use]
    pub const fn as_bytes(self) -> &'static [u8] {
        match self {
            Word::Deleted => b"DELETED\r\n",
            Word::Released => b"RELEASED\r\n",
            Word::Buried => b"BURIED\r\n",
            Word::Touched => b"TOUCHED\r\n",
            Word::Kicked => b"KICKED\r\n",
            Word::Paused => b"PAUSED\r\n",
            Word::NotFound => b"NOT_FOUND\r\n",
            Word::NotIgnored => b"NOT_IGNORED\r\n",
            Word::TimedOut => b"TIMED_OUT\r\n",
            Word::DeadlineSoon => b"DEADLINE_SOON\r\n",
            Word::Draining => b"DRAINING\r\n",
            Word::ExpectedCrlf => b"EXPECTED_CRLF\r\n",
            Word::JobTooBig => b"JOB_TOO_BIG\r\n",
            Word::BadFormat => b"BAD_FORMAT\r\n",
            Word::UnknownCommand => b"UNKNOWN_COMMAND\r\n",
            Word::OutOfMemory => b"OUT_OF_MEMORY\r\n",
            Word::InternalError => b"INTERNAL_ERROR\r\n",
        }
    }
}

impl From<Rejection> for Word {
    fn from(why: Rejection) -> Self {
        why.word()
    }
}

/// A fixed line.
pub fn word(out: &mut Vec<u8>, word: Word) {
    out.extend_from_slice(word.as_bytes());
}

/// `INSERTED <id>`.
pub fn inserted(out: &mut Vec<u8>, id: u64) {
    numbered(out, b"INSERTED ", id);
}

/// `KICKED <count>`.
pub fn kicked(out: &mut Vec<u8>, count: u64) {
    numbered(out, b"KICKED ", count);
}

/// `WATCHING <count>`.
pub fn watching(out: &mut Vec<u8>, count: usize) {
    numbered(out, b"WATCHING ", count as u64);
}

/// `USING <tube>`.
pub fn using(out: &mut Vec<u8>, tube: &str) {
    out.extend_from_slice(b"USING ");
    out.extend_from_slice(tube.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// `RESERVED <id> <bytes>` and the body.
pub fn reserved(out: &mut Vec<u8>, id: u64, body: &[u8]) {
    job(out, b"RESERVED ", id, body);
}

/// `FOUND <id> <bytes>` and the body.
pub fn found(out: &mut Vec<u8>, id: u64, body: &[u8]) {
    job(out, b"FOUND ", id, body);
}

/// `OK <bytes>` and a document.
pub fn ok(out: &mut Vec<u8>, document: &[u8]) {
    out.extend_from_slice(b"OK ");
    number(out, document.len() as u64);
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(document);
    out.extend_from_slice(b"\r\n");
}

/// `OK <bytes>` and a YAML list of names.
pub fn ok_list<'a>(out: &mut Vec<u8>, names: impl Iterator<Item = &'a str> + Clone) {
    const HEAD: &[u8] = b"---\n";
    let bytes = HEAD.len()
        + names
            .clone()
            .map(|name| name.len() + "- \n".len())
            .sum::<usize>();
    out.extend_from_slice(b"OK ");
    number(out, bytes as u64);
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(HEAD);
    for name in names {
        out.extend_from_slice(b"- ");
        out.extend_from_slice(name.as_bytes());
        out.push(b'\n');
    }
    out.extend_from_slice(b"\r\n");
}

/// Digits.
pub fn number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

fn numbered(out: &mut Vec<u8>, head: &[u8], value: u64) {
    out.extend_from_slice(head);
    number(out, value);
    out.extend_from_slice(b"\r\n");
}

fn job(out: &mut Vec<u8>, head: &[u8], id: u64, body: &[u8]) {
    out.reserve(head.len() + body.len() + 48);
    out.extend_from_slice(head);
    number(out, id);
    out.push(b' ');
    number(out, body.len() as u64);
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(body);
    out.extend_from_slice(b"\r\n");
}
