//! The part of an address behind the question mark, and the encoding of names in addresses.

/// A value that should be a number.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name} must be a number, not '{text}'")]
pub struct NoNumber {
    /// Whose.
    pub name: String,
    /// What it is.
    pub text: String,
}

/// Names and values, in their order. A name may be there several times.
#[derive(Clone, Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Takes it apart.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let pair = |part: &str| {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            let plain = |text: &str| decode(&text.replace('+', " "));
            (plain(key), plain(value))
        };
        Query(
            text.split('&')
                .filter(|part| !part.is_empty())
                .map(pair)
                .collect(),
        )
    }

    /// The first value of a name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        let mut found = self.0.iter().filter(|(key, _)| key == name);
        found.next().map(|(_, value)| value.as_str())
    }

    /// All values of a name.
    pub fn all<'q>(&'q self, name: &'q str) -> impl Iterator<Item = &'q str> {
        let found = self.0.iter().filter(move |(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The names that begin with two dashes, without these, as some command lines write their flags.
    #[must_use]
    pub fn flags(&self) -> Vec<&str> {
        let names = self.0.iter().map(|(name, _)| name.as_str());
        names.filter_map(|name| name.strip_prefix("--")).collect()
    }

    /// Whether it says `true` (or nothing but the name).
    #[must_use]
    pub fn flag(&self, name: &str) -> bool {
        matches!(self.get(name), Some("true" | "" | "1"))
    }

    /// A number; none if it is absent or empty.
    ///
    /// # Errors
    /// When it is none.
    pub fn number(&self, name: &str) -> Result<Option<usize>, NoNumber> {
        let Some(text) = self.get(name).filter(|text| !text.is_empty()) else {
            return Ok(None);
        };
        text.parse().map(Some).map_err(|_| NoNumber {
            name: name.to_owned(),
            text: text.to_owned(),
        })
    }
}

/// Undoes percent-encoding. What is none stays as it is.
#[must_use]
pub fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let hex = |at: usize| {
            let digit = *tail.get(at)?;
            char::from(digit)
                .to_digit(16)
                .and_then(|d| u8::try_from(d).ok())
        };
        match (first, hex(0), hex(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push(high << 4 | low);
                rest = tail.get(2..).unwrap_or_default();
            }
            _ => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Percent-encodes everything that a segment of a path cannot have.
#[must_use]
pub fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for &byte in text.as_bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_decoded_once_and_encoded_whole() {
        assert_eq!(decode("%2F"), "/");
        assert_eq!(decode("a%252Fb%zz%"), "a%2Fb%zz%");
        for name in ["/", "a b", "ä%~+", ""] {
            assert_eq!(decode(&encode(name)), name);
        }
    }

    #[test]
    fn queries_keep_what_they_repeat() {
        let query = Query::parse("family=a&family=b+c&page=2&sort_reverse");
        assert_eq!(query.all("family").collect::<Vec<_>>(), ["a", "b c"]);
        assert_eq!(query.number("page").unwrap(), Some(2));
        assert!(query.flag("sort_reverse") && !query.flag("page"));
        assert!(Query::parse("page=x").number("page").is_err());
    }
}
