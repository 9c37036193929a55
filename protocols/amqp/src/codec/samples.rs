//! Tables and values as tests write them.

use super::{TableBuf, Value};

/// A table with these pairs, which have to fit.
pub(crate) fn table(pairs: &[(&str, Value<'_>)]) -> TableBuf {
    let mut table = TableBuf::default();
    for (key, value) in pairs {
        table.put(key, *value).unwrap();
    }
    table
}

pub(crate) fn text(text: &str) -> Value<'_> {
    Value::LongString(text.as_bytes())
}
