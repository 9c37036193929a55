mod bytes_on_the_wire;
mod round_trip;

use super::{Table, Value};

/// Where a generated method takes its fields from.
pub(in crate::codec) trait Source<'a> {
    fn number(&mut self) -> u64;
    fn short(&mut self) -> &'a str;
    fn long(&mut self) -> &'a [u8];
    fn table(&mut self) -> Table<'a>;
}

/// A field that comes from a [`Source`].
pub(in crate::codec) trait Given<'a> {
    fn given(source: &mut impl Source<'a>) -> Self;
}

macro_rules! numbers {
    ($($type:ty),*) => {$(
        impl<'a> Given<'a> for $type {
            fn given(source: &mut impl Source<'a>) -> Self {
                source.number() as $type
            }
        }
    )*};
}

numbers!(u8, u16, u32, u64);

impl<'a> Given<'a> for bool {
    fn given(source: &mut impl Source<'a>) -> Self {
        source.number() & 1 == 1
    }
}

impl<'a> Given<'a> for &'a str {
    fn given(source: &mut impl Source<'a>) -> Self {
        source.short()
    }
}

impl<'a> Given<'a> for &'a [u8] {
    fn given(source: &mut impl Source<'a>) -> Self {
        source.long()
    }
}

impl<'a> Given<'a> for Table<'a> {
    fn given(source: &mut impl Source<'a>) -> Self {
        source.table()
    }
}

/// Every type of value once, with its letter.
fn samples() -> Vec<(u8, Value<'static>, &'static [u8])> {
    vec![
        (b't', Value::Bool(true), b"\x01"),
        (b'b', Value::I8(-2), b"\xfe"),
        (b'B', Value::U8(254), b"\xfe"),
        (b's', Value::I16(-2), b"\xff\xfe"),
        (b'u', Value::U16(65534), b"\xff\xfe"),
        (b'I', Value::I32(-2), b"\xff\xff\xff\xfe"),
        (b'i', Value::U32(2), b"\0\0\0\x02"),
        (b'l', Value::I64(-2), b"\xff\xff\xff\xff\xff\xff\xff\xfe"),
        (b'f', Value::F32(1.5), b"\x3f\xc0\0\0"),
        (b'd', Value::F64(1.5), b"\x3f\xf8\0\0\0\0\0\0"),
        (
            b'D',
            Value::Decimal {
                scale: 2,
                value: 314,
            },
            b"\x02\0\0\x01\x3a",
        ),
        (b'S', Value::LongString(b"\xffx"), b"\0\0\0\x02\xffx"),
        (b'T', Value::Timestamp(7), b"\0\0\0\0\0\0\0\x07"),
        (b'V', Value::Void, b""),
        (b'x', Value::Bytes(b"ab"), b"\0\0\0\x02ab"),
    ]
}
