//! Integers, strings, binary data (MQTT 5.0 section 1.5).

use super::fault::Fault;

/// Largest variable byte integer.
pub(super) const VARINT_MAX: u32 = 268_435_455;

/// Takes fields off the front of some bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes }
    }

    pub(super) const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], Fault> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(Fault::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    pub(super) fn take_rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(Fault::Truncated)?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Fault> {
        self.array().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Result<u16, Fault> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Fault> {
        self.array().map(u32::from_be_bytes)
    }

    /// A variable byte integer in its shortest form; no other is accepted.
    pub(super) fn varint(&mut self) -> Result<u32, Fault> {
        let mut value = 0;
        for shift in [0, 7, 14, 21] {
            let byte = self.u8()?;
            value |= u32::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                let padded = byte == 0 && shift > 0;
                return if padded {
                    Err(Fault::VarInt)
                } else {
                    Ok(value)
                };
            }
        }
        Err(Fault::VarInt)
    }

    /// Binary data: two bytes of length, then the bytes.
    pub(super) fn binary(&mut self) -> Result<&'a [u8], Fault> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }

    /// A UTF-8 string: two bytes of length, then text without what [`text`] refuses.
    pub(super) fn string(&mut self) -> Result<&'a str, Fault> {
        text(self.binary()?).ok_or(Fault::Utf8)
    }
}

/// `bytes` as text. `None` for what is not UTF-8 (surrogates, overlong forms, beyond U+10FFFF), and, as Mosquitto has
/// it, for control characters (U+0000 to U+001F, U+007F to U+009F) and non-characters (U+FDD0 to U+FDEF, and the last
/// two of each plane). MQTT 5.0 section 1.5.4 demands the first and U+0000, and allows the others to be refused.
pub(super) fn text(bytes: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(bytes).ok()?;
    // Without an early end, so that many bytes are looked at in one step.
    let plain = bytes
        .iter()
        .fold(true, |plain, byte| plain & matches!(byte, 0x20..0x7F));
    (plain || text.chars().all(is_accepted)).then_some(text)
}

fn is_accepted(c: char) -> bool {
    let code = u32::from(c);
    let non_character = matches!(code, 0xFDD0..=0xFDEF) || code & 0xFFFE == 0xFFFE;
    !c.is_control() && !non_character
}

/// Where encoded bytes go: first to a [`Count`], then to the output.
pub(super) trait Sink {
    fn bytes(&mut self, bytes: &[u8]);

    /// A field was too long for its two bytes of length.
    fn too_long(&mut self, length: usize);

    fn u8(&mut self, value: u8) {
        self.bytes(&[value]);
    }

    fn u16(&mut self, value: u16) {
        self.bytes(&value.to_be_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.bytes(&value.to_be_bytes());
    }

    /// A variable byte integer; values above [`VARINT_MAX`] are refused before they get here.
    fn varint(&mut self, value: u32) {
        let mut value = value;
        while value > 0x7F {
            self.u8((value & 0x7F) as u8 | 0x80);
            value >>= 7;
        }
        self.u8(value as u8);
    }

    fn binary(&mut self, bytes: &[u8]) {
        match u16::try_from(bytes.len()) {
            Ok(length) => self.u16(length),
            Err(_) => self.too_long(bytes.len()),
        }
        self.bytes(bytes);
    }

    fn string(&mut self, text: &str) {
        self.binary(text.as_bytes());
    }
}

/// Counts what is written, and notes what cannot be.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Count {
    pub(super) bytes: usize,
    pub(super) too_long: Option<usize>,
}

impl Sink for Count {
    fn bytes(&mut self, bytes: &[u8]) {
        self.bytes = self.bytes.saturating_add(bytes.len());
    }

    fn too_long(&mut self, length: usize) {
        self.too_long.get_or_insert(length);
    }
}

impl Sink for Vec<u8> {
    fn bytes(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }

    /// Found by the [`Count`] before.
    fn too_long(&mut self, _length: usize) {}
}

/// Bytes of a variable byte integer.
pub(super) const fn varint_len(value: u32) -> usize {
    match value {
        0..=0x7F => 1,
        0x80..=0x3FFF => 2,
        0x4000..=0x1F_FFFF => 3,
        _ => 4,
    }
}
