//! Numbers in as few bytes as they need: seven bits a byte, least significant first, the top bit set on every byte
//! but the last (LEB128). Signed numbers are folded to unsigned ones first ([`zigzag`]), so that small magnitudes of
//! either sign stay short.

/// The most bytes one number takes.
pub const MAX_LEN: usize = 10;

/// Appends `v`.
#[inline]
pub fn put(out: &mut Vec<u8>, mut v: u64) {
    while v >= 0x80 {
        out.push(v as u8 | 0x80);
        v >>= 7;
    }
    out.push(v as u8);
}

/// Takes a number off the front of `input`. `None`, with `input` untouched, when it ends too early or the number does
/// not fit 64 bits.
#[inline]
pub fn get(input: &mut &[u8]) -> Option<u64> {
    let (&byte, rest) = input.split_first()?;
    if byte < 0x80 {
        *input = rest;
        return Some(u64::from(byte));
    }
    get_long(input)
}

fn get_long(input: &mut &[u8]) -> Option<u64> {
    let mut v = 0u64;
    for (i, &byte) in input.iter().take(MAX_LEN).enumerate() {
        let bits = u64::from(byte & 0x7f);
        if i == MAX_LEN - 1 && bits > 1 {
            return None;
        }
        v |= bits << (7 * i);
        if byte < 0x80 {
            *input = &input[i + 1..];
            return Some(v);
        }
    }
    None
}

/// How many bytes [`put`] writes for `v`.
#[must_use]
#[inline]
pub const fn len(v: u64) -> usize {
    (64 - (v | 1).leading_zeros() as usize).div_ceil(7)
}

/// Folds a signed number into an unsigned one: 0, -1, 1, -2 become 0, 1, 2, 3.
#[must_use]
#[inline]
pub const fn zigzag(v: i64) -> u64 {
    ((v << 1) ^ (v >> 63)).cast_unsigned()
}

/// Undoes [`zigzag`].
#[must_use]
#[inline]
pub const fn unzigzag(v: u64) -> i64 {
    (v >> 1).cast_signed() ^ -(v & 1).cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn round_trip(v: u64) {
        let mut out = vec![0xaa];
        put(&mut out, v);
        assert_eq!(out.len() - 1, len(v), "length of {v}");
        out.push(0x55);
        let mut input = &out[1..];
        assert_eq!(get(&mut input), Some(v));
        assert_eq!(input, [0x55], "takes exactly its own bytes");
        for cut in 1..=len(v) {
            let mut input = &out[1..out.len() - 1 - cut];
            assert_eq!(get(&mut input), None, "{v} cut by {cut}");
        }
    }

    #[test]
    fn edges_of_every_length() {
        round_trip(0);
        round_trip(u64::MAX);
        for bit in 0..64 {
            round_trip(1 << bit);
            round_trip((1 << bit) - 1);
        }
    }

    #[test]
    fn more_than_64_bits_is_refused() {
        let mut too_big: &[u8] = &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02];
        assert_eq!(get(&mut too_big), None);
        assert_eq!(too_big.len(), 10, "input untouched");
        let mut endless: &[u8] = &[0x80; 20];
        assert_eq!(get(&mut endless), None);
    }

    #[test]
    fn zigzag_keeps_small_numbers_small() {
        assert_eq!([0, -1, 1, -2, i64::MIN].map(zigzag), [0, 1, 2, 3, u64::MAX]);
    }

    proptest! {
        #[test]
        fn any_number_round_trips(v: u64, shift in 0u32..64, signed: i64) {
            round_trip(v >> shift);
            prop_assert_eq!(unzigzag(zigzag(signed)), signed);
        }
    }
}
