//! Numbers as the protocol writes them.

/// Reads decimal digits after any number of spaces; returns the rest.
pub(super) fn u64_at(input: &[u8]) -> Option<(u64, &[u8])> {
    let input = skip_spaces(input);
    let digits = input
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .count();
    let (number, rest) = input.split_at(digits);
    Some((decimal(number)?, rest))
}

/// The same for the fields that have 32 bits.
pub(super) fn u32_at(input: &[u8]) -> Option<(u32, &[u8])> {
    let (number, rest) = u64_at(input)?;
    Some((u32::try_from(number).ok()?, rest))
}

/// A number that must be the last thing on the line.
pub(super) fn u64_to_end(input: &[u8]) -> Option<u64> {
    u64_at(input)
        .filter(|(_, rest)| rest.is_empty())
        .map(|(number, _)| number)
}

/// The same for the fields that have 32 bits.
pub(super) fn u32_to_end(input: &[u8]) -> Option<u32> {
    u32_at(input)
        .filter(|(_, rest)| rest.is_empty())
        .map(|(number, _)| number)
}

/// The bound of `kick`, which clients rely on being read as C's `strtoul` does it: white space and a sign may come
/// first, anything may follow, a minus wraps around; the result is then cut to 32 bits.
pub(super) fn kick_bound(input: &[u8]) -> Option<u32> {
    let blank = |byte: &&u8| matches!(**byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c);
    let input = &input[input.iter().take_while(blank).count()..];
    let (negative, input) = match input.split_first() {
        Some((b'-', rest)) => (true, rest),
        Some((b'+', rest)) => (false, rest),
        _ => (false, input),
    };
    let digits = input
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .count();
    let number = decimal(&input[..digits])?;
    let number = if negative {
        number.wrapping_neg()
    } else {
        number
    };
    Some((number & u64::from(u32::MAX)) as u32)
}

pub(super) fn skip_spaces(input: &[u8]) -> &[u8] {
    &input[input.iter().take_while(|byte| **byte == b' ').count()..]
}

/// `None` without digits or past 64 bits.
fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, digit| {
        number
            .checked_mul(10)?
            .checked_add(u64::from(digit.wrapping_sub(b'0')))
    })
}
