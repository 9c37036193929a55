use std::fs;

use longtail_broker::auth::{
    AuthDocument, Authenticator, Credentials, Directory, LoginRequest, Peer, ThrottleLimits,
};
use longtail_broker::{Broker, BrokerConfig};
use longtail_model::Timestamp;
use serde_json::json;

use super::*;

struct Bench {
    dir: tempfile::TempDir,
    dynamic: DynamicSecurity,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dynamic-security.json");
        fs::write(&path, "{}").unwrap();
        let dynamic = Self::open(&path);
        Bench { dir, dynamic }
    }

    fn open(path: &Path) -> DynamicSecurity {
        let broker = Broker::open(BrokerConfig::in_memory()).unwrap();
        let authenticator = Authenticator::new(Directory::default(), ThrottleLimits::default());
        let roster = Roster::open(broker, Arc::new(authenticator), AuthDocument::default());
        DynamicSecurity::open(path, "default", Arc::new(roster.unwrap())).unwrap()
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("dynamic-security.json")
    }

    fn run(&self, command: Value) -> (Value, Vec<String>) {
        let commands = Value::Array(vec![command]);
        let payload =
            Value::Object(Map::from_iter([("commands".to_owned(), commands)])).to_string();
        let ran = self.dynamic.run(payload.as_bytes(), HashMap::new());
        let reply: Value = serde_json::from_slice(&ran.reply).unwrap();
        (reply["responses"][0].clone(), ran.kicked)
    }

    /// What is wrong; `null` if nothing is.
    fn error(&self, command: Value) -> Value {
        self.run(command).0["error"].clone()
    }

    fn data(&self, command: Value) -> Value {
        self.run(command).0["data"].clone()
    }

    fn lets_in(&self, user: &str, password: &str, client_id: &str) -> bool {
        let request = LoginRequest {
            credentials: Credentials::Password {
                user,
                password: password.as_bytes(),
            },
            peer: Peer::Unix,
            space: "default",
            client_id,
        };
        let authenticator = self.dynamic.roster.authenticator();
        authenticator.authenticate(&request, Timestamp(0)).is_ok()
    }
}

/// One role, one group that has it, one client that is in the group.
fn furnished() -> Bench {
    let bench = Bench::new();
    let acls = json!([
        { "acltype": "subscribeLiteral", "topic": "b", "allow": true },
        { "acltype": "publishClientSend", "topic": "a/#", "allow": true, "priority": 5 },
    ]);
    for command in [
        json!({ "command": "createRole", "rolename": "r", "acls": acls, "textname": "T" }),
        json!({ "command": "createGroup", "groupname": "g", "roles": [{ "rolename": "r", "priority": 3 }] }),
        json!({ "command": "createClient", "username": "u", "password": "p", "clientid": "c",
            "groups": [{ "groupname": "g", "priority": 2 }], "roles": [{ "rolename": "r" }] }),
    ] {
        assert_eq!(bench.error(command), Value::Null);
    }
    bench
}

#[test]
fn what_was_made_is_shown_as_mosquitto_shows_it() {
    let bench = furnished();
    assert_eq!(
        bench.data(json!({ "command": "getClient", "username": "u" })),
        json!({ "client": { "username": "u", "clientid": "c", "roles": [{ "rolename": "r" }],
            "groups": [{ "groupname": "g", "priority": 2 }], "connections": [] } })
    );
    assert_eq!(
        bench.data(json!({ "command": "getGroup", "groupname": "g" })),
        json!({ "group": { "groupname": "g", "clients": [{ "username": "u", "priority": 2 }],
            "roles": [{ "rolename": "r", "priority": 3 }] } })
    );
    assert_eq!(
        bench.data(json!({ "command": "getRole", "rolename": "r" })),
        json!({ "role": { "rolename": "r", "textname": "T", "allowwildcardsubs": true, "acls": [
            { "acltype": "publishClientSend", "topic": "a/#", "priority": 5, "allow": true },
            { "acltype": "subscribeLiteral", "topic": "b", "priority": 0, "allow": true },
        ] } })
    );
    for name in ["v", "w"] {
        bench.run(json!({ "command": "createClient", "username": name }));
    }
    assert_eq!(
        bench.data(json!({ "command": "listClients" })),
        json!({ "totalCount": 3, "clients": ["u", "v", "w"] })
    );
    assert_eq!(
        bench.data(json!({ "command": "listClients", "count": 1, "offset": 1, "verbose": true })),
        json!({ "totalCount": 3,
            "clients": [{ "username": "v", "roles": [], "groups": [], "connections": [] }] })
    );
    assert_eq!(
        bench.data(json!({ "command": "getDetails" })),
        json!({ "clientCount": 3, "groupCount": 1, "roleCount": 1, "changeIndex": 5 })
    );
    assert_eq!(
        bench.data(json!({ "command": "getDefaultACLAccess" })),
        json!({ "acls": [
            { "acltype": "publishClientSend", "allow": false },
            { "acltype": "publishClientReceive", "allow": true },
            { "acltype": "subscribe", "allow": false },
            { "acltype": "unsubscribe", "allow": true },
        ] })
    );
}

#[test]
fn mistakes_are_named_as_mosquitto_names_them_and_change_nothing() {
    let bench = furnished();
    let before = fs::read(bench.path()).unwrap();
    let acl = |topic: &str, kind: &str| json!({ "command": "addRoleACL", "rolename": "r", "acltype": kind, "topic": topic, "allow": true });
    for (command, error) in [
        (
            json!({ "command": "createRole", "rolename": "r" }),
            "Role already exists",
        ),
        (
            json!({ "command": "createRole", "rolename": "" }),
            "Empty rolename",
        ),
        (
            json!({ "command": "createRole" }),
            "Invalid/missing rolename",
        ),
        (
            json!({ "command": "createGroup", "groupname": "g" }),
            "Group already exists",
        ),
        (
            json!({ "command": "createGroup", "groupname": "h", "roles": [{ "rolename": "x" }] }),
            "Role not found",
        ),
        (
            json!({ "command": "createClient", "username": "u" }),
            "Client already exists",
        ),
        (
            json!({ "command": "createClient", "username": "v", "groups": [{ "groupname": "x" }] }),
            "Group not found",
        ),
        (
            json!({ "command": "createClient", "username": "v", "roles": [{ "rolename": "x" }] }),
            "Role not found",
        ),
        (
            json!({ "command": "getClient", "username": "x" }),
            "Client not found",
        ),
        (
            json!({ "command": "getClient" }),
            "Invalid/missing username",
        ),
        (
            json!({ "command": "getRole", "rolename": "x" }),
            "Role not found",
        ),
        (
            json!({ "command": "getGroup", "groupname": "x" }),
            "Group not found",
        ),
        (
            acl("a/#", "publishClientSend"),
            "ACL with this topic already exists",
        ),
        (acl("x", "bad"), "Unknown acltype"),
        (acl("x/#/y", "subscribePattern"), "Invalid ACL topic"),
        (
            json!({ "command": "removeRoleACL", "rolename": "r", "acltype": "subscribePattern", "topic": "x" }),
            "ACL not found",
        ),
        (
            json!({ "command": "modifyRole", "rolename": "x" }),
            "Role does not exist",
        ),
        (
            json!({ "command": "modifyGroup", "groupname": "x" }),
            "Group not found",
        ),
        (
            json!({ "command": "modifyGroup", "groupname": "g", "clients": [{ "username": "x" }] }),
            "Client not found",
        ),
        (
            json!({ "command": "modifyClient", "username": "x" }),
            "Client not found",
        ),
        (
            json!({ "command": "modifyClient", "username": "u", "textname": "k", "roles": [{ "rolename": "x" }] }),
            "Role not found",
        ),
        (
            json!({ "command": "addClientRole", "username": "u", "rolename": "x" }),
            "Role not found",
        ),
        (
            json!({ "command": "addClientRole", "username": "u", "rolename": "r" }),
            "Client is already in this role",
        ),
        (
            json!({ "command": "removeClientRole", "username": "x", "rolename": "r" }),
            "Client not found",
        ),
        (
            json!({ "command": "addGroupClient", "username": "u", "groupname": "g" }),
            "Client is already in this group",
        ),
        (
            json!({ "command": "removeGroupClient", "username": "x", "groupname": "g" }),
            "Client not found",
        ),
        (
            json!({ "command": "addGroupRole", "groupname": "g", "rolename": "r" }),
            "Group is already in this role",
        ),
        (
            json!({ "command": "removeGroupRole", "groupname": "x", "rolename": "r" }),
            "Group not found",
        ),
        (
            json!({ "command": "setClientPassword", "username": "u" }),
            "Invalid/missing password",
        ),
        (
            json!({ "command": "setClientPassword", "username": "u", "password": "" }),
            "Empty password is not allowed",
        ),
        (
            json!({ "command": "setClientId", "username": "x" }),
            "Client not found",
        ),
        (
            json!({ "command": "disableClient", "username": "x" }),
            "Client not found",
        ),
        (
            json!({ "command": "deleteClient", "username": "x" }),
            "Client not found",
        ),
        (
            json!({ "command": "deleteRole", "rolename": "x" }),
            "Role not found",
        ),
        (
            json!({ "command": "deleteGroup", "groupname": "x" }),
            "Group not found",
        ),
        (
            json!({ "command": "setAnonymousGroup", "groupname": "x" }),
            "Group not found",
        ),
        (
            json!({ "command": "setDefaultACLAccess" }),
            "Missing/invalid actions array",
        ),
        (
            json!({ "command": "setDefaultACLAccess", "acls": [{ "acltype": "x", "allow": true }] }),
            "Unknown acltype",
        ),
        (json!({ "command": "nonsense" }), "Unknown command"),
    ] {
        assert_eq!(bench.error(command.clone()), error, "{command}");
    }
    assert_eq!(fs::read(bench.path()).unwrap(), before);
}

#[test]
fn a_change_is_in_the_file_and_in_force_when_it_is_answered() {
    let bench = furnished();
    assert!(bench.lets_in("u", "p", "c"));
    assert!(
        !bench.lets_in("u", "p", "another"),
        "bound to one identifier"
    );
    let kicked = |command| {
        let (reply, kicked) = bench.run(command);
        assert_eq!(reply["error"], Value::Null);
        kicked
    };
    let changed =
        kicked(json!({ "command": "setClientPassword", "username": "u", "password": "q" }));
    assert_eq!(changed, ["u"]);
    assert!(!bench.lets_in("u", "p", "c") && bench.lets_in("u", "q", "c"));
    let changed = kicked(json!({ "command": "setClientId", "username": "u", "clientid": "" }));
    assert_eq!(changed, ["u"]);
    assert!(bench.lets_in("u", "q", "another"));
    assert!(kicked(json!({ "command": "disableClient", "username": "u" })).is_empty());
    assert!(!bench.lets_in("u", "q", "c"));
    kicked(json!({ "command": "enableClient", "username": "u" }));
    kicked(
        json!({ "command": "modifyClient", "username": "u", "textname": "k", "groups": [], "roles": [] }),
    );
    kicked(
        json!({ "command": "modifyRole", "rolename": "r", "acls": [], "allowwildcardsubs": false }),
    );
    kicked(
        json!({ "command": "setDefaultACLAccess", "acls": [{ "acltype": "subscribe", "allow": true }] }),
    );
    kicked(json!({ "command": "setAnonymousGroup", "groupname": "g" }));
    let forbidden = bench.error(json!({ "command": "deleteGroup", "groupname": "g" }));
    assert_eq!(forbidden, "Deleting the anonymous group is forbidden");

    let again = Bench::open(&bench.path());
    assert_eq!(*again.document.lock(), *bench.dynamic.document.lock());
    let document = again.document.lock();
    assert_eq!(document.clients["u"].texts.name.as_deref(), Some("k"));
    assert!(document.groups_of("u").is_empty());
    assert!(document.defaults.subscribe && !document.roles["r"].wildcards);
    assert_eq!(document.anonymous_group.as_deref(), Some("g"));
}

#[test]
fn what_is_deleted_is_gone_from_wherever_it_was_named() {
    let bench = furnished();
    bench.run(json!({ "command": "deleteRole", "rolename": "r" }));
    {
        let document = bench.dynamic.document.lock();
        assert!(document.clients["u"].roles.ordered().is_empty());
        assert!(document.groups["g"].roles.ordered().is_empty());
    }
    bench.run(json!({ "command": "deleteClient", "username": "u" }));
    assert!(
        bench.dynamic.document.lock().groups["g"]
            .clients
            .ordered()
            .is_empty()
    );
    assert!(!bench.lets_in("u", "p", "c"));
}

#[test]
fn what_cannot_be_kept_is_not_done() {
    let bench = furnished();
    fs::remove_file(bench.path()).unwrap();
    fs::create_dir(bench.path()).unwrap();
    let (reply, kicked) =
        bench.run(json!({ "command": "setClientPassword", "username": "u", "password": "q" }));
    assert_eq!(reply["error"], "Internal error");
    assert!(kicked.is_empty());
    assert!(bench.lets_in("u", "p", "c"));
}

#[test]
fn roles_are_asked_by_priority_and_a_literal_before_patterns() {
    let acl = |kind, topic: &str, priority, allow| document::Acl {
        kind,
        topic: topic.to_owned(),
        priority,
        allow,
    };
    let role = document::Role {
        wildcards: true,
        acls: vec![
            acl(document::AclKind::SubscribePattern, "x/#", 9, true),
            acl(document::AclKind::PublishClientSend, "low", 1, true),
            acl(document::AclKind::PublishClientSend, "high", 2, true),
            acl(document::AclKind::PublishClientSend, "also/high", 2, true),
            acl(document::AclKind::SubscribeLiteral, "x/y", 0, false),
        ],
        ..document::Role::default()
    };
    let mut document = Document::default();
    document.roles.insert("r".to_owned(), role);
    let book = document.book("default");
    let order: Vec<String> = book.roles["r"]
        .iter()
        .map(|rule| format!("{:?}", rule.target))
        .collect();
    let at = |text: &str| {
        order
            .iter()
            .position(|target| target.contains(&format!("{text:?}")))
    };
    assert!(at("high") < at("also/high") && at("also/high") < at("low"));
    assert!(at("x/y") < at("x/#"));
}
