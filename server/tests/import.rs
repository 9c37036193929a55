//! What is made of another broker's configuration, through the program itself.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod support;

use support::longtail;

/// Every option that becomes a setting, most at Mosquitto's own default.
const CONFIGURATION: &str = "\
max_packet_size 2000000
max_keepalive 65535
max_inflight_messages 20
max_queued_messages 1000
max_queued_bytes 0
max_topic_alias 10
max_topic_alias_broker 10
max_qos 2
retain_available true
allow_zero_length_clientid true
auto_id_prefix auto-
sys_interval 10
persistence true
persistence_location data
password_file passwords
acl_file rules
allow_anonymous true
listener 1884 127.0.0.1
max_connections 100
listener 8884 127.0.0.1
certfile cert.pem
keyfile key.pem
cafile authority.pem
require_certificate true
use_identity_as_username true
listener 9001 127.0.0.1
protocol websockets
listener 0 m.sock
";

#[test]
fn an_imported_configuration_is_one_that_the_server_takes() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write("mosquitto.conf", CONFIGURATION);
    write(
        "passwords",
        "ann:$7$101$OzdCFazTwDmRJQQv$+sO6odEXwoW+9TBgJvYzXE4MsAF0nFWNENxoSZcGLYFFmuQ8zi0VF9dfp+fUfF+BKjAW5e90Iuf4kNv/NzigLw==\n",
    );
    write(
        "rules",
        "topic read public/#\nuser ann\ntopic readwrite #\npattern readwrite devices/%c/#\n",
    );
    let imported = longtail(
        dir.path(),
        &["import", "mosquitto.conf", "-o", "longtail.toml"],
    );
    let said = String::from_utf8(imported.stderr).unwrap();
    assert!(imported.status.success(), "{said}");
    let checked = longtail(dir.path(), &["config", "check"]);
    let said = String::from_utf8(checked.stderr).unwrap();
    let text = std::fs::read_to_string(dir.path().join("longtail.toml")).unwrap();
    assert!(checked.status.success(), "{said}\n{text}");
    let shown = longtail(dir.path(), &["config", "show"]);
    let shown = String::from_utf8(shown.stdout).unwrap();
    for line in [
        "sys_interval_s = 10",
        "packet_bytes_max = 2000000",
        "window = 20",
    ] {
        assert!(shown.contains(line), "{line} is not in\n{shown}");
    }
}
