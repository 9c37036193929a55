//! EMQX 5: `/api/v5`. Pages are `page` and `limit`, errors `{"code", "message"}`.

mod banned;
mod clients;
mod figures;
mod messages;
mod node;
mod waiting;
mod watch;

use axum::http::Method;
use serde_json::{Value, json};

use super::request::{Asked, Reply, Trouble, needed};
use super::views::Page;

/// Entries of a page: by default, and at most.
const PAGE: (usize, usize) = (100, 10_000);

/// What a page of a list is.
fn page(asked: &Asked) -> Result<Page, Trouble> {
    Page::of(asked, ("page", "limit"), PAGE)
}

/// A page.
fn paged(data: Vec<Value>, page: Page, count: usize) -> Reply {
    Reply::json(&json!({
        "data": Value::Array(data),
        "meta": {
            "page": page.number,
            "limit": page.size,
            "count": count,
            "hasnext": page.has_next(count),
        },
    }))
}

/// A page of a list that is there as a whole.
fn cut(all: Vec<Value>, page: Page) -> Reply {
    let count = all.len();
    let data = all.into_iter().skip(page.skip()).take(page.size).collect();
    paged(data, page, count)
}

/// What goes wrong, as EMQX says it.
pub(super) fn refuse(trouble: &Trouble) -> Reply {
    let code = match trouble {
        Trouble::NoLogin => "BAD_API_KEY_OR_SECRET",
        Trouble::Denied(_) => "UNAUTHORIZED_ROLE",
        Trouble::Busy(_) => "SERVICE_UNAVAILABLE",
        Trouble::OtherSite => "FORBIDDEN",
        Trouble::NoPath | Trouble::Missing(_) => "NOT_FOUND",
        Trouble::Method => "METHOD_NOT_ALLOWED",
        Trouble::Exists(_) => "ALREADY_EXISTS",
        Trouble::Bad(_) | Trouble::Absent(_) | Trouble::NotJson(_) => "BAD_REQUEST",
        Trouble::TooLarge => "PAYLOAD_TOO_LARGE",
        Trouble::Limit(_) => "EXCEED_LIMIT",
        Trouble::Unsupported(_) => "NOT_IMPLEMENTED",
        Trouble::Failed(_) => "INTERNAL_ERROR",
    };
    failed(trouble.status(), code, &trouble.to_string())
}

fn failed(status: u16, code: &str, message: &str) -> Reply {
    let reply = Reply::json(&json!({"code": code, "message": message})).with(status);
    if status == 401 {
        reply.challenged("Basic realm=\"emqx\"")
    } else {
        reply
    }
}

/// `/status`, which asks nobody who it is.
pub(super) fn status(asked: &Asked) -> Result<Reply, Trouble> {
    if asked.method != Method::GET {
        return Err(Trouble::Method);
    }
    let node = asked.api.node();
    Ok(Reply::text(format!(
        "Node {node} is started\nemqx is running"
    )))
}

/// What EMQX has and this server has not, with what there is instead.
const ABSENT: &[(&str, &str)] = &[
    ("rules", "there is no rule engine"),
    ("rule_test", "there is no rule engine"),
    ("rule_events", "there is no rule engine"),
    (
        "actions",
        "there are no actions; `[[bridges]]` carry messages to other brokers",
    ),
    (
        "sources",
        "there are no sources; `[[bridges]]` carry messages from other brokers",
    ),
    (
        "connectors",
        "there are no connectors; `[[bridges]]` connect to other brokers",
    ),
    (
        "bridges",
        "bridges are configured in the settings (`[[bridges]]`)",
    ),
    (
        "authentication",
        "accounts are configured in the settings (`[[accounts]]`, `[mqtt.http_auth]`)",
    ),
    (
        "authorization",
        "permissions are configured in the settings (`[[accounts]]`, `[mqtt.http_auth]`)",
    ),
    (
        "api_key",
        "API keys are the names and passwords of accounts (`[[accounts]]`)",
    ),
    ("users", "users are accounts (`[[accounts]]`)"),
    (
        "exhooks",
        "there is no gRPC hook; a program that embeds the server has hooks",
    ),
    ("gateways", "there are no gateways"),
    ("message_queues", "there are no queues of EMQX"),
    ("streams", "there are no streams of EMQX"),
    (
        "alarms",
        "there are no alarms; /metrics of the admin service says how the server is",
    ),
    ("configs", "settings are in the file of settings"),
    (
        "plugins",
        "there are no plugins; a program that embeds the server has hooks",
    ),
    ("schema_registry", "there is no schema registry"),
    (
        "data",
        "there is no export; the data directory can be copied",
    ),
    ("ds", "there is no cluster"),
    ("load_rebalance", "there is no cluster"),
    ("node_eviction", "there is no cluster"),
    (
        "monitor",
        "there is no history of figures; /prometheus/stats can be recorded",
    ),
];

/// Answers what is behind `/api/v5`.
pub(super) async fn answer(asked: &Asked, path: &[&str]) -> Result<Reply, Trouble> {
    match path {
        ["status"] => return status(asked),
        ["login"] => return login(asked).await,
        _ => {}
    }
    let answered = match path {
        ["logout"] => logout(asked).await,
        ["clients", rest @ ..] => clients::answer(asked, rest).await,
        ["subscriptions" | "topics", ..] => clients::routes(asked, path).await,
        ["publish", rest @ ..] => messages::publish(asked, rest).await,
        ["mqtt", "topic_metrics", rest @ ..] => watch::topic_metrics(asked, rest).await,
        ["mqtt", rest @ ..] => messages::mqtt(asked, rest).await,
        ["banned", rest @ ..] => banned::answer(asked, rest).await,
        ["trace", rest @ ..] => watch::trace(asked, rest).await,
        ["slow_subscriptions", rest @ ..] => watch::slow(asked, rest).await,
        ["metrics" | "stats" | "monitor_current" | "prometheus", ..] => {
            figures::answer(asked, path).await
        }
        ["nodes" | "cluster" | "listeners", ..] => node::answer(asked, path).await,
        _ => None,
    };
    if let Some(reply) = answered {
        return reply;
    }
    asked.caller().await?;
    let absent = ABSENT.iter().find(|(name, _)| path.first() == Some(name));
    Err(match absent {
        Some((_, why)) => Trouble::Unsupported((*why).to_owned()),
        None => Trouble::NoPath,
    })
}

/// What a room answers: nothing if the path is none of its.
type Answered = Option<Result<Reply, Trouble>>;

/// The answer to a method that a path does not have.
async fn no_method(asked: &Asked) -> Answered {
    Some(asked.caller().await.and(Err(Trouble::Method)))
}

async fn login(asked: &Asked) -> Result<Reply, Trouble> {
    if asked.method != Method::POST {
        return Err(Trouble::Method);
    }
    let body = asked.object()?;
    let (user, password) = (needed(&body, "username")?, needed(&body, "password")?);
    match asked.api.log_in(asked, user, password).await {
        Ok(token) => Ok(Reply::json(&json!({
            "token": token,
            "version": super::VERSION,
            "license": {"edition": "opensource"},
            "role": "administrator",
        }))),
        Err(Trouble::NoLogin) => Ok(failed(401, "BAD_USERNAME_OR_PWD", "Auth failed")),
        Err(other) => Err(other),
    }
}

async fn logout(asked: &Asked) -> Answered {
    if asked.method != Method::POST {
        return no_method(asked).await;
    }
    Some(asked.caller().await.map(|_| {
        asked.api.log_out(asked);
        Reply::done()
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_say_whether_there_is_more() {
        let page = Page { number: 2, size: 2 };
        let all = (0..5).map(Value::from).collect();
        let body: Value = serde_json::from_str(&cut(all, page).body).unwrap();
        assert_eq!(
            body,
            json!({"data": [2, 3], "meta": {"page": 2, "limit": 2, "count": 5, "hasnext": true}})
        );
    }

    #[test]
    fn errors_have_a_code_and_a_message() {
        let reply = refuse(&Trouble::Absent("topic"));
        assert_eq!(reply.status, 400);
        assert_eq!(
            reply.body,
            r#"{"code":"BAD_REQUEST","message":"topic is required"}"#
        );
    }
}
