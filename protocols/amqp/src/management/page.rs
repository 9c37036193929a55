//! Lists as clients ask for them: sorted, cut to columns, filtered by name, in pages.

use std::cmp::Ordering;
use std::time::SystemTime;

use longtail_web::Query;
use regex::RegexBuilder;
use serde_json::{Map, Value, json};

use super::http::Failed;

/// Entries of a page that does not say how many.
const PAGE_SIZE: usize = 100;

/// Entries of a page at most.
const PAGE_SIZE_MAX: usize = 500;

/// Longest expression that names are filtered by, in bytes.
const FILTER_MAX: usize = 1000;

/// What a list is for whoever asks with this query.
///
/// # Errors
/// When the page is none, or the filter no expression.
pub(super) fn list(mut items: Vec<Value>, query: &Query) -> Result<Value, Failed> {
    let total = items.len();
    let page = query.number("page")?;
    if let Some(sort) = query.get("sort").filter(|path| !path.is_empty()) {
        items.sort_by(|a, b| compare(at(a, sort), at(b, sort)));
        if query.flag("sort_reverse") {
            items.reverse();
        }
    }
    let Some(page) = page else {
        return Ok(Value::Array(columns(items, query)));
    };
    if let Some(name) = query.get("name").filter(|name| !name.is_empty()) {
        let matches = filter(name, query.flag("use_regex"))?;
        items.retain(|item| {
            at(item, "name")
                .and_then(Value::as_str)
                .is_some_and(&matches)
        });
    }
    let size = query.number("page_size")?.unwrap_or(PAGE_SIZE);
    if size == 0 || size > PAGE_SIZE_MAX {
        return Err(Failed::bad(format!(
            "page_size must be 1 to {PAGE_SIZE_MAX}, not {size}"
        )));
    }
    let filtered = items.len();
    let pages = filtered.div_ceil(size).max(1);
    if page == 0 || page > pages {
        return Err(Failed {
            error: "page_out_of_range",
            ..Failed::bad(format!("page {page} of {pages}, page size {size}"))
        });
    }
    let items: Vec<Value> = items
        .into_iter()
        .skip((page - 1) * size)
        .take(size)
        .collect();
    Ok(json!({
        "total_count": total,
        "filtered_count": filtered,
        "item_count": items.len(),
        "page": page,
        "page_size": size,
        "page_count": pages,
        "items": columns(items, query),
    }))
}

/// One entry, cut to columns too.
pub(super) fn one(item: Value, query: &Query) -> Value {
    columns(vec![item], query).pop().unwrap_or(Value::Null)
}

/// Whether a name is wanted.
type Wanted = Box<dyn Fn(&str) -> bool>;

fn filter(name: &str, use_regex: bool) -> Result<Wanted, Failed> {
    if !use_regex {
        let wanted = name.to_lowercase();
        return Ok(Box::new(move |name| name.to_lowercase().contains(&wanted)));
    }
    if name.len() > FILTER_MAX {
        return Err(Failed::bad("the expression is too long"));
    }
    let regex = RegexBuilder::new(name)
        .case_insensitive(true)
        .size_limit(1 << 20)
        .build()
        .map_err(|error| Failed::bad(format!("name is no expression: {error}")))?;
    Ok(Box::new(move |name| regex.is_match(name)))
}

/// The value at a path with dots.
fn at<'v>(value: &'v Value, path: &str) -> Option<&'v Value> {
    path.split('.').try_fold(value, |value, key| value.get(key))
}

fn compare(a: Option<&Value>, b: Option<&Value>) -> Ordering {
    fn rank(value: Option<&Value>) -> u8 {
        match value {
            None | Some(Value::Null) => 0,
            Some(Value::Bool(_)) => 1,
            Some(Value::Number(_)) => 2,
            Some(Value::String(_)) => 3,
            Some(_) => 4,
        }
    }
    match (a, b) {
        (Some(Value::Bool(a)), Some(Value::Bool(b))) => a.cmp(b),
        (Some(Value::Number(a)), Some(Value::Number(b))) => {
            let of = |n: &serde_json::Number| n.as_f64().unwrap_or_default();
            of(a).total_cmp(&of(b))
        }
        (Some(Value::String(a)), Some(Value::String(b))) => a.cmp(b),
        _ => rank(a).cmp(&rank(b)),
    }
}

fn columns(items: Vec<Value>, query: &Query) -> Vec<Value> {
    let Some(wanted) = query.get("columns").filter(|wanted| !wanted.is_empty()) else {
        return items;
    };
    let paths: Vec<Vec<&str>> = wanted
        .split(',')
        .map(|path| path.split('.').collect())
        .collect();
    let cut = |item: Value| {
        let mut kept = Map::new();
        for path in &paths {
            if let Some(value) = path.iter().try_fold(&item, |value, key| value.get(key)) {
                put(&mut kept, path, value.clone());
            }
        }
        Value::Object(kept)
    };
    items.into_iter().map(cut).collect()
}

fn put(object: &mut Map<String, Value>, path: &[&str], value: Value) {
    match path {
        [] => {}
        [key] => {
            object.insert((*key).to_owned(), value);
        }
        [key, rest @ ..] => {
            let inner = object
                .entry(*key)
                .or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(inner) = inner {
                put(inner, rest, value);
            }
        }
    }
}

/// A moment as RabbitMQ writes it, in UTC: `2026-11-26 8:05:00`.
pub(super) fn moment(at: SystemTime) -> String {
    let since = at
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let (date, [hour, minute, second]) = calendar(since.as_secs());
    format!("{date} {hour}:{minute:02}:{second:02}")
}

/// A moment in milliseconds since 1970, as RabbitMQ writes it elsewhere (RFC 3339): `2026-11-26T08:05:00.250+00:00`.
pub(super) fn instant(ms: u64) -> String {
    let (date, [hour, minute, second]) = calendar(ms / 1000);
    let ms = ms % 1000;
    format!("{date}T{hour:02}:{minute:02}:{second:02}.{ms:03}+00:00")
}

/// A moment in seconds since 1970, as RabbitMQ writes those of certificates (RFC 3339): `2026-11-26T08:05:00Z`.
pub(super) fn second(seconds: u64) -> String {
    let (date, [hour, minute, second]) = calendar(seconds);
    format!("{date}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Date, hour, minute and second in UTC.
fn calendar(seconds: u64) -> (String, [u64; 3]) {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Days since 1 March of the year 0, in eras of 400 years (Hinnant's algorithm).
    let day = days + 719_468;
    let (era, of_era) = (day / 146_097, day % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    let date = format!("{year}-{month:02}-{day:02}");
    (date, [second / 3600, second / 60 % 60, second % 60])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items() -> Vec<Value> {
        vec![
            json!({"name": "b", "n": 10, "s": {"r": 1.5, "t": 2}}),
            json!({"name": "a", "n": 9, "s": {"r": 0.5}}),
            json!({"name": "Cc"}),
        ]
    }

    fn asked(query: &str) -> Result<Value, Failed> {
        list(items(), &Query::parse(query))
    }

    fn names(value: &Value) -> String {
        let list = value.get("items").unwrap_or(value).as_array().unwrap();
        let names = list.iter().filter_map(|item| item["name"].as_str());
        names.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn lists_are_sorted_by_numbers_and_texts_with_what_lacks_it_first() {
        assert_eq!(names(&asked("").unwrap()), "b a Cc");
        assert_eq!(names(&asked("sort=n").unwrap()), "Cc a b");
        assert_eq!(
            names(&asked("sort=s.r&sort_reverse=true").unwrap()),
            "b a Cc"
        );
    }

    #[test]
    fn moments_are_written_as_rabbitmq_writes_them() {
        assert_eq!(second(0), "1970-01-01T00:00:00Z");
        assert_eq!(second(951_782_400 + 3_661), "2000-02-29T01:01:01Z");
    }

    #[test]
    fn columns_keep_their_nesting() {
        let cut = asked("columns=name,s.r").unwrap();
        assert_eq!(cut[0], json!({"name": "b", "s": {"r": 1.5}}));
        assert_eq!(cut[2], json!({"name": "Cc"}));
    }

    #[test]
    fn pages_say_how_many_there_are_and_end() {
        let page = asked("page=2&page_size=2").unwrap();
        assert_eq!(page["total_count"], 3);
        assert_eq!(page["page_count"], 2);
        assert_eq!(names(&page), "Cc");
        assert_eq!(names(&asked("page=1&name=C").unwrap()), "Cc");
        assert_eq!(
            names(&asked("page=1&name=^[ab]$&use_regex=true").unwrap()),
            "b a"
        );
        for wrong in [
            "page=3&page_size=2",
            "page=0",
            "page=1&page_size=501",
            "page=x",
        ] {
            assert_eq!(asked(wrong).unwrap_err().status, 400, "{wrong}");
        }
        assert!(asked("page=1&name=(&use_regex=true").is_err());
    }

    #[test]
    fn moments_are_those_of_the_calendar() {
        let at = |seconds| moment(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01 0:00:00");
        assert_eq!(at(951_782_400), "2000-02-29 0:00:00");
        assert_eq!(at(1_795_680_303), "2026-11-26 8:05:03");
        let shown = instant(1_795_680_303_007);
        assert_eq!(shown, "2026-11-26T08:05:03.007+00:00");
    }
}
