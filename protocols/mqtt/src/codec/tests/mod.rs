//! Tests of the codec: tables of bytes and what becomes of them, and what holds for every packet.

mod answers;
mod bytes_on_the_wire;
mod prepared;
mod properties;
mod round_trip;
mod topics;

/// Bytes in the notation of `answers.txt`: hex, `'text'` with its length, `"text"` without, `_` for the remaining
/// length of what follows.
fn bytes(notation: &str) -> Vec<u8> {
    let (before, after) = match notation.split_once('_') {
        None => (notation, None),
        Some((before, after)) => (before, Some(after)),
    };
    let mut out = Vec::new();
    let mut rest = before.trim();
    while let Some(first) = rest.chars().next() {
        let taken = match first {
            '\'' | '"' => {
                let text = rest[1..].split(first).next().expect("a closing quote");
                if first == '\'' {
                    let length = u16::try_from(text.len()).expect("a short text");
                    out.extend_from_slice(&length.to_be_bytes());
                }
                out.extend_from_slice(text.as_bytes());
                text.len() + 2
            }
            _ => {
                let hex = rest.split_whitespace().next().expect("a word");
                out.extend((0..hex.len()).step_by(2).map(|at| {
                    u8::from_str_radix(&hex[at..at + 2], 16)
                        .unwrap_or_else(|_| panic!("{hex} is not hex in {notation}"))
                }));
                hex.len()
            }
        };
        rest = rest[taken..].trim_start();
    }
    if let Some(after) = after {
        let body = bytes(after);
        let mut length = body.len();
        loop {
            let low = (length & 0x7F) as u8;
            length >>= 7;
            out.push(if length == 0 { low } else { low | 0x80 });
            if length == 0 {
                break;
            }
        }
        out.extend(body);
    }
    out
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}
