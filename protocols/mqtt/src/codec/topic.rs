//! Topic names and topic filters (MQTT 5.0 section 4.7), shared subscriptions (4.8.2).

/// Longest topic name or filter in bytes.
pub const TOPIC_MAX: usize = 65_535;

/// First level of a shared subscription's filter, as the specification spells it: lower case.
const SHARE: &str = "$share/";

/// Why a string is no topic name or filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// No bytes at all.
    #[error("empty topic")]
    Empty,
    /// Over 65535 bytes.
    #[error("topic of {0} bytes: at most 65535 fit")]
    TooLong(usize),
    /// A NUL character.
    #[error("NUL in a topic")]
    Nul,
    /// `+` or `#` in a topic name.
    #[error("wildcard in a topic name")]
    Wildcard,
    /// `#` that is not a last level of its own, or `+` that is not a level of its own.
    #[error("wildcard that is not a level of its own")]
    MisplacedWildcard,
    /// `$share/` without a group, with wildcards in the group, or without a filter.
    #[error("malformed shared subscription")]
    Share,
}

/// Whether `name` is a topic that can be published to.
///
/// # Errors
/// [`TopicError`] says why not.
pub fn check_name(name: &str) -> Result<(), TopicError> {
    // Without an early end, so that many bytes are looked at in one step.
    let wild = name
        .bytes()
        .fold(false, |wild, byte| wild | matches!(byte, b'+' | b'#'));
    check_length(name)?;
    if wild {
        return Err(TopicError::Wildcard);
    }
    Ok(())
}

/// A topic filter, taken apart as far as the protocol gives its beginning a meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicFilter<'a> {
    /// Group of a shared subscription.
    pub group: Option<&'a str>,
    /// What is matched, without `$share/{group}/`.
    pub filter: &'a str,
}

impl<'a> TopicFilter<'a> {
    /// Checks `text` and takes it apart.
    ///
    /// # Errors
    /// [`TopicError`] says why it is no filter.
    pub fn parse(text: &'a str) -> Result<Self, TopicError> {
        check_length(text)?;
        let (group, filter) = match text.strip_prefix(SHARE) {
            None if text == "$share" => return Err(TopicError::Share),
            None => (None, text),
            Some(rest) => {
                let (group, filter) = rest.split_once('/').ok_or(TopicError::Share)?;
                if group.is_empty() || filter.is_empty() || group.contains(['+', '#']) {
                    return Err(TopicError::Share);
                }
                (Some(group), filter)
            }
        };
        let mut levels = filter.split('/').peekable();
        while let Some(level) = levels.next() {
            let last = levels.peek().is_none();
            let wildcard = level.contains(['+', '#']);
            if wildcard && level != "+" && !(level == "#" && last) {
                return Err(TopicError::MisplacedWildcard);
            }
        }
        Ok(TopicFilter { group, filter })
    }

    /// Whether it has `+` or `#`.
    #[must_use]
    pub fn has_wildcards(&self) -> bool {
        self.filter.contains(['+', '#'])
    }
}

fn check_length(text: &str) -> Result<(), TopicError> {
    if text.is_empty() {
        return Err(TopicError::Empty);
    }
    if text.len() > TOPIC_MAX {
        return Err(TopicError::TooLong(text.len()));
    }
    if text.bytes().fold(false, |nul, byte| nul | (byte == 0)) {
        return Err(TopicError::Nul);
    }
    Ok(())
}
