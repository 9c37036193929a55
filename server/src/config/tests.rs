//! Layering, suggestions, and that the documents say what the code does.

use std::path::PathBuf;

use super::*;

fn sources() -> Sources {
    Sources::default()
}

fn with_set(settings: &[&str]) -> Sources {
    let overrides = Overrides {
        set: settings.iter().map(ToString::to_string).collect(),
        ..Overrides::default()
    };
    Sources {
        overrides,
        ..Sources::default()
    }
}

fn with_listen(flags: &[&str], only: bool) -> Sources {
    let listen = flags.iter().map(|flag| flag.parse().unwrap()).collect();
    Sources {
        overrides: Overrides {
            listen,
            only,
            ..Overrides::default()
        },
        ..Sources::default()
    }
}

/// A file that disappears with the returned guard.
fn with_file(text: &str) -> (tempfile::TempDir, Sources) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("longtail.toml");
    std::fs::write(&path, text).unwrap();
    (
        dir,
        Sources {
            file: Some(path),
            ..Sources::default()
        },
    )
}

fn complaint(sources: &Sources) -> String {
    load(sources).unwrap_err().to_string()
}

#[test]
fn the_defaults_are_valid() {
    let settings = load(&sources()).unwrap().settings;
    assert_eq!(settings.data, PathBuf::from("./longtail-data"));
    assert_eq!(settings.durability, longtail_model::Durability::Sync);
    assert_eq!(
        settings.listeners["beanstalk"][0].address.to_string(),
        "127.0.0.1:11300"
    );
    assert_eq!(settings.admin.listen.unwrap().to_string(), "127.0.0.1:9400");
}

#[test]
fn the_default_document_parses_to_the_defaults() {
    let (_dir, from_document) = with_file(&default_document());
    let loaded = load(&from_document).unwrap();
    assert_eq!(loaded.settings, load(&sources()).unwrap().settings);
    let read = loaded
        .values
        .values()
        .filter(|(_, origin)| matches!(origin, Origin::File { .. }))
        .count();
    let written = schema::KEYS
        .iter()
        .filter(|key| key.default.is_some())
        .count()
        + schema::PROTOCOLS
            .iter()
            .filter(|(_, address)| address.is_some())
            .count();
    assert_eq!(
        read, written,
        "the document names every setting that has a default"
    );
}

#[test]
fn the_effective_document_parses_to_the_same_settings() {
    let mut changed = with_set(&[
        "log.segment_bytes=128MiB",
        "listeners.beanstalk=127.0.0.1:1,unix:/tmp/x",
    ]);
    changed.overrides.durability = Some("interval".to_owned());
    let loaded = load(&changed).unwrap();
    let document = effective_document(&loaded);
    assert!(
        document.contains("segment_bytes = 134217728  # --set log.segment_bytes"),
        "{document}"
    );
    assert!(
        document.contains("durability = \"interval\"  # --durability"),
        "{document}"
    );
    let (_dir, again) = with_file(&document);
    assert_eq!(load(&again).unwrap().settings, loaded.settings);

    let loaded = load(&with_listen(&["admin=127.0.0.1:1"], true)).unwrap();
    let (_dir, again) = with_file(&effective_document(&loaded));
    assert!(
        load(&again).unwrap().settings.listeners["mqtt"].is_empty(),
        "several protocols may be off"
    );
}

#[test]
fn stronger_sources_win() {
    let (_dir, mut sources) =
        with_file("interval_ms = 1\nworkers = 1\nshards = 2\n[limits]\ndrain_ms = \"1s\"\n");
    let loaded = load(&sources).unwrap();
    assert_eq!(
        (loaded.settings.interval_ms, loaded.settings.limits.drain_ms),
        (1, 1000)
    );
    sources.environment = vec![
        ("LONGTAIL__WORKERS".to_owned(), "2".to_owned()),
        ("LONGTAIL__SHARDS".to_owned(), "3".to_owned()),
        ("LONGTAIL__DATA".to_owned(), "/from/environment".to_owned()),
        ("LONGTAIL__LIMITS__DRAIN_MS".to_owned(), "2s".to_owned()),
    ];
    sources.overrides.set = vec!["shards=4".to_owned(), "data=/from/set".to_owned()];
    sources.overrides.data = Some(PathBuf::from("/from/flag"));
    let settings = load(&sources).unwrap().settings;
    assert_eq!(settings.interval_ms, 1, "only the file says it");
    assert_eq!(settings.workers, 2, "the environment beats the file");
    assert_eq!(settings.limits.drain_ms, 2000);
    assert_eq!(settings.shards, 4, "--set beats the environment");
    assert_eq!(
        settings.data,
        PathBuf::from("/from/flag"),
        "a flag beats --set"
    );
}

#[test]
fn unknown_keys_are_refused_with_line_and_suggestion() {
    let (_dir, sources) = with_file("data = \"x\"\n\n[log]\nsegmnt_bytes = 1\n");
    let text = complaint(&sources);
    assert!(
        text.contains(
            "longtail.toml:4: unknown key `log.segmnt_bytes`: did you mean `log.segment_bytes`?"
        ),
        "{text}"
    );

    let text = complaint(&with_set(&["beanstalk.segment_bytes=1"]));
    assert!(
        text.contains("--set beanstalk.segment_bytes") && text.contains("`log.segment_bytes`"),
        "{text}"
    );

    let text = complaint(&with_set(&["colour=blue"]));
    assert!(
        text.contains("unknown key `colour`") && !text.contains("did you mean"),
        "{text}"
    );

    let environment = vec![("LONGTAIL__DURABILTY".to_owned(), "sync".to_owned())];
    let sources = Sources {
        environment,
        ..Sources::default()
    };
    let text = complaint(&sources);
    assert!(
        text.contains("environment LONGTAIL__DURABILTY") && text.contains("`durability`"),
        "{text}"
    );
}

#[test]
fn all_mistakes_are_reported_at_once() {
    let (_dir, sources) = with_file(
        "shards = \"many\"\nworkers = -1\nnonsense = 1\n[listeners]\nbeanstak = \"x:1\"\n",
    );
    let error = load(&sources).unwrap_err();
    assert_eq!(error.problems.len(), 4, "{error}");
    let text = error.to_string();
    assert!(
        text.contains(":1: `shards` must be a whole number, not \"many\""),
        "{text}"
    );
    assert!(
        text.contains(":2: `workers` must be 0 to 1024, not -1"),
        "{text}"
    );
    assert!(
        text.contains("unknown protocol `beanstak`: did you mean `beanstalk`?"),
        "{text}"
    );
}

#[test]
fn a_file_that_is_no_toml_names_its_line() {
    let (_dir, sources) = with_file("data = \"x\"\nworkers = = 2\n");
    assert!(
        complaint(&sources).contains("longtail.toml:2: "),
        "{}",
        complaint(&sources)
    );
    let missing = Sources {
        file: Some(PathBuf::from("/nowhere/longtail.toml")),
        ..Sources::default()
    };
    assert!(complaint(&missing).contains("/nowhere/longtail.toml: cannot be read"));
}

#[test]
fn sizes_and_times_take_units() {
    let settings = load(&with_set(&[
        "log.segment_bytes=1GiB",
        "log.tail_bytes=33_554_432",
        "log.index_bytes=4MiB",
        "interval_ms=2s",
        "limits.drain_ms=1 min",
        "limits.retained_messages_max=5",
        "limits.retained_bytes=3MiB",
    ]))
    .unwrap()
    .settings;
    assert_eq!(settings.log.segment_bytes, 1 << 30);
    assert_eq!(settings.log.tail_bytes, 33_554_432);
    assert_eq!(settings.broker().index_bytes, 4 << 20);
    let retained = settings.broker().retained;
    assert_eq!((retained.messages_max, retained.bytes_max), (5, 3 << 20));
    assert_eq!(settings.interval_ms, 2000);
    assert_eq!(settings.limits.drain_ms, 60_000);
    assert!(complaint(&with_set(&["interval_ms=2 fortnights"])).contains("must be milliseconds"));
    assert!(complaint(&with_set(&["log.segment_bytes=99999999999GiB"])).contains("must be a size"));
    assert!(complaint(&with_set(&["log.segment_bytes=1"])).contains("must be 1048576 to"));
    assert!(complaint(&with_set(&["durability=syn"])).contains("did you mean `sync`?"));
}

#[test]
fn listeners_take_text_tables_and_lists() {
    let (_dir, sources) = with_file(
        "[[listeners.beanstalk]]\naddress = \"[::1]:11300\"\nproxy = { trusted = [\"10.0.0.0/8\"] }\n\
         input_max_bytes = \"1MiB\"\ntls = { certificate = \"c.pem\", key = \"k.pem\", \
         client_certificates = \"required\", client_authorities = \"ca.pem\" }\n\
         [[listeners.beanstalk]]\naddress = \"unix:/run/lt.sock\"\naccount = \"local\"\n\
         [[accounts]]\nname = \"local\"\n",
    );
    let settings = load(&sources).unwrap().settings;
    let listeners = &settings.listeners["beanstalk"];
    assert_eq!(listeners[0].edge.input_max_bytes, 1 << 20);
    assert!(listeners[0].edge.tls.is_some() && listeners[0].edge.proxy.is_some());
    assert_eq!(
        listeners[1].address,
        ListenAddress::Unix(PathBuf::from("/run/lt.sock"))
    );
    assert_eq!(listeners[1].account.as_deref(), Some("local"));

    let (_dir, sources) = with_file("[[listeners.beanstalk]]\nadress = \"127.0.0.1:1\"\n");
    let text = complaint(&sources);
    assert!(
        text.contains("`listeners.beanstalk[0].adress`: did you mean `address`?"),
        "{text}"
    );
    let (_dir, sources) = with_file(
        "[[listeners.beanstalk]]\naddress = \"127.0.0.1:1\"\ntls = { certificate = \"c\" }\n",
    );
    assert!(complaint(&sources).contains("`listeners.beanstalk[0].tls` needs `key`"));
}

#[test]
fn the_mode_of_a_unix_socket_is_octal_and_only_for_one() {
    let at = |address: &str, mode: &str| {
        format!("[[listeners.mqtt]]\naddress = \"{address}\"\nunix_mode = {mode}\n")
    };
    let (_dir, sources) = with_file(&at("unix:/run/lt.sock", "0o660"));
    let listener = &load(&sources).unwrap().settings.listeners["mqtt"][0];
    assert_eq!(listener.edge.unix_mode, Some(0o660));
    let (_dir, sources) = with_file(&at("unix:/run/lt.sock", "660"));
    assert!(complaint(&sources).contains("`listeners.mqtt[0].unix_mode` must be 0 to 511"));
    let (_dir, sources) = with_file(&at("127.0.0.1:1", "0o660"));
    assert!(complaint(&sources).contains("`listeners.mqtt[0].unix_mode` is for `unix:PATH`"));
}

#[test]
fn a_server_of_logins_that_cannot_be_asked_is_said_before_the_start() {
    let asked = |more: &str| format!("[[mqtt.http_auth]]\nstyle = \"nanomq\"\n{more}\n");
    let (_dir, sources) = with_file(&asked("url = \"http://127.0.0.1:1/auth\""));
    assert!(load(&sources).is_ok());
    for (more, why) in [
        ("url = \"127.0.0.1:1\"", "is no address"),
        (
            "url = \"https://127.0.0.1:1/auth\"",
            "https needs `authorities`",
        ),
        (
            "url = \"http://127.0.0.1:1/auth\"\nacl_ttl_ms = 5",
            "which is missing",
        ),
    ] {
        let (_dir, sources) = with_file(&asked(more));
        let text = complaint(&sources);
        assert!(
            text.contains("mqtt.http_auth: ") && text.contains(why),
            "{text}"
        );
    }
}

#[test]
fn a_listener_that_answers_http_has_an_address_and_no_limits() {
    let at =
        |more: &str| format!("[[listeners.amqp-metrics]]\naddress = \"127.0.0.1:1\"\n{more}\n");
    let (_dir, sources) = with_file(&at(""));
    assert!(load(&sources).is_ok());
    for more in [
        "connections_max = 5",
        "read_rate_bytes_per_second = \"1MiB\"",
        "account = \"a\"",
        "websocket = {}",
    ] {
        let (_dir, sources) = with_file(&at(more));
        let text = complaint(&sources);
        assert!(
            text.contains("amqp-metrics on 127.0.0.1:1: "),
            "{more}: {text}"
        );
    }
}

#[test]
fn listen_flags_replace_what_was_configured() {
    let settings = load(&with_listen(
        &["beanstalk=127.0.0.1:1", "beanstalk=unix:/tmp/lt"],
        false,
    ))
    .unwrap()
    .settings;
    let addresses: Vec<String> = settings.listeners["beanstalk"]
        .iter()
        .map(|l| l.address.to_string())
        .collect();
    assert_eq!(addresses, ["127.0.0.1:1", "unix:/tmp/lt"]);
    assert!(
        settings.admin.listen.is_some(),
        "what is not named stays as configured"
    );
    let text = complaint(&with_listen(&["nats=127.0.0.1:4222"], false));
    assert!(
        text.contains(
            "unknown protocol `nats`: this build speaks beanstalk, amqp, amqps, amqp-ws, amqp-wss, amqp-management, amqp-metrics, mqtt, mqtts, \
             mqtt-ws, mqtt-wss, mqtt-http"
        ),
        "{text}"
    );
}

#[test]
fn only_switches_off_what_is_not_named() {
    let settings = load(&with_listen(&["beanstalk=127.0.0.1:1"], true))
        .unwrap()
        .settings;
    assert_eq!(settings.listeners["beanstalk"].len(), 1);
    assert_eq!(settings.admin.listen, None);

    let settings = load(&with_listen(&["admin=127.0.0.1:2"], true))
        .unwrap()
        .settings;
    assert!(settings.listeners["beanstalk"].is_empty());
    assert_eq!(settings.admin.listen.unwrap().to_string(), "127.0.0.1:2");

    assert!(complaint(&with_listen(&[], true)).contains("every listener is off"));
}

#[test]
fn listen_flags_say_what_is_wrong_with_them() {
    let error = |text: &str| text.parse::<ListenFlag>().unwrap_err().to_string();
    assert!(error("127.0.0.1:1").contains("PROTOCOL=HOST:PORT"));
    assert!(error("=127.0.0.1:1").contains("PROTOCOL=HOST:PORT"));
    assert!(error("beanstalk=127.0.0.1").contains("has no port"));
    assert!(error("beanstalk=:11300").contains("has no host"));
    assert!(error("beanstalk=::1:11300").contains("brackets"));
    assert!(error("beanstalk=localhost:99999").contains("not a port"));
    assert!(error("beanstalk=unix:").contains("needs a path"));
    let ok: ListenFlag = "beanstalk=[::1]:11300".parse().unwrap();
    assert_eq!(
        ok.address,
        ListenAddress::Tcp {
            host: "::1".to_owned(),
            port: 11300
        }
    );
    assert_eq!(ok.address.to_string(), "[::1]:11300");
}

#[test]
fn without_accounts_only_this_machine_may_connect() {
    let text = complaint(&with_listen(&["beanstalk=0.0.0.0:11300"], false));
    assert!(
        text.contains("without accounts only this machine may connect"),
        "{text}"
    );
    let text = complaint(&with_listen(&["admin=0.0.0.0:9400"], false));
    assert!(text.contains("without admin.token"), "{text}");
    let listener = "[[listeners.beanstalk]]\naddress = \"0.0.0.0:11300\"\n";
    let (_dir, sources) = with_file(&format!("{}{listener}account = \"worker\"\n", account()));
    assert!(load(&sources).is_ok());
    let (_dir, sources) = with_file(&format!("{}{listener}account = \"wroker\"\n", account()));
    let text = complaint(&sources);
    assert!(text.contains("there is no account \"wroker\""), "{text}");
    let (_dir, sources) = with_file(&format!("{}{listener}", account()));
    assert!(complaint(&sources).contains("lets nobody in"));
}

#[test]
fn spaces_have_to_exist_and_may_have_quotas() {
    let text = complaint(&with_set(&["beanstalk.space=shop"]));
    assert!(text.contains("add it to [[spaces]]"), "{text}");
    let space = "[beanstalk]\nspace = \"shop\"\n[[spaces]]\nname = \"shop\"\n";
    let (_dir, sources) = with_file(&format!("{space}quotas = {{ connections_max = 5 }}\n"));
    assert!(load(&sources).is_ok());
    let all = "streams_max = 1, bytes_max = 5, messages_max = 1, subscriptions_max = 1";
    let (_dir, sources) = with_file(&format!("{space}quotas = {{ {all} }}\n"));
    assert!(load(&sources).is_ok());
    let (_dir, sources) = with_file(&format!("{space}quotas = {{ topics_max = 5 }}\n"));
    assert!(complaint(&sources).contains("topics_max"));
}

#[test]
fn sizes_have_to_leave_room_for_one_another() {
    let text = complaint(&with_set(&["beanstalk.job_bytes=32MiB"]));
    assert!(text.contains("raise limits.message_bytes"), "{text}");
    let text = complaint(&with_set(&["limits.message_bytes=64MiB"]));
    assert!(
        text.contains("outbox_hard_bytes (67108864) leaves no room"),
        "{text}"
    );
    let text = complaint(&with_set(&["mqtt.packet_bytes_max=128MiB"]));
    assert!(
        text.contains("leaves no room for a packet of mqtt.packet_bytes_max (134217728)"),
        "{text}"
    );
    let text = complaint(&with_set(&["limits.memory_bytes=8MiB"]));
    assert!(text.contains("raise limits.memory_bytes"), "{text}");
    let (_dir, sources) = with_file(
        "[beanstalk]\njob_bytes = \"1MiB\"\n[[listeners.beanstalk]]\naddress = \"127.0.0.1:1\"\n\
         input_max_bytes = \"1MiB\"\noutbox_soft_bytes = \"128MiB\"\n",
    );
    let text = complaint(&sources);
    assert!(text.contains("input_max_bytes (1048576)"), "{text}");
    assert!(text.contains("raise outbox_hard_bytes"), "{text}");
}

#[test]
fn mqtt_settings_override_those_of_the_profile() {
    let settings = load(&with_set(&[
        "mqtt.profile=mosquitto",
        "mqtt.window=7",
        "mqtt.overlap=merge",
        "mqtt.queue_policy=drop-oldest",
        "mqtt.qos_max=1",
    ]));
    let limits = settings.unwrap().settings.mqtt.config().unwrap().limits;
    assert_eq!((limits.receive_max, limits.window), (20, 7));
    assert_eq!(limits.packet_bytes_max, 2_000_000);
    assert_eq!(limits.overlap, longtail_mqtt::config::Overlap::Merge);
    assert_eq!(
        limits.queue_policy,
        longtail_mqtt::config::QueuePolicy::DropOldest
    );
    assert_eq!(limits.qos_max, longtail_mqtt::codec::Qos::AtLeastOnce);
    for profile in longtail_mqtt::Profile::ALL {
        assert!(load(&with_set(&[&format!("mqtt.profile={profile}")])).is_ok());
    }
}

#[test]
fn groups_of_shared_subscriptions_have_strategies() {
    use longtail_mqtt::config::ShareStrategy;
    let (_dir, sources) = with_file(
        "[mqtt]\nshare_strategy = \"random\"\nshare_strategies = [\"a=b=sticky\", \"c=hash-topic\"]\n",
    );
    let shares = load(&sources)
        .unwrap()
        .settings
        .mqtt
        .config()
        .unwrap()
        .limits
        .shares;
    for (group, strategy) in [
        ("a=b", ShareStrategy::Sticky),
        ("c", ShareStrategy::HashTopic),
        ("d", ShareStrategy::Random),
    ] {
        assert_eq!(shares.strategy_of(group), strategy, "{group}");
    }
    for strategy in ShareStrategy::ALL {
        let set = format!("mqtt.share_strategy={}", strategy.as_str());
        let settings = load(&with_set(&[&set])).unwrap().settings;
        assert_eq!(
            settings.mqtt.config().unwrap().limits.shares.strategy,
            strategy
        );
    }
    for (bad, said) in [
        ("a", "GROUP=STRATEGY"),
        ("=sticky", "no name of a group"),
        ("a/b=sticky", "no name of a group"),
        ("a=stick", "no strategy"),
    ] {
        let (_dir, sources) = with_file(&format!("[mqtt]\nshare_strategies = [\"{bad}\"]\n"));
        let text = complaint(&sources);
        assert!(text.contains(said), "{text}");
    }
}

#[test]
fn secrets_are_not_shown() {
    let account = account();
    let (_dir, sources) = with_file(&format!(
        "[admin]\ntoken = \"hunter2\"\n{account}\
         [[listeners.beanstalk]]\naddress = \"127.0.0.1:1\"\naccount = \"worker\"\n"
    ));
    let document = effective_document(&load(&sources).unwrap());
    assert!(
        !document.contains("hunter2") && !document.contains("argon2"),
        "{document}"
    );
    assert!(document.contains("worker"), "{document}");
}

#[test]
fn shovels_are_checked_and_their_passwords_are_not_shown() {
    let shovel = |name: &str, uri: &str| {
        format!(
            "[[amqp.shovels]]\nname = \"{name}\"\nsource = {{ uris = [\"{uri}\"], queue = \"q\" }}\n\
             destination = {{ uris = [\"amqp://\"] }}\n"
        )
    };
    let there = "amqp://user:hunter2@there:1/v?heartbeat=5";
    let (_dir, sources) = with_file(&shovel("move", there));
    let loaded = load(&sources).unwrap();
    let [found] = &loaded.settings.amqp.shovels().unwrap()[..] else {
        panic!("one is there");
    };
    assert_eq!(found.name(), "move");
    let document = effective_document(&loaded);
    assert!(
        document.contains("amqp://user:***@there:1/v?heartbeat=5")
            && !document.contains("hunter2")
            && document.contains("\"amqp://\""),
        "{document}"
    );
    // Read as a port and a vhost, but meant as a password.
    let (_dir, sources) = with_file(&shovel("move", "amqp://user:1/hunter2@there"));
    let document = effective_document(&load(&sources).unwrap());
    assert!(document.contains("amqp://user:***@there"), "{document}");
    for (text, said) in [
        (
            shovel("move", "ftp://x"),
            "longtail.toml:1: amqp.shovels[0]: shovel \"move\": source.uris is not a valid URI",
        ),
        (
            shovel("move", there) + &shovel("move", there),
            "there are two shovels \"move\"",
        ),
    ] {
        let (_dir, sources) = with_file(&text);
        let text = complaint(&sources);
        assert!(text.contains(said), "{text}");
    }
}

#[test]
fn accounts_are_checked_by_the_broker() {
    let (_dir, sources) = with_file("[[accounts]]\nname = \"worker\"\npassword = \"plain\"\n");
    let text = complaint(&sources);
    assert!(
        text.contains("longtail.toml:1: accounts, spaces or tokens: not a password hash"),
        "{text}"
    );
}

/// An account that may log in.
fn account() -> String {
    use longtail_broker::auth::{PasswordCost, PasswordHash};
    let cost = PasswordCost {
        memory_kib: 8,
        passes: 1,
    };
    let hash = String::from(PasswordHash::create(b"hunter2", cost).unwrap());
    format!("[[accounts]]\nname = \"worker\"\npassword = \"{hash}\"\n")
}
