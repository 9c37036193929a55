use longtail_engine::command::Handle;
use longtail_engine::effect::{
    Counts, Delivery, MessageInfo, MessageState, Refusal, Reply, ShardInfo, StreamInfo,
};
use longtail_engine::{Settle, StreamName, Target, Until, Wait, Which};
use longtail_model::{GroupId, Lsn, Priority, Seq, StreamId, Timestamp};

use super::*;
use crate::codec::Op;
use crate::tenant::{Config, CpuTime, Host, Identity, LogFacts};

struct Still;

impl Host for Still {
    fn now(&self) -> Timestamp {
        Timestamp(100_999)
    }
    fn cpu_time(&self) -> CpuTime {
        CpuTime {
            user_us: 1_000_002,
            system_us: 30,
        }
    }
    fn log(&self) -> LogFacts {
        LogFacts {
            oldest_segment: 3,
            current_segment: 5,
            records_migrated: 7,
            records_written: 11,
            segment_bytes: 13,
        }
    }
    fn segment_of(&self, position: Lsn) -> u64 {
        position.0 / 10
    }
}

#[derive(Default)]
struct Buffer {
    bytes: Vec<u8>,
    full_at: Option<usize>,
}

impl Outbox for Buffer {
    fn tail(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }
    fn is_full(&self) -> bool {
        self.full_at.is_some_and(|limit| self.bytes.len() > limit)
    }
}

/// A session with the tests in the place of edge and shard.
struct Talk {
    tenant: Tenant,
    session: Session,
    commands: Commands,
    unread: Vec<u8>,
    out: Buffer,
    /// Token of the next reply.
    token: Token,
}

impl Talk {
    fn new() -> Self {
        Talk::with(Config::default(), Grants::ALL)
    }

    /// A session whose default tube is open.
    fn with(config: Config, grants: Grants) -> Self {
        let identity = Identity {
            pid: 42,
            instance: 0xab,
            hostname: "host".into(),
            os: "#1 \"odd\"".into(),
            platform: "x86_64".into(),
        };
        let tenant = Tenant::new(config, identity, Arc::new(Still)).unwrap();
        let mut commands = Vec::new();
        let session = Session::open(&tenant, grants, &mut commands);
        let mut talk = Talk {
            tenant,
            session,
            commands,
            unread: Vec::new(),
            out: Buffer::default(),
            token: 0,
        };
        assert_eq!(talk.take_commands().len(), 3);
        talk.answer_all([opened(), opened(), Reply::Done]);
        talk
    }

    fn send(&mut self, bytes: &str) -> Next {
        self.unread.extend_from_slice(bytes.as_bytes());
        self.resume()
    }

    fn resume(&mut self) -> Next {
        let (consumed, next) = self.session.input(
            &self.unread,
            &self.tenant,
            &mut self.commands,
            &mut self.out,
        );
        self.unread.drain(..consumed);
        next
    }

    fn take_commands(&mut self) -> Vec<Command> {
        self.commands
            .drain(..)
            .map(|(_, command)| command)
            .collect()
    }

    /// The only command that was asked since the last call.
    #[track_caller]
    fn command(&mut self) -> Command {
        let mut commands = self.take_commands();
        assert_eq!(commands.len(), 1, "{commands:?}");
        commands.remove(0)
    }

    fn answer(&mut self, reply: Reply) -> Answered {
        let body = Message {
            created: Timestamp(0),
            priority: Priority(0),
            delay_ms: 0,
            ack_timeout_ms: 0,
            expires: Timestamp::NEVER,
            subject: b"",
            id: b"",
            key: 0,
            headers: b"",
            payload: b"bo\r\ndy",
            shared: None,
        };
        let messages = match reply {
            Reply::Delivered(_) | Reply::Peeked { .. } => vec![Some(body)],
            _ => vec![],
        };
        self.effect(&Effect::Reply(self.token, reply), &messages)
    }

    fn effect(&mut self, effect: &Effect, messages: &[Option<Message<'_>>]) -> Answered {
        self.token += 1;
        self.session
            .effect(effect, messages, &self.tenant, &mut self.out)
    }

    fn answer_all<const N: usize>(&mut self, replies: [Reply; N]) {
        for reply in replies {
            assert_eq!(self.answer(reply), Answered::Stay);
        }
    }

    /// What was written since the last call.
    fn heard(&mut self) -> String {
        String::from_utf8(std::mem::take(&mut self.out.bytes)).unwrap()
    }

    /// Sends, lets the shard answer, and returns what is written.
    #[track_caller]
    fn ask<const N: usize>(&mut self, request: &str, replies: [Reply; N]) -> String {
        assert_eq!(self.send(&format!("{request}\r\n")), Next::Read);
        self.answer_all(replies);
        self.heard()
    }

    fn watch(&mut self, tube: &str) -> String {
        self.ask(&format!("watch {tube}"), [opened(), Reply::Done])
    }
}

fn opened() -> Reply {
    Reply::Opened {
        stream: StreamId(1),
    }
}

fn published(seq: u64) -> Reply {
    Reply::Published {
        seq: Seq(seq),
        position: Lsn(8),
        refused: None,
    }
}

fn delivered(seq: u64) -> Reply {
    Reply::Delivered(Delivery {
        consumer: WORKER,
        stream: StreamId(1),
        group: GroupId(1),
        seq: Seq(seq),
        position: Lsn(0),
        redeliveries: 0,
        failures: 0,
        mark: 0,
    })
}

fn refused(refusal: Refusal) -> Reply {
    Reply::Refused(refusal)
}

fn debug(value: &impl std::fmt::Debug) -> String {
    format!("{value:?}")
}

#[test]
fn a_connection_uses_and_watches_the_default_tube() {
    let tenant = Talk::new().tenant;
    let mut commands = Vec::new();
    Session::open(&tenant, Grants::ALL, &mut commands);
    assert_eq!(
        commands.iter().map(|(token, _)| *token).collect::<Vec<_>>(),
        [0, 1, 2]
    );
    for ((_, command), expected) in commands
        .iter()
        .zip([(USED, Role::Producer), (FIRST_WATCHED, Role::Consumer)])
    {
        let Command::Open {
            link,
            name,
            create: Some(create),
            role,
        } = command
        else {
            panic!("{command:?}")
        };
        assert_eq!((*link, *role), expected);
        assert_eq!(*name, StreamName::new("default", "default"));
        assert!(!create.auto_delete);
    }
    assert!(matches!(
        commands[2].1,
        Command::Subscribe {
            consumer: WORKER,
            link: FIRST_WATCHED,
            ..
        }
    ));
}

#[test]
fn requests_become_commands() {
    let job = Handle::Shared(USED, Seq(7));
    let name = StreamName::new("default", "a");
    let take = |wait| Command::Take {
        consumer: WORKER,
        wait,
        deadline_margin_ms: 1000,
    };
    let settle = |how| Command::Settle { message: job, how };
    let head = |which| Command::PeekHead {
        stream: Target::Link(USED),
        group: "".into(),
        which,
    };
    let release = Settle::Release {
        priority: Some(Priority(8)),
        delay_ms: 4_294_967_295_000,
        failed: false,
    };
    for (request, expected) in [
        ("reserve", take(Wait::Forever)),
        ("reserve-with-timeout 0", take(Wait::No)),
        (
            "reserve-with-timeout 2147483647",
            take(Wait::Millis(2_147_483_647_000)),
        ),
        ("reserve-job 7", Command::TakeOne { message: job }),
        ("delete 7", Command::Discard { message: job }),
        ("release 7 8 4294967295", settle(release)),
        (
            "bury 7 8",
            settle(Settle::Park {
                priority: Some(Priority(8)),
            }),
        ),
        (
            "touch 7",
            Command::Extend {
                message: job,
                ms: None,
            },
        ),
        ("peek 7", Command::Peek { message: job }),
        ("peek-ready", head(Which::Ready)),
        ("peek-delayed", head(Which::Delayed)),
        ("peek-buried", head(Which::Parked)),
        (
            "kick -1",
            Command::Kick {
                stream: Target::Link(USED),
                group: "".into(),
                max: u64::from(u32::MAX),
            },
        ),
        ("kick-job 7", Command::KickOne { message: job }),
        (
            "pause-tube a 5",
            Command::Pause {
                stream: name.clone(),
                group: None,
                until: Until::Millis(5000),
                durable: false,
            },
        ),
        ("stats-job 7", Command::DescribeMessage { message: job }),
        ("stats-tube a", Command::DescribeStream { name }),
        ("stats", Command::DescribeShard),
        (
            "list-tubes",
            Command::ListStreams {
                space: Some("default".into()),
            },
        ),
    ] {
        let mut talk = Talk::new();
        assert_eq!(talk.ask(request, []), "");
        assert_eq!(debug(&talk.command()), debug(&expected));
    }
}

#[test]
fn a_put_becomes_a_message() {
    let mut talk = Talk::new();
    assert_eq!(talk.ask("put 1 2 0 3\r\na\r\n", []), "");
    let Command::Publish {
        to: Target::Link(USED),
        also,
        message,
    } = talk.command()
    else {
        panic!()
    };
    assert_eq!(
        (message.priority, message.delay_ms, message.ack_timeout_ms),
        (Priority(1), 2000, 1000)
    );
    assert_eq!(
        (also.len(), &message.payload[..], message.expires_ms),
        (0, &b"a\r\n"[..], None)
    );
    talk.answer_all([published(9)]);
    assert_eq!(talk.heard(), "INSERTED 9\r\n");
}

#[test]
fn replies_become_answers() {
    let seq = Seq(7);
    let position = Lsn(0);
    for (request, reply, expected) in [
        ("reserve", delivered(7), "RESERVED 7 6\r\nbo\r\ndy\r\n"),
        ("reserve", Reply::TimedOut, "TIMED_OUT\r\n"),
        ("reserve", Reply::DeadlineSoon, "DEADLINE_SOON\r\n"),
        (
            "reserve-job 7",
            delivered(7),
            "RESERVED 7 6\r\nbo\r\ndy\r\n",
        ),
        ("reserve-job 7", Reply::NotFound, "NOT_FOUND\r\n"),
        ("delete 7", Reply::Done, "DELETED\r\n"),
        ("delete 7", Reply::NotFound, "NOT_FOUND\r\n"),
        ("release 7 1 1", Reply::Done, "RELEASED\r\n"),
        ("release 7 1 1", Reply::NotFound, "NOT_FOUND\r\n"),
        ("bury 7 1", Reply::Done, "BURIED\r\n"),
        ("touch 7", Reply::Done, "TOUCHED\r\n"),
        (
            "peek 7",
            Reply::Peeked { seq, position },
            "FOUND 7 6\r\nbo\r\ndy\r\n",
        ),
        (
            "peek-ready",
            Reply::Peeked { seq, position },
            "FOUND 7 6\r\nbo\r\ndy\r\n",
        ),
        ("peek-buried", Reply::NotFound, "NOT_FOUND\r\n"),
        ("kick 3", Reply::Count(2), "KICKED 2\r\n"),
        ("kick-job 7", Reply::Done, "KICKED\r\n"),
        ("kick-job 7", Reply::NotFound, "NOT_FOUND\r\n"),
        ("pause-tube a 0", Reply::Done, "PAUSED\r\n"),
        ("pause-tube a 0", Reply::NotFound, "NOT_FOUND\r\n"),
        ("stats-tube a", Reply::NotFound, "NOT_FOUND\r\n"),
        ("stats-job 7", Reply::NotFound, "NOT_FOUND\r\n"),
        ("use a", opened(), "USING a\r\n"),
        (
            "list-tubes",
            Reply::Streams(vec![
                StreamName::new("default", "default"),
                StreamName::new("default", "b"),
            ]),
            "OK 18\r\n---\n- default\n- b\n\r\n",
        ),
    ] {
        assert_eq!(Talk::new().ask(request, [reply]), expected, "{request}");
    }
}

#[test]
fn refusals_have_one_translation() {
    for (refusal, expected) in [
        (Refusal::Limit("l".into()), "OUT_OF_MEMORY\r\n"),
        (Refusal::Full("f".into()), "OUT_OF_MEMORY\r\n"),
        (Refusal::Failed("f".into()), "INTERNAL_ERROR\r\n"),
        (Refusal::TooLarge("t".into()), "JOB_TOO_BIG\r\n"),
        (Refusal::Exists, "INTERNAL_ERROR\r\n"),
        (Refusal::Unsupported("u"), "INTERNAL_ERROR\r\n"),
    ] {
        for request in ["put 0 0 1 1\r\na", "delete 1", "reserve", "use a", "stats"] {
            assert_eq!(
                Talk::new().ask(request, [refused(refusal.clone())]),
                expected,
                "{request}"
            );
        }
    }
}

#[test]
fn a_job_that_cannot_be_read_is_an_internal_error() {
    let mut talk = Talk::new();
    talk.send("reserve\r\npeek 1\r\n");
    assert_eq!(
        talk.effect(&Effect::Reply(3, delivered(1)), &[None]),
        Answered::Stay
    );
    let peeked = Reply::Peeked {
        seq: Seq(1),
        position: Lsn(0),
    };
    assert_eq!(
        talk.effect(&Effect::Reply(4, peeked), &[None]),
        Answered::Stay
    );
    assert_eq!(talk.heard(), "INTERNAL_ERROR\r\nINTERNAL_ERROR\r\n");
}

#[test]
fn answers_keep_the_order_of_the_requests() {
    let mut talk = Talk::new();
    let burst = "reserve\r\nnope\r\nlist-tube-used\r\nuse a\r\nlist-tube-used\r\nignore x\r\nlist-tubes-watched\r\n\
                 put 0 0 1 3\r\nabcdedelete 1\r\n\r\n";
    assert_eq!(talk.send(burst), Next::Read);
    assert_eq!(talk.heard(), "");
    talk.answer_all([delivered(1)]);
    assert_eq!(
        talk.heard(),
        "RESERVED 1 6\r\nbo\r\ndy\r\nUNKNOWN_COMMAND\r\nUSING default\r\n"
    );
    talk.answer_all([opened()]);
    assert_eq!(
        talk.heard(),
        "USING a\r\nUSING a\r\nWATCHING 1\r\nOK 14\r\n---\n- default\n\r\nEXPECTED_CRLF\r\n"
    );
    talk.answer_all([Reply::Done]);
    assert_eq!(talk.heard(), "DELETED\r\nUNKNOWN_COMMAND\r\n");
    assert_eq!(talk.ask("list-tube-used", []), "USING a\r\n");
}

#[test]
fn a_tube_that_cannot_be_used_leaves_the_old_one() {
    let mut talk = Talk::new();
    assert_eq!(talk.ask("use a", [opened()]), "USING a\r\n");
    assert_eq!(
        talk.ask("use b", [refused(Refusal::Limit("tubes".into()))]),
        "OUT_OF_MEMORY\r\n"
    );
    assert_eq!(talk.ask("list-tube-used", []), "USING a\r\n");
}

#[test]
fn watching_and_ignoring() {
    let mut talk = Talk::new();
    assert_eq!(talk.watch("a"), "WATCHING 2\r\n");
    let commands = talk.take_commands();
    let [
        Command::Open {
            link,
            name,
            create: Some(create),
            role: Role::Consumer,
        },
        subscribe,
    ] = &commands[..]
    else {
        panic!("{commands:?}")
    };
    assert_eq!(
        (*link, &*name.name, create.auto_delete),
        (Link(2), "a", true)
    );
    assert!(matches!(
        subscribe,
        Command::Subscribe {
            consumer: WORKER,
            link: Link(2),
            ..
        }
    ));
    assert_eq!(talk.ask("watch a", []), "WATCHING 2\r\n");
    assert_eq!(talk.watch("b"), "WATCHING 3\r\n");
    assert_eq!(talk.watch("c"), "WATCHING 4\r\n");
    talk.take_commands();
    assert_eq!(
        talk.ask("ignore a", [Reply::Done, Reply::Done]),
        "WATCHING 3\r\n"
    );
    let commands = talk.take_commands();
    assert!(matches!(
        commands[..],
        [
            Command::Unsubscribe {
                consumer: WORKER,
                link: Link(2),
                ..
            },
            Command::Close { link: Link(2) }
        ]
    ));
    // As the original does it: the last of the list moves up.
    assert_eq!(
        talk.ask("list-tubes-watched", []),
        "OK 22\r\n---\n- default\n- c\n- b\n\r\n"
    );
    assert_eq!(talk.ask("ignore a", []), "WATCHING 3\r\n");
    assert_eq!(
        talk.ask("ignore default", [Reply::Done, Reply::Done]),
        "WATCHING 2\r\n"
    );
    assert_eq!(
        talk.ask("ignore b", [Reply::Done, Reply::Done]),
        "WATCHING 1\r\n"
    );
    assert_eq!(talk.ask("ignore c", []), "NOT_IGNORED\r\n");
    assert_eq!(talk.ask("list-tubes-watched", []), "OK 8\r\n---\n- c\n\r\n");
    talk.take_commands();
    // Links are used again.
    talk.watch("d");
    assert!(matches!(
        talk.take_commands()[0],
        Command::Open { link: Link(3), .. }
    ));
}

#[test]
fn nothing_is_read_while_a_tube_is_being_opened() {
    let mut talk = Talk::new();
    assert_eq!(
        talk.send("watch a\r\nwatch b\r\nlist-tube-used\r\n"),
        Next::Pause
    );
    assert_eq!(talk.take_commands().len(), 2);
    assert_eq!(
        talk.answer(refused(Refusal::Limit("tubes".into()))),
        Answered::Stay
    );
    assert_eq!(talk.answer(refused(Refusal::UnknownLink)), Answered::Resume);
    assert_eq!(talk.heard(), "OUT_OF_MEMORY\r\n");
    assert_eq!(talk.resume(), Next::Pause);
    assert!(matches!(
        talk.take_commands()[0],
        Command::Open { link: Link(2), .. }
    ));
    talk.answer_all([opened()]);
    assert_eq!(talk.answer(Reply::Done), Answered::Resume);
    assert_eq!(talk.resume(), Next::Read);
    assert_eq!(talk.heard(), "WATCHING 2\r\nUSING default\r\n");
}

#[test]
fn a_connection_watches_only_so_many_tubes() {
    let mut talk = Talk::with(
        Config {
            watched_max: 2,
            ..Config::default()
        },
        Grants::ALL,
    );
    assert_eq!(talk.watch("a"), "WATCHING 2\r\n");
    assert_eq!(talk.ask("watch b", []), "OUT_OF_MEMORY\r\n");
    assert_eq!(talk.ask("watch a", []), "WATCHING 2\r\n");
}

#[test]
fn too_many_requests_under_way_pause_the_connection() {
    let mut talk = Talk::with(
        Config {
            outstanding_max: 4,
            ..Config::default()
        },
        Grants::ALL,
    );
    assert_eq!(
        talk.send("touch 1\r\nnope\r\ntouch 2\r\ntouch 3\r\ntouch 4\r\n"),
        Next::Pause
    );
    assert_eq!(talk.take_commands().len(), 3);
    assert_eq!(talk.answer(Reply::Done), Answered::Stay);
    assert_eq!(talk.answer(Reply::Done), Answered::Resume);
    assert_eq!(talk.resume(), Next::Read);
    assert_eq!(talk.take_commands().len(), 1);
    talk.answer_all([Reply::Done, Reply::Done]);
}

#[test]
fn too_many_bytes_under_way_pause_the_connection() {
    let mut talk = Talk::with(
        Config {
            outstanding_bytes_max: 8,
            ..Config::default()
        },
        Grants::ALL,
    );
    let put = "put 0 0 1 5\r\nabcde\r\n";
    assert_eq!(talk.send(&put.repeat(3)), Next::Pause);
    assert_eq!(talk.take_commands().len(), 2);
    assert_eq!(talk.answer(published(1)), Answered::Stay);
    assert_eq!(talk.answer(published(2)), Answered::Resume);
    assert_eq!(talk.resume(), Next::Read);
}

#[test]
fn answers_with_bodies_are_asked_for_within_a_budget() {
    let config = Config {
        job_size_max: 8 * 1024 * 1024,
        ..Config::default()
    };
    let mut talk = Talk::with(config, Grants::ALL);
    assert_eq!(talk.send("reserve\r\npeek 1\r\npeek 2\r\n"), Next::Pause);
    assert_eq!(talk.take_commands().len(), 2);
    assert_eq!(talk.answer(delivered(1)), Answered::Stay);
    assert_eq!(talk.answer(Reply::NotFound), Answered::Resume);
    // However large a job may be, one always goes through; and names of tubes are listed one list at a time.
    let mut talk = Talk::with(
        Config {
            job_size_max: 1 << 30,
            ..Config::default()
        },
        Grants::ALL,
    );
    assert_eq!(
        talk.send("reserve\r\nlist-tubes\r\nlist-tubes\r\n"),
        Next::Pause
    );
    assert_eq!(talk.answer(delivered(1)), Answered::Resume);
    assert_eq!(talk.resume(), Next::Pause);
    assert_eq!(talk.answer(Reply::Streams(vec![])), Answered::Resume);
    assert_eq!(talk.resume(), Next::Read);
}

#[test]
fn a_full_outbox_stops_the_work() {
    let mut talk = Talk::new();
    talk.out.full_at = Some(10);
    assert_eq!(talk.send("nope\r\nnope\r\nnope\r\n"), Next::Drain);
    assert_eq!(talk.heard(), "UNKNOWN_COMMAND\r\n");
    assert_eq!(talk.resume(), Next::Drain);
    assert_eq!(talk.heard(), "UNKNOWN_COMMAND\r\n");
    assert_eq!(talk.resume(), Next::Read);
    assert_eq!(talk.heard(), "UNKNOWN_COMMAND\r\n");
}

#[test]
fn drain_mode_refuses_new_jobs_after_reading_them() {
    let mut talk = Talk::new();
    talk.tenant.drain();
    assert_eq!(talk.ask("put 0 0 1 7\r\nreserve", []), "DRAINING\r\n");
    assert_eq!(
        talk.ask("put 0 0 1 1\r\nabcnope", []),
        "EXPECTED_CRLF\r\nUNKNOWN_COMMAND\r\n"
    );
    assert_eq!(talk.take_commands().len(), 0);
    assert_eq!(
        talk.ask("reserve", [delivered(1)]),
        "RESERVED 1 6\r\nbo\r\ndy\r\n"
    );
}

#[test]
fn quit_closes_when_everything_before_it_is_answered() {
    assert_eq!(Talk::new().send("quit\r\nput 0 0"), Next::Close);
    let mut talk = Talk::new();
    assert_eq!(
        talk.send("nope\r\ntouch 1\r\nnope\r\nquit\r\ntouch 2\r\n"),
        Next::Pause
    );
    assert_eq!(talk.take_commands().len(), 1);
    assert_eq!(talk.answer(Reply::Done), Answered::Close);
    assert_eq!(
        talk.heard(),
        "UNKNOWN_COMMAND\r\nTOUCHED\r\nUNKNOWN_COMMAND\r\n"
    );
}

#[test]
fn a_half_closed_client_gets_its_answers() {
    assert_eq!(Talk::new().session.end_of_input(), Next::Close);
    let mut talk = Talk::new();
    talk.send("reserve\r\ntouch 1\r\nhalf a li");
    assert_eq!(talk.session.end_of_input(), Next::Pause);
    assert_eq!(talk.answer(Reply::TimedOut), Answered::Stay);
    assert_eq!(talk.answer(Reply::Done), Answered::Close);
    assert_eq!(talk.heard(), "TIMED_OUT\r\nTOUCHED\r\n");
}

#[test]
fn what_a_half_closed_client_sent_before_is_carried_out() {
    let mut talk = Talk::with(
        Config {
            outstanding_max: 2,
            ..Config::default()
        },
        Grants::ALL,
    );
    assert_eq!(
        talk.send("touch 1\r\ntouch 2\r\ntouch 3\r\nhalf a li"),
        Next::Pause
    );
    assert_eq!(talk.session.end_of_input(), Next::Pause);
    assert_eq!(talk.answer(Reply::Done), Answered::Stay);
    assert_eq!(talk.answer(Reply::Done), Answered::Resume);
    assert_eq!(talk.resume(), Next::Read);
    assert_eq!(talk.session.end_of_input(), Next::Pause);
    assert_eq!(talk.answer(Reply::Done), Answered::Close);
}

#[test]
fn the_last_answer_does_not_close_while_input_is_about_to_be_shown_again() {
    let mut talk = Talk::with(
        Config {
            outstanding_max: 4,
            ..Config::default()
        },
        Grants::ALL,
    );
    assert_eq!(talk.send(&"touch 1\r\n".repeat(5)), Next::Pause);
    assert_eq!(talk.session.end_of_input(), Next::Pause);
    talk.answer_all([Reply::Done, Reply::Done]);
    assert_eq!(talk.answer(Reply::Done), Answered::Resume);
    talk.answer_all([Reply::Done]);
    assert_eq!(talk.resume(), Next::Read);
    assert_eq!(talk.session.end_of_input(), Next::Pause);
    assert_eq!(talk.answer(Reply::Done), Answered::Close);
}

#[test]
fn connections_and_commands_are_counted() {
    let mut talk = Talk::new();
    let counts = |talk: &Talk| {
        let counters = talk.tenant.counters();
        (
            counters.connections(),
            counters.connections_total(),
            counters.producers(),
            counters.workers(),
        )
    };
    assert_eq!(counts(&talk), (1, 1, 0, 0));
    talk.ask("put 0 0 1 99999999\r\n", []);
    talk.unread.clear();
    let mut other = Vec::new();
    let second = Session::open(&talk.tenant, Grants::ALL, &mut other);
    assert_eq!(counts(&talk), (2, 2, 0, 0));
    second.close(&talk.tenant.counters);
    talk.session.decoder = Decoder::new(10);
    talk.send("put 0 0 1 1\r\nabc\r\nput 0 0 1 11\r\n01234567890\r\nput 0 0 1 1 \r\nput x\r\n");
    talk.send(
        "reserve\r\nreserve\r\nreserve-with-timeout x\r\npause-tube -a 1\r\nstats\r\nstatsx\r\n",
    );
    assert_eq!(counts(&talk), (1, 2, 1, 1));
    let ops = [
        Op::Put,
        Op::Reserve,
        Op::ReserveWithTimeout,
        Op::PauseTube,
        Op::Stats,
    ];
    let counted = |talk: &Talk| ops.map(|op| talk.tenant.counters().op(op));
    // The rest waits behind the first reserve.
    assert_eq!(counted(&talk), [3, 1, 0, 0, 0]);
    talk.answer_all([Reply::TimedOut, Reply::TimedOut]);
    assert!(talk.session.has_counts());
    talk.session.publish_counts(&talk.tenant.counters);
    assert!(!talk.session.has_counts());
    assert_eq!(counted(&talk), [3, 2, 0, 1, 1]);
    talk.session.close(&talk.tenant.counters);
    assert_eq!(talk.tenant.counters().connections(), 0);
    assert_eq!(
        (
            talk.tenant.counters().producers(),
            talk.tenant.counters().workers()
        ),
        (0, 0)
    );
}

#[test]
fn grants_are_kept() {
    let none = Grants {
        produce: false,
        consume: false,
        manage: false,
    };
    let mut talk = Talk::with(Config::default(), none);
    for request in [
        "put 0 0 1 3\r\nabc",
        "reserve",
        "reserve-job 1",
        "delete 1",
        "peek 1",
        "watch a",
        "pause-tube a 1",
    ] {
        assert_eq!(talk.ask(request, []), "UNKNOWN_COMMAND\r\n", "{request}");
    }
    assert_eq!(talk.ask("use a", [opened()]), "USING a\r\n");
    assert_eq!(talk.ask("list-tube-used", []), "USING a\r\n");
}

#[test]
fn a_client_whose_tube_is_removed_has_to_connect_again() {
    let mut talk = Talk::new();
    let cancelled = Effect::Cancelled {
        consumer: WORKER,
        stream: StreamId(1),
    };
    assert_eq!(talk.effect(&cancelled, &[]), Answered::TubeRemoved);
    let mut talk = Talk::new();
    talk.send("put 0 0 1 1\r\na\r\n");
    assert_eq!(
        talk.answer(refused(Refusal::UnknownLink)),
        Answered::TubeRemoved
    );
    assert_eq!(talk.heard(), "INTERNAL_ERROR\r\n");
}

#[test]
fn a_shard_that_loses_count_ends_the_connection() {
    let mut talk = Talk::new();
    assert_eq!(talk.answer(Reply::Done), Answered::Broken);
    let mut talk = Talk::new();
    talk.send("touch 1\r\ntouch 2\r\n");
    assert_eq!(
        talk.effect(&Effect::Reply(4, Reply::Done), &[]),
        Answered::Broken
    );
}

#[test]
fn stats_of_a_job() {
    let mut info = MessageInfo {
        seq: Seq(7),
        stream: StreamName::new("default", "a"),
        state: MessageState::Held,
        priority: Priority(1024),
        created: Timestamp(90_000),
        due: Some(Timestamp(103_999)),
        delay_ms: 2000,
        ack_timeout_ms: 60_000,
        counts: Counts {
            deliveries: 1,
            timeouts: 2,
            releases: 3,
            parks: 4,
            kicks: 5,
            failures: 6,
        },
        mark: 0,
        bytes: 3,
        position: Lsn(25),
    };
    let expected = "---\nid: 7\ntube: \"a\"\nstate: reserved\npri: 1024\nage: 10\ndelay: 2\nttr: 60\ntime-left: 2\nfile: 2\n\
                    reserves: 1\ntimeouts: 2\nreleases: 3\nburies: 4\nkicks: 5\n";
    let answer = Talk::new().ask("stats-job 7", [Reply::MessageInfo(Box::new(info.clone()))]);
    assert_eq!(answer, format!("OK {}\r\n{expected}\r\n", expected.len()));
    for (state, word, left) in [
        (MessageState::Ready, "ready", "time-left: 0\n"),
        (MessageState::Parked, "buried", "time-left: 0\n"),
        (MessageState::Delayed, "delayed", "time-left: 2\n"),
    ] {
        info.state = state;
        let answer = Talk::new().ask("stats-job 7", [Reply::MessageInfo(Box::new(info.clone()))]);
        assert!(
            answer.contains(&format!("state: {word}\n")) && answer.contains(left),
            "{answer}"
        );
    }
}

#[test]
fn stats_of_a_tube() {
    let info = StreamInfo {
        urgent: 1,
        ready: 2,
        held: 3,
        delayed: 4,
        parked: 5,
        appended: 6,
        producers: 7,
        consumers: 8,
        waiting: 9,
        removed: 10,
        pauses: 11,
        pause_ms: 12_000,
        pause_left_ms: 2_000,
        ..StreamInfo::default()
    };
    let expected = "---\nname: \"a\"\ncurrent-jobs-urgent: 1\ncurrent-jobs-ready: 2\ncurrent-jobs-reserved: 3\n\
                    current-jobs-delayed: 4\ncurrent-jobs-buried: 5\ntotal-jobs: 6\ncurrent-using: 7\ncurrent-watching: 8\n\
                    current-waiting: 9\ncmd-delete: 10\ncmd-pause-tube: 11\npause: 12\npause-time-left: 1\n";
    let answer = Talk::new().ask("stats-tube a", [Reply::StreamInfo(Box::new(info))]);
    assert_eq!(answer, format!("OK {}\r\n{expected}\r\n", expected.len()));
}

#[test]
fn stats_of_the_server() {
    let totals = StreamInfo {
        urgent: 1,
        ready: 2,
        held: 3,
        delayed: 4,
        parked: 5,
        waiting: 7,
        ..Default::default()
    };
    let info = ShardInfo {
        totals,
        streams: 8,
        timeouts: 9,
        appended: 6,
        ..ShardInfo::default()
    };
    let mut talk = Talk::new();
    talk.tenant.drain();
    talk.ask("put 0 0 1 1\r\na", []);
    let answer = talk.ask("stats", [Reply::ShardInfo(Box::new(info))]);
    let expected = "---\ncurrent-jobs-urgent: 1\ncurrent-jobs-ready: 2\ncurrent-jobs-reserved: 3\n\
                    current-jobs-delayed: 4\ncurrent-jobs-buried: 5\n\
                    cmd-put: 1\ncmd-peek: 0\ncmd-peek-ready: 0\ncmd-peek-delayed: 0\ncmd-peek-buried: 0\ncmd-reserve: 0\n\
                    cmd-reserve-with-timeout: 0\ncmd-delete: 0\ncmd-release: 0\ncmd-use: 0\ncmd-watch: 0\ncmd-ignore: 0\n\
                    cmd-bury: 0\ncmd-kick: 0\ncmd-touch: 0\ncmd-stats: 1\ncmd-stats-job: 0\ncmd-stats-tube: 0\n\
                    cmd-list-tubes: 0\ncmd-list-tube-used: 0\ncmd-list-tubes-watched: 0\ncmd-pause-tube: 0\n\
                    job-timeouts: 9\ntotal-jobs: 6\nmax-job-size: 65535\ncurrent-tubes: 8\ncurrent-connections: 1\n\
                    current-producers: 1\ncurrent-workers: 0\ncurrent-waiting: 7\ntotal-connections: 1\npid: 42\n\
                    version: \"1.13+longtail.0.1.0\"\nrusage-utime: 1.000002\nrusage-stime: 0.000030\nuptime: 0\n\
                    binlog-oldest-index: 3\nbinlog-current-index: 5\nbinlog-records-migrated: 7\n\
                    binlog-records-written: 11\nbinlog-max-size: 13\ndraining: true\nid: 00000000000000ab\n\
                    hostname: \"host\"\nos: \"#1 \\\"odd\\\"\"\nplatform: \"x86_64\"\n";
    assert_eq!(
        answer
            .split_once("\r\n")
            .unwrap()
            .1
            .strip_suffix("\r\n")
            .unwrap(),
        expected
    );
}

#[test]
fn a_request_is_counted_when_its_turn_comes() {
    let mut talk = Talk::new();
    talk.send("use a\r\nstats\r\nput 0 0 1 1\r\nx\r\nreserve\r\nput 0 0 1 1\r\nx\r\n");
    let stats = |talk: &mut Talk| {
        talk.out.bytes.clear();
        talk.answer(Reply::ShardInfo(Box::default()));
        String::from_utf8(std::mem::take(&mut talk.out.bytes)).unwrap()
    };
    talk.answer(opened());
    let text = stats(&mut talk);
    for row in [
        "cmd-use: 1\n",
        "cmd-stats: 1\n",
        "cmd-put: 0\n",
        "current-producers: 0\n",
    ] {
        assert!(text.contains(row), "{row} {text}");
    }
    talk.answer(Reply::Published {
        seq: Seq(1),
        position: Lsn(8),
        refused: None,
    });
    talk.session.publish_counts(&talk.tenant.counters);
    let counters = talk.tenant.counters();
    assert_eq!((counters.op(Op::Put), counters.op(Op::Reserve)), (1, 1));
    assert_eq!((counters.producers(), counters.workers()), (1, 1));
}

#[test]
fn who_asks_for_a_certain_job_is_a_worker_once_it_has_it() {
    let mut talk = Talk::new();
    talk.ask("reserve-job 7", [Reply::NotFound]);
    assert_eq!(talk.tenant.counters().workers(), 0);
    talk.ask("reserve-job 7", [delivered(7)]);
    talk.ask("reserve-job 8", [delivered(8)]);
    assert_eq!(talk.tenant.counters().workers(), 1);
}

#[test]
fn a_stream_that_is_no_tube_is_not_used() {
    let mut talk = Talk::new();
    let exists = || refused(Refusal::Exists);
    assert_eq!(talk.ask("use log", [exists()]), "INTERNAL_ERROR\r\n");
    let unknown = refused(Refusal::UnknownLink);
    assert_eq!(
        talk.ask("watch log", [exists(), unknown]),
        "INTERNAL_ERROR\r\n"
    );
    assert_eq!(talk.ask("list-tube-used", []), "USING default\r\n");
    assert_eq!(talk.ask("ignore default", []), "NOT_IGNORED\r\n");
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let tenant = |config| {
        Tenant::new(config, Identity::of_process(1), Arc::new(Still))
            .err()
            .map(|error| error.to_string())
    };
    assert_eq!(tenant(Config::default()), None);
    let too_big = tenant(Config {
        job_size_max: (1 << 30) + 1,
        ..Config::default()
    })
    .unwrap();
    assert!(too_big.contains("1073741825"), "{too_big}");
    let zero = tenant(Config {
        outstanding_max: 0,
        ..Config::default()
    })
    .unwrap();
    assert!(zero.contains("outstanding_max"), "{zero}");
}
