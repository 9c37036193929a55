//! Whatever can be said comes back as it was.

use proptest::prelude::*;

use super::Source;
use crate::codec::{
    ArrayBuf, Decoder, FrameKind, Method, Properties, Table, TableBuf, Value, fuzz,
};

/// A value that owns what it is made of.
#[derive(Clone, Debug)]
enum Tree {
    Bool(bool),
    I8(i8),
    U8(u8),
    I16(i16),
    U16(u16),
    I32(i32),
    U32(u32),
    I64(i64),
    F32(f32),
    F64(f64),
    Decimal(u8, u32),
    Text(Vec<u8>),
    Time(u64),
    Array(Vec<Tree>),
    Table(Vec<(String, Tree)>),
    Void,
    Bytes(Vec<u8>),
}

impl Tree {
    fn with(&self, use_it: &mut dyn FnMut(Value<'_>)) {
        match self {
            Tree::Array(trees) => {
                let mut array = ArrayBuf::default();
                for tree in trees {
                    tree.with(&mut |value| array.push(value).unwrap());
                }
                use_it(Value::Array(array.as_array()));
            }
            Tree::Table(pairs) => use_it(Value::Table(table(pairs).as_table())),
            Tree::Bool(v) => use_it(Value::Bool(*v)),
            Tree::I8(v) => use_it(Value::I8(*v)),
            Tree::U8(v) => use_it(Value::U8(*v)),
            Tree::I16(v) => use_it(Value::I16(*v)),
            Tree::U16(v) => use_it(Value::U16(*v)),
            Tree::I32(v) => use_it(Value::I32(*v)),
            Tree::U32(v) => use_it(Value::U32(*v)),
            Tree::I64(v) => use_it(Value::I64(*v)),
            Tree::F32(v) => use_it(Value::F32(*v)),
            Tree::F64(v) => use_it(Value::F64(*v)),
            Tree::Decimal(scale, value) => use_it(Value::Decimal {
                scale: *scale,
                value: *value,
            }),
            Tree::Text(v) => use_it(Value::LongString(v)),
            Tree::Time(v) => use_it(Value::Timestamp(*v)),
            Tree::Void => use_it(Value::Void),
            Tree::Bytes(v) => use_it(Value::Bytes(v)),
        }
    }
}

fn table(pairs: &[(String, Tree)]) -> TableBuf {
    let mut table = TableBuf::default();
    for (key, tree) in pairs {
        tree.with(&mut |value| table.put(key, value).unwrap());
    }
    table
}

fn tree() -> impl Strategy<Value = Tree> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(Tree::Bool),
        any::<i8>().prop_map(Tree::I8),
        any::<u8>().prop_map(Tree::U8),
        any::<i16>().prop_map(Tree::I16),
        any::<u16>().prop_map(Tree::U16),
        any::<i32>().prop_map(Tree::I32),
        any::<u32>().prop_map(Tree::U32),
        any::<i64>().prop_map(Tree::I64),
        (-1e9_f32..1e9).prop_map(Tree::F32),
        (-1e9_f64..1e9).prop_map(Tree::F64),
        (any::<u8>(), any::<u32>()).prop_map(|(scale, value)| Tree::Decimal(scale, value)),
        prop::collection::vec(any::<u8>(), 0..20).prop_map(Tree::Text),
        any::<u64>().prop_map(Tree::Time),
        Just(Tree::Void),
        prop::collection::vec(any::<u8>(), 0..20).prop_map(Tree::Bytes),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Tree::Array),
            prop::collection::vec(("\\PC{0,8}", inner), 0..4).prop_map(Tree::Table),
        ]
    })
}

fn pairs() -> impl Strategy<Value = Vec<(String, Tree)>> {
    prop::collection::vec(("\\PC{0,12}", tree()), 0..5)
}

/// Hands out what was generated, over and over.
struct Pool<'a> {
    numbers: &'a [u64],
    texts: &'a [String],
    blobs: &'a [Vec<u8>],
    tables: &'a [TableBuf],
    at: usize,
}

impl Pool<'_> {
    fn next(&mut self) -> usize {
        self.at += 1;
        self.at
    }
}

impl<'a> Source<'a> for Pool<'a> {
    fn number(&mut self) -> u64 {
        let at = self.next();
        self.numbers[at % self.numbers.len()]
    }

    fn short(&mut self) -> &'a str {
        let at = self.next();
        &self.texts[at % self.texts.len()]
    }

    fn long(&mut self) -> &'a [u8] {
        let at = self.next();
        &self.blobs[at % self.blobs.len()]
    }

    fn table(&mut self) -> Table<'a> {
        let at = self.next();
        self.tables[at % self.tables.len()].as_table()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_method_comes_back(
        numbers in prop::collection::vec(any::<u64>(), 7),
        texts in prop::collection::vec("\\PC{0,60}", 5),
        blobs in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 3),
        tables in prop::collection::vec(pairs(), 3),
        channel in any::<u16>(),
    ) {
        let tables: Vec<_> = tables.iter().map(|pairs| table(pairs)).collect();
        for &(class, id) in Method::ALL {
            let mut pool = Pool { numbers: &numbers, texts: &texts, blobs: &blobs, tables: &tables, at: 0 };
            let method = Method::from_source(class, id, &mut pool).unwrap();
            prop_assert_eq!(method.id(), (class, id));
            let mut out = Vec::new();
            method.encode(channel, &mut out).unwrap();
            let (consumed, frame) = Decoder::new(u32::MAX).decode(&out).unwrap().unwrap();
            prop_assert_eq!((consumed, frame.kind, frame.channel), (out.len(), FrameKind::Method, channel));
            prop_assert_eq!(Method::decode(frame.payload), Ok(method));
            fuzz(&out);
        }
    }

    #[test]
    fn every_table_comes_back(pairs in pairs()) {
        let table = table(&pairs);
        let decoded = Table::decode(table.as_table().as_bytes()).unwrap();
        let mut again = TableBuf::default();
        for (key, value) in decoded.iter() {
            again.put(key, value).unwrap();
        }
        prop_assert_eq!(&again, &table);
        prop_assert!(decoded.iter().map(|(key, _)| key).eq(pairs.iter().map(|(key, _)| key.as_str())));
    }

    #[test]
    fn all_properties_come_back(
        texts in prop::collection::vec(prop::option::of("\\PC{0,60}"), 10),
        numbers in (prop::option::of(any::<u8>()), prop::option::of(any::<u8>()), prop::option::of(any::<u64>())),
        headers in prop::option::of(pairs()),
    ) {
        let headers = headers.map(|pairs| table(&pairs));
        let text = |at: usize| texts[at].as_deref();
        let properties = Properties {
            content_type: text(0),
            content_encoding: text(1),
            headers: headers.as_ref().map(TableBuf::as_table),
            delivery_mode: numbers.0,
            priority: numbers.1,
            correlation_id: text(2),
            reply_to: text(3),
            expiration: text(4),
            message_id: text(5),
            timestamp: numbers.2,
            kind: text(6),
            user_id: text(7),
            app_id: text(8),
            cluster_id: text(9),
        };
        let mut out = Vec::new();
        properties.encode(&mut out).unwrap();
        prop_assert_eq!(Properties::decode(&out), Ok(properties));
    }

    #[test]
    fn no_input_is_too_much(bytes in prop::collection::vec(any::<u8>(), 0..200), kind in 1_u8..4) {
        fuzz(&bytes);
        let mut framed = vec![kind, 0, 1];
        framed.extend((bytes.len() as u32).to_be_bytes());
        framed.extend(&bytes);
        framed.push(0xCE);
        fuzz(&framed);
    }

    #[test]
    fn no_payload_of_a_known_method_is_too_much(
        which in any::<prop::sample::Index>(),
        bytes in prop::collection::vec(prop_oneof![Just(0_u8), 0_u8..8, any::<u8>()], 0..80),
    ) {
        let (class, id) = Method::ALL[which.index(Method::ALL.len())];
        let mut framed = vec![1, 0, 1];
        framed.extend((bytes.len() as u32 + 4).to_be_bytes());
        framed.extend(class.to_be_bytes());
        framed.extend(id.to_be_bytes());
        framed.extend(&bytes);
        framed.push(0xCE);
        fuzz(&framed);
    }
}
