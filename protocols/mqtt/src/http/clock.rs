//! Times as these APIs write them.

use longtail_model::Timestamp;

/// Year, month, day of a number of days since 1970 (proleptic Gregorian calendar).
fn date(days: i64) -> (i64, u32, u32) {
    // Eras of 400 years that begin on the first of March, so that a leap day is the last of its year.
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day = days.rem_euclid(146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = u32::try_from(of_year - (153 * month + 2) / 5 + 1).unwrap_or(1);
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + i64::from(month <= 2);
    (year, u32::try_from(month).unwrap_or(1), day)
}

/// Days since 1970.
fn days(year: i64, month: u32, day: u32) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let month = i64::from(if month > 2 { month - 3 } else { month + 9 });
    let of_year = (153 * month + 2) / 5 + i64::from(day) - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

struct Parts {
    date: (i64, u32, u32),
    time: (u64, u64, u64),
    ms: u64,
}

fn parts(at: Timestamp) -> Parts {
    let seconds = at.0 / 1000;
    let of_day = seconds % 86_400;
    Parts {
        date: date(i64::try_from(seconds / 86_400).unwrap_or(0)),
        time: (of_day / 3600, of_day / 60 % 60, of_day % 60),
        ms: at.0 % 1000,
    }
}

/// As RFC 3339 has it, in UTC, with milliseconds.
pub(super) fn rfc3339(at: Timestamp) -> String {
    let Parts {
        date: (year, month, day),
        time: (hour, minute, second),
        ms,
    } = parts(at);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}+00:00")
}

/// `YYYY-MM-DD HH:MM:SS`, in UTC.
pub(super) fn plain(at: Timestamp) -> String {
    let Parts {
        date: (year, month, day),
        time: (hour, minute, second),
        ..
    } = parts(at);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

/// Reads a time: RFC 3339, or a number of seconds since 1970.
pub(super) fn parse(text: &str) -> Option<Timestamp> {
    if let Ok(seconds) = text.parse::<u64>() {
        // What would be after the year 5000 is milliseconds.
        return Some(Timestamp(if seconds > 100_000_000_000 {
            seconds
        } else {
            seconds * 1000
        }));
    }
    let number = |from: usize, to: usize| text.get(from..to)?.parse::<u32>().ok();
    let mark =
        |at: usize, wanted: &str| text.get(at..at + 1).filter(|found| wanted.contains(found));
    mark(4, "-")?;
    mark(7, "-")?;
    mark(10, "Tt ")?;
    mark(13, ":")?;
    mark(16, ":")?;
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let fits = (1..=12).contains(&month) && (1..=31).contains(&day);
    if !fits || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let rest = text.get(19..)?;
    let (fraction, zone) = match rest.strip_prefix('.') {
        None => ("", rest),
        Some(rest) => rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?),
    };
    let digits: String = fraction.chars().chain("000".chars()).take(3).collect();
    let ms: i64 = digits.parse().ok()?;
    let offset = match zone {
        "Z" | "z" => 0,
        _ => {
            let (sign, zone) = zone.split_at_checked(1)?;
            let (hours, minutes) = zone.split_once(':')?;
            let minutes = hours.parse::<i64>().ok()? * 60 + minutes.parse::<i64>().ok()?;
            match sign {
                "+" => minutes,
                "-" => -minutes,
                _ => return None,
            }
        }
    };
    let of_day = i64::from(hour * 3600 + minute * 60 + second) - offset * 60;
    let seconds = days(i64::from(year), month, day) * 86_400 + of_day;
    u64::try_from(seconds * 1000 + ms).ok().map(Timestamp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_and_read() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000+00:00"),
            (951_827_696_789, "2000-02-29T12:34:56.789+00:00"),
            (1_767_225_599_999, "2025-12-31T23:59:59.999+00:00"),
        ] {
            assert_eq!(rfc3339(Timestamp(ms)), text);
            assert_eq!(parse(text), Some(Timestamp(ms)));
        }
        assert_eq!(
            parse("2000-02-29T13:34:56+01:00"),
            Some(Timestamp(951_827_696_000))
        );
        assert_eq!(parse("951827696"), Some(Timestamp(951_827_696_000)));
        assert_eq!(plain(Timestamp(951_827_696_000)), "2000-02-29 12:34:56");
        for wrong in [
            "",
            "tomorrow",
            "2000-13-01T00:00:00Z",
            "2000-01-01T00:00:00",
            "ä000-01-01T00:00:00Z",
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
