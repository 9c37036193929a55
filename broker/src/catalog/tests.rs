use std::collections::BTreeMap;

use proptest::prelude::{any, prop, prop_assert_eq, proptest};

use super::*;
use crate::broker::Broker;
use crate::config::BrokerConfig;

fn document(version: u64) -> Document {
    Document {
        version,
        body: Bytes::new(),
    }
}

fn write(name: &str, body: Option<&'static str>, expected: Option<u64>) -> Write {
    Write {
        name: name.to_owned(),
        body: body.map(|body| Bytes::from_static(body.as_bytes())),
        expected,
    }
}

proptest! {
    #[test]
    fn a_snapshot_agrees_with_a_map_and_older_ones_stay(
        steps in prop::collection::vec((0..2_000_u64, any::<bool>()), 0..2_500),
        from in 0..2_000_u64,
    ) {
        let name = |number: u64| -> Arc<str> { format!("{number:04}").into() };
        let mut snapshot = Snapshot::default();
        let mut model = BTreeMap::new();
        let mut older = None;
        for (at, (number, put)) in steps.into_iter().enumerate() {
            if at == 700 {
                older = Some((snapshot.clone(), model.clone()));
            }
            snapshot.set(&name(number), put.then(|| document(number)));
            if put {
                model.insert(name(number), document(number));
            } else {
                model.remove(&name(number));
            }
        }
        for (snapshot, model) in older.into_iter().chain([(snapshot, model)]) {
            let found: Vec<_> = snapshot.range(&name(from)).cloned().collect();
            let expected: Vec<_> = model.range(name(from)..).map(|(n, d)| (n.clone(), d.clone())).collect();
            prop_assert_eq!(found, expected);
            prop_assert_eq!(snapshot.get(&name(from)), model.get(&name(from)));
        }
    }
}

#[tokio::test]
async fn documents_are_written_together_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    {
        let broker = Broker::open(BrokerConfig::at(dir.path())).unwrap();
        let catalog = broker.catalog();
        let told = Arc::new(Mutex::new(Vec::new()));
        let watcher = Arc::clone(&told);
        catalog.watch(Box::new(move |changes| watcher.lock().push(changes.len())));
        let both = vec![write("a", Some("1"), Some(0)), write("b", Some("1"), None)];
        assert_eq!(catalog.put_all(both).await.unwrap(), [1, 1]);
        let mixed = vec![
            write("a", None, Some(1)),
            write("b", Some("2"), Some(1)),
            write("never", None, None),
            write("c", Some("1"), Some(0)),
        ];
        assert_eq!(catalog.put_all(mixed).await.unwrap(), [0, 2, 0, 1]);
        let late = vec![
            write("b", Some("3"), Some(2)),
            write("c", Some("2"), Some(7)),
        ];
        assert!(matches!(
            catalog.put_all(late).await,
            Err(BrokerError::Conflict { found: 1, .. })
        ));
        let twice = vec![write("d", Some("1"), None), write("d", None, None)];
        assert!(catalog.put_all(twice).await.is_err());
        assert_eq!(*told.lock(), [2, 4]);
    }
    let broker = Broker::open(BrokerConfig::at(dir.path())).unwrap();
    let all = broker.catalog().list("");
    let found: Vec<_> = all
        .iter()
        .map(|(name, now)| (&**name, now.version))
        .collect();
    assert_eq!(found, [("b", 2), ("c", 1)]);
    assert_eq!(broker.catalog().get("b").unwrap().body, "2");
}
