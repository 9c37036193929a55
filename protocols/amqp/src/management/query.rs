//! The part of an address behind the question mark.

use super::http::Failed;
use crate::percent::decode;

/// The part of an address behind the question mark.
#[derive(Clone, Debug, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// Takes it apart.
    pub(super) fn parse(text: &str) -> Self {
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
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let mut found = self.0.iter().filter(|(key, _)| key == name);
        found.next().map(|(_, value)| value.as_str())
    }

    /// All values of a name.
    pub(super) fn all<'q>(&'q self, name: &'q str) -> impl Iterator<Item = &'q str> {
        let found = self.0.iter().filter(move |(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Whether it says `true` (or nothing but the name).
    pub(super) fn flag(&self, name: &str) -> bool {
        matches!(self.get(name), Some("true" | "" | "1"))
    }

    /// A number.
    ///
    /// # Errors
    /// When it is none.
    pub(super) fn number(&self, name: &str) -> Result<Option<usize>, Failed> {
        let Some(text) = self.get(name).filter(|text| !text.is_empty()) else {
            return Ok(None);
        };
        let parsed = text.parse();
        parsed
            .map(Some)
            .map_err(|_| Failed::bad(format!("{name} must be a number, not '{text}'")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_keep_what_they_repeat() {
        let query = Query::parse("family=a&family=b+c&page=2&sort_reverse");
        assert_eq!(query.all("family").collect::<Vec<_>>(), ["a", "b c"]);
        assert_eq!(query.number("page").unwrap(), Some(2));
        assert!(query.flag("sort_reverse") && !query.flag("page"));
        assert!(Query::parse("page=x").number("page").is_err());
    }
}
