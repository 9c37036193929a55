//! The elementary types of AMQP 0-9-1 (specification, 4.2.1 and 4.2.5), read from and written to bytes.
//!
//! Bits that follow each other share an octet, lowest first: reader and writer remember where they are in it, and any
//! other type ends it.

use super::fault::{EncodeError, Fault};
use super::table::Table;

/// Reads values off the front of a slice.
#[derive(Clone, Debug)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    /// The octet of bits that is being read, and how many of it are.
    bits: u8,
    taken: u8,
}

impl<'a> Reader<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Reader {
            rest: bytes,
            bits: 0,
            taken: 0,
        }
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.rest.is_empty()
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], Fault> {
        self.taken = 0;
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(Fault::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        self.taken = 0;
        let (taken, rest) = self.rest.split_first_chunk().ok_or(Fault::Truncated)?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(super) fn octet(&mut self) -> Result<u8, Fault> {
        self.array::<1>().map(|[octet]| octet)
    }

    pub(super) fn short(&mut self) -> Result<u16, Fault> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn long(&mut self) -> Result<u32, Fault> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn longlong(&mut self) -> Result<u64, Fault> {
        self.array().map(u64::from_be_bytes)
    }

    pub(super) fn bit(&mut self) -> Result<bool, Fault> {
        if self.taken == 0 {
            self.bits = self.octet()?;
        }
        let bit = self.bits >> self.taken & 1 == 1;
        self.taken = (self.taken + 1) % 8;
        Ok(bit)
    }

    pub(super) fn shortstr(&mut self) -> Result<&'a str, Fault> {
        let len = usize::from(self.octet()?);
        std::str::from_utf8(self.take(len)?).map_err(|_| Fault::NotUtf8)
    }

    pub(super) fn longstr(&mut self) -> Result<&'a [u8], Fault> {
        let len = usize::try_from(self.long()?).map_err(|_| Fault::Truncated)?;
        self.take(len)
    }
}

/// Appends values to a vector.
#[derive(Debug)]
pub(super) struct Writer<'o> {
    out: &'o mut Vec<u8>,
    /// Bits already in the last octet.
    given: u8,
}

impl<'o> Writer<'o> {
    pub(super) fn new(out: &'o mut Vec<u8>) -> Self {
        Writer { out, given: 0 }
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.given = 0;
        self.out.extend_from_slice(bytes);
    }

    fn bit(&mut self, bit: bool) {
        if self.given == 0 {
            self.out.push(0);
        }
        if let Some(last) = self.out.last_mut() {
            *last |= u8::from(bit) << self.given;
        }
        self.given = (self.given + 1) % 8;
    }

    pub(super) fn shortstr(&mut self, text: &str) -> Result<(), EncodeError> {
        let len = u8::try_from(text.len()).map_err(|_| EncodeError::ShortString(text.len()))?;
        self.bytes(&[len]);
        self.bytes(text.as_bytes());
        Ok(())
    }

    pub(super) fn longstr(&mut self, bytes: &[u8]) -> Result<(), EncodeError> {
        let len = u32::try_from(bytes.len()).map_err(|_| EncodeError::TooLong(bytes.len()))?;
        self.bytes(&len.to_be_bytes());
        self.bytes(bytes);
        Ok(())
    }
}

/// A field of a method.
pub(super) trait Field<'a>: Sized {
    fn read(reader: &mut Reader<'a>) -> Result<Self, Fault>;
    fn write(&self, writer: &mut Writer<'_>) -> Result<(), EncodeError>;
}

macro_rules! numbers {
    ($($type:ty: $read:ident),*) => {$(
        impl Field<'_> for $type {
            fn read(reader: &mut Reader<'_>) -> Result<Self, Fault> {
                reader.$read()
            }

            fn write(&self, writer: &mut Writer<'_>) -> Result<(), EncodeError> {
                writer.bytes(&self.to_be_bytes());
                Ok(())
            }
        }
    )*};
}

numbers!(u8: octet, u16: short, u32: long, u64: longlong);

impl Field<'_> for bool {
    fn read(reader: &mut Reader<'_>) -> Result<Self, Fault> {
        reader.bit()
    }

    fn write(&self, writer: &mut Writer<'_>) -> Result<(), EncodeError> {
        writer.bit(*self);
        Ok(())
    }
}

/// A short string.
impl<'a> Field<'a> for &'a str {
    fn read(reader: &mut Reader<'a>) -> Result<Self, Fault> {
        reader.shortstr()
    }

    fn write(&self, writer: &mut Writer<'_>) -> Result<(), EncodeError> {
        writer.shortstr(self)
    }
}

/// A long string.
impl<'a> Field<'a> for &'a [u8] {
    fn read(reader: &mut Reader<'a>) -> Result<Self, Fault> {
        reader.longstr()
    }

    fn write(&self, writer: &mut Writer<'_>) -> Result<(), EncodeError> {
        writer.longstr(self)
    }
}

impl<'a> Field<'a> for Table<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, Fault> {
        Table::decode(reader.longstr()?)
    }

    fn write(&self, writer: &mut Writer<'_>) -> Result<(), EncodeError> {
        writer.longstr(self.as_bytes())
    }
}
