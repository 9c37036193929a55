//! How many bridges a message has passed: a user property that travels with it, the last resort against rings.

use longtail_broker::message::{Headers, Message};

/// Name of the user property.
pub const HOPS: &str = "bridge-hops";

/// Of a message.
pub(super) fn of(message: &Message) -> u32 {
    let value = message.headers.get(HOPS.as_bytes());
    let text = value.and_then(|value| std::str::from_utf8(value).ok());
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// The headers of a message that has passed `hops` bridges.
pub(super) fn with(headers: &Headers, hops: u32) -> Headers {
    let mut counted = Headers::default();
    for header in headers
        .iter()
        .filter(|header| header.name != HOPS.as_bytes())
    {
        counted.push(header.name.clone(), header.value.clone());
    }
    counted.push(HOPS, hops.to_string());
    counted
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use longtail_model::Subject;

    use super::*;

    #[test]
    fn the_count_takes_the_place_of_the_one_before() {
        let mut message = Message::new(Subject::new("t").unwrap(), Bytes::new());
        assert_eq!(of(&message), 0);
        message.headers.push("a", "b");
        message.headers = with(&message.headers, 1);
        message.headers = with(&message.headers, 2);
        assert_eq!((of(&message), message.headers.len()), (2, 2));
        let mut odd = Headers::default();
        odd.push(HOPS, "many");
        message.headers = odd;
        assert_eq!(of(&message), 0, "what is no number counts as none");
    }
}
