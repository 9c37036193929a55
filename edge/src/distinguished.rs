//! Distinguished names of certificates as text: RFC 4514, as RabbitMQ and `openssl x509 -nameopt RFC2253` write them.

use std::fmt::Write as _;

use crate::identity::{
    Der, IA5_STRING, OID, PRINTABLE_STRING, SEQUENCE, SET, TELETEX_STRING, UTF8_STRING,
};

const NUMERIC_STRING: u8 = 0x12;
const VISIBLE_STRING: u8 = 0x1a;
const BMP_STRING: u8 = 0x1e;

/// What attributes are called, by their object identifiers in DER.
const NAMES: &[(&[u8], &str)] = &[
    (&[0x55, 4, 3], "CN"),
    (&[0x55, 4, 4], "SN"),
    (&[0x55, 4, 5], "SERIALNUMBER"),
    (&[0x55, 4, 6], "C"),
    (&[0x55, 4, 7], "L"),
    (&[0x55, 4, 8], "ST"),
    (&[0x55, 4, 9], "STREET"),
    (&[0x55, 4, 10], "O"),
    (&[0x55, 4, 11], "OU"),
    (&[0x55, 4, 12], "TITLE"),
    (&[0x55, 4, 42], "GIVENNAME"),
    (&[0x55, 4, 43], "INITIALS"),
    (&[0x55, 4, 44], "GENERATIONQUALIFIER"),
    (&[0x55, 4, 46], "DNQUALIFIER"),
    (&[0x55, 4, 65], "PSEUDONYM"),
    // 0.9.2342.19200300.100.1.1 and .25, 1.2.840.113549.1.9.1
    (&[9, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 100, 1, 1], "UID"),
    (&[9, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 100, 1, 25], "DC"),
    (
        &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1],
        "EMAILADDRESS",
    ),
];

/// The text of a name: what is between the tags of its `SEQUENCE`. The most specific part comes first. `None`: it is no
/// name.
pub(crate) fn text_of(name: &[u8]) -> Option<String> {
    let mut parts = Vec::new();
    let mut rest = Der(name);
    while !rest.0.is_empty() {
        let mut attributes = Der(rest.expect(SET)?);
        let mut part = String::new();
        while !attributes.0.is_empty() {
            if !part.is_empty() {
                part.push('+');
            }
            put_attribute(attributes.expect(SEQUENCE)?, &mut part)?;
        }
        parts.push(part);
    }
    parts.reverse();
    Some(parts.join(","))
}

fn put_attribute(attribute: &[u8], out: &mut String) -> Option<()> {
    let mut attribute = Der(attribute);
    let oid = attribute.expect(OID)?;
    match NAMES.iter().find(|(known, _)| *known == oid) {
        Some((_, name)) => out.push_str(name),
        None => put_dotted(oid, out),
    }
    out.push('=');
    let encoded = attribute.0;
    let (tag, value) = attribute.next()?;
    match text(tag, value) {
        Some(text) => put_escaped(&text, out),
        None => {
            // What has no text is shown as it is encoded (RFC 4514, 2.4).
            out.push('#');
            for byte in encoded {
                let _ = write!(out, "{byte:02x}");
            }
        }
    }
    Some(())
}

fn text(tag: u8, value: &[u8]) -> Option<String> {
    match tag {
        UTF8_STRING | PRINTABLE_STRING | IA5_STRING | NUMERIC_STRING | VISIBLE_STRING => {
            std::str::from_utf8(value).ok().map(str::to_owned)
        }
        // Latin-1, as everybody reads it.
        TELETEX_STRING => Some(value.iter().map(|&byte| char::from(byte)).collect()),
        BMP_STRING => {
            let units = value.chunks(2).map(|pair| match pair {
                [high, low] => Some(u16::from_be_bytes([*high, *low])),
                _ => None,
            });
            String::from_utf16(&units.collect::<Option<Vec<_>>>()?).ok()
        }
        _ => None,
    }
}

/// RFC 4514, 2.4. Everything that is not printable ASCII is escaped as well, byte by byte, as RabbitMQ does.
fn put_escaped(text: &str, out: &mut String) {
    let last = text.len().saturating_sub(1);
    for (at, byte) in text.bytes().enumerate() {
        let escaped = match byte {
            b',' | b'+' | b'"' | b'<' | b'>' | b';' | b'\\' => true,
            b'#' => at == 0,
            b' ' => at == 0 || at == last,
            _ => false,
        };
        if escaped {
            out.push('\\');
        }
        if byte == b' ' || byte.is_ascii_graphic() {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "\\{byte:02X}");
        }
    }
}

/// An object identifier as numbers with dots between them.
fn put_dotted(oid: &[u8], out: &mut String) {
    let (mut number, mut is_first) = (0_u64, true);
    for &byte in oid {
        number = number << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 != 0 {
            continue;
        }
        if is_first {
            // The first two share a number.
            let first = (number / 40).min(2);
            let _ = write!(out, "{first}.{}", number - first * 40);
        } else {
            let _ = write!(out, ".{number}");
        }
        (number, is_first) = (0, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn der(tag: u8, content: &[u8]) -> Vec<u8> {
        let length = u8::try_from(content.len()).unwrap();
        [&[tag, length], content].concat()
    }

    fn attribute(oid: &[u8], tag: u8, value: &[u8]) -> Vec<u8> {
        der(SEQUENCE, &[der(OID, oid), der(tag, value)].concat())
    }

    const COUNTRY: &[u8] = &[0x55, 4, 6];
    const COMMON: &[u8] = &[0x55, 4, 3];

    #[test]
    fn the_most_specific_part_comes_first() {
        let country = der(SET, &attribute(COUNTRY, PRINTABLE_STRING, b"CH"));
        let two = [
            attribute(COMMON, UTF8_STRING, b"worker 7"),
            attribute(
                &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1],
                IA5_STRING,
                b"w@example.org",
            ),
        ];
        let name = [country, der(SET, &two.concat())].concat();
        let text = text_of(&name);
        assert_eq!(
            text.as_deref(),
            Some("CN=worker 7+EMAILADDRESS=w@example.org,C=CH")
        );
        assert_eq!(text_of(b"").as_deref(), Some(""));
        for end in 1..name.len() {
            let text = text_of(&name[..end]);
            assert!(text.is_none_or(|text| text == "C=CH"), "{end}");
        }
    }

    #[test]
    fn what_would_be_read_otherwise_is_escaped() {
        let common = |tag, value: &[u8]| text_of(&der(SET, &attribute(COMMON, tag, value)));
        for (tag, value, shown) in [
            (UTF8_STRING, &b"a,b+c=d"[..], r"CN=a\,b\+c=d"),
            (UTF8_STRING, b"# \"x\" ", r#"CN=\# \"x\"\ "#),
            (UTF8_STRING, b" ", r"CN=\ "),
            (UTF8_STRING, b"", "CN="),
            (UTF8_STRING, "wörker\n".as_bytes(), r"CN=w\C3\B6rker\0A"),
            (TELETEX_STRING, b"w\xf6", r"CN=w\C3\B6"),
            (BMP_STRING, b"\0w\0\xf6", r"CN=w\C3\B6"),
            (BMP_STRING, b"\0w\0", "CN=#1e03007700"),
            (UTF8_STRING, b"\xff", "CN=#0c01ff"),
            (2, b"\x07", "CN=#020107"),
        ] {
            assert_eq!(common(tag, value).as_deref(), Some(shown));
        }
    }

    #[test]
    fn an_unknown_attribute_is_its_numbers() {
        let other = attribute(&[0x2a, 0x86, 0x48, 3], UTF8_STRING, b"x");
        assert_eq!(text_of(&der(SET, &other)).as_deref(), Some("1.2.840.3=x"));
        // A number that no 64 bits hold is no panic.
        let large = attribute(&[0xff; 30], UTF8_STRING, b"x");
        assert!(text_of(&der(SET, &large)).is_some());
    }
}
