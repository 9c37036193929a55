//! Topic names and topic filters (MQTT 5.0 section 4.7), shared subscriptions (4.8.2).

/// Longest topic name or filter in bytes.
pub const TOPIC_MAX: usize = 65_535;

/// First level of a shared subscription's filter, as the specification spells it: lower case.
const SHARE: &str = "$share/";

/// What begins the filter of a member of the one share without a name. Not of the specification: EMQX's.
const QUEUE: &str = "$queue/";

/// The name that this share has all the same.
const QUEUE_GROUP: &str = "$queue";

/// What begins the filter of a subscription that wants to be the only one of its kind. EMQX's.
const EXCLUSIVE: &str = "$exclusive/";

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
    /// `$share/` without a group, with wildcards in the group, or without a filter; `$queue/` and `$exclusive/` without
    /// a filter.
    #[error("malformed shared or exclusive subscription")]
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
    /// Whether it begins with `$exclusive/`: nobody else may have one like it.
    pub exclusive: bool,
    /// What is matched, without `$share/{group}/`, `$queue/` and `$exclusive/`.
    pub filter: &'a str,
}

impl<'a> TopicFilter<'a> {
    /// Checks `text` and takes it apart.
    ///
    /// # Errors
    /// [`TopicError`] says why it is no filter.
    pub fn parse(text: &'a str) -> Result<Self, TopicError> {
        check_length(text)?;
        let exclusive = text.strip_prefix(EXCLUSIVE);
        let (group, filter) = if let Some(rest) = text.strip_prefix(SHARE) {
            let (group, filter) = rest.split_once('/').ok_or(TopicError::Share)?;
            if group.is_empty() || group.contains(['+', '#']) {
                return Err(TopicError::Share);
            }
            (Some(group), filter)
        } else if let Some(filter) = text.strip_prefix(QUEUE) {
            (Some(QUEUE_GROUP), filter)
        } else if [SHARE, QUEUE, EXCLUSIVE]
            .iter()
            .any(|begin| begin.strip_suffix('/') == Some(text))
        {
            return Err(TopicError::Share);
        } else {
            (None, exclusive.unwrap_or(text))
        };
        if filter.is_empty() {
            return Err(TopicError::Share);
        }
        let mut levels = filter.split('/').peekable();
        while let Some(level) = levels.next() {
            let last = levels.peek().is_none();
            let wildcard = level.contains(['+', '#']);
            if wildcard && level != "+" && !(level == "#" && last) {
                return Err(TopicError::MisplacedWildcard);
            }
        }
        Ok(TopicFilter {
            group,
            exclusive: exclusive.is_some(),
            filter,
        })
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
