//! Field tables and arrays (specification, 4.2.5.5), with the letters that RabbitMQ and its clients use (`s` is a
//! 16-bit number there, not a string).
//!
//! A table is checked once, when it is decoded; after that it is bytes that are known to be one and are read without
//! failing. Keys and values stay as they came: duplicates, order and the types of numbers are the sender's.

use super::fault::{EncodeError, Fault};
use super::wire::{Reader, Writer};

/// A value of a table or an array.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// `t`.
    Bool(bool),
    /// `b`.
    I8(i8),
    /// `B`.
    U8(u8),
    /// `s`, and the specification's `U`.
    I16(i16),
    /// `u`.
    U16(u16),
    /// `I`.
    I32(i32),
    /// `i`.
    U32(u32),
    /// `l` and `L`.
    I64(i64),
    /// `f`.
    F32(f32),
    /// `d`.
    F64(f64),
    /// `D`: `value` divided by ten to the power of `scale`.
    Decimal {
        /// Digits behind the point.
        scale: u8,
        /// All digits.
        value: u32,
    },
    /// `S`: text or any bytes.
    LongString(&'a [u8]),
    /// `T`: seconds since 1970.
    Timestamp(u64),
    /// `A`.
    Array(Array<'a>),
    /// `F`.
    Table(Table<'a>),
    /// `V`: there, and nothing.
    Void,
    /// `x`.
    Bytes(&'a [u8]),
}

impl<'a> Value<'a> {
    /// The number, whatever its width; `None` for what is no whole number or does not fit.
    #[must_use]
    pub fn as_i64(&self) -> Option<i64> {
        Some(match *self {
            Value::I8(n) => n.into(),
            Value::U8(n) => n.into(),
            Value::I16(n) => n.into(),
            Value::U16(n) => n.into(),
            Value::I32(n) => n.into(),
            Value::U32(n) => n.into(),
            Value::I64(n) => n,
            _ => return None,
        })
    }

    /// The text; `None` for what is none.
    #[must_use]
    pub fn as_str(&self) -> Option<&'a str> {
        match *self {
            Value::LongString(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// The type as reply texts name it.
    #[must_use]
    pub const fn type_name(&self) -> &'static str {
        match self {
            Value::Bool(_) => "bool",
            Value::I8(_) => "byte",
            Value::U8(_) => "unsignedbyte",
            Value::I16(_) => "short",
            Value::U16(_) => "unsignedshort",
            Value::I32(_) => "signedint",
            Value::U32(_) => "unsignedint",
            Value::I64(_) => "long",
            Value::F32(_) => "float",
            Value::F64(_) => "double",
            Value::Decimal { .. } => "decimal",
            Value::LongString(_) => "longstr",
            Value::Timestamp(_) => "timestamp",
            Value::Array(_) => "array",
            Value::Table(_) => "table",
            Value::Void => "void",
            Value::Bytes(_) => "binary",
        }
    }

    /// Whether two arguments say the same: whole numbers of any width by value, everything else by type and value.
    #[must_use]
    pub fn is_equivalent(&self, other: &Value<'_>) -> bool {
        match (self.as_i64(), other.as_i64()) {
            (Some(a), Some(b)) => return a == b,
            (None, None) => {}
            _ => return false,
        }
        match (self, other) {
            (Value::F32(a), Value::F64(b)) | (Value::F64(b), Value::F32(a)) => f64::from(*a) == *b,
            (Value::Table(a), Value::Table(b)) => a.is_equivalent(b),
            (Value::Array(a), Value::Array(b)) => {
                let (mut a, mut b) = (a.iter(), b.iter());
                loop {
                    match (a.next(), b.next()) {
                        (None, None) => return true,
                        (Some(a), Some(b)) if a.is_equivalent(&b) => {}
                        _ => return false,
                    }
                }
            }
            (a, b) => a == b,
        }
    }

    fn read(reader: &mut Reader<'a>, depth: u8) -> Result<Self, Fault> {
        Ok(match reader.octet()? {
            b't' => Value::Bool(reader.octet()? != 0),
            b'b' => Value::I8(reader.octet()?.cast_signed()),
            b'B' => Value::U8(reader.octet()?),
            b's' | b'U' => Value::I16(reader.short()?.cast_signed()),
            b'u' => Value::U16(reader.short()?),
            b'I' => Value::I32(reader.long()?.cast_signed()),
            b'i' => Value::U32(reader.long()?),
            b'l' | b'L' => Value::I64(reader.longlong()?.cast_signed()),
            b'f' => Value::F32(f32::from_bits(reader.long()?)),
            b'd' => Value::F64(f64::from_bits(reader.longlong()?)),
            b'D' => Value::Decimal {
                scale: reader.octet()?,
                value: reader.long()?,
            },
            b'S' => Value::LongString(reader.longstr()?),
            b'T' => Value::Timestamp(reader.longlong()?),
            b'A' => Value::Array(Array::check(reader.longstr()?, depth + 1)?),
            b'F' => Value::Table(Table::check(reader.longstr()?, depth + 1)?),
            b'V' => Value::Void,
            b'x' => Value::Bytes(reader.longstr()?),
            letter => return Err(Fault::FieldType(letter)),
        })
    }

    /// Of a table or an array that was checked.
    fn read_checked(reader: &mut Reader<'a>) -> Option<Self> {
        let mut ahead = reader.clone();
        let letter = ahead.octet().ok()?;
        let value = match letter {
            b'A' => Value::Array(Array(ahead.longstr().ok()?)),
            b'F' => Value::Table(Table(ahead.longstr().ok()?)),
            _ => return Value::read(reader, 0).ok(),
        };
        *reader = ahead;
        Some(value)
    }

    fn write(&self, writer: &mut Writer<'_>) -> Result<(), EncodeError> {
        match *self {
            Value::Bool(value) => writer.bytes(&[b't', value.into()]),
            Value::I8(value) => writer.bytes(&[b'b', value.cast_unsigned()]),
            Value::U8(value) => writer.bytes(&[b'B', value]),
            Value::I16(value) => number(writer, b's', &value.to_be_bytes()),
            Value::U16(value) => number(writer, b'u', &value.to_be_bytes()),
            Value::I32(value) => number(writer, b'I', &value.to_be_bytes()),
            Value::U32(value) => number(writer, b'i', &value.to_be_bytes()),
            Value::I64(value) => number(writer, b'l', &value.to_be_bytes()),
            Value::F32(value) => number(writer, b'f', &value.to_be_bytes()),
            Value::F64(value) => number(writer, b'd', &value.to_be_bytes()),
            Value::Decimal { scale, value } => {
                writer.bytes(&[b'D', scale]);
                writer.bytes(&value.to_be_bytes());
            }
            Value::LongString(bytes) => return long(writer, b'S', bytes),
            Value::Timestamp(value) => number(writer, b'T', &value.to_be_bytes()),
            Value::Array(array) => return long(writer, b'A', array.0),
            Value::Table(table) => return long(writer, b'F', table.0),
            Value::Void => writer.bytes(b"V"),
            Value::Bytes(bytes) => return long(writer, b'x', bytes),
        }
        Ok(())
    }
}

fn number(writer: &mut Writer<'_>, letter: u8, bytes: &[u8]) {
    writer.bytes(&[letter]);
    writer.bytes(bytes);
}

fn long(writer: &mut Writer<'_>, letter: u8, bytes: &[u8]) -> Result<(), EncodeError> {
    writer.bytes(&[letter]);
    writer.longstr(bytes)
}

/// A table whose bytes are known to be one, without the length in front.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Table<'a>(&'a [u8]);

impl<'a> Table<'a> {
    /// Tables and arrays within each other.
    pub const DEPTH_MAX: u8 = 32;

    /// Checks the bytes of a table.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Fault> {
        Table::check(bytes, 0)
    }

    fn check(bytes: &'a [u8], depth: u8) -> Result<Self, Fault> {
        if depth > Self::DEPTH_MAX {
            return Err(Fault::TooDeep);
        }
        let mut reader = Reader::new(bytes);
        while !reader.is_at_end() {
            reader.shortstr()?;
            Value::read(&mut reader, depth)?;
        }
        Ok(Table(bytes))
    }

    /// Its bytes, without the length.
    #[must_use]
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.0
    }

    /// Whether it has no entry.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Its entries, in the sender's order.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, Value<'a>)> + use<'a> {
        let mut reader = Reader::new(self.0);
        std::iter::from_fn(move || {
            let key = reader.shortstr().ok()?;
            Some((key, Value::read_checked(&mut reader)?))
        })
    }

    /// The first value under a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Value<'a>> {
        self.iter()
            .find(|(known, _)| *known == key)
            .map(|(_, value)| value)
    }

    /// Whether two tables say the same, in whatever order, see [`Value::is_equivalent`].
    #[must_use]
    pub fn is_equivalent(&self, other: &Table<'_>) -> bool {
        self.iter().count() == other.iter().count()
            && self.iter().all(|(key, value)| {
                other
                    .get(key)
                    .is_some_and(|other| value.is_equivalent(&other))
            })
    }
}

impl std::fmt::Debug for Table<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// An array whose bytes are known to be one, without the length in front.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Array<'a>(&'a [u8]);

impl<'a> Array<'a> {
    fn check(bytes: &'a [u8], depth: u8) -> Result<Self, Fault> {
        if depth > Table::DEPTH_MAX {
            return Err(Fault::TooDeep);
        }
        let mut reader = Reader::new(bytes);
        while !reader.is_at_end() {
            Value::read(&mut reader, depth)?;
        }
        Ok(Array(bytes))
    }

    /// Its values.
    pub fn iter(&self) -> impl Iterator<Item = Value<'a>> + use<'a> {
        let mut reader = Reader::new(self.0);
        std::iter::from_fn(move || {
            (!reader.is_at_end())
                .then(|| Value::read_checked(&mut reader))
                .flatten()
        })
    }
}

impl std::fmt::Debug for Array<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// A table that is being made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableBuf(Vec<u8>);

impl TableBuf {
    /// Adds an entry.
    ///
    /// # Errors
    /// When the key or the value has no form on the wire. The table is then as it was.
    pub fn put(&mut self, key: &str, value: Value<'_>) -> Result<(), EncodeError> {
        let before = self.0.len();
        let mut writer = Writer::new(&mut self.0);
        let written = writer.shortstr(key).and_then(|()| value.write(&mut writer));
        if written.is_err() {
            self.0.truncate(before);
        }
        written
    }

    /// The table.
    #[must_use]
    pub fn as_table(&self) -> Table<'_> {
        Table(&self.0)
    }
}

/// An array that is being made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ArrayBuf(Vec<u8>);

impl ArrayBuf {
    /// Adds a value.
    ///
    /// # Errors
    /// When it has no form on the wire. The array is then as it was.
    pub fn push(&mut self, value: Value<'_>) -> Result<(), EncodeError> {
        let before = self.0.len();
        let written = value.write(&mut Writer::new(&mut self.0));
        if written.is_err() {
            self.0.truncate(before);
        }
        written
    }

    /// The array.
    #[must_use]
    pub fn as_array(&self) -> Array<'_> {
        Array(&self.0)
    }
}
