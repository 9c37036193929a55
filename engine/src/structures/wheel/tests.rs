use proptest::prelude::*;

use super::*;

const YEAR: u64 = 365 * 24 * 3600 * 1000;
/// A moment of our days.
const TODAY: u64 = 1_790_000_000_000;

type Fired = Vec<(u64, u32)>;
type Names = Vec<(TimerId, u32)>;

fn advance(wheel: &mut TimerWheel<u32>, now: u64) -> Fired {
    let mut fired = Vec::new();
    wheel.advance(Timestamp(now), &mut |due, key| fired.push((due.0, key)));
    fired
}

/// Every rule the code relies on.
fn check(wheel: &TimerWheel<u32>) {
    let mut linked = 0;
    for (list, ends) in wheel.lists.iter().enumerate() {
        let (mut prev, mut index) = (NIL, ends.first);
        while index != NIL {
            let node = &wheel.nodes[index as usize];
            assert_eq!((node.prev, usize::from(node.list)), (prev, list));
            assert_eq!(
                wheel.list_for(node.due),
                node.list,
                "lies where the present says"
            );
            (prev, index) = (index, node.next);
            linked += 1;
        }
        assert_eq!(ends.last, prev);
        if list < usize::from(OVERDUE) {
            assert_eq!(
                wheel.occupied[list / SLOTS] >> (list % SLOTS) & 1 == 1,
                ends.first != NIL
            );
        }
    }
    assert_eq!(linked, wheel.len());
    assert_eq!(wheel.iter().count(), wheel.len());
    let mut unused = 0;
    let mut index = wheel.unused;
    while index != NIL {
        index = wheel.nodes[index as usize].next;
        unused += 1;
    }
    assert_eq!(linked + unused, wheel.nodes.len());
}

#[test]
fn fires_in_order_of_time_then_of_insertion() {
    let mut wheel = TimerWheel::new(Timestamp(TODAY));
    let dues = [70, 5, 70, 5000, 64, 5, 0, 1 << 30, 63, 5000];
    for (key, due) in (0u32..).zip(dues) {
        wheel.insert(Timestamp(TODAY + due), key);
    }
    assert_eq!(advance(&mut wheel, TODAY), [(TODAY, 6)]);
    // Joins those of the same moment that came before, though time has moved on.
    assert_eq!(
        advance(&mut wheel, TODAY + 60),
        [(TODAY + 5, 1), (TODAY + 5, 5)]
    );
    wheel.insert(Timestamp(TODAY + 70), 10);
    let rest: Fired = [
        (63, 8),
        (64, 4),
        (70, 0),
        (70, 2),
        (70, 10),
        (5000, 3),
        (5000, 9),
        (1 << 30, 7),
    ]
    .map(|(due, key)| (TODAY + due, key))
    .into();
    assert_eq!(advance(&mut wheel, TODAY + YEAR), rest);
    assert!(wheel.is_empty());
}

#[test]
fn what_is_due_already_fires_on_the_next_advance() {
    let mut wheel = TimerWheel::new(Timestamp(TODAY));
    let late = [TODAY - 5, TODAY, 0, TODAY - 5];
    for (key, due) in (0u32..).zip(late) {
        wheel.insert(Timestamp(due), key);
    }
    assert_eq!(wheel.next_due(), Some(Timestamp(0)));
    check(&wheel);
    let expected = [(0, 2), (TODAY - 5, 0), (TODAY - 5, 3), (TODAY, 1)];
    assert_eq!(advance(&mut wheel, TODAY), expected);
    assert_eq!(wheel.next_due(), None);
    // Time that runs backwards stands still.
    wheel.insert(Timestamp(TODAY), 7);
    assert_eq!(advance(&mut wheel, TODAY - 1000), [(TODAY, 7)]);
    assert_eq!(wheel.now(), Timestamp(TODAY));
}

#[test]
fn never_does_not_come() {
    let mut wheel = TimerWheel::new(Timestamp(TODAY));
    let id = wheel.insert(Timestamp::NEVER, 1);
    wheel.insert(Timestamp(u64::MAX - 1), 2);
    assert_eq!(advance(&mut wheel, u64::MAX - 2), []);
    assert_eq!(wheel.next_due(), Some(Timestamp(u64::MAX - 1)));
    assert_eq!(advance(&mut wheel, u64::MAX), [(u64::MAX - 1, 2)]);
    assert_eq!((wheel.next_due(), wheel.len()), (None, 1));
    assert_eq!(wheel.cancel(id), Some(1));
}

#[test]
fn a_stale_name_does_nothing() {
    let mut wheel = TimerWheel::new(Timestamp(TODAY));
    let fired = wheel.insert(Timestamp(TODAY + 1), 1);
    advance(&mut wheel, TODAY + 1);
    let cancelled = wheel.insert(Timestamp(TODAY + 9), 2);
    assert_eq!(wheel.get(cancelled), Some((Timestamp(TODAY + 9), 2)));
    assert_eq!(wheel.cancel(cancelled), Some(2));
    let third = wheel.insert(Timestamp(TODAY + 9), 3);
    for stale in [fired, cancelled] {
        assert_eq!(wheel.cancel(stale), None);
        assert!(!wheel.reschedule(stale, Timestamp(TODAY + 5)));
        assert_eq!(wheel.get(stale), None);
    }
    assert_eq!(wheel.cancel(third), Some(3));
    assert_eq!(wheel.cancel(third), None);
}

#[test]
fn a_timer_can_be_moved_both_ways() {
    let mut wheel = TimerWheel::new(Timestamp(TODAY));
    let a = wheel.insert(Timestamp(TODAY + 100), 1);
    let b = wheel.insert(Timestamp(TODAY + 100), 2);
    assert!(wheel.reschedule(a, Timestamp(TODAY + YEAR)));
    assert!(wheel.reschedule(b, Timestamp(TODAY + 10)));
    assert_eq!(advance(&mut wheel, TODAY + 1000), [(TODAY + 10, 2)]);
    assert!(wheel.reschedule(a, Timestamp(TODAY + 1001)));
    assert_eq!(advance(&mut wheel, TODAY + 1001), [(TODAY + 1001, 1)]);
}

#[test]
fn a_jump_over_all_of_time_fires_each_timer_once() {
    let mut wheel = TimerWheel::new(Timestamp(0));
    let dues: Vec<u64> = (0..64)
        .flat_map(|bit| [1u64 << bit, (1 << bit) + 1, (1u64 << bit) - 1])
        .collect();
    for (key, &due) in (0u32..).zip(&dues) {
        wheel.insert(Timestamp(due), key);
    }
    let mut expected: Fired = (0u32..).zip(&dues).map(|(key, &due)| (due, key)).collect();
    expected.sort_unstable();
    assert_eq!(advance(&mut wheel, u64::MAX), expected);
}

#[test]
fn a_timer_takes_at_most_40_bytes_and_goes_when_it_is_gone() {
    let mut wheel = TimerWheel::new(Timestamp(TODAY));
    let lists = wheel.heap_bytes();
    for i in 0..1_000_000 {
        wheel.insert(Timestamp(TODAY + i * 7), i);
    }
    assert!(wheel.heap_bytes() - lists <= 40_000_000);
    wheel.advance(Timestamp(TODAY + YEAR), &mut |_, _| ());
    assert!(wheel.heap_bytes() - lists <= 40 * KEEP_CAPACITY);
}

#[test]
fn damaged_bytes_are_refused() {
    let mut wheel = TimerWheel::new(Timestamp(TODAY));
    for i in 0..50u64 {
        wheel.insert(Timestamp(TODAY + i * i * i), i as u32);
    }
    let mut bytes = Vec::new();
    wheel.encode(&mut bytes, |out, key| varint::put(out, u64::from(key)));
    for cut in 0..bytes.len() {
        assert!(decoded(&bytes[..cut]).is_err(), "cut to {cut}");
    }
    let endless = [
        0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 0, 0,
    ];
    assert!(decoded(&endless).is_err());
}

fn decoded(mut bytes: &[u8]) -> Result<(TimerWheel<u32>, Names), Corrupt> {
    let mut names = Vec::new();
    let wheel = TimerWheel::decode(
        &mut bytes,
        |input| varint::get(input).and_then(|key| u32::try_from(key).ok()),
        |id, _, key| names.push((id, key)),
    )?;
    Ok((wheel, names))
}

/// A list of timers, searched from end to end.
#[derive(Default)]
struct Model {
    now: u64,
    /// Due time, turn of insertion, key.
    timers: Vec<(u64, u64, u32)>,
    turn: u64,
}

impl Model {
    fn insert(&mut self, due: u64, key: u32) {
        self.turn += 1;
        self.timers.push((due, self.turn, key));
    }

    fn cancel(&mut self, key: u32) -> bool {
        let before = self.timers.len();
        self.timers.retain(|timer| timer.2 != key);
        self.timers.len() < before
    }

    fn advance(&mut self, now: u64) -> Fired {
        self.now = self.now.max(now);
        let (mut due, rest): (Vec<_>, Vec<_>) = self
            .timers
            .iter()
            .copied()
            .partition(|timer| timer.0 <= self.now && timer.0 != u64::MAX);
        self.timers = rest;
        due.sort_unstable();
        due.into_iter().map(|(due, _, key)| (due, key)).collect()
    }

    fn next_due(&self) -> Option<u64> {
        self.timers
            .iter()
            .map(|timer| timer.0)
            .filter(|&due| due != u64::MAX)
            .min()
    }
}

#[derive(Clone, Debug)]
enum Op {
    Insert { from_now: i64 },
    InsertAt { due: u64 },
    Cancel { which: usize },
    Reschedule { which: usize, from_now: i64 },
    Advance { by: u64 },
    AdvanceToNext,
    RoundTrip,
}

/// Spans of every magnitude, now and then negative.
fn span() -> impl Strategy<Value = i64> {
    prop_oneof![
        4 => 0i64..200,
        2 => 0i64..300_000,
        1 => -100i64..0,
        2 => (0u32..50, 0i64..3).prop_map(|(bit, more)| (1 << bit) + more - 1),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => span().prop_map(|from_now| Op::Insert { from_now }),
        1 => prop_oneof![Just(0), Just(u64::MAX), Just(u64::MAX - 1), any::<u64>()].prop_map(|due| Op::InsertAt { due }),
        2 => (0usize..300).prop_map(|which| Op::Cancel { which }),
        2 => (0usize..300, span()).prop_map(|(which, from_now)| Op::Reschedule { which, from_now }),
        2 => span().prop_map(|by| Op::Advance { by: by.unsigned_abs() }),
        1 => Just(Op::AdvanceToNext),
        1 => Just(Op::RoundTrip),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn behaves_like_a_list(start in prop_oneof![Just(0), Just(TODAY), any::<u64>()], ops in prop::collection::vec(op(), 1..300)) {
        let mut wheel = TimerWheel::new(Timestamp(start));
        let mut model = Model { now: start, ..Model::default() };
        // The name of the timer with the key that is the place here.
        let mut names: Vec<TimerId> = Vec::new();
        let after = |now: u64, span: i64| now.saturating_add_signed(span);
        for op in ops {
            match op {
                Op::Insert { from_now } => {
                    let (due, key) = (after(model.now, from_now), names.len() as u32);
                    names.push(wheel.insert(Timestamp(due), key));
                    model.insert(due, key);
                }
                Op::InsertAt { due } => {
                    let key = names.len() as u32;
                    names.push(wheel.insert(Timestamp(due), key));
                    model.insert(due, key);
                }
                Op::Cancel { which } if which < names.len() => {
                    let cancelled = wheel.cancel(names[which]);
                    prop_assert_eq!(cancelled, model.cancel(which as u32).then_some(which as u32));
                }
                Op::Reschedule { which, from_now } if which < names.len() => {
                    let due = after(model.now, from_now);
                    let known = model.cancel(which as u32);
                    prop_assert_eq!(wheel.reschedule(names[which], Timestamp(due)), known);
                    if known {
                        model.insert(due, which as u32);
                    }
                }
                Op::Cancel { .. } | Op::Reschedule { .. } => {}
                Op::Advance { by } => {
                    let now = model.now.saturating_add(by);
                    prop_assert_eq!(advance(&mut wheel, now), model.advance(now));
                }
                Op::AdvanceToNext => {
                    // However often the wheel calls too early, it gets there, and never late.
                    let next = model.next_due();
                    for _ in 0..=LEVELS {
                        let Some(due) = wheel.next_due() else { break };
                        let fired = advance(&mut wheel, due.0);
                        prop_assert_eq!(&fired, &model.advance(due.0));
                        if !fired.is_empty() {
                            break;
                        }
                    }
                    prop_assert!(next.is_none() || model.next_due() != next || model.timers.is_empty());
                }
                Op::RoundTrip => {
                    let mut bytes = Vec::new();
                    wheel.encode(&mut bytes, |out, key| varint::put(out, u64::from(key)));
                    let (back, restored) = decoded(&bytes).expect("what encode wrote");
                    prop_assert_eq!(restored.len(), wheel.len());
                    wheel = back;
                    for (id, key) in restored {
                        names[key as usize] = id;
                    }
                    // Names from before the restart are not carried over it.
                    for (key, name) in names.iter_mut().enumerate() {
                        if !model.timers.iter().any(|timer| timer.2 == key as u32) {
                            *name = TimerId { index: NIL, generation: 0 };
                        }
                    }
                }
            }
            check(&wheel);
            prop_assert_eq!(wheel.len(), model.timers.len());
            match (wheel.next_due(), model.next_due()) {
                (Some(early), Some(due)) => {
                    prop_assert!(early.0 <= due);
                    prop_assert!(early.0 == due || due <= model.now || early.0 > model.now);
                }
                (early, due) => prop_assert_eq!(early.map(|early| early.0), due),
            }
        }
        prop_assert_eq!(advance(&mut wheel, u64::MAX), model.advance(u64::MAX));
    }

    #[test]
    fn any_bytes_decode_to_a_sound_wheel_or_an_error(bytes in prop::collection::vec(prop_oneof![0u8..20, any::<u8>()], 0..100)) {
        if let Ok((wheel, _)) = decoded(&bytes) {
            check(&wheel);
        }
    }
}
