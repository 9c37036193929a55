//! Headers of a message: name and value pairs, one after the other. Adding one is appending to the bytes.

use crate::structures::varint;

/// Appends a header.
pub fn put(headers: &mut Vec<u8>, name: &str, value: &[u8]) {
    varint::put(headers, name.len() as u64);
    headers.extend_from_slice(name.as_bytes());
    varint::put(headers, value.len() as u64);
    headers.extend_from_slice(value);
}

/// Goes through encoded headers; ends at the first that does not decode.
pub fn iter(headers: &[u8]) -> impl Iterator<Item = (&str, &[u8])> {
    let mut rest = headers;
    std::iter::from_fn(move || {
        let name = take(&mut rest)?;
        let value = take(&mut rest)?;
        Some((std::str::from_utf8(name).ok()?, value))
    })
}

fn take<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = usize::try_from(varint::get(rest)?).ok()?;
    let (bytes, tail) = rest.split_at_checked(len)?;
    *rest = tail;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    #[test]
    fn headers_come_back_in_order() {
        let mut bytes = Vec::new();
        super::put(&mut bytes, "a", b"1");
        super::put(&mut bytes, "b", b"");
        let back: Vec<_> = super::iter(&bytes).collect();
        assert_eq!(back, [("a", &b"1"[..]), ("b", &b""[..])]);
    }
}
