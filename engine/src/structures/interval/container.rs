//! A set of 16-bit numbers that is not empty: runs while they are few, a bit map beyond.

use super::super::varint;

/// The most runs; so many take as much room as the bit map.
pub(super) const RUNS_MAX: usize = 2048;
/// A bit map of at most so many runs becomes runs again. Half the limit, so that a set near it does not change back and
/// forth.
const RUNS_AGAIN: u32 = 1024;
const WORDS: usize = 1024;

/// First and last number of consecutive ones.
type Run = (u16, u16);

#[derive(Clone, Debug)]
pub(super) enum Container {
    /// Ascending, with gaps between them.
    Runs(Vec<Run>),
    Bits(Box<Bits>),
}

#[derive(Clone, Debug)]
pub(super) struct Bits {
    len: u32,
    /// How many runs the numbers form.
    runs: u32,
    words: [u64; WORDS],
}

impl Container {
    pub(super) fn new(first: u16, last: u16) -> Container {
        Container::Runs(vec![(first, last)])
    }

    pub(super) fn contains(&self, v: u16) -> bool {
        match self {
            Container::Runs(runs) => {
                let i = runs.partition_point(|run| run.1 < v);
                runs.get(i).is_some_and(|run| run.0 <= v)
            }
            Container::Bits(bits) => bits.contains(v),
        }
    }

    pub(super) fn is_full(&self) -> bool {
        match self {
            Container::Runs(runs) => runs[..] == [(0, u16::MAX)],
            Container::Bits(bits) => bits.len == 1 << 16,
        }
    }

    /// Adds the numbers from `first` to `last` and returns how many of them are new.
    pub(super) fn insert(&mut self, first: u16, last: u16) -> u32 {
        let added = match self {
            Container::Runs(runs) => insert_run(runs, first, last),
            Container::Bits(bits) if first == last => bits.insert(first),
            Container::Bits(bits) => bits.insert_run(first, last),
        };
        match self {
            Container::Runs(runs) if runs.len() > RUNS_MAX => {
                *self = Container::Bits(Bits::from_runs(runs));
            }
            Container::Bits(bits) if bits.runs <= RUNS_AGAIN => {
                *self = Container::Runs(bits.to_runs());
            }
            _ => {}
        }
        added
    }

    /// How many numbers there are from `first` to `last`.
    pub(super) fn count(&self, first: u16, last: u16) -> u32 {
        match self {
            Container::Runs(runs) => runs[runs.partition_point(|run| run.1 < first)..]
                .iter()
                .take_while(|run| run.0 <= last)
                .map(|run| u32::from(run.1.min(last) - run.0.max(first)) + 1)
                .sum(),
            Container::Bits(bits) => masks(first, last)
                .map(|(i, mask)| (bits.words[i] & mask).count_ones())
                .sum(),
        }
    }

    /// The first number from `v` on.
    pub(super) fn next_present(&self, v: u16) -> Option<u16> {
        match self {
            Container::Runs(runs) => runs
                .get(runs.partition_point(|run| run.1 < v))
                .map(|run| run.0.max(v)),
            Container::Bits(bits) => bits.next(v, |word| word),
        }
    }

    /// The first number from `v` on that is not in the set.
    pub(super) fn next_absent(&self, v: u16) -> Option<u16> {
        match self {
            Container::Runs(runs) => match runs.get(runs.partition_point(|run| run.1 < v)) {
                Some(run) if run.0 <= v => run.1.checked_add(1),
                _ => Some(v),
            },
            Container::Bits(bits) => bits.next(v, |word| !word),
        }
    }

    /// May forget numbers below `v`, which nobody asks for any more. `false` when there are no others: the set must then
    /// be dropped.
    pub(super) fn trim(&mut self, v: u16) -> bool {
        let Container::Runs(runs) = self else {
            return self.next_present(v).is_some();
        };
        let below = runs.partition_point(|run| run.1 < v);
        // Moving what is left is paid for by at least as many runs that go.
        if below > runs.len() / 2 {
            runs.drain(..below);
            give_back(runs);
        }
        !runs.is_empty()
    }

    pub(super) fn heap_bytes(&self) -> usize {
        super::super::ALLOCATION
            + match self {
                Container::Runs(runs) => runs.capacity() * size_of::<Run>(),
                Container::Bits(_) => size_of::<Bits>(),
            }
    }

    /// Appends the set: the number of runs, then for each the distance from the end of the one before and its length
    /// less one; or 0 and the bit map, 1024 little-endian words.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Container::Runs(runs) => {
                varint::put(out, runs.len() as u64);
                let mut end = 0;
                for &(first, last) in runs {
                    varint::put(out, u64::from(first) - end);
                    varint::put(out, u64::from(last - first));
                    end = u64::from(last) + 1;
                }
            }
            Container::Bits(bits) => {
                out.push(0);
                out.extend(bits.words.iter().flat_map(|word| word.to_le_bytes()));
            }
        }
    }

    /// Takes a set off the front of `input`; `None` when that is not what [`Container::encode`] writes.
    pub(super) fn decode(input: &mut &[u8]) -> Option<Container> {
        let count = usize::try_from(varint::get(input)?).ok()?;
        if count == 0 {
            let mut bits = Bits::empty();
            let (words, _) = input.split_off(..WORDS * 8)?.as_chunks();
            for (word, &bytes) in bits.words.iter_mut().zip(words) {
                *word = u64::from_le_bytes(bytes);
            }
            bits.recount();
            return (bits.len > 0).then_some(Container::Bits(bits));
        }
        if count > RUNS_MAX {
            return None;
        }
        let mut runs = Vec::with_capacity(count);
        let mut end = 0u16;
        for i in 0..count {
            let distance = u16::try_from(varint::get(input)?).ok()?;
            if i > 0 && distance == 0 {
                return None;
            }
            let first = end.checked_add(distance)?;
            let last = first.checked_add(u16::try_from(varint::get(input)?).ok()?)?;
            if last == u16::MAX && i + 1 < count {
                return None;
            }
            end = last.wrapping_add(1);
            runs.push((first, last));
        }
        Some(Container::Runs(runs))
    }
}

fn insert_run(runs: &mut Vec<Run>, first: u16, last: u16) -> u32 {
    // The runs from `from` to before `to` overlap the new one or touch it.
    let from = runs.partition_point(|run| u32::from(run.1) + 1 < u32::from(first));
    let to = from + runs[from..].partition_point(|run| u32::from(run.0) <= u32::from(last) + 1);
    let length = |run: &Run| u32::from(run.1 - run.0) + 1;
    if from == to {
        runs.insert(from, (first, last));
        return length(&runs[from]);
    }
    let before: u32 = runs[from..to].iter().map(length).sum();
    runs[from] = (first.min(runs[from].0), last.max(runs[to - 1].1));
    runs.drain(from + 1..to);
    give_back(runs);
    length(&runs[from]) - before
}

/// Frees room that is not needed any more, by halves at least, so that it is not asked for again at once.
fn give_back(runs: &mut Vec<Run>) {
    if runs.len() < runs.capacity() / 4 {
        runs.shrink_to(2 * runs.len());
    }
}

/// The words that hold the bits from `first` to `last`, with a mask of those bits.
fn masks(first: u16, last: u16) -> impl Iterator<Item = (usize, u64)> {
    let (from, to) = (usize::from(first) / 64, usize::from(last) / 64);
    (from..=to).map(move |i| {
        let low = if i == from {
            u64::MAX << (first % 64)
        } else {
            u64::MAX
        };
        let high = if i == to {
            u64::MAX >> (63 - last % 64)
        } else {
            u64::MAX
        };
        (i, low & high)
    })
}

impl Bits {
    fn empty() -> Box<Bits> {
        Box::new(Bits {
            len: 0,
            runs: 0,
            words: [0; WORDS],
        })
    }

    fn from_runs(runs: &[Run]) -> Box<Bits> {
        let mut bits = Bits::empty();
        for &(first, last) in runs {
            for (i, mask) in masks(first, last) {
                bits.words[i] |= mask;
            }
        }
        bits.recount();
        bits
    }

    fn to_runs(&self) -> Vec<Run> {
        let mut runs = Vec::with_capacity(self.runs as usize);
        let mut from = Some(0);
        while let Some(first) = from.and_then(|from| self.next(from, |word| word)) {
            from = self.next(first, |word| !word);
            runs.push((first, from.map_or(u16::MAX, |end| end - 1)));
        }
        runs
    }

    fn contains(&self, v: u16) -> bool {
        self.words[usize::from(v) / 64] >> (v % 64) & 1 == 1
    }

    fn insert(&mut self, v: u16) -> u32 {
        if self.contains(v) {
            return 0;
        }
        self.words[usize::from(v) / 64] |= 1 << (v % 64);
        self.len += 1;
        let touches =
            |neighbour: Option<u16>| u32::from(neighbour.is_some_and(|v| self.contains(v)));
        self.runs = self.runs + 1 - touches(v.checked_sub(1)) - touches(v.checked_add(1));
        1
    }

    fn insert_run(&mut self, first: u16, last: u16) -> u32 {
        let before = self.len;
        for (i, mask) in masks(first, last) {
            self.words[i] |= mask;
        }
        self.recount();
        self.len - before
    }

    fn recount(&mut self) {
        (self.len, self.runs) = (0, 0);
        let mut before = 0;
        for &word in &self.words {
            self.len += word.count_ones();
            // A run starts at each bit whose lower neighbour is not set.
            self.runs += (word & !(word << 1 | before)).count_ones();
            before = word >> 63;
        }
    }

    /// The first bit from `v` on in the words that `view` makes of ours.
    fn next(&self, v: u16, view: fn(u64) -> u64) -> Option<u16> {
        let from = usize::from(v) / 64;
        let word = view(self.words[from]) & (u64::MAX << (v % 64));
        let (i, word) = if word != 0 {
            (from, word)
        } else {
            (from + 1..WORDS)
                .map(|i| (i, view(self.words[i])))
                .find(|&(_, word)| word != 0)?
        };
        Some((i * 64) as u16 + word.trailing_zeros() as u16)
    }
}
