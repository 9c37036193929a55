//! The way that a message, or a binding, has come from broker to broker: headers and arguments that say so, and end it
//! where it would go too far or in a circle.

use crate::codec::{ArrayBuf, EncodeError, Properties, Table, TableBuf, Value};

/// Header with the brokers that a message has come from, the latest first.
const RECEIVED_FROM: &str = "x-received-from";
/// Argument of a binding with the brokers that it has come from, the latest first.
const BOUND_FROM: &str = "x-bound-from";

/// One broker's vhost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) cluster: String,
    pub(super) vhost: String,
}

impl Place {
    fn is(&self, table: &Table<'_>) -> bool {
        let text = |key| table.get(key).and_then(|value| value.as_str());
        let same_vhost = text("vhost")
            .or(text("virtual_host"))
            .is_none_or(|vhost| vhost == self.vhost);
        text("cluster-name") == Some(self.cluster.as_str()) && same_vhost
    }
}

/// The entries of an array of tables.
fn entries<'a>(table: &Table<'a>, key: &str) -> Vec<Table<'a>> {
    let Some(Value::Array(array)) = table.get(key) else {
        return Vec::new();
    };
    let tables = array.iter().filter_map(|value| match value {
        Value::Table(table) => Some(table),
        _ => None,
    });
    tables.collect()
}

/// Whether a message with these headers may come here over a link that lets so many pass.
pub(super) fn may_come(headers: &Table<'_>, here: &Place, hops_max: u64) -> bool {
    let passed = entries(headers, RECEIVED_FROM);
    (passed.len() as u64) < hops_max && !passed.iter().any(|table| here.is(table))
}

/// Where a message comes from.
pub(super) struct Origin<'a> {
    pub(super) uri: &'a str,
    pub(super) at: &'a Place,
    /// `exchange` or `queue`, and its name.
    pub(super) of: (&'a str, &'a str),
    pub(super) redelivered: bool,
    /// Whether who has published it there is told here.
    pub(super) trusts_user_id: bool,
}

/// Flags and values of a message that has come: with where from, and with who has published it there only if that is
/// trusted.
///
/// # Errors
/// When it cannot be written down any more.
pub(super) fn received(
    properties: &Properties<'_>,
    origin: &Origin<'_>,
) -> Result<Vec<u8>, EncodeError> {
    let mut own = TableBuf::default();
    for (key, text) in [
        ("uri", origin.uri),
        ("cluster-name", &origin.at.cluster),
        ("vhost", &origin.at.vhost),
        origin.of,
    ] {
        own.put(key, Value::LongString(text.as_bytes()))?;
    }
    own.put("redelivered", Value::Bool(origin.redelivered))?;
    let headers = properties.headers.unwrap_or_default();
    let mut passed = ArrayBuf::default();
    passed.push(Value::Table(own.as_table()))?;
    for before in entries(&headers, RECEIVED_FROM) {
        passed.push(Value::Table(before))?;
    }
    let mut written = TableBuf::default();
    for (key, value) in headers.iter().filter(|(key, _)| *key != RECEIVED_FROM) {
        written.put(key, value)?;
    }
    written.put(RECEIVED_FROM, Value::Array(passed.as_array()))?;
    let properties = Properties {
        headers: Some(written.as_table()),
        user_id: properties.user_id.filter(|_| origin.trusts_user_id),
        ..*properties
    };
    let mut octets = Vec::new();
    properties.encode(&mut octets)?;
    Ok(octets)
}

/// The arguments of a binding that is passed on upstream; `None`: it goes no further.
///
/// # Errors
/// When they cannot be written down.
pub(super) fn bound(
    arguments: &Table<'_>,
    here: &Place,
    exchange: &str,
    hops_max: u64,
) -> Result<Option<TableBuf>, EncodeError> {
    let before = entries(arguments, BOUND_FROM);
    let hops_max = i64::try_from(hops_max).unwrap_or(i64::MAX);
    let hops = match before.first() {
        None => hops_max,
        Some(latest) => {
            let left = latest
                .get("hops")
                .and_then(|hops| hops.as_i64())
                .unwrap_or(0);
            hops_max.min(left - 1)
        }
    };
    if hops <= 0 || before.iter().any(|table| here.is(table)) {
        return Ok(None);
    }
    let mut own = TableBuf::default();
    for (key, text) in [
        ("cluster-name", here.cluster.as_str()),
        ("vhost", &here.vhost),
        ("exchange", exchange),
    ] {
        own.put(key, Value::LongString(text.as_bytes()))?;
    }
    own.put("hops", Value::I64(hops))?;
    let mut passed = ArrayBuf::default();
    passed.push(Value::Table(own.as_table()))?;
    for table in before {
        passed.push(Value::Table(table))?;
    }
    let mut written = TableBuf::default();
    for (key, value) in arguments.iter().filter(|(key, _)| *key != BOUND_FROM) {
        written.put(key, value)?;
    }
    written.put(BOUND_FROM, Value::Array(passed.as_array()))?;
    Ok(Some(written))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(cluster: &str) -> Place {
        Place {
            cluster: cluster.into(),
            vhost: "/".into(),
        }
    }

    fn pass(properties: &Properties<'_>, from: &str) -> Vec<u8> {
        let origin = Origin {
            uri: "amqp://h",
            at: &place(from),
            of: ("exchange", "x"),
            redelivered: false,
            trusts_user_id: false,
        };
        received(properties, &origin).unwrap()
    }

    #[test]
    fn a_message_counts_where_it_was_and_goes_nowhere_twice() {
        let mut table = TableBuf::default();
        table.put("mine", Value::I32(1)).unwrap();
        let published = Properties {
            headers: Some(table.as_table()),
            user_id: Some("u"),
            ..Properties::default()
        };
        let none = Table::default();
        assert!(may_come(&none, &place("b"), 1));
        let at_b = pass(&published, "a");
        let at_b = Properties::decode(&at_b).unwrap();
        let headers = at_b.headers.unwrap();
        assert_eq!(
            (at_b.user_id, headers.get("mine")),
            (None, Some(Value::I32(1)))
        );
        assert!(!may_come(&headers, &place("c"), 1));
        assert!(may_come(&headers, &place("c"), 2));
        assert!(!may_come(&headers, &place("a"), 9), "it was there");
        let at_c = pass(&at_b, "b");
        let at_c = Properties::decode(&at_c).unwrap().headers.unwrap();
        assert_eq!(entries(&at_c, RECEIVED_FROM).len(), 2);
        assert!(may_come(&at_c, &place("d"), 3) && !may_come(&at_c, &place("d"), 2));
    }

    #[test]
    fn a_binding_is_passed_on_as_far_as_its_hops_last() {
        let none = Table::default();
        let once = bound(&none, &place("a"), "x", 2).unwrap().unwrap();
        let twice = bound(&once.as_table(), &place("b"), "x", 5)
            .unwrap()
            .unwrap();
        assert!(
            bound(&twice.as_table(), &place("c"), "x", 5)
                .unwrap()
                .is_none(),
            "no hops left"
        );
        assert!(
            bound(&once.as_table(), &place("a"), "x", 5)
                .unwrap()
                .is_none(),
            "a circle"
        );
        let single = bound(&none, &place("a"), "x", 1).unwrap().unwrap();
        assert!(
            bound(&single.as_table(), &place("b"), "x", 9)
                .unwrap()
                .is_none()
        );
    }
}
