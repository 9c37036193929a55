use std::fs;

use toml::{Table, Value};

use super::import;
use crate::import::Imported;

const PASSWORDS: &str = "# users\nann:$7$101$OzdCFazTwDmRJQQv$+sO6odEXwoW+9TBgJvYzXE4MsAF0nFWNENxoSZcGLYFFmuQ8zi0VF9dfp+fUfF+BKjAW5e90Iuf4kNv/NzigLw==\nbob:plain\nbroken\n";

const RULES: &str = "topic read public/#\nuser ann\ntopic #\ntopic deny secret/%/x\nuser cat\ntopic write $SYS/x\ntopic +/a\npattern readwrite devices/%c/%u/100%\ntopic read a#\nodd x\n";

/// Imports a file of these lines, with a password and an access control file beside it.
fn imported(lines: &str) -> Imported {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::write(path("passwords"), PASSWORDS).unwrap();
    fs::write(path("rules"), RULES).unwrap();
    fs::create_dir(path("more")).unwrap();
    fs::write(path("more/b.conf"), "max_keepalive 60\n").unwrap();
    fs::write(path("more/ignored.txt"), "max_keepalive 61\n").unwrap();
    let lines = lines.replace("DIR", dir.path().to_str().unwrap());
    fs::write(path("mosquitto.conf"), lines).unwrap();
    import(&path("mosquitto.conf")).unwrap()
}

fn at<'a>(settings: &'a Table, path: &str) -> Option<&'a Value> {
    let mut names = path.split('.');
    let mut value = settings.get(names.next()?)?;
    for name in names {
        value = match name.parse::<usize>() {
            Ok(index) => value.as_array()?.get(index)?,
            Err(_) => value.as_table()?.get(name)?,
        };
    }
    Some(value)
}

fn notes(imported: &Imported) -> Vec<&str> {
    imported
        .notes
        .iter()
        .map(|note| note.text.as_str())
        .collect()
}

/// `(actions, effect, subject)` of an account's rules.
fn rules(settings: &Table, name: &str) -> Vec<(usize, bool, String)> {
    let accounts = settings["accounts"].as_array().unwrap();
    let account = accounts
        .iter()
        .find(|account| account["name"].as_str() == Some(name))
        .unwrap();
    let rules = account["permissions"][0]["rules"].as_array().unwrap();
    let rule = |rule: &Value| {
        let actions = rule["actions"].as_array().unwrap().len();
        let denies = rule.get("effect").is_some();
        (
            actions,
            denies,
            rule["subject"].as_str().unwrap().to_owned(),
        )
    };
    rules.iter().map(rule).collect()
}

#[test]
fn global_options_become_settings() {
    let imported = imported(
        "# c\nmax_packet_size 1000\nmax_queued_bytes 0\nmax_inflight_messages 7\ninclude_dir DIR/more\nretain_available false\npersistence_location /var/lib/x\nset_tcp_nodelay true\n",
    );
    let number = |path| at(&imported.settings, path).and_then(Value::as_integer);
    assert_eq!(number("mqtt.packet_bytes_max"), Some(1000));
    assert_eq!(number("mqtt.queue_bytes"), None);
    assert_eq!(number("mqtt.window"), Some(7));
    assert_eq!(number("mqtt.receive_max"), Some(7));
    assert_eq!(number("mqtt.keep_alive_max_s"), Some(60));
    assert_eq!(
        imported.settings["mqtt"]["retain_available"],
        Value::Boolean(false)
    );
    assert_eq!(imported.settings["data"].as_str(), Some("/var/lib/x"));
    assert_eq!(notes(&imported), Vec::<&str>::new());
    assert!(
        !imported.settings.contains_key("accounts"),
        "this machine only, as before"
    );
}

#[test]
fn every_option_of_mosquitto_is_known() {
    let imported = imported(
        "check_retain_source true\nallow_duplicate_messages false\npersistent_client_expiration 2d\nglobal_max_clients -1\nglobal_max_connections 50\nenable_control_api true\nmax_inflight_bytes 0\n",
    );
    assert_eq!(notes(&imported), Vec::<&str>::new());
    let mqtt = |name: &str| &imported.settings["mqtt"][name];
    assert_eq!(mqtt("retain_source_checked"), &Value::Boolean(true));
    assert_eq!(mqtt("overlap").as_str(), Some("merge"));
    assert_eq!(mqtt("session_expiry_max_s").as_integer(), Some(172_800));
    let limits = &imported.settings["limits"]["connections_max"];
    assert_eq!(limits.as_integer(), Some(50));
    let all = [
        "message_size_limit 5",
        "max_inflight_bytes 5",
        "proxy_protocol_v2_require_tls true",
        "disable_client_cert_date_checks true",
        "use_username_as_clientid true",
        "websockets_log_level 7",
        "psk_file x",
        "persistent_client_expiration soon",
    ];
    for line in all {
        let imported = super::tests::imported(&format!("listener 1883\n{line}\n"));
        let told = notes(&imported);
        assert!(!told.is_empty(), "{line}");
        assert!(
            !told.iter().any(|note| note.contains("not known")),
            "{told:?}"
        );
    }
}

#[test]
fn what_has_no_counterpart_is_said_with_its_line() {
    let imported = imported(
        "\nplugin /x.so\nfrobnicate 1\nconnection up\nstart_type lazy\nlistener 1884\nmount_point $x/\n",
    );
    let lines: Vec<usize> = imported.notes.iter().map(|note| note.place.line).collect();
    assert_eq!(lines, [2, 3, 5, 7]);
}

#[test]
fn listeners_keep_their_transport() {
    let imported = imported(
        "port 1883\nlistener 8883 10.0.0.1\ncertfile c.pem\nkeyfile k.pem\ncafile a.pem\nrequire_certificate true\nmax_connections 9\nlistener 9001\nprotocol websockets\nlistener 0 /run/m.sock\nallow_anonymous true\n",
    );
    let text = |path| at(&imported.settings, path).and_then(Value::as_str);
    assert_eq!(text("listeners.mqtt.0.address"), Some("[::]:1883"));
    assert_eq!(text("listeners.mqtt.1.address"), Some("unix:/run/m.sock"));
    assert_eq!(text("listeners.mqtts.0.address"), Some("10.0.0.1:8883"));
    assert_eq!(text("listeners.mqtts.0.tls.certificate"), Some("c.pem"));
    assert_eq!(
        text("listeners.mqtts.0.tls.client_certificates"),
        Some("required")
    );
    assert_eq!(text("listeners.mqtt-ws.0.address"), Some("[::]:9001"));
    let limit = at(&imported.settings, "listeners.mqtts.0.connections_max");
    assert_eq!(limit.and_then(Value::as_integer), Some(9));
    // Anybody may do everything, as it was.
    assert_eq!(imported.settings["anonymous"].as_str(), Some("anonymous"));
    assert_eq!(
        rules(&imported.settings, "anonymous")[0],
        (2, false, "#".to_owned())
    );
}

#[test]
fn what_differs_between_listeners_goes_with_them() {
    let imported = imported(
        "per_listener_settings true\nlistener 1883\nallow_anonymous true\nmax_qos 1\nlistener 1884\nmount_point site/100%/\naccept_protocol_versions 4, 5\nmax_topic_alias 3\nlistener_auto_id_prefix x-\nallow_zero_length_clientid false\npassword_file DIR/passwords\n",
    );
    let text = |path| at(&imported.settings, path).and_then(Value::as_str);
    let number = |path| at(&imported.settings, path).and_then(Value::as_integer);
    assert_eq!(number("listeners.mqtt.0.mqtt.qos_max"), Some(1));
    assert_eq!(
        at(&imported.settings, "mqtt.qos_max"),
        None,
        "of that one only"
    );
    assert_eq!(
        at(&imported.settings, "listeners.mqtt.0.mqtt.anonymous"),
        None
    );
    assert_eq!(imported.settings["anonymous"].as_str(), Some("anonymous"));
    assert_eq!(text("listeners.mqtt.1.mqtt.anonymous"), Some(""));
    assert_eq!(
        text("listeners.mqtt.1.mqtt.mount_point"),
        Some("site/100%%/")
    );
    assert_eq!(text("listeners.mqtt.1.mqtt.versions.0"), Some("3.1.1"));
    assert_eq!(text("listeners.mqtt.1.mqtt.versions.1"), Some("5.0"));
    assert_eq!(number("listeners.mqtt.1.mqtt.topic_aliases_in"), Some(3));
    assert_eq!(text("listeners.mqtt.1.mqtt.client_id_prefix"), Some("x-"));
    let empty = at(&imported.settings, "listeners.mqtt.1.mqtt.empty_client_id");
    assert_eq!(empty, Some(&Value::Boolean(false)));
    let notes = notes(&imported);
    let about = notes.iter().filter(|note| note.contains("listener"));
    assert_eq!(about.count(), 1, "accounts are the server's: {notes:?}");
}

#[test]
fn accounts_have_the_rules_of_the_access_control_file() {
    let imported = imported(
        "listener 1883\npassword_file DIR/passwords\nacl_file DIR/rules\nallow_anonymous true\n",
    );
    let settings = &imported.settings;
    let owned = |rules: &[(usize, bool, &str)]| -> Vec<(usize, bool, String)> {
        rules
            .iter()
            .map(|&(actions, denies, subject)| (actions, denies, subject.to_owned()))
            .collect()
    };
    let pattern = (2, false, "devices/%c/%u/100%%");
    assert_eq!(
        rules(settings, "ann"),
        owned(&[
            (2, false, "#"),
            (2, true, "secret/%%/x"),
            pattern,
            (2, true, "$SYS/#")
        ])
    );
    assert_eq!(
        rules(settings, "cat"),
        owned(&[(1, false, "$SYS/x"), (2, false, "+/a"), pattern])
    );
    assert_eq!(
        rules(settings, "anonymous"),
        owned(&[(1, false, "public/#")])
    );
    let said = notes(&imported);
    assert_eq!(said.len(), 4, "{said:?}");
    assert!(said[0].contains("\"bob\""));
    let document: longtail_broker::auth::AuthDocument = Value::Table(Table::from_iter([
        ("accounts".to_owned(), settings["accounts"].clone()),
        ("anonymous".to_owned(), settings["anonymous"].clone()),
    ]))
    .try_into()
    .unwrap();
    let directory = longtail_broker::auth::Directory::new(document).unwrap();
    let hash = directory.account("ann").unwrap().password.clone().unwrap();
    assert!(hash.verify(b"hunter2"));
}

#[test]
fn connections_become_bridges() {
    let imported = imported(
        "connection up\naddresses a b:1884\ntopic # out 1 here/ there/\ntopic \"a b/+\" both\ntopic \"\" in 2 x \"y z\"\ntopic t sideways\ncleansession true\nremote_username u\nremote_password p\nkeepalive_interval 30\nrestart_timeout 2 9\nbridge_protocol_version mqttv50\nbridge_cafile ca.pem\nlocal_clientid l\nnotifications false\nmax_keepalive 60\nconnection down\naddress c\ntopic q\n",
    );
    let value = |path: &str| at(&imported.settings, path).map(ToString::to_string);
    let expected = [
        ("bridges.0.name", "\"up\""),
        ("bridges.0.addresses", "[\"a:1883\", \"b:1884\"]"),
        ("bridges.0.topics.0.filter", "\"#\""),
        ("bridges.0.topics.0.direction", "\"out\""),
        ("bridges.0.topics.0.qos", "1"),
        ("bridges.0.topics.0.local_prefix", "\"here/\""),
        ("bridges.0.topics.0.remote_prefix", "\"there/\""),
        ("bridges.0.topics.1.filter", "\"a b/+\""),
        ("bridges.0.topics.1.direction", "\"both\""),
        ("bridges.0.topics.1.qos", "0"),
        ("bridges.0.topics.2.filter", "\"\""),
        ("bridges.0.topics.2.remote_prefix", "\"y z\""),
        ("bridges.0.clean_start", "true"),
        ("bridges.0.username", "\"u\""),
        ("bridges.0.password", "\"p\""),
        ("bridges.0.keep_alive_s", "30"),
        ("bridges.0.restart_ms", "2000"),
        ("bridges.0.restart_max_ms", "9000"),
        ("bridges.0.protocol", "\"5\""),
        ("bridges.0.tls.authorities", "\"ca.pem\""),
        ("bridges.0.notifications", "false"),
        ("bridges.1.protocol", "\"3.1.1\""),
        ("mqtt.keep_alive_max_s", "60"),
    ];
    for (path, expected) in expected {
        assert_eq!(value(path).as_deref(), Some(expected), "{path}");
    }
    assert_eq!(value("bridges.0.topics.3"), None);
    let lines: Vec<usize> = imported.notes.iter().map(|note| note.place.line).collect();
    assert_eq!(lines, [6, 14]);
    for bridge in imported.settings["bridges"].as_array().unwrap() {
        let config = bridge
            .clone()
            .try_into::<longtail_mqtt::bridge::BridgeConfig>();
        config.unwrap().check().unwrap();
    }
}

#[test]
fn the_plug_in_of_dynamic_security_is_built_in() {
    let imported = imported(
        "listener 1883\nallow_anonymous false\nplugin /usr/lib/mosquitto_dynamic_security.so\n\
         plugin_opt_config_file /etc/mosquitto/dynamic-security.json\nplugin /usr/lib/other.so\nplugin_opt_config_file x\n",
    );
    let settings = &imported.settings;
    assert_eq!(
        at(settings, "mqtt.dynamic_security_file"),
        Some(&"/etc/mosquitto/dynamic-security.json".into())
    );
    assert_eq!(at(settings, "accounts"), None);
    let anonymous = at(settings, "listeners.mqtt.0.mqtt.anonymous");
    assert_eq!(anonymous, Some(&"".into()), "they are not let in");
    assert_eq!(notes(&imported).len(), 2, "of the other one");
}

#[test]
fn options_that_say_the_same_here() {
    let imported = imported(
        "clientid_prefixes secure-\nupgrade_outgoing_qos true\nretain_expiry_interval 5\n",
    );
    let settings = &imported.settings;
    assert_eq!(
        at(settings, "mqtt.client_id_prefixes.0"),
        Some(&"secure-".into())
    );
    assert_eq!(at(settings, "mqtt.upgrade_qos"), Some(&true.into()));
    assert!(notes(&imported).is_empty());
}
