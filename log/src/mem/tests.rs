//! That what is counted is what is there.

use super::*;

/// Blocks, and what is counted of each, agree with what the log says of itself.
fn check(log: &MemLog, living: &BTreeMap<u64, Vec<u8>>) {
    let newest = log.newest.iter().map(|(_, block)| block);
    let blocks: Vec<_> = log.blocks.values().chain(newest).collect();
    let sum = |of: fn(&Block) -> u64| blocks.iter().map(|block| of(block)).sum::<u64>();
    assert_eq!(log.bytes, sum(Block::cost));
    assert_eq!(
        sum(|block| block.apart_bytes as u64),
        sum(|block| block.apart.iter().map(|(_, body)| body.len() as u64).sum())
    );
    let bytes = living.values().map(Vec::len).sum::<usize>() as u64;
    let kept = sum(|block| (block.live_bytes + block.apart_bytes) as u64);
    assert_eq!(kept, bytes);
    assert_eq!(sum(|block| block.live.into()), living.len() as u64);
}

#[test]
fn what_is_referred_to_is_counted_through_packing_and_merging() {
    let mut log = MemLog::new(1 << 30, 1 << 20);
    let mut living = BTreeMap::new();
    let mut state = 1_u64;
    let mut below = |limit: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) % limit
    };
    for round in 0..3_000_u64 {
        let head = vec![round as u8; 1 + below(300) as usize];
        let size = match below(4) {
            0 => 0,
            1 => below(3_000) as usize,
            2 => APART_MIN - 1 + below(2) as usize,
            _ => APART_MIN + below(40_000) as usize,
        };
        let body = Bytes::from(vec![!round as u8; size]);
        let record = RecordParts {
            head: &head,
            body: Body::Shared(&body),
            retained: true,
        };
        let lsn = log.append(&[record], Class::Message).unwrap();
        living.insert(lsn.0, [&head[..], &body[..]].concat());
        // It grows, then shrinks, and grows again: blocks become sparse and go together.
        let many = if round / 500 % 2 == 0 { 1 } else { 4 };
        for _ in 0..below(many) {
            let place = below(living.len().max(1) as u64) as usize;
            let Some(&lsn) = living.keys().nth(place) else {
                break;
            };
            living.remove(&lsn);
            log.retire(Lsn(lsn));
            // Once is enough.
            log.retire(Lsn(lsn));
        }
        check(&log, &living);
    }
    assert!(log.blocks.len() > 1 && !living.is_empty());
    for (lsn, payload) in &living {
        log.read(Lsn(*lsn), &mut |read| assert_eq!(read.to_vec(), *payload))
            .unwrap();
    }
    while let Some((lsn, _)) = living.pop_first() {
        log.retire(Lsn(lsn));
        check(&log, &living);
    }
}
