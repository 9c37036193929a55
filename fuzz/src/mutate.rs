//! New inputs from old ones.

/// Longest input made, in bytes.
pub(crate) const LENGTH_MAX: usize = 4096;

/// Changes made to one input at most.
const CHANGES_MAX: u64 = 6;

/// Values at which programs tend to err.
const EDGES: &[u64] = &[
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0x8000,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    u64::MAX,
];

/// Seeded randomness (SplitMix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// The next 64 bits.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, or 0 when there is none.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        if bound == 0 {
            0
        } else {
            (self.next() % bound as u64) as usize
        }
    }
}

/// Changes `input` in a few random ways; `other` lends pieces, as do the words.
pub(crate) fn mutate(input: &mut Vec<u8>, other: &[u8], words: &[Vec<u8>], random: &mut Random) {
    for _ in 0..=random.next() % CHANGES_MAX {
        change(input, other, words, random);
    }
    input.truncate(LENGTH_MAX);
}

fn change(input: &mut Vec<u8>, other: &[u8], words: &[Vec<u8>], random: &mut Random) {
    let place = random.below(input.len());
    let longest = if random.below(8) == 0 { 256 } else { 8 };
    let length = 1 + random.below(longest);
    let end = (place + length).min(input.len());
    match random.below(10) {
        0 => flip(input, place, random),
        1 => set(input, place, random.next() as u8),
        2 => insert(
            input,
            place,
            &random.next().to_le_bytes()[..1 + random.below(8)],
        ),
        3 => drop(input.drain(place..end)),
        4 => {
            let piece = input[place..end].to_vec();
            let at = random.below(input.len() + 1);
            insert(input, at, &piece);
        }
        5 => {
            let from = random.below(other.len());
            let piece = &other[from..(from + length).min(other.len())];
            insert(input, place, piece);
        }
        6 => {
            input.truncate(place);
            input.extend_from_slice(&other[random.below(other.len())..]);
        }
        7 => {
            let value = EDGES[random.below(EDGES.len())];
            let width = [1, 2, 4, 8][random.below(4)];
            let bytes = if random.below(2) == 0 {
                value.to_le_bytes()
            } else {
                value.swap_bytes().to_le_bytes()
            };
            for (offset, byte) in bytes.iter().take(width).enumerate() {
                set(input, place + offset, *byte);
            }
        }
        8 => {
            let decimal = EDGES[random.below(EDGES.len())].to_string();
            insert(input, place, decimal.as_bytes());
        }
        _ => match words.get(random.below(words.len())) {
            Some(word) => insert(input, place, word),
            None => set(input, place, random.next() as u8),
        },
    }
}

fn flip(input: &mut [u8], place: usize, random: &mut Random) {
    if let Some(byte) = input.get_mut(place) {
        *byte ^= 1 << random.below(8);
    }
}

fn set(input: &mut [u8], place: usize, value: u8) {
    if let Some(byte) = input.get_mut(place) {
        *byte = value;
    }
}

fn insert(input: &mut Vec<u8>, place: usize, piece: &[u8]) {
    let place = place.min(input.len());
    input.splice(place..place, piece.iter().copied());
}
