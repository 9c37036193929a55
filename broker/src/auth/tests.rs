use std::sync::Arc;

use longtail_model::{Filter, Subject, Timestamp};
use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, proptest};
use proptest::strategy::Strategy;

use super::*;

/// As cheap as the algorithm allows.
const CHEAP: PasswordCost = PasswordCost {
    memory_kib: 8,
    passes: 1,
};

fn subject(text: &str) -> Subject {
    Subject::new(text).unwrap()
}

fn filter(text: &str) -> Filter {
    Filter::new(text).unwrap()
}

fn rule(effect: Effect, actions: &[Action], pattern: &str) -> Rule {
    Rule {
        actions: actions.to_vec(),
        effect,
        subject: Pattern::new(pattern).unwrap(),
    }
}

fn grants(rules: &[Rule]) -> Grants {
    Grants::compile(
        rules,
        &Identity {
            account: "ann",
            client_id: "c1",
        },
    )
    .unwrap()
}

fn document(text: &str) -> AuthDocument {
    toml::from_str(text).unwrap()
}

fn hash(password: &str) -> String {
    PasswordHash::create(password.as_bytes(), CHEAP)
        .unwrap()
        .into()
}

const BOTH: &[Action] = &[Action::Publish, Action::Consume];

#[test]
fn what_is_not_allowed_is_denied_and_deny_wins() {
    let grants = grants(&[
        rule(Effect::Deny, &[Action::Consume], "a/secret/#"),
        rule(Effect::Allow, BOTH, "a/#"),
        rule(Effect::Allow, &[Action::Consume], "a/secret/open"),
    ]);
    let allows = |action, text: &str| grants.allows(action, subject(text).as_ref());
    assert!(allows(Action::Publish, "a/secret/x"));
    assert!(allows(Action::Consume, "a/b"));
    assert!(!allows(Action::Consume, "a/secret/open"));
    assert!(!allows(Action::Consume, "b"));
    assert!(!allows(Action::Configure, "a/b"));
    assert_eq!(
        grants.judge(Action::Consume, &filter("a/#")),
        Verdict::Screened
    );
    assert_eq!(
        grants.judge(Action::Consume, &filter("a/b/+")),
        Verdict::Allowed
    );
    assert_eq!(
        grants.judge(Action::Consume, &filter("a/secret/+")),
        Verdict::Denied
    );
    assert_eq!(grants.judge(Action::Consume, &filter("#")), Verdict::Denied);
    assert!(grants.allows_filter(Action::Publish, &filter("a/>")));
}

#[test]
fn full_and_empty_grants() {
    let everything = subject("$SYS/x");
    for action in [
        Action::Publish,
        Action::Consume,
        Action::Configure,
        Action::Manage,
    ] {
        assert!(Grants::full().allows(action, everything.as_ref()));
        assert!(Grants::full().allows_filter(action, &filter("#")));
        assert!(!Grants::default().allows(action, everything.as_ref()));
        assert!(!Grants::default().allows_filter(action, &filter("a")));
    }
}

#[test]
fn placeholders_are_taken_literally() {
    let rules = [rule(Effect::Allow, BOTH, "home/%u/dev-%c/100%%/#")];
    let compile = |account, client_id| Grants::compile(&rules, &Identity { account, client_id });
    let ann = compile("ann", "c1").unwrap();
    assert!(ann.allows(Action::Publish, subject("home/ann/dev-c1/100%/x").as_ref()));
    assert!(!ann.allows(Action::Publish, subject("home/bob/dev-c1/100%/x").as_ref()));
    // A client that calls itself a wildcard gets the subject of that name and no other.
    let hostile = compile("#", "+").unwrap();
    assert!(hostile.allows(Action::Publish, subject("home/#/dev-+/100%/x").as_ref()));
    assert!(!hostile.allows(Action::Publish, subject("home/ann/dev-c1/100%/x").as_ref()));
    assert!(!hostile.allows_filter(Action::Consume, &filter("home/+/+/100%/x")));
    for (account, client_id) in [("a/b", "c"), ("", "c"), ("a", ""), ("a", "c/#")] {
        assert!(
            compile(account, client_id).is_err(),
            "{account:?} {client_id:?}"
        );
    }
    assert!(matches!(
        Pattern::new("a/%x"),
        Err(PatternError::Placeholder(_))
    ));
    assert!(matches!(
        Pattern::new("a/%"),
        Err(PatternError::Placeholder(_))
    ));
    assert!(matches!(
        Pattern::new("a/>/b"),
        Err(PatternError::Filter(_))
    ));
}

#[test]
fn documents_are_read_and_written_and_strict() {
    let text = format!(
        r#"
        [[spaces]]
        name = "factory"
        quotas = {{ streams_max = 10 }}

        [[accounts]]
        name = "ann"
        password = "{}"
        certificates = ["ann.example"]

        [[accounts.permissions]]
        space = "factory"
        rules = [
            {{ actions = ["publish", "consume"], subject = "line/#" }},
            {{ actions = ["consume"], effect = "deny", subject = "line/%u/private" }},
        ]
        "#,
        hash("secret")
    );
    let read = document(&text);
    assert!(read.accounts[0].enabled);
    let json = serde_json::to_string(&read).unwrap();
    assert_eq!(serde_json::from_str::<AuthDocument>(&json).unwrap(), read);
    assert!(!format!("{read:?}").contains("argon2id"));
    for wrong in [
        "[[accounts]]\nname = \"a\"\nrole = \"x\"",
        "[[accounts]]\nname = \"a\"\npassword = \"secret\"",
        "[[spaces]]\nname = \"a\"\nquotas = { streams = 1 }",
        "users = []",
    ] {
        assert!(toml::from_str::<AuthDocument>(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn directories_refuse_contradictions() {
    let refused = |text: &str| Directory::new(document(text)).unwrap_err();
    let twice = "[[accounts]]\nname = \"a\"\n[[accounts]]\nname = \"a\"";
    assert_eq!(
        refused(twice),
        DirectoryError::DuplicateAccount("a".to_owned())
    );
    let spaces = "[[spaces]]\nname = \"default\"\n[[spaces]]\nname = \"default\"";
    assert_eq!(
        refused(spaces),
        DirectoryError::DuplicateSpace("default".to_owned())
    );
    let unnamed = "[[accounts]]\nname = \"\"";
    assert_eq!(refused(unnamed), DirectoryError::Name(String::new()));
    let nowhere = "[[accounts]]\nname = \"a\"\npermissions = [{ space = \"x\", rules = [] }]";
    assert!(matches!(
        refused(nowhere),
        DirectoryError::UnknownSpace { .. }
    ));
    let shared = "[[accounts]]\nname = \"a\"\ncertificates = [\"n\"]\n[[accounts]]\nname = \"b\"\ncertificates = [\"n\"]";
    assert!(matches!(
        refused(shared),
        DirectoryError::DuplicateCertificate { .. }
    ));
    assert!(Directory::new(document("[[spaces]]\nname = \"default\"")).is_ok());
}

#[test]
fn only_bearable_argon2id_hashes_are_accepted() {
    let salt_and_hash = "c29tZXNhbHRzb21lc2FsdA$RdescudvJCsgt3ub+b3dWRWJTmaaJObG5n2uGQ1oiKs";
    let parse = |head: &str| PasswordHash::parse(&format!("{head}${salt_and_hash}"));
    assert!(parse("$argon2id$v=19$m=65536,t=2,p=1").is_ok());
    assert!(matches!(
        parse("$argon2i$v=19$m=65536,t=2,p=1"),
        Err(PasswordError::Algorithm(_))
    ));
    assert!(matches!(
        parse("$argon2id$v=19$m=4000000,t=2,p=1"),
        Err(PasswordError::TooExpensive {
            memory_kib: 4_000_000,
            passes: 2
        })
    ));
    assert_eq!(
        PasswordHash::parse("plain:secret"),
        Err(PasswordError::Malformed)
    );
    assert_eq!(
        PasswordHash::parse("$argon2id$v=19$m=65536,t=2,p=1"),
        Err(PasswordError::Malformed)
    );
    let made = PasswordHash::create(b"secret", CHEAP).unwrap();
    assert!(made.verify(b"secret"));
    assert!(!made.verify(b"Secret"));
    assert_ne!(
        made,
        PasswordHash::create(b"secret", CHEAP).unwrap(),
        "the salt is random"
    );
}

const REMOTE: &str = "192.0.2.7";

fn remote() -> Peer {
    Peer::Address(REMOTE.parse().unwrap())
}

fn request<'a>(credentials: Credentials<'a>, peer: Peer, space: &'a str) -> LoginRequest<'a> {
    LoginRequest {
        credentials,
        peer,
        space,
        client_id: "c1",
    }
}

fn authenticator() -> Authenticator {
    let text = format!(
        r#"
        [[spaces]]
        name = "factory"
        [[accounts]]
        name = "ann"
        password = "{0}"
        permissions = [{{ space = "factory", rules = [{{ actions = ["publish"], subject = "%u/#" }}] }}]
        [[accounts]]
        name = "bob"
        password = "{0}"
        enabled = false
        certificates = ["bob.example"]
        [[accounts]]
        name = "machine"
        certificates = ["m1.example", "machine"]
        permissions = [{{ space = "default", rules = [] }}]
        "#,
        hash("secret")
    );
    Authenticator::new(
        Directory::new(document(&text)).unwrap(),
        ThrottleLimits::default(),
    )
}

fn password(user: &'static str, password: &'static str) -> Credentials<'static> {
    Credentials::Password {
        user,
        password: password.as_bytes(),
    }
}

#[test]
fn logins() {
    let auth = authenticator();
    let try_login = |credentials, space| {
        auth.authenticate(&request(credentials, remote(), space), Timestamp(0))
    };
    let ann = try_login(password("ann", "secret"), "factory").unwrap();
    assert_eq!((ann.account_name(), &*ann.space), ("ann", "factory"));
    assert!(
        ann.grants
            .allows(Action::Publish, subject("ann/x").as_ref())
    );
    let bad = Some(AuthError::BadCredentials);
    assert_eq!(try_login(password("ann", "wrong"), "factory").err(), bad);
    assert_eq!(try_login(password("eve", "secret"), "factory").err(), bad);
    assert_eq!(
        try_login(password("bob", "secret"), "factory").err(),
        bad,
        "disabled"
    );
    assert_eq!(
        try_login(password("machine", "secret"), "default").err(),
        bad,
        "the decoy's password opens nothing"
    );
    assert_eq!(try_login(Credentials::Anonymous, "factory").err(), bad);
    for space in ["default", "nowhere"] {
        let refused = AuthError::NoAccess {
            space: space.to_owned(),
            proved: Some(Proved {
                principal: Principal::named("ann"),
                expires: None,
            }),
        };
        assert_eq!(
            try_login(password("ann", "secret"), space).err(),
            Some(refused)
        );
    }
    let names = ["other".to_owned(), "machine".to_owned()];
    let machine = try_login(Credentials::Certificate { names: &names }, "default").unwrap();
    assert_eq!(machine.account_name(), "machine");
    let disabled = ["bob.example".to_owned()];
    assert_eq!(
        try_login(Credentials::Certificate { names: &disabled }, "default").err(),
        bad
    );
    assert!(auth.grants("ann", "factory", "c1").is_ok());
    assert_eq!(auth.grants("bob", "factory", "c1").err(), bad);
    auth.replace(Directory::default());
    assert_eq!(auth.grants("ann", "factory", "c1").err(), bad);
}

#[test]
fn without_accounts_only_this_machine_gets_in() {
    let auth = Authenticator::new(Directory::default(), ThrottleLimits::default());
    assert!(!auth.may_listen_publicly());
    let loopback = Peer::Address("::ffff:127.0.0.1".parse().unwrap());
    for peer in [Peer::Unix, loopback, Peer::Address("::1".parse().unwrap())] {
        for credentials in [Credentials::Anonymous, password("guest", "guest")] {
            let login = auth
                .authenticate(&request(credentials, peer, "default"), Timestamp(0))
                .unwrap();
            assert_eq!(*login.grants, Grants::full());
        }
    }
    let refused = auth.authenticate(
        &request(password("guest", "guest"), remote(), "default"),
        Timestamp(0),
    );
    assert_eq!(refused.err(), Some(AuthError::Closed));
    assert!(authenticator().may_listen_publicly());
}

#[test]
fn failed_logins_from_afar_are_throttled() {
    let auth = authenticator();
    let attempt = |peer, pass| {
        auth.authenticate(
            &request(password("ann", pass), peer, "factory"),
            Timestamp(5),
        )
        .map(|_| ())
        .err()
    };
    for _ in 0..10 {
        assert_eq!(attempt(remote(), "wrong"), Some(AuthError::BadCredentials));
        assert_eq!(
            attempt(Peer::Unix, "wrong"),
            Some(AuthError::BadCredentials)
        );
    }
    assert_eq!(
        attempt(remote(), "secret"),
        Some(AuthError::Throttled {
            until: Timestamp(60_005)
        })
    );
    assert_eq!(attempt(Peer::Unix, "secret"), None);
    assert_eq!(
        attempt(Peer::Address("192.0.2.8".parse().unwrap()), "secret"),
        None
    );
}

#[test]
fn quotas_check_only_what_is_asked_for() {
    let quotas = Quotas {
        streams_max: Some(2),
        bytes_max: Some(100),
        ..Quotas::default()
    };
    let used = Usage {
        streams: 1,
        bytes: 150,
        ..Usage::default()
    };
    assert_eq!(
        quotas.admit(
            &used,
            &Usage {
                streams: 1,
                connections: u64::MAX,
                ..Usage::default()
            }
        ),
        Ok(())
    );
    let refused = quotas
        .admit(
            &used,
            &Usage {
                messages: 1,
                bytes: 1,
                ..Usage::default()
            },
        )
        .unwrap_err();
    assert_eq!(
        refused.to_string(),
        "the space is limited to 100 bytes: 150 used, 1 more requested"
    );
    assert!(
        quotas
            .admit(
                &used,
                &Usage {
                    streams: 2,
                    ..Usage::default()
                }
            )
            .is_err()
    );
    assert!(
        quotas
            .admit(
                &used,
                &Usage {
                    bytes: u64::MAX,
                    ..Usage::default()
                }
            )
            .is_err()
    );
}

fn any_pattern() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "+", "#", "%u"]), 0..4)
        .prop_map(|tokens| tokens.join("/"))
}

proptest! {
    #[test]
    fn verdicts_and_caches_agree_with_the_rules(
        rules in prop::collection::vec((any_pattern(), any::<bool>()), 0..5),
        asked in any_pattern(),
        subjects in prop::collection::vec(
            prop::collection::vec(prop::sample::select(vec!["a", "b", "ann", "z"]), 0..4), 1..60),
    ) {
        let rules: Vec<Rule> = rules
            .iter()
            .map(|(pattern, deny)| rule(if *deny { Effect::Deny } else { Effect::Allow }, BOTH, pattern))
            .collect();
        let grants = Arc::new(grants(&rules));
        let identity = Identity { account: "ann", client_id: "c1" };
        let asked = Pattern::new(&asked).unwrap().expand(&identity).unwrap();
        let verdict = grants.judge(Action::Consume, &asked);
        let mut cached = CachedGrants::new(Arc::clone(&grants));
        for tokens in subjects {
            let subject = subject(&tokens.join("/"));
            let hits = |effect| {
                rules.iter().any(|rule| {
                    rule.effect == effect && rule.subject.expand(&identity).unwrap().matches(subject.as_ref())
                })
            };
            let allowed = hits(Effect::Allow) && !hits(Effect::Deny);
            prop_assert_eq!(grants.allows(Action::Publish, subject.as_ref()), allowed);
            for _ in 0..2 {
                prop_assert_eq!(cached.allows(Action::Consume, subject.as_ref()), allowed);
                prop_assert!(!cached.allows(Action::Manage, subject.as_ref()));
            }
            if verdict == Verdict::Allowed && asked.matches(subject.as_ref()) {
                prop_assert!(allowed);
            }
            if verdict == Verdict::Screened && asked.matches(subject.as_ref()) {
                prop_assert!(hits(Effect::Allow));
            }
        }
    }
}

#[test]
fn clients_without_credentials_have_the_rules_of_the_anonymous_account() {
    let text = |anonymous: &str| {
        format!(
            "anonymous = {anonymous:?}\n[[accounts]]\nname = \"guest\"\npermissions = [{{ space = \"default\", rules = [{{ actions = [\"consume\"], subject = \"public/#\" }}] }}]"
        )
    };
    let directory = Directory::new(document(&text("guest"))).unwrap();
    let authenticator = Authenticator::new(directory, ThrottleLimits::default());
    let request = LoginRequest {
        credentials: Credentials::Anonymous,
        peer: Peer::Address([192, 0, 2, 1].into()),
        space: "default",
        client_id: "",
    };
    let login = authenticator.authenticate(&request, Timestamp(1)).unwrap();
    assert_eq!(&*login.name, "guest");
    let allows = |text: &str| login.grants.allows(Action::Consume, subject(text).as_ref());
    assert!(allows("public/a") && !allows("private/a"));
    assert_eq!(
        Directory::new(document(&text("nobody"))).unwrap_err(),
        DirectoryError::UnknownAccount {
            by: "anonymous".to_owned(),
            account: "nobody".to_owned()
        }
    );
}

#[test]
fn a_token_is_a_password_with_an_end() {
    let secret = "0123456789abcdef0123456789abcdef";
    let text = format!(
        "[[accounts]]\nname = \"device\"\npermissions = [{{ space = \"default\", rules = [{{ actions = [\"publish\"], subject = \"%u/#\" }}] }}]\n[[tokens]]\nname = \"gate\"\nalgorithm = \"HS256\"\nkey = {secret:?}\naccount = \"device\""
    );
    let directory = Directory::new(document(&text)).unwrap();
    let authenticator = Authenticator::new(directory, ThrottleLimits::default());
    let claims = serde_json::json!({"sub": "d7", "exp": 2000});
    let key = jsonwebtoken::EncodingKey::from_secret(secret.as_bytes());
    let token = jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap();
    let login_to = |space, user: &str, now| {
        let request = LoginRequest {
            credentials: Credentials::Password {
                user,
                password: token.as_bytes(),
            },
            peer: Peer::Unix,
            space,
            client_id: "",
        };
        authenticator.authenticate(&request, Timestamp(now))
    };
    let login = |user: &str, now| login_to("default", user, now);
    let granted = login("d7", 1).unwrap();
    assert_eq!(
        (&*granted.name, granted.expires),
        ("d7", Some(Timestamp(2_000_000)))
    );
    assert_eq!(granted.account_name(), "device");
    assert!(
        granted
            .grants
            .allows(Action::Publish, subject("d7/x").as_ref())
    );
    assert!(
        !granted
            .grants
            .allows(Action::Publish, subject("d8/x").as_ref())
    );
    let principal = granted.principal().unwrap();
    let again = authenticator.grants_of(&principal, "default", "", None);
    let again = again.unwrap().grants;
    assert!(again.allows(Action::Publish, subject("d7/x").as_ref()));
    assert!(!again.allows(Action::Publish, subject("device/x").as_ref()));
    assert!(login("", 1).is_ok());
    // Who has no access has proved the same, and as long.
    let refused = AuthError::NoAccess {
        space: "elsewhere".to_owned(),
        proved: Some(Proved {
            principal,
            expires: Some(Timestamp(2_000_000)),
        }),
    };
    assert_eq!(login_to("elsewhere", "d7", 1).unwrap_err(), refused);
    assert_eq!(login("d8", 1).unwrap_err(), AuthError::BadCredentials);
    assert_eq!(
        login("d7", 2_000_000).unwrap_err(),
        AuthError::BadCredentials
    );
}

#[test]
fn a_scram_exchange_ends_in_a_login() {
    let verifier: String = PasswordHash::create_scram(b"pencil").into();
    let text = format!(
        "[[accounts]]\nname = \"ann\"\npassword = {verifier:?}\npermissions = [{{ space = \"default\", rules = [] }}]"
    );
    let directory = Directory::new(document(&text)).unwrap();
    let authenticator = Authenticator::new(directory, ThrottleLimits::default());
    let request = |password| LoginRequest {
        credentials: Credentials::Password {
            user: "ann",
            password,
        },
        peer: Peer::Unix,
        space: "default",
        client_id: "",
    };
    // The verifier serves clients that send their password as well.
    assert!(
        authenticator
            .authenticate(&request(b"pencil"), Timestamp(1))
            .is_ok()
    );
    assert!(
        authenticator
            .authenticate(&request(b"pen"), Timestamp(1))
            .is_err()
    );
    let begin = || {
        authenticator
            .begin_scram(b"n,,n=ann,r=abc", Peer::Unix, Timestamp(1))
            .unwrap()
    };
    let (exchange, first) = begin();
    assert!(first.starts_with("r=abc"));
    assert_ne!(begin().1, first, "the nonce is new each time");
    let nonce = first.split(',').next().unwrap();
    let last = format!("c=biws,{nonce},p=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=");
    let finished =
        authenticator.finish_scram(exchange, last.as_bytes(), &request(b""), Timestamp(1));
    assert_eq!(finished.unwrap_err(), AuthError::BadCredentials);
}
