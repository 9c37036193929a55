//! Which path is what.

use std::sync::Arc;

use super::http::{Asked, Failed, Reply};
use super::{
    Management, bindings, connections, definitions, exchanges, federation, health, limits,
    overview, parameters, permissions, policies, queues, shovels, users, vhosts,
};

/// Carries out a request for the path under `/api/`; `None`: there is nothing, or not with this method.
pub(super) async fn dispatch(
    m: &Arc<Management>,
    a: &Asked,
    path: &[&str],
) -> Option<Result<Reply, Failed>> {
    Some(match (a.method.as_str(), path) {
        ("GET", ["overview"]) => overview::overview(m, a).await,
        ("GET", ["whoami"]) => Ok(overview::whoami(a)),
        ("GET", ["version"]) => Ok(overview::version(m)),
        ("GET", ["auth"]) => Ok(overview::auth()),
        ("GET", ["auth", "hash_password", password]) => Ok(users::hash(password)),
        ("PUT", ["auth", "hash_password"]) => users::hash_of(a),
        ("GET", ["auth", "attempts", ..]) => a.caller.monitors().map(|()| overview::empty()),
        ("GET", ["nodes"]) => overview::nodes(m, a).await,
        ("GET", ["nodes", name]) => overview::node(m, a, name).await,
        ("GET", ["nodes", name, "memory"] | ["nodes", name, "memory", "relative"]) => {
            overview::memory(m, a, name)
        }
        ("GET", ["cluster-name"]) => Ok(parameters::cluster_name(m)),
        ("PUT", ["cluster-name"]) => parameters::set_cluster_name(m, a).await,
        ("GET", path) if is_always_empty(path) => Ok(overview::empty()),
        ("GET", ["feature-flags"]) => a.caller.administers().map(|()| overview::feature_flags()),
        ("PUT", ["feature-flags", name, "enable"]) => overview::enable_feature(a, name),
        ("GET", ["aliveness-test", vhost]) => health::aliveness(m, a, vhost).await,
        ("GET", ["healthchecks", "node", ..]) => health::node(m),
        ("GET", ["health", "checks", check @ ..]) => health::check(m, check),
        ("POST", ["rebalance", "queues"]) => a.caller.administers().map(|()| Reply::Done),

        ("GET", ["connections"]) => connections::list(m, a, None, None).await,
        ("GET", ["vhosts", vhost, "connections"]) => {
            connections::list(m, a, Some(vhost), None).await
        }
        ("GET", ["connections", "username", user]) => {
            connections::list(m, a, None, Some(user)).await
        }
        ("DELETE", ["connections", "username", user]) => connections::end_all_of(m, a, user),
        ("GET", ["connections", name]) => connections::show(m, a, name).await,
        ("DELETE", ["connections", name]) => connections::end(m, a, name),
        ("GET", ["connections", name, "channels"]) => {
            connections::channels(m, a, None, Some(name)).await
        }
        ("GET", ["channels"]) => connections::channels(m, a, None, None).await,
        ("GET", ["vhosts", vhost, "channels"]) => {
            connections::channels(m, a, Some(vhost), None).await
        }
        ("GET", ["channels", name]) => connections::show_channel(m, a, name).await,
        ("GET", ["consumers"]) => connections::consumers(m, a, None).await,
        ("GET", ["consumers", vhost]) => connections::consumers(m, a, Some(vhost)).await,

        ("GET", ["queues"] | ["queues", "detailed"]) => queues::list(m, a, None).await,
        ("GET", ["queues", vhost]) => queues::list(m, a, Some(vhost)).await,
        ("GET", ["queues", vhost, name]) => queues::show(m, a, vhost, name).await,
        ("PUT", ["queues", vhost, name]) => queues::declare(m, a, vhost, name).await,
        ("DELETE", ["queues", vhost, name]) => queues::delete(m, a, vhost, name).await,
        ("GET", ["queues", vhost, name, "bindings"]) => bindings::of_queue(m, a, vhost, name).await,
        ("DELETE", ["queues", vhost, name, "contents"]) => queues::purge(m, a, vhost, name).await,
        ("POST", ["queues", vhost, name, "get"]) => queues::get(m, a, vhost, name).await,
        ("POST", ["queues", vhost, name, "actions"]) => queues::action(m, a, vhost, name).await,

        ("GET", ["exchanges"]) => exchanges::list(m, a, None).await,
        ("GET", ["exchanges", vhost]) => exchanges::list(m, a, Some(vhost)).await,
        ("GET", ["exchanges", vhost, name]) => exchanges::show(m, a, vhost, name).await,
        ("PUT", ["exchanges", vhost, name]) => exchanges::declare(m, a, vhost, name).await,
        ("DELETE", ["exchanges", vhost, name]) => exchanges::delete(m, a, vhost, name).await,
        ("POST", ["exchanges", vhost, name, "publish"]) => {
            exchanges::publish(m, a, vhost, name).await
        }
        ("GET", ["exchanges", vhost, name, "bindings", "source"]) => {
            bindings::of_exchange(m, a, vhost, name, true).await
        }
        ("GET", ["exchanges", vhost, name, "bindings", "destination"]) => {
            bindings::of_exchange(m, a, vhost, name, false).await
        }

        ("GET", ["bindings"]) => bindings::list(m, a, None).await,
        ("GET", ["bindings", vhost]) => bindings::list(m, a, Some(vhost)).await,
        ("GET", ["bindings", vhost, "e", source, kind @ ("q" | "e"), name]) => {
            bindings::between(m, a, vhost, (source, kind, name)).await
        }
        ("POST", ["bindings", vhost, "e", source, kind @ ("q" | "e"), name]) => {
            bindings::bind(m, a, vhost, (source, kind, name)).await
        }
        (
            "GET",
            [
                "bindings",
                vhost,
                "e",
                source,
                kind @ ("q" | "e"),
                name,
                props,
            ],
        ) => bindings::show(m, a, vhost, (source, kind, name), props).await,
        (
            "DELETE",
            [
                "bindings",
                vhost,
                "e",
                source,
                kind @ ("q" | "e"),
                name,
                props,
            ],
        ) => bindings::unbind(m, a, vhost, (source, kind, name), props).await,

        ("GET", ["vhosts"]) => vhosts::list(m, a).await,
        ("GET", ["vhosts", name]) => vhosts::show(m, a, name).await,
        ("PUT", ["vhosts", name]) => vhosts::put(m, a, name).await,
        ("DELETE", ["vhosts", name]) => vhosts::delete(m, a, name).await,
        ("GET", ["vhosts", name, "permissions"]) => permissions::list(m, a, Some(name), None),
        ("GET", ["vhosts", name, "topic-permissions"]) => {
            permissions::list_topics(m, a, Some(name), None)
        }
        ("POST", ["vhosts", name, "start", _]) => vhosts::start(m, a, name),
        ("POST", ["vhosts", name, "deletion", "protection"]) => {
            vhosts::protect(m, a, name, true).await
        }
        ("DELETE", ["vhosts", name, "deletion", "protection"]) => {
            vhosts::protect(m, a, name, false).await
        }
        ("GET", ["vhost-limits"]) => limits::of_vhosts(m, a, None),
        ("GET", ["vhost-limits", vhost]) => limits::of_vhosts(m, a, Some(vhost)),
        ("PUT", ["vhost-limits", vhost, name]) => limits::set_of_vhost(m, a, vhost, name).await,
        ("DELETE", ["vhost-limits", vhost, name]) => {
            limits::clear_of_vhost(m, a, vhost, name).await
        }
        ("GET", ["user-limits"]) => limits::of_users(m, a, None),
        ("GET", ["user-limits", user]) => limits::of_users(m, a, Some(user)),
        ("PUT", ["user-limits", user, name]) => limits::set_of_user(m, a, user, name).await,
        ("DELETE", ["user-limits", user, name]) => limits::clear_of_user(m, a, user, name).await,

        ("GET", ["users"]) => users::list(m, a, false),
        ("GET", ["users", "without-permissions"]) => users::list(m, a, true),
        ("POST", ["users", "bulk-delete"]) => users::bulk_delete(m, a).await,
        ("GET", ["users", name]) => users::show(m, a, name),
        ("PUT", ["users", name]) => users::put(m, a, name).await,
        ("DELETE", ["users", name]) => users::delete(m, a, name).await,
        ("GET", ["users", name, "permissions"]) => permissions::list(m, a, None, Some(name)),
        ("GET", ["users", name, "topic-permissions"]) => {
            permissions::list_topics(m, a, None, Some(name))
        }
        ("GET", ["permissions"]) => permissions::list(m, a, None, None),
        ("GET", ["permissions", vhost, user]) => permissions::show(m, a, vhost, user),
        ("PUT", ["permissions", vhost, user]) => permissions::put(m, a, vhost, user).await,
        ("DELETE", ["permissions", vhost, user]) => permissions::clear(m, a, vhost, user).await,
        ("GET", ["topic-permissions"]) => permissions::list_topics(m, a, None, None),
        ("GET", ["topic-permissions", vhost, user]) => permissions::show_topics(m, a, vhost, user),
        ("PUT", ["topic-permissions", vhost, user]) => {
            permissions::put_topic(m, a, vhost, user).await
        }
        ("DELETE", ["topic-permissions", vhost, user]) => {
            permissions::clear_topics(m, a, vhost, user, None).await
        }
        ("DELETE", ["topic-permissions", vhost, user, exchange]) => {
            permissions::clear_topics(m, a, vhost, user, Some(exchange)).await
        }

        (verb, [kind @ ("policies" | "operator-policies"), rest @ ..]) => {
            let operator = *kind == "operator-policies";
            match (verb, rest) {
                ("GET", []) => policies::list(m, a, None, operator),
                ("GET", [vhost]) => policies::list(m, a, Some(vhost), operator),
                ("GET", [vhost, name]) => policies::show(m, a, (vhost, name), operator),
                ("PUT", [vhost, name]) => policies::put(m, a, (vhost, name), operator).await,
                ("DELETE", [vhost, name]) => policies::delete(m, a, (vhost, name), operator).await,
                _ => return None,
            }
        }
        ("GET", ["parameters", scope @ ..]) if scope.len() <= 3 => parameters::list(m, a, scope),
        ("PUT", ["parameters", component, vhost, name]) => {
            parameters::put(m, a, component, vhost, name).await
        }
        ("DELETE", ["parameters", component, vhost, name]) => {
            parameters::delete(m, a, component, vhost, name).await
        }
        (verb, ["shovels", rest @ ..]) => match (verb, rest) {
            ("GET", []) => shovels::list(m, a, None),
            ("GET", [vhost]) => shovels::list(m, a, Some(vhost)),
            ("GET", [vhost, name] | ["vhost", vhost, name]) => shovels::show(m, a, vhost, name),
            ("DELETE", [vhost, name] | ["vhost", vhost, name]) => {
                shovels::delete(m, a, vhost, name).await
            }
            ("DELETE" | "PUT" | "POST", ["vhost", vhost, name, "restart"]) => {
                shovels::restart(m, a, vhost, name)
            }
            _ => return None,
        },
        ("GET", ["federation-links"]) => federation::list(m, a, None, None),
        ("GET", ["federation-links", vhost]) => federation::list(m, a, Some(vhost), None),
        ("DELETE", ["federation-links", "vhost", vhost, id, node, "restart"]) => {
            federation::restart(m, a, vhost, (id, node))
        }
        ("GET", ["federation-links", "state", state]) => federation::list(m, a, None, Some(state)),
        (
            "GET",
            ["federation-links", vhost, state] | ["federation-links", vhost, "state", state],
        ) => federation::list(m, a, Some(vhost), Some(state)),
        ("GET", ["global-parameters"]) => parameters::globals(m, a),
        ("GET", ["global-parameters", name]) => parameters::global(m, a, name),
        ("PUT", ["global-parameters", name]) => parameters::set_global(m, a, name).await,
        ("DELETE", ["global-parameters", name]) => parameters::clear_global(m, a, name).await,
        ("GET", ["definitions" | "all-configuration"]) => definitions::export(m, a, None).await,
        ("GET", ["definitions", vhost]) => definitions::export(m, a, Some(vhost)).await,
        ("POST", ["definitions" | "all-configuration"] | ["definitions", "upload"]) => {
            definitions::import(m, a, None).await
        }
        ("POST", ["definitions", vhost] | ["definitions", vhost, "upload"]) => {
            definitions::import(m, a, Some(vhost)).await
        }
        _ => return None,
    })
}

/// Lists of what this server has none of.
fn is_always_empty(path: &[&str]) -> bool {
    matches!(
        path,
        ["extensions" | "deprecated-features" | "traces" | "top", ..]
            | ["stream", "connections" | "publishers" | "consumers", ..]
            | ["connections", _, "sessions"]
    )
}

/// Whether there is something under this path with some method.
pub(super) fn exists(path: &[&str]) -> bool {
    const ROOTS: &[&str] = &[
        "overview",
        "whoami",
        "version",
        "health",
        "healthchecks",
        "aliveness-test",
        "rebalance",
        "top",
        "traces",
        "deprecated-features",
        "nodes",
        "cluster-name",
        "extensions",
        "feature-flags",
        "connections",
        "channels",
        "consumers",
        "queues",
        "exchanges",
        "bindings",
        "vhosts",
        "vhost-limits",
        "user-limits",
        "users",
        "permissions",
        "topic-permissions",
        "policies",
        "operator-policies",
        "parameters",
        "global-parameters",
        "definitions",
        "shovels",
        "federation-links",
    ];
    let long = path.len() > 4 && path.last() != Some(&"restart");
    path.first().is_some_and(|root| ROOTS.contains(root)) && !long
}
