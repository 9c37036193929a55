//! A session without sockets and tasks: bytes in, bytes and actions out.

use longtail_broker::auth::{Action as Right, Identity, Pattern, Rule};
use longtail_broker::client::block_on;
use longtail_broker::{Broker, BrokerConfig};

use super::*;
use crate::access::Admitted;
use crate::alarms::Short;
use crate::codec::{Table, TableBuf, Value};
use crate::session::shared::Answerer;
use crate::tally;
use crate::topology::{DeclareExchange, DeclareQueue};

pub(super) struct Nobody;

impl Mailbox for Nobody {
    fn deliver(&self, _at: Place, _reply: &Reply) {}

    fn shared(&self, _at: Place, _told: Told, _refused: bool) {}

    fn queue_gone(&self, _at: Place, _consumer: u32) {}
}

struct Talk {
    tenant: Arc<Tenant>,
    session: Session,
    out: Out,
}

impl Talk {
    fn new() -> Self {
        Talk::with(Config::default())
    }

    fn with(config: Config) -> Self {
        let broker = Broker::open(BrokerConfig::in_memory()).unwrap();
        Talk {
            tenant: Tenant::new(config, broker),
            session: Session::new(1, Arc::new(Nobody)),
            out: Out::new(1 << 20),
        }
    }

    fn hear(&mut self, bytes: &[u8]) -> Input {
        self.session.input(bytes, &self.tenant, &mut self.out)
    }

    fn say(&mut self, method: &Method<'_>) -> Input {
        let mut bytes = Vec::new();
        method.encode(0, &mut bytes).unwrap();
        self.hear(&bytes)
    }

    /// Everything that was written, from one frame on.
    fn written(&mut self) -> Vec<u8> {
        std::mem::take(self.out.tail())
    }

    fn start_ok(&mut self, mechanism: &str, response: &[u8]) -> Input {
        self.say(&Method::ConnectionStartOk {
            client_properties: Table::default(),
            mechanism,
            response,
            locale: "en_US",
        })
    }
}

fn method(frame: &[u8]) -> Method<'_> {
    let decoded = Decoder::new(u32::MAX).decode(frame).unwrap().unwrap();
    Method::decode(decoded.1.payload).unwrap()
}

#[test]
fn a_login_waits_for_its_check_and_what_follows_waits_for_the_login() {
    let mut talk = Talk::new();
    assert_eq!(talk.hear(b"AMQP"), Input::read(0));
    assert_eq!(talk.hear(b"AMQP\0\0\x09\x01"), Input::read(8));
    let start = talk.written();
    let Method::ConnectionStart {
        server_properties,
        mechanisms,
        ..
    } = method(&start)
    else {
        panic!("{start:?}");
    };
    assert_eq!(mechanisms, b"PLAIN AMQPLAIN");
    let product = server_properties.get("product");
    assert_eq!(product, Some(Value::LongString(b"Longtail")));
    let then = talk.start_ok("PLAIN", b"as\0guest\0a\0b").then;
    assert_eq!(then, Then::Pause);
    let actions = talk.session.take_actions();
    assert!(matches!(actions[..], [Action::Verify]), "{actions:?}");
    let shown = talk.session.credentials();
    assert_eq!((&*shown.user, &*shown.password), ("guest", &b"a\0b"[..]));
    assert_eq!(talk.hear(b"\x01"), Input::pause(0));
    let config = Config::default();
    assert_eq!(talk.session.verified(true, &config, &mut talk.out), None);
    assert!(talk.session.after().resume);
    let tune = talk.written();
    let expected = Method::ConnectionTune {
        channel_max: 2047,
        frame_max: 131_072,
        heartbeat: 60,
    };
    assert_eq!(method(&tune), expected);
}

#[test]
fn a_refused_login_is_told_only_to_whom_understands_it() {
    let mut talk = Talk::new();
    talk.hear(b"AMQP\0\0\x09\x01");
    talk.start_ok("PLAIN", b"\0guest\0guest");
    talk.written();
    let config = Config::default();
    let why = talk.session.verified(false, &config, &mut talk.out);
    assert_eq!(why, Some(CloseReason::Refused("bad credentials".into())));
    assert!(talk.written().is_empty());

    let mut talk = Talk::new();
    talk.hear(b"AMQP\0\0\x09\x01");
    let mut capabilities = TableBuf::default();
    let understands = Value::Bool(true);
    (capabilities.put("authentication_failure_close", understands)).unwrap();
    let mut properties = TableBuf::default();
    let capabilities = Value::Table(capabilities.as_table());
    properties.put("capabilities", capabilities).unwrap();
    talk.say(&Method::ConnectionStartOk {
        client_properties: properties.as_table(),
        mechanism: "AMQPLAIN",
        response: b"\x05LOGINS\0\0\0\x01u\x08PASSWORDS\0\0\0\x01p",
        locale: "en_US",
    });
    talk.written();
    assert!(
        talk.session
            .verified(false, &config, &mut talk.out)
            .is_some()
    );
    let told = talk.written();
    let Method::ConnectionClose {
        reply_code,
        reply_text,
        ..
    } = method(&told)
    else {
        panic!("{told:?}");
    };
    let expected = "ACCESS_REFUSED - Login was refused using authentication mechanism AMQPLAIN. For details see the \
                    broker logfile.";
    assert_eq!((reply_code, reply_text), (403, expected));
}

#[test]
fn after_goodbye_nothing_more_is_looked_at() {
    let mut talk = Talk::new();
    talk.hear(b"AMQP\0\0\x09\x01");
    let then = talk.hear(b"\x04garbage").then;
    assert!(
        matches!(then, Then::Close(CloseReason::Malformed(_))),
        "{then:?}"
    );
    let written = talk.written();
    let close = &written[written.len() - 60..];
    assert!(close.windows(11).any(|part| part == b"FRAME_ERROR"));
    assert_eq!(talk.hear(b"more"), Input::read(4));
    assert!(talk.written().is_empty());
}

#[test]
fn external_is_offered_and_taken_where_there_is_a_certificate() {
    let mut talk = Talk::new();
    talk.session.introduce(None, Some("device-1".to_owned()));
    talk.hear(b"AMQP\0\0\x09\x01");
    let start = talk.written();
    let Method::ConnectionStart { mechanisms, .. } = method(&start) else {
        panic!("{start:?}");
    };
    assert_eq!(mechanisms, b"PLAIN AMQPLAIN EXTERNAL");
    assert_eq!(talk.start_ok("EXTERNAL", b"").then, Then::Pause);
    let shown = talk.session.credentials();
    assert_eq!((&*shown.user, shown.external), ("device-1", true));

    let mut talk = Talk::new();
    talk.hear(b"AMQP\0\0\x09\x01");
    let then = talk.start_ok("EXTERNAL", b"").then;
    assert!(matches!(then, Then::Close(_)), "{then:?}");
}

#[test]
fn inside_websocket_frames_are_small() {
    let mut talk = Talk::new();
    talk.session.introduce(Some(Config::FRAME_MIN), None);
    talk.hear(b"AMQP\0\0\x09\x01");
    talk.start_ok("PLAIN", b"\0guest\0guest");
    talk.written();
    let config = Config::default();
    assert_eq!(talk.session.verified(true, &config, &mut talk.out), None);
    let tune = talk.written();
    let Method::ConnectionTune { frame_max, .. } = method(&tune) else {
        panic!("{tune:?}");
    };
    assert_eq!(frame_max, 4096);
    let then = talk.say(&Method::ConnectionTuneOk {
        channel_max: 0,
        frame_max: 131_072,
        heartbeat: 0,
    });
    assert!(matches!(then.then, Then::Close(_)), "{then:?}");
}

/// A client in the vhost `/` with one channel that is attached to nothing, who may do everything.
fn running(capabilities: &[&str]) -> Talk {
    running_with(Talk::new(), Grants::full(), capabilities)
}

fn running_with(mut talk: Talk, grants: Grants, capabilities: &[&str]) -> Talk {
    talk.hear(b"AMQP\0\0\x09\x01");
    let (mut table, mut properties) = (TableBuf::default(), TableBuf::default());
    for capability in capabilities {
        table.put(capability, Value::Bool(true)).unwrap();
    }
    let capabilities = Value::Table(table.as_table());
    properties.put("capabilities", capabilities).unwrap();
    talk.say(&Method::ConnectionStartOk {
        client_properties: properties.as_table(),
        mechanism: "PLAIN",
        response: b"\0guest\0guest",
        locale: "en_US",
    });
    let config = Config::default();
    assert_eq!(talk.session.verified(true, &config, &mut talk.out), None);
    talk.say(&Method::ConnectionTuneOk {
        channel_max: 10,
        frame_max: 4096,
        heartbeat: 7,
    });
    talk.say(&Method::ConnectionOpen {
        virtual_host: "/",
        reserved_1: "",
        reserved_2: false,
    });
    let topology = block_on(talk.tenant.topology(&"default".into())).unwrap();
    let admitted = Admitted::with(Arc::new(grants));
    let admitted = Ok((admitted, topology));
    assert_eq!(talk.session.admitted(admitted, &mut talk.out), None);
    let mut open = Vec::new();
    let method = Method::ChannelOpen { reserved_1: "" };
    method.encode(1, &mut open).unwrap();
    talk.hear(&open);
    assert!(talk.session.channel_opened(1, 1, &[], &mut talk.out));
    talk.session.take_actions();
    talk.written();
    talk
}

fn publish() -> Vec<u8> {
    let mut bytes = Vec::new();
    let method = Method::BasicPublish {
        ticket: 0,
        exchange: "",
        routing_key: "q",
        mandatory: false,
        immediate: false,
    };
    method.encode(1, &mut bytes).unwrap();
    bytes
}

#[test]
fn who_publishes_while_something_is_short_is_told_and_waits() {
    let short = Short {
        disk: true,
        memory: false,
    };
    let mut talk = running(&["connection.blocked"]);
    talk.tenant.alarms().note(short);
    // Only publishing waits.
    talk.hear(&crate::codec::HEARTBEAT);
    assert!(talk.written().is_empty());
    assert_eq!(talk.hear(&publish()), Input::pause(0));
    let actions = talk.session.take_actions();
    assert!(matches!(actions[..], [Action::Blocked]), "{actions:?}");
    let told = talk.written();
    let reason = "low on disk";
    assert_eq!(method(&told), Method::ConnectionBlocked { reason });
    assert_eq!(talk.session.about().state, "blocked");
    assert_eq!(talk.hear(&publish()), Input::pause(0));
    assert!(talk.written().is_empty(), "told once");
    assert!(talk.tenant.alarms().note(Short::default()));
    assert_eq!(talk.session.unblock(&mut talk.out), Some(7));
    let told = talk.written();
    assert_eq!(method(&told), Method::ConnectionUnblocked {});
    assert_eq!(talk.session.unblock(&mut talk.out), None);
    let all = publish();
    assert_eq!(talk.hear(&all), Input::read(all.len()));
}

#[test]
fn who_does_not_understand_that_it_is_blocked_only_waits() {
    let mut talk = running(&[]);
    talk.tenant.alarms().note(Short {
        disk: false,
        memory: true,
    });
    assert_eq!(talk.hear(&publish()), Input::pause(0));
    assert_eq!(talk.session.unblock(&mut talk.out), Some(7));
    assert!(talk.written().is_empty());
    talk.session.is_of_this_process();
    let all = publish();
    assert_eq!(talk.hear(&all), Input::read(all.len()));
}

#[test]
fn a_secret_that_is_renewed_lasts_as_long_as_it_says() {
    let mut talk = running(&[]);
    let first = talk.session.next_secret();
    let renew = Method::ConnectionUpdateSecret {
        new_secret: b"new",
        reason: "it is time",
    };
    assert_eq!(talk.say(&renew).then, Then::Pause);
    let actions = talk.session.take_actions();
    assert!(matches!(actions[..], [Action::Renew]), "{actions:?}");
    assert_eq!(talk.session.credentials().password, b"new");
    let second = talk.session.next_secret();
    let admitted = Some(Admitted::with(Grants::everything()));
    assert_eq!(talk.session.renewed(admitted, &mut talk.out), None);
    let told = talk.written();
    assert_eq!(method(&told), Method::ConnectionUpdateSecretOk {});
    assert!(talk.session.credentials().password.is_empty());
    assert!(!talk.session.expire(first, &mut talk.out));
    assert!(talk.written().is_empty());
    assert!(talk.session.expire(second, &mut talk.out));
    let told = talk.written();
    let Method::ConnectionClose { reply_code, .. } = method(&told) else {
        panic!("{told:?}");
    };
    assert_eq!(reply_code, 320);
    assert!(!talk.session.expire(second, &mut talk.out), "it has gone");
}

#[test]
fn a_secret_that_is_refused_ends_the_connection() {
    let mut talk = running(&[]);
    talk.say(&Method::ConnectionUpdateSecret {
        new_secret: b"odd",
        reason: "",
    });
    assert!(talk.session.renewed(None, &mut talk.out).is_some());
    let told = talk.written();
    let Method::ConnectionClose { reply_code, .. } = method(&told) else {
        panic!("{told:?}");
    };
    assert_eq!(reply_code, 530);
}

/// What an account may do that has the right to these things, by name.
fn rights(granted: &[(Right, &str)]) -> Grants {
    let rules = granted.iter().map(|(action, subject)| Rule {
        actions: vec![*action],
        effect: Default::default(),
        subject: Pattern::new(subject).unwrap(),
    });
    let nobody = Identity {
        account: "a",
        client_id: "",
    };
    Grants::compile(&rules.collect::<Vec<_>>(), &nobody).unwrap()
}

/// What a client with these rights is answered who leaves the name of a queue to the server; `None`: it is declared.
fn declare_unnamed(granted: &[(Right, &str)]) -> Option<u16> {
    let mut talk = running_with(Talk::new(), rights(granted), &[]);
    let mut arguments = TableBuf::default();
    let exchange = Value::LongString(b"letters");
    arguments.put("x-dead-letter-exchange", exchange).unwrap();
    let declare = Method::QueueDeclare {
        ticket: 0,
        queue: "",
        passive: false,
        durable: false,
        exclusive: true,
        auto_delete: false,
        no_wait: false,
        arguments: arguments.as_table(),
    };
    let mut bytes = Vec::new();
    declare.encode(1, &mut bytes).unwrap();
    talk.hear(&bytes);
    let told = talk.written();
    if told.is_empty() {
        let actions = talk.session.take_actions();
        assert!(matches!(actions[..], [Action::Topology(_)]), "{actions:?}");
        return None;
    }
    let Method::ChannelClose { reply_code, .. } = method(&told) else {
        panic!("{told:?}");
    };
    Some(reply_code)
}

#[test]
fn a_queue_whose_name_is_left_to_the_server_needs_the_rights_of_any_other() {
    let generated = [(Right::Configure, "amq/#"), (Right::Consume, "amq/#")];
    assert_eq!(declare_unnamed(&[]), Some(403), "may not declare");
    assert_eq!(
        declare_unnamed(&generated),
        Some(403),
        "may not write to where its letters would go"
    );
    let all = [&generated[..], &[(Right::Publish, "letters")]].concat();
    assert_eq!(declare_unnamed(&all), None);
}

#[test]
fn a_binding_key_that_cannot_be_matched_lets_nobody_in() {
    // Of a kind that does not look at keys, and would take any.
    let config = Config {
        subjects_exchange: Some("amq.fanout".to_owned()),
        ..Config::default()
    };
    let granted = [(Right::Consume, "amq/fanout"), (Right::Publish, "q")];
    let long = "#.".repeat(127);
    for (routing_key, expected) in [("secret", 403), (&long, 406)] {
        let mut talk = running_with(Talk::with(config.clone()), rights(&granted), &[]);
        let bind = Method::QueueBind {
            ticket: 0,
            queue: "q",
            exchange: "amq.fanout",
            routing_key,
            no_wait: false,
            arguments: Table::default(),
        };
        let mut bytes = Vec::new();
        bind.encode(1, &mut bytes).unwrap();
        talk.hear(&bytes);
        let told = talk.written();
        let Method::ChannelClose { reply_code, .. } = method(&told) else {
            panic!("{told:?}");
        };
        assert_eq!(reply_code, expected);
    }
}

/// Has channel 1 end by the server's doing.
fn lose_channel(talk: &mut Talk) {
    let exception = crate::exception::precondition("too long");
    assert_eq!(talk.session.fail(1, &exception, &mut talk.out), None);
    let told = talk.written();
    let Method::ChannelClose { reply_code, .. } = method(&told) else {
        panic!("{told:?}");
    };
    assert_eq!(reply_code, 406);
}

/// The client's `channel.close-ok` for channel 1.
fn close_ok() -> Vec<u8> {
    let mut bytes = Vec::new();
    Method::ChannelCloseOk {}.encode(1, &mut bytes).unwrap();
    bytes
}

/// A client whose channel 1 has sessions at shards that nobody runs, and a queue `q`.
fn unanswered() -> Talk {
    let mut talk = running(&[]);
    declare_q(&talk);
    let shards = 0..talk.tenant.shards().count();
    let session = |shard: u16| (ShardId(shard), SessionId(u64::from(shard)));
    let sessions: Vec<_> = shards.map(session).collect();
    talk.session.channels.insert(1, Slot::Opening);
    let out = &mut talk.out;
    assert!(talk.session.channel_opened(1, 2, &sessions, out));
    talk.session.after();
    talk.written();
    talk
}

#[test]
fn a_channel_that_ends_before_its_shards_have_answered_leaves_nothing_to_wait_for() {
    let get = Method::BasicGet {
        ticket: 0,
        queue: "q",
        no_ack: false,
    };
    let consume = Method::BasicConsume {
        ticket: 0,
        queue: "q",
        consumer_tag: "a",
        no_local: false,
        no_ack: true,
        exclusive: false,
        no_wait: true,
        arguments: Table::default(),
    };
    let mut select = Vec::new();
    Method::TxSelect {}.encode(1, &mut select).unwrap();
    select.extend(publish());
    let head = [0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    select.extend([2, 0, 1, 0, 0, 0, 14].iter().chain(&head).chain(&[0xCE]));
    for (before, asks) in [
        (&[][..], get),
        (&[], consume),
        (&select, Method::TxCommit {}),
    ] {
        let mut talk = unanswered();
        let mut all = before.to_vec();
        asks.encode(1, &mut all).unwrap();
        let asked = all.len();
        all.extend(close_ok());
        assert_eq!(talk.hear(&all), Input::pause(asked), "{asks:?}");
        talk.written();
        lose_channel(&mut talk);
        assert!(talk.session.after().resume, "{asks:?}");
        let left = &all[asked..];
        assert_eq!(talk.hear(left), Input::read(left.len()), "{asks:?}");
        assert!(talk.session.channels.is_empty());
    }
}

#[test]
fn another_channel_and_the_service_are_waited_for_although_a_channel_ends() {
    for answerer in [Answerer::Shards(2), Answerer::Service] {
        let mut talk = running(&[]);
        talk.session.shared.busy = Some(answerer);
        lose_channel(&mut talk);
        assert_eq!(talk.hear(&close_ok()), Input::pause(0), "{answerer:?}");
    }
}

/// Declares the queue `q`.
fn declare_q(talk: &Talk) {
    let topology = block_on(talk.tenant.topology(&"default".into())).unwrap();
    let asker = Asker {
        connection: 1,
        vhost: "/".into(),
    };
    let queue = DeclareQueue {
        name: "q".to_owned(),
        is_server_named: false,
        passive: false,
        durable: false,
        exclusive: false,
        auto_delete: false,
        arguments: Arc::default(),
    };
    block_on(topology.declare_queue(&asker, queue)).unwrap();
}

/// What a client is told who consumes where a channel may have so many consumers.
fn consume_beyond(consumers_max: usize) -> Vec<u8> {
    let config = Config {
        consumers_max,
        ..Config::default()
    };
    let mut talk = running_with(Talk::with(config), Grants::full(), &[]);
    declare_q(&talk);
    let consume = Method::BasicConsume {
        ticket: 0,
        queue: "q",
        consumer_tag: "a",
        no_local: false,
        no_ack: true,
        exclusive: false,
        no_wait: true,
        arguments: Table::default(),
    };
    let mut bytes = Vec::new();
    consume.encode(1, &mut bytes).unwrap();
    talk.hear(&bytes);
    talk.written()
}

#[test]
fn a_channel_has_so_many_consumers_and_no_more() {
    let is_refused = |consumers_max| {
        let told = consume_beyond(consumers_max);
        !told.is_empty()
            && matches!(
                method(&told),
                Method::ConnectionClose {
                    reply_code: 530,
                    ..
                }
            )
    };
    assert!(is_refused(0) && !is_refused(1));
}

/// A whole message for an exchange.
fn publish_to(exchange: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let method = Method::BasicPublish {
        ticket: 0,
        exchange,
        routing_key: "k",
        mandatory: false,
        immediate: false,
    };
    method.encode(1, &mut bytes).unwrap();
    // A header of class 60 without properties, of a message without a body.
    bytes.extend_from_slice(b"\x02\0\x01\0\0\0\x0e\0\x3c\0\0\0\0\0\0\0\0\0\0\0\0\xce");
    bytes
}

#[test]
fn a_channel_counts_by_themselves_for_the_last_exchanges() {
    let mut talk = running(&[]);
    let topology = block_on(talk.tenant.topology(&"default".into())).unwrap();
    let asker = Asker {
        connection: 1,
        vhost: "/".into(),
    };
    let name = |at: usize| format!("x{at}");
    for at in 0..20 {
        let declare = DeclareExchange {
            name: name(at),
            kind: "fanout".to_owned(),
            passive: false,
            durable: false,
            auto_delete: false,
            internal: false,
            arguments: Arc::default(),
        };
        block_on(topology.declare_exchange(&asker, declare)).unwrap();
    }
    let published = |talk: &Talk| -> Vec<(String, u64)> {
        let about = talk.session.about();
        let published = &about.channels[0].published;
        let pair = |of: &Published| (of.name.to_string(), of.counts[tally::exchange::IN]);
        published.iter().map(pair).collect()
    };
    for at in [0, 1, 0, 1, 1] {
        talk.hear(&publish_to(&name(at)));
    }
    assert_eq!(published(&talk), [(name(1), 3), (name(0), 2)]);
    for at in 2..20 {
        talk.hear(&publish_to(&name(at)));
    }
    let last: Vec<_> = (4..20).rev().map(|at| (name(at), 1)).collect();
    assert_eq!(published(&talk), last);
    // What is not told apart any more is in the sums.
    let sums = |at: usize| topology.graph().tallies(&name(at)).unwrap().sums();
    assert_eq!((sums(0), sums(1), sums(19)), ([2, 0], [3, 0], [1, 0]));
    // One that is made anew is another one.
    block_on(topology.delete_exchange(&asker, &name(19), false)).unwrap();
    assert_eq!(published(&talk), last[1..]);
}

#[test]
fn a_message_kept_that_fits_no_frame_closes_the_connection() {
    let mut talk = unanswered();
    let Some(Slot::Open(channel)) = talk.session.channels.get_mut(&1) else {
        panic!("it is open");
    };
    channel.consumers.insert(1, delivering::tests::consumer(0));
    channel.kept.push_back(delivering::tests::kept(1, 5_000));
    touch(&mut talk.session.touched, 1);
    let shards = Arc::clone(talk.tenant.shards());
    talk.session.send(&*shards, &mut talk.out);
    let told = talk.written();
    let Method::ConnectionClose { reply_code, .. } = method(&told) else {
        panic!("{told:?}");
    };
    assert_eq!(reply_code, 501);
    assert!(talk.session.pending().act);
    let actions = talk.session.take_actions();
    assert!(
        matches!(&actions[..], [Action::Close(CloseReason::Malformed(_))]),
        "{actions:?}"
    );
    touch(&mut talk.session.touched, 1);
    talk.session.send(&*shards, &mut talk.out);
    assert!(talk.written().is_empty(), "it is said once");
}

/// What a client with these rights is answered who looks at the queue `q` and at the exchange `q`; `None`: it may.
fn look(granted: &[(Right, &str)]) -> Vec<Option<String>> {
    let queue = Method::QueueDeclare {
        ticket: 0,
        queue: "q",
        passive: true,
        durable: false,
        exclusive: false,
        auto_delete: false,
        no_wait: false,
        arguments: Table::default(),
    };
    let exchange = Method::ExchangeDeclare {
        ticket: 0,
        exchange: "q",
        kind: "",
        passive: true,
        durable: false,
        auto_delete: false,
        internal: false,
        no_wait: false,
        arguments: Table::default(),
    };
    let answered = |declare: Method<'_>| {
        let mut talk = running_with(Talk::new(), rights(granted), &[]);
        let mut bytes = Vec::new();
        declare.encode(1, &mut bytes).unwrap();
        talk.hear(&bytes);
        let told = talk.written();
        if told.is_empty() {
            let actions = talk.session.take_actions();
            assert!(matches!(actions[..], [Action::Topology(_)]), "{actions:?}");
            return None;
        }
        let Method::ChannelClose { reply_text, .. } = method(&told) else {
            panic!("{told:?}");
        };
        Some(reply_text.to_owned())
    };
    vec![answered(queue), answered(exchange)]
}

#[test]
fn who_may_do_something_with_a_name_may_look_at_it() {
    for right in [Right::Configure, Right::Publish, Right::Consume] {
        assert_eq!(look(&[(right, "q")]), [None, None], "{right:?}");
    }
    let refused = |what: &str| {
        let text =
            format!("ACCESS_REFUSED - access to {what} 'q' in vhost '/' refused for user 'guest'");
        Some(text)
    };
    let other = [(Right::Consume, "other")];
    assert_eq!(look(&other), [refused("queue"), refused("exchange")]);
}
