//! From when and until when a certificate holds.

use crate::identity::{Der, SEQUENCE, VERSION};

const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// When an X.509 certificate in DER ends, in seconds since 1970; `None`: it is none, or says a time that none is.
pub(crate) fn end_of(certificate: &[u8]) -> Option<u64> {
    let mut certificate = Der(Der(certificate).expect(SEQUENCE)?);
    let mut body = Der(certificate.expect(SEQUENCE)?);
    body.skip_if(VERSION);
    for _serial_algorithm_issuer in 0..3 {
        body.next()?;
    }
    let mut validity = Der(body.expect(SEQUENCE)?);
    let _from = validity.next()?;
    next_moment(&mut validity)
}

/// What its `Validity` says: from when and until when, in seconds since 1970.
pub(crate) fn both_of(validity: &[u8]) -> Option<(u64, u64)> {
    let mut validity = Der(validity);
    Some((next_moment(&mut validity)?, next_moment(&mut validity)?))
}

fn next_moment(validity: &mut Der<'_>) -> Option<u64> {
    let (tag, text) = validity.next()?;
    moment(tag, std::str::from_utf8(text).ok()?)
}

/// `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ` (RFC 5280, 4.1.2.5).
fn moment(tag: u8, text: &str) -> Option<u64> {
    let (year, rest) = match tag {
        UTC_TIME => {
            let (year, rest) = text.split_at_checked(2)?;
            let year = number(year)?;
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        GENERALIZED_TIME => {
            let (year, rest) = text.split_at_checked(4)?;
            (number(year)?, rest)
        }
        _ => return None,
    };
    let mut parts = rest.strip_suffix('Z')?.as_bytes().chunks_exact(2);
    let mut next = || number(std::str::from_utf8(parts.next()?).ok()?);
    let (month, day) = (next()?, next()?);
    let (hour, minute, second) = (next()?, next()?, next()?);
    let fits = (1..=12).contains(&month) && (1..=31).contains(&day);
    if !fits || year < 1970 || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    // Days since 1970, with years that begin in March (Hinnant's algorithm).
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let of_year = (153 * month + 2) / 5 + day - 1;
    let days = 365 * year + year / 4 - year / 100 + year / 400 + of_year - 719_468;
    Some(((days * 24 + hour) * 60 + minute) * 60 + second)
}

fn number(digits: &str) -> Option<u64> {
    let all = digits.bytes().all(|digit| digit.is_ascii_digit());
    digits.parse().ok().filter(|_| all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_in_both_forms() {
        for (tag, text, seconds) in [
            (UTC_TIME, "700101000000Z", 0),
            (UTC_TIME, "261126080503Z", 1_795_680_303),
            (GENERALIZED_TIME, "20000229000000Z", 951_782_400),
            (GENERALIZED_TIME, "40960101000000Z", 67_090_118_400),
        ] {
            assert_eq!(moment(tag, text), Some(seconds), "{text}");
        }
        for (tag, text) in [
            (UTC_TIME, "261326080503Z"),
            (UTC_TIME, "261126080503"),
            (UTC_TIME, "26112608Z"),
            (GENERALIZED_TIME, "+0261126080503Z"),
            (GENERALIZED_TIME, "19691231235959Z"),
            (0x0c, "261126080503Z"),
            (UTC_TIME, "é"),
        ] {
            assert_eq!(moment(tag, text), None, "{text}");
        }
    }

    #[test]
    fn a_certificate_says_its_end() {
        let mut params = rcgen::CertificateParams::default();
        params.not_after = rcgen::date_time_ymd(2031, 5, 6);
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        assert_eq!(end_of(certificate.der()), Some(1_935_792_000));
        assert_eq!(end_of(&certificate.der()[..40]), None);
        assert_eq!(end_of(b""), None);
    }
}
