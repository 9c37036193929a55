//! One command line.
//!
//! Commands are recognised by prefix, in a fixed order, so that `reserve-job` without its space is a malformed
//! `reserve` and `quit now` still quits. Clients and test suites rely on these corners.

use super::number::{kick_bound, skip_spaces, u32_at, u32_to_end, u64_at, u64_to_end};
use super::{TUBE_NAME_MAX, reply::Word};

/// What a command is counted as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[allow(missing_docs, reason = "each is the command of that name")]
pub enum Op {
    Put,
    Peek,
    PeekReady,
    PeekDelayed,
    PeekBuried,
    Reserve,
    ReserveWithTimeout,
    ReserveJob,
    Delete,
    Release,
    Use,
    Watch,
    Ignore,
    Bury,
    Kick,
    KickJob,
    Touch,
    Stats,
    StatsJob,
    StatsTube,
    ListTubes,
    ListTubeUsed,
    ListTubesWatched,
    PauseTube,
}

impl Op {
    /// How many there are.
    pub const COUNT: usize = Op::PauseTube as usize + 1;
}

/// The first line of a `put`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PutLine {
    /// 0 is the most urgent.
    pub priority: u32,
    /// Seconds before the job becomes ready.
    pub delay_s: u32,
    /// Seconds that a worker may hold the job, at least 1.
    pub ttr_s: u32,
    /// Bytes of body that follow, without their CR LF.
    pub body_bytes: u32,
}

/// A command other than `put`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is the command of that name")]
pub enum Request<'a> {
    Use {
        tube: &'a str,
    },
    Reserve,
    ReserveWithTimeout {
        seconds: u32,
    },
    ReserveJob {
        id: u64,
    },
    Delete {
        id: u64,
    },
    Release {
        id: u64,
        priority: u32,
        delay_s: u32,
    },
    Bury {
        id: u64,
        priority: u32,
    },
    Touch {
        id: u64,
    },
    Watch {
        tube: &'a str,
    },
    Ignore {
        tube: &'a str,
    },
    Peek {
        id: u64,
    },
    PeekReady,
    PeekDelayed,
    PeekBuried,
    Kick {
        bound: u32,
    },
    KickJob {
        id: u64,
    },
    StatsJob {
        id: u64,
    },
    StatsTube {
        tube: &'a str,
    },
    Stats,
    ListTubes,
    ListTubeUsed,
    ListTubesWatched,
    PauseTube {
        tube: &'a str,
        seconds: u32,
    },
    Quit,
}

impl Request<'_> {
    /// What it is counted as; `quit` is not.
    #[must_use]
    pub fn op(&self) -> Option<Op> {
        Some(match self {
            Request::Use { .. } => Op::Use,
            Request::Reserve => Op::Reserve,
            Request::ReserveWithTimeout { .. } => Op::ReserveWithTimeout,
            Request::ReserveJob { .. } => Op::ReserveJob,
            Request::Delete { .. } => Op::Delete,
            Request::Release { .. } => Op::Release,
            Request::Bury { .. } => Op::Bury,
            Request::Touch { .. } => Op::Touch,
            Request::Watch { .. } => Op::Watch,
            Request::Ignore { .. } => Op::Ignore,
            Request::Peek { .. } => Op::Peek,
            Request::PeekReady => Op::PeekReady,
            Request::PeekDelayed => Op::PeekDelayed,
            Request::PeekBuried => Op::PeekBuried,
            Request::Kick { .. } => Op::Kick,
            Request::KickJob { .. } => Op::KickJob,
            Request::StatsJob { .. } => Op::StatsJob,
            Request::StatsTube { .. } => Op::StatsTube,
            Request::Stats => Op::Stats,
            Request::ListTubes => Op::ListTubes,
            Request::ListTubeUsed => Op::ListTubeUsed,
            Request::ListTubesWatched => Op::ListTubesWatched,
            Request::PauseTube { .. } => Op::PauseTube,
            Request::Quit => return None,
        })
    }
}

/// Why something is no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The line is too long, holds a NUL, or its arguments are not what the command takes.
    #[error("the command line is malformed")]
    BadFormat,
    /// No command starts like this.
    #[error("there is no such command")]
    UnknownCommand,
    /// A body does not end with CR LF where it should.
    #[error("a body is not followed by CR LF")]
    ExpectedCrlf,
    /// The body is larger than the server takes.
    #[error("a body is over the size limit")]
    JobTooBig,
}

impl Rejection {
    /// What the client is told.
    #[must_use]
    pub fn word(self) -> Word {
        match self {
            Rejection::BadFormat => Word::BadFormat,
            Rejection::UnknownCommand => Word::UnknownCommand,
            Rejection::ExpectedCrlf => Word::ExpectedCrlf,
            Rejection::JobTooBig => Word::JobTooBig,
        }
    }
}

/// Something that is answered with an error. The connection stays usable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// Why.
    pub why: Rejection,
    /// The command it counts as all the same.
    pub counted: Option<Op>,
}

impl Rejected {
    pub(super) const BAD_FORMAT: Rejected = Rejected {
        why: Rejection::BadFormat,
        counted: None,
    };

    pub(super) const fn counted(why: Rejection, op: Op) -> Self {
        Rejected {
            why,
            counted: Some(op),
        }
    }
}

/// What a line says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// A command that is complete.
    Request(Request<'a>),
    /// A body follows.
    Put(PutLine),
    /// A body over `job_size_max` follows; it and its CR LF are to be thrown away before the answer.
    PutTooBig {
        /// Bytes of body that follow, without their CR LF.
        body_bytes: u32,
    },
    /// Nothing that can be carried out.
    Rejected(Rejected),
}

/// Understands one line, given without its CR LF.
#[must_use]
pub fn parse_line(line: &[u8], job_size_max: u32) -> Line<'_> {
    if memchr::memchr(0, line).is_some() {
        return Line::Rejected(Rejected::BAD_FORMAT);
    }
    if let Some(rest) = line.strip_prefix(b"put ") {
        return put(rest, job_size_max);
    }
    match request(line) {
        Ok(request) => Line::Request(request),
        Err(rejected) => Line::Rejected(rejected),
    }
}

fn put(args: &[u8], job_size_max: u32) -> Line<'_> {
    let Some((line, rest)) = put_line(args) else {
        return Line::Rejected(Rejected::BAD_FORMAT);
    };
    // The size is looked at before what follows it: an oversized body is skipped even when the line is malformed.
    if line.body_bytes > job_size_max {
        Line::PutTooBig {
            body_bytes: line.body_bytes,
        }
    } else if !rest.is_empty() {
        Line::Rejected(Rejected::counted(Rejection::BadFormat, Op::Put))
    } else {
        Line::Put(line)
    }
}

fn put_line(args: &[u8]) -> Option<(PutLine, &[u8])> {
    let (priority, rest) = u32_at(args)?;
    let (delay_s, rest) = u32_at(rest)?;
    let (ttr_s, rest) = u32_at(rest)?;
    let (body_bytes, rest) = u32_at(rest)?;
    Some((
        PutLine {
            priority,
            delay_s,
            ttr_s: ttr_s.max(1),
            body_bytes,
        },
        rest,
    ))
}

/// Tries the prefixes of the commands that begin with the same letter, longest or most specific first.
fn request(line: &[u8]) -> Result<Request<'_>, Rejected> {
    let unknown = Rejected {
        why: Rejection::UnknownCommand,
        counted: None,
    };
    let Some(first) = line.first() else {
        return Err(unknown);
    };
    let after = |prefix: &str| line.strip_prefix(prefix.as_bytes());
    let id_of = |rest: &[u8]| u64_to_end(rest).ok_or(Rejected::BAD_FORMAT);
    let request = match first {
        b'p' => {
            if let Some(rest) = after("peek ") {
                Request::Peek { id: id_of(rest)? }
            } else if let Some(rest) = after("peek-ready") {
                alone(rest, Request::PeekReady)?
            } else if let Some(rest) = after("peek-delayed") {
                alone(rest, Request::PeekDelayed)?
            } else if let Some(rest) = after("peek-buried") {
                alone(rest, Request::PeekBuried)?
            } else if let Some(rest) = after("pause-tube") {
                pause_tube(rest)?
            } else {
                return Err(unknown);
            }
        }
        b'r' => {
            if let Some(rest) = after("reserve-with-timeout ") {
                reserve_with_timeout(rest)?
            } else if let Some(rest) = after("reserve-job ") {
                Request::ReserveJob { id: id_of(rest)? }
            } else if let Some(rest) = after("reserve") {
                alone(rest, Request::Reserve)?
            } else if let Some(rest) = after("release ") {
                release(rest).ok_or(Rejected::BAD_FORMAT)?
            } else {
                return Err(unknown);
            }
        }
        b'd' => Request::Delete {
            id: id_of(after("delete ").ok_or(unknown)?)?,
        },
        b'b' => bury(after("bury ").ok_or(unknown)?).ok_or(Rejected::BAD_FORMAT)?,
        b'k' => {
            if let Some(rest) = after("kick ") {
                Request::Kick {
                    bound: kick_bound(rest).ok_or(Rejected::BAD_FORMAT)?,
                }
            } else {
                Request::KickJob {
                    id: id_of(after("kick-job ").ok_or(unknown)?)?,
                }
            }
        }
        b't' => Request::Touch {
            id: id_of(after("touch ").ok_or(unknown)?)?,
        },
        b's' => {
            if let Some(rest) = after("stats-job ") {
                Request::StatsJob { id: id_of(rest)? }
            } else if let Some(rest) = after("stats-tube ") {
                Request::StatsTube { tube: tube(rest)? }
            } else {
                alone(after("stats").ok_or(unknown)?, Request::Stats)?
            }
        }
        b'u' => Request::Use {
            tube: tube(after("use ").ok_or(unknown)?)?,
        },
        b'w' => Request::Watch {
            tube: tube(after("watch ").ok_or(unknown)?)?,
        },
        b'i' => Request::Ignore {
            tube: tube(after("ignore ").ok_or(unknown)?)?,
        },
        b'l' => {
            if let Some(rest) = after("list-tubes-watched") {
                alone(rest, Request::ListTubesWatched)?
            } else if let Some(rest) = after("list-tube-used") {
                alone(rest, Request::ListTubeUsed)?
            } else {
                alone(after("list-tubes").ok_or(unknown)?, Request::ListTubes)?
            }
        }
        b'q' => after("quit").map(|_| Request::Quit).ok_or(unknown)?,
        _ => return Err(unknown),
    };
    Ok(request)
}

/// A command that takes no argument.
fn alone<'a>(rest: &[u8], request: Request<'a>) -> Result<Request<'a>, Rejected> {
    if rest.is_empty() {
        Ok(request)
    } else {
        Err(Rejected::BAD_FORMAT)
    }
}

/// What follows the number is not looked at.
fn reserve_with_timeout(args: &[u8]) -> Result<Request<'_>, Rejected> {
    match u32_at(args) {
        Some((seconds, _)) if i32::try_from(seconds).is_ok() => {
            Ok(Request::ReserveWithTimeout { seconds })
        }
        _ => Err(Rejected::BAD_FORMAT),
    }
}

fn release(args: &[u8]) -> Option<Request<'_>> {
    let (id, rest) = u64_at(args)?;
    let (priority, rest) = u32_at(rest)?;
    Some(Request::Release {
        id,
        priority,
        delay_s: u32_to_end(rest)?,
    })
}

fn bury(args: &[u8]) -> Option<Request<'_>> {
    let (id, rest) = u64_at(args)?;
    Some(Request::Bury {
        id,
        priority: u32_to_end(rest)?,
    })
}

/// The prefix has no space at its end, and spaces before the name are skipped: unlike in the other commands.
fn pause_tube(args: &[u8]) -> Result<Request<'_>, Rejected> {
    let args = skip_spaces(args);
    let (name, rest) = args.split_at(args.iter().take_while(|byte| is_name_byte(**byte)).count());
    if name.is_empty() {
        return Err(Rejected::BAD_FORMAT);
    }
    let seconds = u32_to_end(rest).ok_or(Rejected::BAD_FORMAT)?;
    let tube = tube(name).map_err(|rejected| Rejected::counted(rejected.why, Op::PauseTube))?;
    Ok(Request::PauseTube { tube, seconds })
}

/// A tube's name, if it is one.
pub(crate) fn tube(name: &[u8]) -> Result<&str, Rejected> {
    let valid = (1..=TUBE_NAME_MAX).contains(&name.len())
        && name.first() != Some(&b'-')
        && name.iter().all(|byte| is_name_byte(*byte));
    let name = if valid {
        std::str::from_utf8(name).ok()
    } else {
        None
    };
    name.ok_or(Rejected::BAD_FORMAT)
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'-' | b'+' | b'/' | b';' | b'.' | b'$' | b'_' | b'(' | b')'
        )
}
