//! Headers of a message: name and value pairs, one after the other, names being any bytes. Adding one is appending to the bytes.

use crate::structures::varint;

/// Appends a header.
pub fn put<N: AsRef<[u8]> + ?Sized>(headers: &mut Vec<u8>, name: &N, value: &[u8]) {
    put_joined(headers, name, &[value]);
}

/// Appends a header whose value is these pieces, one behind the other.
pub fn put_joined<N: AsRef<[u8]> + ?Sized>(headers: &mut Vec<u8>, name: &N, pieces: &[&[u8]]) {
    let name = name.as_ref();
    varint::put(headers, name.len() as u64);
    headers.extend_from_slice(name);
    let len: usize = pieces.iter().map(|piece| piece.len()).sum();
    varint::put(headers, len as u64);
    for piece in pieces {
        headers.extend_from_slice(piece);
    }
}

/// Bytes that a header takes.
#[must_use]
pub fn len(name: &[u8], value: &[u8]) -> usize {
    let prefixed = |bytes: &[u8]| varint::len(bytes.len() as u64) + bytes.len();
    prefixed(name) + prefixed(value)
}

/// Goes through encoded headers; ends at the first that does not decode.
pub fn iter(headers: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut rest = headers;
    std::iter::from_fn(move || Some((take(&mut rest)?, take(&mut rest)?)))
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
        super::put(&mut bytes, b"\xff", b"");
        let back: Vec<_> = super::iter(&bytes).collect();
        assert_eq!(back, [(&b"a"[..], &b"1"[..]), (&b"\xff"[..], &b""[..])]);
        assert_eq!(
            bytes.len(),
            super::len(b"a", b"1") + super::len(b"\xff", b"")
        );
    }
}
