use std::cell::{Cell, RefCell};

use proptest::prelude::*;

use super::super::Index;
use super::*;

/// Pages in memory, some of which cannot be read.
#[derive(Default)]
struct Store {
    pages: RefCell<BTreeMap<PageId, Vec<u8>>>,
    next: Cell<u32>,
    broken: Cell<bool>,
    reads: Cell<usize>,
    /// What was decoded last; the place of a page is not used again.
    latest: RefCell<Option<(PageId, Arc<Page>)>>,
}

impl Store {
    fn write(&self, bytes: &[u8]) -> Option<PageId> {
        let id = PageId {
            file: 1,
            offset: self.next.get(),
            len: bytes.len() as u32,
        };
        self.next.set(id.offset + 1);
        self.pages.borrow_mut().insert(id, bytes.to_vec());
        Some(id)
    }

    fn free(&self, id: Option<PageId>) {
        if let Some(id) = id {
            assert!(self.pages.borrow_mut().remove(&id).is_some(), "freed once");
        }
    }
}

impl PageSource for Store {
    fn page(&self, id: PageId) -> Result<Arc<Page>, PageError> {
        self.reads.set(self.reads.get() + 1);
        if self.broken.get() {
            return Err(PageError::Missing(id));
        }
        if let Some((latest, page)) = &*self.latest.borrow()
            && *latest == id
        {
            return Ok(Arc::clone(page));
        }
        let bytes = self.pages.borrow().get(&id).cloned();
        let bytes = bytes.expect("a page that is referred to is there");
        let page = Arc::new(Page::decode(&bytes).expect("what was encoded"));
        *self.latest.borrow_mut() = Some((id, Arc::clone(&page)));
        Ok(page)
    }
}

fn filled(n: u64, store: &Store) -> PagedIndex {
    let mut index = PagedIndex::new();
    for seq in 1..=n {
        index.push(Seq(seq), Lsn(seq * 64));
    }
    while index.page_out(|_| true, |bytes| store.write(bytes)) {}
    index
}

#[test]
fn without_pages_nothing_is_read() {
    let store = Store::default();
    let mut index = PagedIndex::new();
    for seq in 1..=10_000 {
        index.push(Seq(seq), Lsn(seq * 64));
    }
    assert_eq!(index.get(Seq(5), &store).unwrap(), Some(Lsn(320)));
    assert_eq!(index.first(&store).unwrap(), Some((Seq(1), Lsn(64))));
    assert!(index.remove(Seq(1), &store).unwrap().is_some());
    assert_eq!(store.reads.get(), 0);
}

#[test]
fn memory_does_not_grow_with_what_is_written_out() {
    let store = Store::default();
    let mut index = PagedIndex::new();
    for seq in 1..=4_000_000 {
        if index.push(Seq(seq), Lsn(seq * 64)) {
            index.page_out(
                |_| true,
                |bytes| {
                    store.write(bytes).map(|mut id| {
                        store.free(Some(id));
                        id.len = 1;
                        id
                    })
                },
            );
        }
    }
    assert_eq!(index.len(), 4_000_000);
    let bytes = index.heap_bytes();
    assert!(bytes < 150_000, "{bytes}");
}

#[test]
fn entries_leave_pages_in_order_with_one_page_after_the_other() {
    let store = Store::default();
    let n = 40_000;
    let mut index = filled(n, &store);
    assert_eq!(
        index.pages().count(),
        7,
        "the head, the newest and the tail stay"
    );
    assert_eq!(index.len() as u64, n);
    for seq in 1..=n {
        assert_eq!(
            index.first(&store).unwrap(),
            Some((Seq(seq), Lsn(seq * 64)))
        );
        let removed = index.remove(Seq(seq), &store).unwrap().unwrap();
        assert_eq!(removed.lsn, Lsn(seq * 64));
        store.free(removed.freed);
    }
    assert!(index.is_empty());
    assert!(store.pages.borrow().is_empty(), "every page was freed");
    assert_eq!(index.resident(), 0);
}

#[test]
fn a_page_that_cannot_be_read_is_an_error_and_changes_nothing() {
    let store = Store::default();
    let mut index = filled(40_000, &store);
    let (number, _) = index.pages().next().unwrap();
    let inside = Seq(number * PAGE_SEQS + 7);
    store.broken.set(true);
    assert!(index.get(inside, &store).is_err());
    assert!(index.remove(inside, &store).is_err());
    assert!(index.next_at_or_after(inside, &store).is_err());
    assert!(index.get(Seq(40_000), &store).is_ok(), "the others are not");
    assert_eq!(index.behind_page(inside), Seq((number + 1) * PAGE_SEQS));
    assert_eq!(index.len(), 40_000);
    assert_eq!(index.forget(inside), None);
    assert_eq!(index.len(), 39_999);
    store.broken.set(false);
    assert_eq!(index.get(inside, &store).unwrap(), None);
    assert_eq!(
        index.next_at_or_after(inside, &store).unwrap().unwrap().0,
        inside.next()
    );
}

#[test]
fn a_refused_position_keeps_its_page_in_memory() {
    let store = Store::default();
    let mut index = PagedIndex::new();
    for seq in 1..=30_000 {
        index.push(Seq(seq), Lsn(seq * 64));
    }
    let refused = Lsn(20_000 * 64);
    let mut out = 0;
    while index.page_out(|lsn| lsn != refused, |bytes| store.write(bytes)) {
        out += 1;
    }
    assert!(out > 0);
    assert!(
        !index
            .pages()
            .any(|(number, _)| number == 20_000 / PAGE_SEQS)
    );
}

#[test]
fn an_encoded_index_that_breaks_a_rule_is_refused() {
    let store = Store::default();
    let index = filled(30_000, &store);
    let mut bytes = Vec::new();
    index.encode(&mut bytes);
    for cut in 0..bytes.len() {
        assert!(
            PagedIndex::decode(&mut &bytes[..cut]).is_err(),
            "cut at {cut}"
        );
    }
    // A page that is in memory as well.
    let mut hot = Vec::new();
    let mut all = Index::new();
    for seq in 1..=30_000 {
        all.push(Seq(seq), Lsn(seq * 64));
    }
    all.encode(&mut hot);
    hot.extend([1, 2, 1, 1, 1, 1, 0]);
    assert!(PagedIndex::decode(&mut hot.as_slice()).is_err());
}

#[derive(Clone, Debug)]
enum Step {
    Push(u64, u64),
    Remove(u64),
    RemoveFirst(u64),
    Forget(u64),
    Out,
    Rewrite,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..6000u64, 1..3u64).prop_map(|(n, gap)| Step::Push(n, gap)),
        4 => any::<u64>().prop_map(Step::Remove),
        3 => (1..5000u64).prop_map(Step::RemoveFirst),
        1 => any::<u64>().prop_map(Step::Forget),
        5 => Just(Step::Out),
        1 => Just(Step::Rewrite),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// With pages written out at any time, an index answers as one that is all in memory.
    #[test]
    fn an_index_with_pages_is_an_index(steps in prop::collection::vec(step(), 1..40)) {
        let store = Store::default();
        let mut index = PagedIndex::new();
        let mut model: BTreeMap<u64, u64> = BTreeMap::new();
        let mut last = 0;
        let remove = |index: &mut PagedIndex, model: &mut BTreeMap<u64, u64>, seq: u64| {
            let removed = index.remove(Seq(seq), &store).unwrap();
            assert_eq!(removed.as_ref().map(|r| r.lsn.0), model.remove(&seq));
            let Some(removed) = removed else { return };
            store.free(removed.freed);
            if let Some(number) = removed.sparse {
                let bytes = index.read_for_rewrite(number, &store).unwrap().unwrap();
                store.free(index.rewritten(number, store.write(&bytes).unwrap()));
            }
        };
        let some = |model: &BTreeMap<u64, u64>, at: u64| {
            let len = model.len().max(1) as u64;
            model.keys().nth((at % len) as usize).copied()
        };
        for step in steps {
            match step {
                Step::Push(n, gap) => for _ in 0..n {
                    last += gap;
                    index.push(Seq(last), Lsn(last * 72));
                    model.insert(last, last * 72);
                },
                Step::Remove(at) => {
                    // A stretch, so that pages become sparse.
                    for seq in some(&model, at).map_or(0..0, |seq| seq..seq + at % 4000) {
                        if seq % 16 != 0 {
                            remove(&mut index, &mut model, seq);
                        }
                    }
                }
                Step::RemoveFirst(n) => for _ in 0..n {
                    let first = index.first(&store).unwrap();
                    assert_eq!(first.map(|(seq, lsn)| (seq.0, lsn.0)), model.first_key_value().map(|(a, b)| (*a, *b)));
                    if let Some((seq, _)) = first {
                        remove(&mut index, &mut model, seq.0);
                    }
                },
                Step::Forget(at) => if let Some(seq) = some(&model, at) {
                    store.free(index.forget(Seq(seq)));
                    model.remove(&seq);
                },
                Step::Out => {
                    while index.page_out(|_| true, |bytes| store.write(bytes)) {}
                }
                Step::Rewrite => {
                    let all: Vec<u64> = index.pages().map(|(number, _)| number).collect();
                    for number in all {
                        let bytes = index.read_for_rewrite(number, &store).unwrap().unwrap();
                        store.free(index.rewritten(number, store.write(&bytes).unwrap()));
                    }
                }
                Step::Restart => {
                    let mut bytes = Vec::new();
                    index.encode(&mut bytes);
                    let mut input = bytes.as_slice();
                    let back = PagedIndex::decode(&mut input).unwrap();
                    assert!(input.is_empty());
                    assert_eq!((back.len(), back.resident()), (index.len(), index.resident()));
                    index = back;
                }
            }
            assert_eq!(index.len(), model.len());
            assert_eq!(index.last_seq(), Seq(last));
            let written: usize = store.pages.borrow().len();
            assert_eq!(written, index.pages().count(), "no page is lost");
            let mut from = 0;
            let mut rng = last;
            while from <= last + 1 {
                let next = index.next_at_or_after(Seq(from), &store).unwrap();
                let wanted = model.range(from..).next().map(|(a, b)| (Seq(*a), Lsn(*b)));
                assert_eq!(next, wanted, "from {from}");
                assert_eq!(index.get(Seq(from), &store).unwrap().map(|l| l.0), model.get(&from).copied());
                rng = rng.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                from += 1 + rng % 700;
            }
        }
    }
}

/// An index of which parts are in pages, with gaps and removals on both sides, and what it must hold.
fn mixed(n: u64, steps: &[(u64, u64)], store: &Store) -> (PagedIndex, BTreeMap<u64, u64>) {
    let mut model = BTreeMap::new();
    let mut index = PagedIndex::new();
    for seq in (1..=n).filter(|seq| seq % 7 != 3) {
        index.push(Seq(seq), Lsn(seq * 64));
        model.insert(seq, seq * 64);
    }
    let mut remove = |index: &mut PagedIndex, at: u64, len: u64| {
        for seq in at % n..(at % n + len).min(n) {
            let removed = index.remove(Seq(seq), store).expect("the store works");
            assert_eq!(removed.as_ref().map(|r| r.lsn.0), model.remove(&seq));
            store.free(removed.and_then(|r| r.freed));
        }
    };
    let (before, after) = steps.split_at(steps.len() / 2);
    for &(at, len) in before {
        remove(&mut index, at, len);
    }
    while index.page_out(|_| true, |bytes| store.write(bytes)) {}
    for &(at, len) in after {
        remove(&mut index, at, len);
    }
    (index, model)
}

/// Everything that an index has.
fn all(index: &PagedIndex, store: &Store) -> BTreeMap<u64, u64> {
    let (mut found, mut from) = (BTreeMap::new(), Seq(0));
    while let Some((seq, lsn)) = index
        .next_at_or_after(from, store)
        .expect("the store works")
    {
        found.insert(seq.0, lsn.0);
        from = seq.next();
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10))]

    #[test]
    fn counting_a_range_reads_at_most_the_pages_of_its_ends(
        n in 1_u64..25_000,
        steps in prop::collection::vec((0_u64..30_000, 1_u64..3_000), 0..6),
        ranges in prop::collection::vec((0_u64..31_000, 0_u64..31_000), 1..20),
    ) {
        let store = Store::default();
        let (index, model) = mixed(n, &steps, &store);
        for (from, to) in ranges {
            let reads = store.reads.get();
            let count = index.count_in(Seq(from), Seq(to), &store).unwrap();
            prop_assert!(store.reads.get() - reads <= 2);
            let expected = if from < to { model.range(from..to).count() } else { 0 };
            prop_assert_eq!(count, expected as u64, "from {} to {}", from, to);
        }
    }

    #[test]
    fn what_is_split_off_and_what_is_left_are_the_whole(
        n in 1_u64..25_000,
        steps in prop::collection::vec((0_u64..30_000, 1_u64..3_000), 0..6),
        below in 0_u64..31_000,
        except in prop::collection::btree_set(1_u64..30_000, 0..5),
    ) {
        let store = Store::default();
        let (mut index, model) = mixed(n, &steps, &store);
        let last = index.last_seq();
        let except: Vec<Seq> = except.into_iter().map(Seq).collect();
        let reads = store.reads.get();
        let mut split = index.split_below(Seq(below), &except);
        prop_assert_eq!(store.reads.get(), reads, "no page is read");
        prop_assert_eq!(index.last_seq(), last);
        prop_assert_eq!(index.len() + split.len(), model.len());
        let (left, gone) = (all(&index, &store), all(&split, &store));
        prop_assert_eq!((left.len(), gone.len()), (index.len(), split.len()));
        prop_assert!(gone.keys().all(|&seq| seq < below && !except.contains(&Seq(seq))));
        let mut whole = left.clone();
        whole.extend(&gone);
        prop_assert_eq!(&whole, &model);
        // Only what shares a chunk or a page with what stays is not split off.
        let near = except.len() as u64 * PAGE_SEQS + PAGE_SEQS + 256;
        prop_assert!(left.range(..below).count() as u64 <= near);
        let mut bytes = Vec::new();
        split.encode(&mut bytes);
        let decoded = PagedIndex::decode(&mut bytes.as_slice()).unwrap();
        prop_assert_eq!(all(&decoded, &store), gone.clone());
        // It is taken apart in pieces, and leaves nothing.
        let mut taken = Vec::new();
        while let Some(some) = split.take_some(&store) {
            prop_assert!(!some.lsns.is_empty() && some.lsns.len() as u64 <= PAGE_SEQS);
            prop_assert_eq!(some.count, some.lsns.len() as u64);
            taken.extend(some.lsns.iter().map(|lsn| lsn.0));
            store.free(some.freed);
        }
        taken.sort_unstable();
        prop_assert_eq!(taken, gone.into_values().collect::<Vec<_>>());
        prop_assert!(split.is_empty());
        prop_assert_eq!(split.resident(), 0);
        // What is left is an index like others.
        index.push(Seq(last.0 + 1), Lsn(8));
        for &seq in left.keys() {
            let removed = index.remove(Seq(seq), &store).unwrap().unwrap();
            prop_assert_eq!(removed.lsn.0, left[&seq]);
            store.free(removed.freed);
        }
        prop_assert_eq!(index.len(), 1);
        prop_assert_eq!(index.resident(), 0);
        prop_assert!(store.pages.borrow().is_empty());
    }
}

#[test]
fn a_page_is_taken_but_for_what_stays_and_also_when_it_cannot_be_read() {
    for broken in [false, true] {
        let store = Store::default();
        let mut index = filled(40_000, &store);
        let (number, _) = index.pages().next().expect("a page");
        let first = number * PAGE_SEQS;
        let gone = index.remove(Seq(first + 5), &store).unwrap();
        assert!(gone.is_some());
        let except = [Seq(first + 5), Seq(first + 9), Seq(first + PAGE_SEQS)];
        store.broken.set(broken);
        let taken = index.take_page(number, &except[1..], &store).unwrap();
        store.broken.set(false);
        assert_eq!(taken.count, PAGE_SEQS - 2);
        assert_eq!(taken.lsns.is_empty(), broken);
        assert_eq!(taken.freed, None);
        assert_eq!(
            index.get(Seq(first + 9), &store).unwrap(),
            Some(Lsn((first + 9) * 64))
        );
        assert_eq!(index.get(Seq(first + 8), &store).unwrap(), None);
        assert_eq!(index.len() as u64, 40_000 - 1 - taken.count);
        let rest = index.take_page(number, &[], &store).unwrap();
        assert_eq!(rest.count, 1);
        assert!(rest.freed.is_some());
        assert!(index.take_page(number, &[], &store).is_none());
    }
}

#[test]
fn a_page_that_is_drained_from_its_front_is_not_written_again() {
    let store = Store::default();
    let mut index = filled(40_000, &store);
    for seq in 1..=40_000 {
        let removed = index.remove(Seq(seq), &store).unwrap().unwrap();
        assert_eq!(removed.sparse, None, "message {seq}");
    }
    let mut index = filled(40_000, &store);
    let (number, _) = index.pages().next().expect("a page");
    let scattered = (0..PAGE_SEQS).filter(|at| at % 16 != 15);
    let sparse = scattered.filter_map(|at| {
        let removed = index.remove(Seq(number * PAGE_SEQS + at), &store).unwrap();
        removed.and_then(|removed| removed.sparse)
    });
    assert_eq!(
        sparse.collect::<Vec<_>>(),
        [number],
        "what is left lies far apart"
    );
}
