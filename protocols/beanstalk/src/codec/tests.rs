use proptest::prelude::*;

use super::request::parse_line;
use super::*;

/// Everything that a stream of bytes says, with bodies owned, when it is shown in the given pieces.
fn frames(job_size_max: u32, pieces: &[&[u8]]) -> (Vec<Seen>, usize) {
    let mut decoder = Decoder::new(job_size_max);
    let mut held = Vec::new();
    let mut seen = Vec::new();
    for piece in pieces {
        held.extend_from_slice(piece);
        let mut at = 0;
        loop {
            let decoded = decoder.decode(&held[at..]);
            at += decoded.consumed;
            let Some(frame) = decoded.frame else { break };
            seen.push(match frame {
                Frame::Put(put) => Seen::Put(put.line, put.body.into_bytes().to_vec()),
                Frame::Request(request) => Seen::Request(format!("{request:?}")),
                Frame::Rejected(rejected) => Seen::Rejected(rejected),
            });
        }
        held.drain(..at);
    }
    (seen, held.len())
}

#[derive(Debug, PartialEq)]
enum Seen {
    Put(PutLine, Vec<u8>),
    Request(String),
    Rejected(Rejected),
}

fn one(line: &[u8]) -> Line<'_> {
    parse_line(line, JOB_SIZE_DEFAULT)
}

fn request(line: &str) -> Request<'_> {
    match one(line.as_bytes()) {
        Line::Request(request) => request,
        other => panic!("{line:?} gave {other:?}"),
    }
}

#[track_caller]
fn assert_rejected(why: Rejection, counted: Option<Op>, lines: &[&str]) {
    for line in lines {
        assert_eq!(
            one(line.as_bytes()),
            Line::Rejected(Rejected { why, counted }),
            "{line:?}"
        );
    }
}

#[track_caller]
fn assert_bad(lines: &[&str]) {
    assert_rejected(Rejection::BadFormat, None, lines);
}

#[track_caller]
fn assert_unknown(lines: &[&str]) {
    assert_rejected(Rejection::UnknownCommand, None, lines);
}

#[test]
fn every_command_is_understood() {
    let max = u64::MAX.to_string();
    for (line, expected) in [
        ("use a", Request::Use { tube: "a" }),
        ("reserve", Request::Reserve),
        (
            "reserve-with-timeout 0",
            Request::ReserveWithTimeout { seconds: 0 },
        ),
        ("reserve-job 7", Request::ReserveJob { id: 7 }),
        ("delete 7", Request::Delete { id: 7 }),
        (&format!("delete {max}"), Request::Delete { id: u64::MAX }),
        (
            "release 7 8 9",
            Request::Release {
                id: 7,
                priority: 8,
                delay_s: 9,
            },
        ),
        (
            "bury 7 4294967295",
            Request::Bury {
                id: 7,
                priority: u32::MAX,
            },
        ),
        ("touch 7", Request::Touch { id: 7 }),
        (
            "watch a+/;.$_()-9Z",
            Request::Watch {
                tube: "a+/;.$_()-9Z",
            },
        ),
        ("ignore a", Request::Ignore { tube: "a" }),
        ("peek 7", Request::Peek { id: 7 }),
        ("peek-ready", Request::PeekReady),
        ("peek-delayed", Request::PeekDelayed),
        ("peek-buried", Request::PeekBuried),
        ("kick 3", Request::Kick { bound: 3 }),
        ("kick-job 7", Request::KickJob { id: 7 }),
        ("stats-job 7", Request::StatsJob { id: 7 }),
        ("stats-tube a", Request::StatsTube { tube: "a" }),
        ("stats", Request::Stats),
        ("list-tubes", Request::ListTubes),
        ("list-tube-used", Request::ListTubeUsed),
        ("list-tubes-watched", Request::ListTubesWatched),
        (
            "pause-tube a 5",
            Request::PauseTube {
                tube: "a",
                seconds: 5,
            },
        ),
        ("quit", Request::Quit),
    ] {
        assert_eq!(request(line), expected);
    }
}

#[test]
fn each_command_counts_as_itself() {
    let lines = [
        ("use a", Some(Op::Use)),
        ("reserve", Some(Op::Reserve)),
        ("reserve-with-timeout 1", Some(Op::ReserveWithTimeout)),
        ("reserve-job 1", Some(Op::ReserveJob)),
        ("delete 1", Some(Op::Delete)),
        ("release 1 1 1", Some(Op::Release)),
        ("bury 1 1", Some(Op::Bury)),
        ("touch 1", Some(Op::Touch)),
        ("watch a", Some(Op::Watch)),
        ("ignore a", Some(Op::Ignore)),
        ("peek 1", Some(Op::Peek)),
        ("peek-ready", Some(Op::PeekReady)),
        ("peek-delayed", Some(Op::PeekDelayed)),
        ("peek-buried", Some(Op::PeekBuried)),
        ("kick 1", Some(Op::Kick)),
        ("kick-job 1", Some(Op::KickJob)),
        ("stats-job 1", Some(Op::StatsJob)),
        ("stats-tube a", Some(Op::StatsTube)),
        ("stats", Some(Op::Stats)),
        ("list-tubes", Some(Op::ListTubes)),
        ("list-tube-used", Some(Op::ListTubeUsed)),
        ("list-tubes-watched", Some(Op::ListTubesWatched)),
        ("pause-tube a 1", Some(Op::PauseTube)),
        ("quit", None),
    ];
    for (line, op) in lines {
        assert_eq!(request(line).op(), op, "{line}");
    }
}

#[test]
fn prefixes_decide() {
    assert_bad(&[
        "reservefoo",
        "reserve-with-timeout",
        "reserve-job",
        "reserve ",
        "stats x",
        "stats-job",
        "statsx",
    ]);
    assert_bad(&[
        "peek-ready1",
        "peek-delayed ",
        "peek-buriedx",
        "list-tubes ",
        "list-tubes-watched1",
        "list-tube-usedx",
    ]);
    assert_unknown(&[
        "",
        " ",
        "put",
        "peek",
        "peekready",
        "delete",
        "release",
        "bury",
        "touch",
        "kick",
        "kick-job",
    ]);
    assert_unknown(&[
        "use",
        "watch",
        "ignore",
        "list-tube",
        "stat",
        "qui",
        "pause",
        "RESERVE",
        " stats",
        "\n",
        "x",
    ]);
    assert_eq!(request("quitxyz"), Request::Quit);
    assert_eq!(
        request("pause-tubea 1"),
        Request::PauseTube {
            tube: "a",
            seconds: 1
        }
    );
}

#[test]
fn numbers_are_unsigned_decimal_and_bounded() {
    assert_eq!(request("delete   7"), Request::Delete { id: 7 });
    assert_eq!(
        request("release  7  8  9"),
        Request::Release {
            id: 7,
            priority: 8,
            delay_s: 9
        }
    );
    assert_bad(&[
        "delete -1",
        "delete +1",
        "delete ",
        "delete x",
        "delete 1x",
        "delete 1 ",
        "delete \t1",
        "delete 0x1",
    ]);
    assert_bad(&[
        "delete 18446744073709551616",
        "touch 1 2",
        "peek 1 2",
        "kick-job 1x",
        "stats-job 1 ",
        "reserve-job 1y",
    ]);
    assert_bad(&[
        "bury 1",
        "bury 1 4294967296",
        "bury 1 1 1",
        "bury 1 -1",
        "bury 1x1",
    ]);
    assert_bad(&[
        "release 1",
        "release 1 1",
        "release 1 1 x",
        "release 1 1 1 1",
        "release 1 4294967296 0",
    ]);
    assert_bad(&[
        "release 1 0 4294967296",
        "reserve-with-timeout 2147483648",
        "reserve-with-timeout -1",
    ]);
    assert_eq!(
        request("reserve-with-timeout 2147483647"),
        Request::ReserveWithTimeout {
            seconds: 2_147_483_647
        }
    );
}

#[test]
fn some_commands_ignore_what_follows() {
    assert_eq!(
        request("reserve-with-timeout 5 and more"),
        Request::ReserveWithTimeout { seconds: 5 }
    );
    assert_eq!(
        request("reserve-with-timeout 5x"),
        Request::ReserveWithTimeout { seconds: 5 }
    );
    assert_eq!(request("kick 5x"), Request::Kick { bound: 5 });
}

#[test]
fn kick_reads_like_strtoul() {
    for (line, bound) in [
        ("kick -1", u32::MAX),
        ("kick +2", 2),
        ("kick \t 3", 3),
        ("kick 0", 0),
        ("kick 4294967296", 0),
        ("kick 18446744073709551615", u32::MAX),
    ] {
        assert_eq!(request(line), Request::Kick { bound });
    }
    assert_bad(&[
        "kick ",
        "kick x",
        "kick -",
        "kick - 1",
        "kick 18446744073709551616",
    ]);
}

#[test]
fn tube_names_are_checked() {
    let longest = "n".repeat(TUBE_NAME_MAX);
    let over = "n".repeat(TUBE_NAME_MAX + 1);
    assert_eq!(
        request(&format!("use {longest}")),
        Request::Use { tube: &longest }
    );
    for command in ["use", "watch", "ignore", "stats-tube"] {
        for name in [
            "",
            " a",
            "-a",
            "a b",
            "a ",
            "a!",
            "a\n",
            "a\r",
            "\u{e9}",
            over.as_str(),
        ] {
            assert_bad(&[&format!("{command} {name}")]);
        }
    }
    assert_eq!(
        request("pause-tube   a 1"),
        Request::PauseTube {
            tube: "a",
            seconds: 1
        }
    );
    assert_bad(&[
        "pause-tube",
        "pause-tube ",
        "pause-tube a",
        "pause-tube a x",
        "pause-tube a 1 2",
        "pause-tube ! 1",
    ]);
    assert_bad(&[
        "pause-tube a 4294967296",
        "pause-tube a -1",
        "pause-tube a 1x",
    ]);
    assert_rejected(
        Rejection::BadFormat,
        Some(Op::PauseTube),
        &["pause-tube -a 1", &format!("pause-tube {over} 1")],
    );
}

#[test]
fn a_nul_anywhere_is_malformed() {
    assert_bad(&["sta\0ts", "\0", "nonsense\0", "put 0 0 1 1\0", "quit\0"]);
}

#[test]
fn put_lines() {
    let put = |line: &str| match one(line.as_bytes()) {
        Line::Put(put) => put,
        other => panic!("{line:?} gave {other:?}"),
    };
    let expected = PutLine {
        priority: 1,
        delay_s: 2,
        ttr_s: 3,
        body_bytes: 4,
    };
    assert_eq!(put("put 1 2 3 4"), expected);
    assert_eq!(put("put    1  2 3     4"), expected);
    let big = PutLine {
        priority: u32::MAX,
        delay_s: u32::MAX,
        ttr_s: u32::MAX,
        body_bytes: 65_535,
    };
    assert_eq!(put("put 4294967295 4294967295 4294967295 65535"), big);
    assert_eq!(put("put 0 0 0 0").ttr_s, 1);
    assert_bad(&[
        "put ",
        "put 1",
        "put 1 2",
        "put 1 2 3",
        "put 1 2 3 x",
        "put x 2 3 4",
        "put -1 2 3 4",
        "put 1 -2 3 4",
    ]);
    assert_bad(&[
        "put 4294967296 0 1 1",
        "put 0 4294967296 1 1",
        "put 0 0 4294967296 1",
        "put 0 0 1 4294967296",
    ]);
    assert_rejected(
        Rejection::BadFormat,
        Some(Op::Put),
        &["put 1 2 3 4 ", "put 1 2 3 4 5", "put 1 2 3 4x"],
    );
    assert_eq!(
        one(b"put 0 0 1 65536"),
        Line::PutTooBig { body_bytes: 65_536 }
    );
    assert_eq!(
        one(b"put 0 0 1 65536 junk"),
        Line::PutTooBig { body_bytes: 65_536 }
    );
}

const BAD_FORMAT: Seen = Seen::Rejected(Rejected {
    why: Rejection::BadFormat,
    counted: None,
});
const UNKNOWN: Seen = Seen::Rejected(Rejected {
    why: Rejection::UnknownCommand,
    counted: None,
});
const TOO_BIG: Seen = Seen::Rejected(Rejected {
    why: Rejection::JobTooBig,
    counted: Some(Op::Put),
});
const NO_CRLF: Seen = Seen::Rejected(Rejected {
    why: Rejection::ExpectedCrlf,
    counted: Some(Op::Put),
});

fn asked(request: &Request<'_>) -> Seen {
    Seen::Request(format!("{request:?}"))
}

fn job(body: &[u8]) -> Seen {
    let line = PutLine {
        priority: 0,
        delay_s: 0,
        ttr_s: 1,
        body_bytes: body.len() as u32,
    };
    Seen::Put(line, body.to_vec())
}

#[track_caller]
fn assert_frames(stream: &[u8], expected: &[Seen]) {
    let bytes: Vec<&[u8]> = stream.chunks(1).collect();
    for pieces in [vec![stream], bytes] {
        let (seen, left) = frames(10, &pieces);
        assert_eq!(seen, expected);
        assert_eq!(left, 0);
    }
}

#[test]
fn only_cr_lf_ends_a_line() {
    assert_frames(b"stats\r\n", &[asked(&Request::Stats)]);
    assert_frames(b"stats\n\r\n", &[BAD_FORMAT]);
    assert_frames(b"stats\r\r\n", &[BAD_FORMAT]);
    assert_frames(
        b"\r\nstats\r\nnope\r\n",
        &[UNKNOWN, asked(&Request::Stats), UNKNOWN],
    );
    assert_eq!(frames(10, &[b"stats\n", b"stats\r"]), (vec![], 12));
}

#[test]
fn a_line_may_have_224_bytes_and_no_more() {
    for (length, expected) in [
        (222, UNKNOWN),
        (223, BAD_FORMAT),
        (224, BAD_FORMAT),
        (225, BAD_FORMAT),
        (10_000, BAD_FORMAT),
    ] {
        let mut stream = vec![b'x'; length];
        stream.extend_from_slice(b"\r\nstats\r\n");
        assert_frames(&stream, &[expected, asked(&Request::Stats)]);
    }
    let mut endless = Decoder::new(10);
    let piece = [b'x'; 1000];
    assert_eq!(
        endless.decode(&piece),
        Decoded {
            consumed: 1000,
            frame: None
        }
    );
    assert_eq!(
        endless.decode(b"\n\r"),
        Decoded {
            consumed: 1,
            frame: None
        }
    );
}

#[test]
fn bodies_are_any_bytes() {
    assert_frames(b"put 0 0 1 3\r\nabc\r\n", &[job(b"abc")]);
    assert_frames(
        b"put 0 0 1 0\r\n\r\nstats\r\n",
        &[job(b""), asked(&Request::Stats)],
    );
    assert_frames(
        b"put 0 0 1 6\r\n\r\n\0\r\n\xff\r\n",
        &[job(b"\r\n\0\r\n\xff")],
    );
}

#[test]
fn a_body_without_cr_lf_is_dropped() {
    assert_frames(
        b"put 0 0 1 3\r\nabcdestats\r\n",
        &[NO_CRLF, asked(&Request::Stats)],
    );
    assert_frames(b"put 0 0 1 3\r\nabc\r\r\r\n", &[NO_CRLF, UNKNOWN]);
}

#[test]
fn a_body_over_the_limit_is_skipped() {
    assert_frames(
        b"put 0 0 1 11\r\n12345678901\r\nstats\r\n",
        &[TOO_BIG, asked(&Request::Stats)],
    );
    // Not even its end is looked at.
    assert_frames(
        b"put 0 0 1 11\r\n12345678901xxstats\r\n",
        &[TOO_BIG, asked(&Request::Stats)],
    );
}

#[test]
fn the_body_of_a_malformed_put_is_read_as_commands() {
    assert_frames(b"put 0 0 -1 3\r\nabc\r\n", &[BAD_FORMAT, UNKNOWN]);
    let counted = Seen::Rejected(Rejected {
        why: Rejection::BadFormat,
        counted: Some(Op::Put),
    });
    assert_frames(
        b"put 0 0 1 5 \r\nstats\r\n",
        &[counted, asked(&Request::Stats)],
    );
}

#[test]
fn a_whole_body_is_borrowed_and_memory_follows_what_arrives() {
    let mut decoder = Decoder::new(JOB_SIZE_LIMIT);
    let whole = decoder.decode(b"put 0 0 1 3\r\nabc\r\nrest");
    assert_eq!(whole.consumed, 18);
    let Some(Frame::Put(put)) = whole.frame else {
        panic!("no put")
    };
    assert_eq!(put.body, Body::Borrowed(b"abc"));

    assert_eq!(decoder.decode(b"put 0 0 1 1000000000\r\nabc").frame, None);
    assert!(decoder.held_bytes() <= 4096);
    let piece = vec![b'x'; 100_000];
    for n in 1..=20 {
        assert_eq!(
            decoder.decode(&piece),
            Decoded {
                consumed: piece.len(),
                frame: None
            }
        );
        assert!(decoder.held_bytes() <= 2 * (n * piece.len() + 4096));
    }
}

#[test]
fn replies_as_bytes() {
    let written = |write: &dyn Fn(&mut Vec<u8>)| {
        let mut out = Vec::new();
        write(&mut out);
        out
    };
    assert_eq!(
        written(&|out| reply::inserted(out, u64::MAX)),
        b"INSERTED 18446744073709551615\r\n"
    );
    assert_eq!(written(&|out| reply::kicked(out, 0)), b"KICKED 0\r\n");
    assert_eq!(written(&|out| reply::watching(out, 2)), b"WATCHING 2\r\n");
    assert_eq!(written(&|out| reply::using(out, "a")), b"USING a\r\n");
    assert_eq!(
        written(&|out| reply::reserved(out, 7, b"a\r\nb")),
        b"RESERVED 7 4\r\na\r\nb\r\n"
    );
    assert_eq!(
        written(&|out| reply::found(out, 7, b"")),
        b"FOUND 7 0\r\n\r\n"
    );
    assert_eq!(
        written(&|out| reply::ok(out, b"---\na: 1\n")),
        b"OK 9\r\n---\na: 1\n\r\n"
    );
    assert_eq!(
        written(&|out| reply::ok_list(out, ["a", "bc"].into_iter())),
        b"OK 13\r\n---\n- a\n- bc\n\r\n"
    );
}

/// Streams that are mostly sensible, so that the interesting paths are walked.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        "(reserve|stats|peek 1|delete 12|use a|kick 3|quit|nonsense)".prop_map(|line| [
            line.as_bytes(),
            b"\r\n"
        ]
        .concat()),
        (
            0_u32..40,
            proptest::collection::vec(any::<u8>(), 0..40),
            any::<bool>()
        )
            .prop_map(|(announced, body, honest)| {
                let announced = if honest {
                    body.len()
                } else {
                    announced as usize
                };
                [
                    format!("put 1 2 3 {announced}\r\n").as_bytes(),
                    &body,
                    b"\r\n",
                ]
                .concat()
            }),
        (200_usize..500).prop_map(|length| [&vec![b'y'; length], b"\r\n".as_slice()].concat()),
        proptest::collection::vec(
            prop_oneof![Just(b'\r'), Just(b'\n'), Just(0), Just(b' '), any::<u8>()],
            0..30
        ),
    ];
    proptest::collection::vec(part, 0..12).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn frames_do_not_depend_on_how_the_bytes_arrive(stream in stream(), cuts in proptest::collection::vec(1_usize..60, 1..40)) {
        let (expected, left) = frames(20, &[&stream]);
        let mut pieces = Vec::new();
        let mut rest = stream.as_slice();
        for cut in cuts.iter().cycle() {
            let (piece, after) = rest.split_at(rest.len().min(*cut));
            pieces.push(piece);
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(frames(20, &pieces), (expected, left));
    }

    #[test]
    fn nothing_breaks_the_decoder(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        fuzz(&bytes);
    }
}
