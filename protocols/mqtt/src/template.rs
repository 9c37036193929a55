//! Texts with placeholders for what is known of a client: where its topics lie, what it is subscribed to by itself.

use std::fmt;
use std::net::IpAddr;

/// What is known of a client.
#[derive(Clone, Copy, Debug, Default)]
pub struct Names<'a> {
    /// Its identifier, for `%c`.
    pub client_id: &'a str,
    /// Its account, or where there are no accounts the name that it gives, for `%u`.
    pub user: Option<&'a str>,
    /// The address that it comes from, for `%h`.
    pub host: Option<IpAddr>,
}

/// A text with placeholders: `%c`, `%u`, `%h`, and `%%` for a percent sign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    text: Box<str>,
}

/// Why a text is no template, or cannot be filled in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// A percent sign in front of something else.
    #[error("{0:?}: `%` is followed by c (client id), u (user), h (address) or % only")]
    Placeholder(String),
    /// It would be no topic.
    #[error("{0:?} has wildcards, or no characters, or begins with $")]
    Topic(String),
    /// A name that is needed is not known.
    #[error("the client has no {0}")]
    Unknown(&'static str),
    /// A name would be more than one level, or a wildcard.
    #[error("its {0} is empty, or has one of / + # in it")]
    Unfit(&'static str),
}

impl Template {
    /// Checks the placeholders of `text`.
    ///
    /// # Errors
    /// [`TemplateError::Placeholder`].
    pub fn new(text: &str) -> Result<Self, TemplateError> {
        let mut rest = text;
        while let Some((_, after)) = rest.split_once('%') {
            rest = after
                .strip_prefix(['c', 'u', 'h', '%'])
                .ok_or_else(|| TemplateError::Placeholder(text.to_owned()))?;
        }
        Ok(Template { text: text.into() })
    }

    /// One that can stand before a topic.
    ///
    /// # Errors
    /// [`TemplateError`] says why it cannot.
    pub fn prefix(text: &str) -> Result<Self, TemplateError> {
        if text.is_empty() || text.starts_with('$') || text.contains(['+', '#', '\0']) {
            return Err(TemplateError::Topic(text.to_owned()));
        }
        Template::new(text)
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Fills in the names. Each stays within its level, so that no client can reach another's by its name.
    ///
    /// # Errors
    /// If a name that is needed is not known, or unfit.
    pub fn fill(&self, names: &Names<'_>) -> Result<String, TemplateError> {
        let mut filled = String::with_capacity(self.text.len() + names.client_id.len());
        let mut rest = &*self.text;
        while let Some((before, after)) = rest.split_once('%') {
            filled.push_str(before);
            let mut chars = after.chars();
            match chars.next() {
                Some('c') => filled.push_str(level(names.client_id, "client id")?),
                Some('u') => {
                    let user = names.user.ok_or(TemplateError::Unknown("user name"))?;
                    filled.push_str(level(user, "user name")?);
                }
                Some('h') => {
                    let host = names.host.ok_or(TemplateError::Unknown("address"))?;
                    filled.push_str(&host.to_string());
                }
                _ => filled.push('%'),
            }
            rest = chars.as_str();
        }
        filled.push_str(rest);
        Ok(filled)
    }
}

fn level<'a>(name: &'a str, what: &'static str) -> Result<&'a str, TemplateError> {
    if name.is_empty() || name.contains(['/', '+', '#', '\0']) {
        return Err(TemplateError::Unfit(what));
    }
    Ok(name)
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names<'a>(client_id: &'a str, user: Option<&'a str>) -> Names<'a> {
        Names {
            client_id,
            user,
            host: Some(IpAddr::from([192, 0, 2, 7])),
        }
    }

    #[test]
    fn names_are_filled_in() {
        let template = Template::prefix("site/%u/%c-%h/100%%/").unwrap();
        let filled = template.fill(&names("pump", Some("north"))).unwrap();
        assert_eq!(filled, "site/north/pump-192.0.2.7/100%/");
    }

    #[test]
    fn a_name_never_leaves_its_level() {
        let template = Template::new("clients/%c/#").unwrap();
        for name in ["", "a/b", "+", "#"] {
            let filled = template.fill(&names(name, None));
            assert_eq!(filled, Err(TemplateError::Unfit("client id")), "{name}");
        }
        let template = Template::new("%u").unwrap();
        let unknown = Err(TemplateError::Unknown("user name"));
        assert_eq!(template.fill(&names("c", None)), unknown);
    }

    #[test]
    fn nonsense_is_refused_when_it_is_read() {
        for text in ["%x", "a%", "%C"] {
            assert!(Template::new(text).is_err(), "{text}");
        }
        for text in ["", "a/+/", "a/#", "$SYS/"] {
            assert!(Template::prefix(text).is_err(), "{text}");
        }
    }
}
