//! Topics that clients use, and what they become: rules of the settings for devices that cannot be changed.

use std::borrow::Cow;
use std::str::FromStr;

use regex::Regex;

use crate::template::{Names, Template, TemplateError};

/// What a rule is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RewriteOn {
    /// Topics that are published to, wills included.
    Publish,
    /// Filters that are subscribed to.
    Subscribe,
    /// Both.
    #[default]
    All,
}

impl FromStr for RewriteOn {
    type Err = RewriteError;

    fn from_str(text: &str) -> Result<Self, RewriteError> {
        match text {
            "publish" => Ok(RewriteOn::Publish),
            "subscribe" => Ok(RewriteOn::Subscribe),
            "all" => Ok(RewriteOn::All),
            _ => Err(RewriteError::Action(text.to_owned())),
        }
    }
}

/// One rule.
#[derive(Clone, Debug)]
pub struct Rewrite {
    on: RewriteOn,
    /// What is looked at at all; levels, `+` and a last `#` for any.
    filter: Box<str>,
    regex: Regex,
    /// What it becomes, with `$1` for the first group.
    target: Template,
}

/// Why a rule is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RewriteError {
    /// It is for something else than publish, subscribe and all.
    #[error("a rewrite is for \"publish\", \"subscribe\" or \"all\", not {0:?}")]
    Action(String),
    /// Its regular expression cannot be read.
    #[error("the regular expression of a rewrite: {0}")]
    Regex(String),
    /// Its target.
    #[error("the target of a rewrite: {0}")]
    Target(#[from] TemplateError),
    /// The target has a group that the expression has not.
    #[error("the target of a rewrite uses ${0}, and its regular expression has {1} groups")]
    Group(usize, usize),
}

impl Rewrite {
    /// A rule: a topic that `filter` and `regex` match becomes `target`, in which `$1` to `$9` are the groups of the
    /// expression and `%c` and `%u` the client's identifier and user.
    ///
    /// # Errors
    /// [`RewriteError`].
    pub fn new(
        on: RewriteOn,
        filter: &str,
        regex: &str,
        target: &str,
    ) -> Result<Self, RewriteError> {
        let regex = Regex::new(regex).map_err(|error| RewriteError::Regex(error.to_string()))?;
        let target = Template::new(target)?;
        let groups = regex.captures_len() - 1;
        for part in parts(target.as_str()) {
            if let Part::Group(number) = part
                && number > groups
            {
                return Err(RewriteError::Group(number, groups));
            }
        }
        Ok(Rewrite {
            on,
            filter: filter.into(),
            regex,
            target,
        })
    }

    /// What it is for: `publish`, `subscribe` or `all`.
    #[must_use]
    pub fn on(&self) -> &'static str {
        match self.on {
            RewriteOn::Publish => "publish",
            RewriteOn::Subscribe => "subscribe",
            RewriteOn::All => "all",
        }
    }

    /// What is looked at at all.
    #[must_use]
    pub fn filter(&self) -> &str {
        &self.filter
    }

    /// Its regular expression.
    #[must_use]
    pub fn regex(&self) -> &str {
        self.regex.as_str()
    }

    /// What a topic becomes.
    #[must_use]
    pub fn target(&self) -> &str {
        self.target.as_str()
    }

    fn apply(&self, topic: &str, names: &Names<'_>) -> Option<String> {
        if !covers(&self.filter, topic) {
            return None;
        }
        let found = self.regex.captures(topic)?;
        let target = match self.target.fill(names) {
            Ok(target) => target,
            Err(error) => {
                tracing::warn!(client = names.client_id, topic, %error, "a topic is not rewritten");
                return None;
            }
        };
        let mut written = String::with_capacity(target.len() + topic.len());
        for part in parts(&target) {
            match part {
                Part::Text(text) => written.push_str(text),
                Part::Group(number) => {
                    written.push_str(found.get(number).map_or("", |group| group.as_str()));
                }
            }
        }
        Some(written)
    }
}

/// What `topic`, a topic or a filter, becomes by the first rule for `on` that matches it.
pub(crate) fn rewrite<'t>(
    rules: &[Rewrite],
    on: RewriteOn,
    topic: &'t str,
    names: &Names<'_>,
) -> Cow<'t, str> {
    let meant = |rule: &&Rewrite| rule.on == RewriteOn::All || rule.on == on;
    let mut written = rules.iter().filter(meant);
    let written = written.find_map(|rule| rule.apply(topic, names));
    written.map_or(Cow::Borrowed(topic), Cow::Owned)
}

enum Part<'a> {
    Text(&'a str),
    Group(usize),
}

/// `$1` to `$9` and what is between them. Another dollar sign is one.
fn parts(target: &str) -> impl Iterator<Item = Part<'_>> {
    let mut rest = target;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let bytes = rest.as_bytes();
        let group = |at: usize| match (bytes.get(at), bytes.get(at + 1)) {
            (Some(b'$'), Some(digit @ b'1'..=b'9')) => Some(usize::from(digit - b'0')),
            _ => None,
        };
        if let Some(number) = group(0) {
            rest = rest.get(2..).unwrap_or_default();
            return Some(Part::Group(number));
        }
        let end = (1..bytes.len()).find(|at| group(*at).is_some());
        let (text, after) = rest.split_at(end.unwrap_or(rest.len()));
        rest = after;
        Some(Part::Text(text))
    })
}

/// Whether the levels of `filter` match those of `topic`, which may itself be a filter: its wildcards are taken as they
/// are written.
fn covers(filter: &str, topic: &str) -> bool {
    let mut topic = topic.split('/');
    for level in filter.split('/') {
        if level == "#" {
            return true;
        }
        match topic.next() {
            Some(found) if level == "+" || level == found => {}
            _ => return false,
        }
    }
    topic.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names<'static> {
        Names {
            client_id: "pump",
            user: Some("north"),
            host: None,
        }
    }

    fn rule(on: RewriteOn, filter: &str, regex: &str, target: &str) -> Rewrite {
        Rewrite::new(on, filter, regex, target).unwrap()
    }

    #[test]
    fn the_first_rule_that_matches_says_what_a_topic_becomes() {
        let rules = [
            rule(RewriteOn::All, "x/#", "^x/y/(.+)$", "z/y/$1"),
            rule(RewriteOn::All, "x/#", "^x/(.+)$", "other/$1"),
            rule(RewriteOn::Publish, "up", "^up$", "devices/%u/%c/up"),
            rule(RewriteOn::Subscribe, "y/+/z/#", "^y/(.+)/z/(.+)$", "y/z/$2"),
        ];
        let on = |on, topic| rewrite(&rules, on, topic, &names()).into_owned();
        assert_eq!(on(RewriteOn::Publish, "x/y/1"), "z/y/1");
        assert_eq!(on(RewriteOn::Publish, "x/1/2"), "other/1/2");
        assert_eq!(on(RewriteOn::Publish, "up"), "devices/north/pump/up");
        assert_eq!(on(RewriteOn::Subscribe, "up"), "up");
        assert_eq!(on(RewriteOn::Subscribe, "y/+/z/#"), "y/z/#");
        assert_eq!(on(RewriteOn::Publish, "y/a/z/b"), "y/a/z/b");
        assert_eq!(on(RewriteOn::Publish, "a/x/y/1"), "a/x/y/1");
    }

    #[test]
    fn rules_that_cannot_work_are_refused() {
        let new = |regex, target| Rewrite::new(RewriteOn::All, "#", regex, target).map(|_| ());
        assert!(matches!(new("(", "a"), Err(RewriteError::Regex(_))));
        assert_eq!(new("^(a)$", "$2"), Err(RewriteError::Group(2, 1)));
        assert!(matches!(new("a", "%z"), Err(RewriteError::Target(_))));
    }
}
