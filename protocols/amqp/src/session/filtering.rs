//! Which messages of a stream a consumer wants: by the value that publishers give them, by their headers, by where they
//! are.

use super::places::{self, Area, Point};
use crate::codec::{Table, TableBuf, Value};
use crate::exception::{Exception, precondition};

/// The header by which publishers let consumers choose.
const FILTER_VALUE: &str = "x-stream-filter-value";

/// Whether a message has to be as all conditions of a filter say, or as one: LavinMQ's.
const MATCH_TYPE: &str = "x-filter-match-type";

/// Conditions of one filter at most.
const VALUES_MAX: usize = 256;

/// Which messages a consumer wants.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Filter {
    /// One of these is the message's own.
    values: Vec<Box<str>>,
    /// Or tables: LavinMQ's.
    tables: Vec<Condition>,
    /// One condition is enough: the values, or a table.
    any: bool,
    /// Those without a value too.
    unfiltered: bool,
}

impl Filter {
    pub(super) fn parse(arguments: &Table<'_>) -> Result<Option<Self>, Exception> {
        let invalid = |key: &str, why: &str| precondition(format!("invalid arg '{key}': {why}"));
        let mut filter = Filter::default();
        match arguments.get("x-stream-match-unfiltered") {
            None => {}
            Some(Value::Bool(unfiltered)) => filter.unfiltered = unfiltered,
            Some(_) => return Err(invalid("x-stream-match-unfiltered", "a bool is expected")),
        }
        match arguments.get(MATCH_TYPE) {
            None => {}
            Some(value) => match value.as_str().map(str::to_ascii_lowercase).as_deref() {
                Some("all") => {}
                Some("any") => filter.any = true,
                _ => return Err(invalid(MATCH_TYPE, "all or any is expected")),
            },
        }
        let taken = match arguments.get("x-stream-filter") {
            None => return Ok(None),
            Some(Value::Array(values)) => {
                let mut values = values.iter();
                let taken = (values.by_ref().take(VALUES_MAX)).all(|value| filter.take(&value));
                taken && values.next().is_none()
            }
            Some(value) => filter.take(&value),
        };
        if taken {
            return Ok(Some(filter));
        }
        Err(invalid(
            "x-stream-filter",
            "a string, a table of headers or an array of at most 256 of these is expected",
        ))
    }

    /// One more condition; `false`: it is none.
    fn take(&mut self, value: &Value<'_>) -> bool {
        match (value, value.as_str()) {
            (_, Some(text)) => self.values.push(text.into()),
            (Value::Table(table), _) => match Condition::parse(table) {
                Some(condition) => self.tables.push(condition),
                None => return false,
            },
            _ => return false,
        }
        true
    }

    pub(super) fn wants(&self, headers: &Table<'_>) -> bool {
        let value = headers.get(FILTER_VALUE);
        if value.is_none() && self.unfiltered {
            return true;
        }
        let value = value.as_ref().and_then(Value::as_str);
        let one_of = || self.values.iter().any(|wanted| Some(&**wanted) == value);
        let mut tables = self.tables.iter();
        if self.any {
            return one_of() || tables.any(|table| table.holds(headers));
        }
        (self.values.is_empty() || one_of()) && tables.all(|table| table.holds(headers))
    }
}

/// What a table says: all of it has to hold.
#[derive(Clone, Debug, PartialEq)]
struct Condition {
    /// Headers that a message has with these values, as a table's bytes.
    headers: Box<[u8]>,
    /// Where it is, by its headers.
    areas: Vec<Area>,
}

impl Condition {
    fn parse(table: &Table<'_>) -> Option<Self> {
        let (mut headers, mut areas) = (TableBuf::default(), Vec::new());
        for (key, value) in table.iter() {
            if key.starts_with(places::PREFIX) {
                areas.push(Area::parse(key, &value)?);
            } else {
                headers.put(key, value).ok()?;
            }
        }
        Some(Condition {
            headers: headers.as_table().as_bytes().into(),
            areas,
        })
    }

    fn holds(&self, headers: &Table<'_>) -> bool {
        let wanted = Table::decode(&self.headers).unwrap_or_default();
        let mut pairs = wanted.iter();
        let has_headers = pairs.all(|(key, value)| {
            let own = headers.get(key);
            own.is_some_and(|own| own.is_equivalent(&value))
        });
        has_headers && (self.areas.is_empty() || self.is_there(headers))
    }

    fn is_there(&self, headers: &Table<'_>) -> bool {
        let place = Point::of(headers);
        place.is_some_and(|place| self.areas.iter().all(|area| area.has(place)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::ArrayBuf;
    use crate::codec::samples::{table, text};

    #[test]
    fn a_filter_takes_its_values_and_if_told_so_what_has_none() {
        let mut values = ArrayBuf::default();
        for value in ["invoices", "orders"] {
            values.push(text(value)).unwrap();
        }
        let arguments = table(&[
            ("x-stream-filter", Value::Array(values.as_array())),
            ("x-stream-match-unfiltered", Value::Bool(true)),
        ]);
        let filter = Filter::parse(&arguments.as_table()).unwrap().unwrap();
        let with = |value| table(&[(FILTER_VALUE, text(value))]);
        assert!(filter.wants(&with("orders").as_table()));
        assert!(!filter.wants(&with("order").as_table()));
        assert!(filter.wants(&Table::default()));
        let one = table(&[("x-stream-filter", text("orders"))]);
        let one = Filter::parse(&one.as_table()).unwrap().unwrap();
        assert!(one.wants(&with("orders").as_table()));
        assert!(!one.wants(&with("invoices").as_table()));
        assert!(!one.wants(&Table::default()));
        assert_eq!(Filter::parse(&Table::default()).unwrap(), None);
        // Headers, as LavinMQ has it.
        let wanted = table(&[("kind", text("new")), ("size", Value::I64(3))]);
        let mut conditions = ArrayBuf::default();
        conditions.push(text("orders")).unwrap();
        conditions.push(Value::Table(wanted.as_table())).unwrap();
        let conditions = Value::Array(conditions.as_array());
        let filter = |how: &str| {
            let arguments = table(&[("x-stream-filter", conditions), (MATCH_TYPE, text(how))]);
            Filter::parse(&arguments.as_table()).unwrap().unwrap()
        };
        let headers = table(&[("kind", text("new")), ("size", Value::I32(3))]);
        assert!(filter("any").wants(&headers.as_table()));
        assert!(!filter("all").wants(&headers.as_table()));
        let both = table(&[
            ("kind", text("new")),
            ("size", Value::I32(3)),
            (FILTER_VALUE, text("orders")),
        ]);
        assert!(filter("All").wants(&both.as_table()));
        assert!(filter("any").wants(&with("orders").as_table()));
        assert!(!filter("any").wants(&with("invoices").as_table()));
        for wrong in [
            table(&[("x-stream-filter", Value::I32(1))]),
            table(&[("x-stream-filter", text("a")), (MATCH_TYPE, text("some"))]),
            table(&[(
                "x-stream-filter",
                Value::Table(table(&[("geo-bbox", text("x"))]).as_table()),
            )]),
            table(&[(
                "x-stream-filter",
                Value::Table(table(&[("geo-hexagon", Value::Void)]).as_table()),
            )]),
            table(&[
                ("x-stream-filter", text("a")),
                ("x-stream-match-unfiltered", Value::I32(1)),
            ]),
        ] {
            assert!(Filter::parse(&wrong.as_table()).is_err());
        }
    }

    #[test]
    fn a_table_may_say_where_a_message_is_beside_what_it_has() {
        let circle = table(&[
            ("lat", Value::F64(52.52)),
            ("lon", Value::F64(13.405)),
            ("radius_km", Value::I32(50)),
        ]);
        let wanted = table(&[
            ("geo-within-radius", Value::Table(circle.as_table())),
            ("kind", text("bus")),
        ]);
        let arguments = table(&[("x-stream-filter", Value::Table(wanted.as_table()))]);
        let filter = Filter::parse(&arguments.as_table()).unwrap().unwrap();
        let wants = |kind, latitude| {
            let headers = table(&[
                ("kind", text(kind)),
                ("x-geo-lat", Value::F64(latitude)),
                ("x-geo-lon", Value::F64(13.4)),
            ]);
            filter.wants(&headers.as_table())
        };
        assert!(wants("bus", 52.5));
        assert!(!wants("bus", 53.5) && !wants("tram", 52.5));
        let nowhere = table(&[("kind", text("bus"))]);
        assert!(!filter.wants(&nowhere.as_table()));
    }
}
