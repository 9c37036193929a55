//! `answers.txt`, and what it implies.

use super::super::fuzz;
use super::super::{Decoder, PacketLimits, Sender, Version};
use super::{bytes, hex};

const TABLE: &str = include_str!("answers.txt");

struct Row {
    line: usize,
    versions: Vec<Option<Version>>,
    bytes: Vec<u8>,
    answer: &'static str,
    what: &'static str,
}

fn rows() -> Vec<Row> {
    let lines = TABLE.lines().enumerate();
    let rows = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    rows.map(|(at, line)| {
        let mut fields = line.splitn(4, ';').map(str::trim);
        let mut field = || fields.next().expect("four fields");
        let versions = match field() {
            "-" => vec![None],
            "v3" => vec![Some(Version::V31), Some(Version::V311)],
            "3.1" => vec![Some(Version::V31)],
            "3.1.1" => vec![Some(Version::V311)],
            "5" => vec![Some(Version::V5)],
            other => panic!("line {}: {other} is no version", at + 1),
        };
        Row {
            line: at + 1,
            versions,
            bytes: bytes(field()),
            answer: field(),
            what: field(),
        }
    })
    .collect()
}

fn decoder(version: Option<Version>) -> Decoder {
    version.map_or_else(
        || Decoder::for_server(PacketLimits::default()),
        |version| Decoder::open(Sender::Client, version),
    )
}

#[test]
fn every_row_of_the_table_is_answered_as_it_says() {
    let rows = rows();
    assert!(rows.len() > 200, "the table is there");
    let mut wrong = Vec::new();
    for row in &rows {
        for &version in &row.versions {
            let found = match decoder(version).decode(&row.bytes) {
                Ok(None) => "more".to_owned(),
                Ok(Some(decoded)) if decoded.consumed == row.bytes.len() => "ok".to_owned(),
                Ok(Some(decoded)) => format!("ok after {} bytes", decoded.consumed),
                Err(error) => {
                    let mut sent = Vec::new();
                    error.answer.encode(&mut sent);
                    if sent.is_empty() {
                        "close".to_owned()
                    } else {
                        hex(&sent)
                    }
                }
            };
            if found != row.answer {
                let (line, what, answer) = (row.line, row.what, row.answer);
                wrong.push(format!(
                    "{line} {version:?} ({what}): {answer}, not {found}"
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn an_answer_decodes_as_the_packet_it_is() {
    for row in rows() {
        let sent = match row.answer {
            "ok" | "more" | "close" => continue,
            sent => bytes(sent),
        };
        // A CONNACK of four bytes is that of 3.1.1.
        let version = if sent.len() == 4 {
            Version::V311
        } else {
            Version::V5
        };
        let decoded = Decoder::open(Sender::Server, version).decode(&sent);
        let whole = decoded.map(|packet| packet.map(|packet| packet.consumed));
        assert_eq!(whole, Ok(Some(sent.len())), "line {}", row.line);
    }
}

#[test]
fn a_packet_that_is_cut_off_wants_more_wherever_the_cut_is() {
    for row in rows().iter().filter(|row| row.answer == "ok") {
        for &version in &row.versions {
            for cut in 0..row.bytes.len() {
                let decoded = decoder(version).decode(&row.bytes[..cut]);
                assert_eq!(decoded, Ok(None), "line {}, {cut} bytes", row.line);
            }
        }
    }
}

#[test]
fn what_the_fuzzer_checks_holds_for_the_table_with_any_byte_changed_or_gone() {
    for row in rows() {
        fuzz(&row.bytes);
        for at in 0..row.bytes.len() {
            for value in [0, 1, 2, 0x7F, 0x80, 0xFF] {
                let mut changed = row.bytes.clone();
                changed[at] = value;
                fuzz(&changed);
            }
            let mut shorter = row.bytes.clone();
            shorter.remove(at);
            fuzz(&shorter);
        }
    }
}
