//! The hook against a server that answers from a list.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::mpsc;

use longtail_broker::auth::Action as Right;
use longtail_edge::Endpoint;
use longtail_engine::runtime::ManualClock;
use longtail_model::Subject;

use super::*;
use crate::codec::Qos;
use crate::hooks::Wish;

/// Answers each connection with the next of these; says what was asked.
fn server(answers: Vec<String>) -> (String, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = String::new();
            let mut buffer = [0; 4096];
            while !is_whole(&asked) {
                let count = stream.read(&mut buffer).unwrap();
                if count == 0 {
                    break;
                }
                asked.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
            }
            tell.send(asked).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    (format!("http://{address}/auth"), told)
}

fn is_whole(asked: &str) -> bool {
    let Some((head, body)) = asked.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head.lines().find_map(|line| {
        line.to_ascii_lowercase()
            .strip_prefix("content-length: ")?
            .parse()
            .ok()
    });
    body.len() >= length.unwrap_or(0)
}

fn json(body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}")
}

fn status(number: u16) -> String {
    format!("HTTP/1.1 {number} x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
}

fn config(text: &str) -> HttpAuthConfig {
    serde_json::from_str(text).unwrap()
}

fn hook(config: HttpAuthConfig, is_last: bool) -> Result<HttpAuth, HttpAuthError> {
    let rights: Rights =
        Arc::new(|account, _| (account == "devices").then(|| Arc::new(Grants::default())));
    let clock = Arc::new(ManualClock::new(Timestamp(1000)));
    HttpAuth::new(config, rights, clock, is_last)
}

fn proof() -> Proof {
    Proof {
        client_id: "pump/7".into(),
        username: Some("eve & co".to_owned()),
        password: Some("p\u{e4}ss".into()),
        remote: Endpoint::Tcp("192.0.2.1:5".parse().unwrap()),
        identity: None,
        listener: "l".into(),
    }
}

fn decide(hook: &HttpAuth) -> Decision {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(hook.authenticate(&proof()))
}

#[test]
fn an_answer_with_rules_gives_these_rights() {
    let body = r#"{"result": "allow", "acl": [
        {"permission": "deny", "action": "publish", "topic": "a/secret"},
        {"permission": "allow", "action": "publish", "topic": "a/#"}]}"#;
    let (url, asked) = server(vec![json(body)]);
    let hook = hook(
        config(&format!(r#"{{"style": "emqx", "url": "{url}"}}"#)),
        true,
    )
    .unwrap();
    let Decision::Admit { grants, .. } = decide(&hook) else {
        panic!("not let in");
    };
    let may = |topic: &str| {
        let subject = Subject::parse_mqtt(topic).unwrap();
        grants.allows(Right::Publish, subject.as_ref())
    };
    assert!(may("a/b") && !may("a/secret") && !may("b"));
    let asked = asked.recv().unwrap();
    assert!(asked.starts_with("POST /auth HTTP/1.1\r\n"), "{asked}");
    let (_, body) = asked.split_once("\r\n\r\n").unwrap();
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    let expected = serde_json::json!({
        "clientid": "pump/7", "username": "eve & co", "password": "p\u{e4}ss",
    });
    assert_eq!(body, expected);
}

#[test]
fn nanomq_goes_by_the_status_and_asks_for_superusers() {
    let (url, asked) = server(vec![
        status(200),
        status(200),
        status(200),
        status(403),
        status(401),
    ]);
    let text = format!(
        r#"{{"style": "nanomq", "url": "{url}", "superuser_url": "{url}", "account": "devices",
            "params": {{"u": "%u", "a": "%a"}}}}"#
    );
    let hook = hook(config(&text), true).unwrap();
    assert_eq!(decide(&hook), Decision::admit_all());
    let first = asked.recv().unwrap();
    assert!(
        first.ends_with("\r\n\r\na=192.0.2.1&u=eve%20%26%20co"),
        "{first}"
    );
    let as_account = Decision::Admit {
        account: Some("devices".into()),
        grants: Arc::new(Grants::default()),
    };
    assert_eq!(decide(&hook), as_account);
    assert_eq!(
        decide(&hook),
        Decision::Deny(ReasonCode::BadUserNameOrPassword)
    );
}

#[test]
fn who_is_not_known_is_for_the_next_or_refused() {
    for (is_last, expected) in [
        (false, Decision::Next),
        (true, Decision::Deny(ReasonCode::NotAuthorized)),
    ] {
        let (url, _asked) = server(vec![json(r#"{"result": "ignore"}"#)]);
        let text = format!(r#"{{"style": "emqx", "url": "{url}", "method": "get"}}"#);
        assert_eq!(decide(&hook(config(&text), is_last).unwrap()), expected);
    }
}

#[test]
fn without_an_answer_nobody_is_let_in() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!(
        "http://{}/",
        silent.local_addr().map(|at| at.to_string()).unwrap()
    );
    let (broken, _asked) = server(vec![status(500)]);
    let (strange, _asked) = server(vec![json("yes")]);
    let (gone, _) = server(Vec::new());
    for url in [silent, broken, strange, gone] {
        let text = format!(r#"{{"style": "emqx", "url": "{url}", "timeout_ms": 200}}"#);
        let hook = hook(config(&text), false).unwrap();
        assert_eq!(
            decide(&hook),
            Decision::Deny(ReasonCode::ServerUnavailable),
            "{url}"
        );
    }
}

#[test]
fn the_same_request_is_answered_from_memory_for_a_while() {
    let (url, asked) = server(vec![json(r#"{"result": "deny"}"#)]);
    let text = format!(r#"{{"style": "emqx", "url": "{url}", "cache_ttl_ms": 1000}}"#);
    let hook = hook(config(&text), true).unwrap();
    for _ in 0..3 {
        assert_eq!(
            decide(&hook),
            Decision::Deny(ReasonCode::BadUserNameOrPassword)
        );
    }
    assert_eq!(asked.iter().count(), 1);
}

#[test]
fn settings_that_cannot_work_are_refused() {
    for text in [
        r#"{"style": "emqx", "url": "ftp://a/"}"#,
        r#"{"style": "emqx", "url": "http://"}"#,
        r#"{"style": "emqx", "url": "http://a:x/"}"#,
        r#"{"style": "emqx", "url": "https://a/"}"#,
        r#"{"style": "emqx", "url": "http://a/", "superuser_url": "http://a/"}"#,
        r#"{"style": "emqx", "url": "http://a/", "timeout_ms": 0}"#,
        r#"{"style": "emqx", "url": "http://a/", "requests_max": 0}"#,
        r#"{"style": "emqx", "url": "http://a/", "params": {"t": "%t"}}"#,
        r#"{"style": "emqx", "url": "http://a/", "headers": {"a b": "c"}}"#,
        r#"{"style": "nanomq", "url": "http://a/", "acl_url": "a"}"#,
        r#"{"style": "nanomq", "url": "http://a/", "acl_ttl_ms": 5}"#,
        r#"{"style": "nanomq", "url": "http://a/", "acl_url": "http://a/", "acl_params": {"p": "%P"}}"#,
    ] {
        assert!(hook(config(text), true).is_err(), "{text}");
    }
}

fn permit(hook: &HttpAuth, publish: bool, topic: &str) -> Permission {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let proof = proof();
    let asking = Asking {
        client_id: proof.client_id,
        username: proof.username.as_deref().map(Arc::from),
        remote: proof.remote,
        wish: Wish {
            publish,
            topic: topic.into(),
            qos: Qos::AtLeastOnce,
            retain: true,
        },
    };
    runtime.block_on(hook.permit(&asking))
}

#[test]
fn nanomq_is_asked_about_each_topic_but_not_about_superusers() {
    let answers = vec![
        status(200),
        status(403),
        status(503),
        status(200),
        status(200),
    ];
    let (url, asked) = server(answers);
    let text = format!(
        r#"{{"style": "nanomq", "url": "{url}", "superuser_url": "{url}", "acl_url": "{url}",
            "acl_params": {{"c": "%c", "a": "%A", "t": "%t", "ip": "%a"}}, "acl_ttl_ms": 7}}"#
    );
    let hook = hook(config(&text), true).unwrap();
    assert!(hook.points().meets(Points::PERMIT));
    assert_eq!(hook.permit_holds_ms(), 7);
    assert_eq!(permit(&hook, true, "a/b c"), Permission::Allow);
    let first = asked.recv().unwrap();
    assert!(
        first.ends_with("a=2&c=pump%2F7&ip=192.0.2.1&t=a%2Fb%20c"),
        "{first}"
    );
    assert_eq!(permit(&hook, false, "a/#"), Permission::Deny);
    assert!(asked.recv().unwrap().contains("a=1&"));
    assert_eq!(permit(&hook, true, "a"), Permission::Deny, "no answer");
    // Login and superuser.
    assert_eq!(decide(&hook), Decision::admit_all());
    assert_eq!(
        permit(&hook, true, "anything"),
        Permission::Allow,
        "nobody is asked"
    );
}

#[test]
fn emqx_is_asked_with_words_and_may_leave_it_to_others() {
    let answers = vec![
        json(r#"{"result": "allow"}"#),
        json(r#"{"result": "deny"}"#),
        json(r#"{"result": "ignore"}"#),
    ];
    let (url, asked) = server(answers);
    let text = format!(
        r#"{{"style": "emqx", "url": "{url}", "acl_url": "{url}",
            "acl_params": {{"action": "${{action}}", "topic": "${{topic}}", "qos": "${{qos}}", "retain": "${{retain}}"}}}}"#
    );
    let hook = hook(config(&text), true).unwrap();
    assert_eq!(permit(&hook, true, "a"), Permission::Allow);
    let first = asked.recv().unwrap();
    let body = r#"{"action":"publish","qos":"1","retain":"true","topic":"a"}"#;
    assert!(first.ends_with(body), "{first}");
    assert_eq!(permit(&hook, true, "a"), Permission::Deny);
    assert_eq!(permit(&hook, false, "a"), Permission::Next);
}
