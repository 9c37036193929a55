//! Settings that are fine alone and wrong together.

use std::collections::BTreeMap;

use toml::Value;

use super::error::Problem;
use super::origin::Origin;
use super::settings::Settings;

/// All contradictions in `settings`, each with the origin of the value that causes it.
pub(super) fn check(settings: &Settings, values: &BTreeMap<String, (Value, Origin)>) -> Vec<Problem> {
    let origin = |path: &str| values.get(path).map_or(Origin::Default, |(_, origin)| origin.clone());
    let mut problems = Vec::new();

    // Closed by default: nobody may reach a server from outside that asks nobody who they are.
    let accounts = !settings.accounts.is_empty();
    for (protocol, listeners) in &settings.listeners {
        for listener in listeners.iter().filter(|listener| !accounts && !listener.address.is_local()) {
            problems.push(Problem::new(
                origin(&format!("listeners.{protocol}")),
                format!(
                    "{protocol} cannot listen on {}: without accounts only this machine may connect; configure \
                     [[accounts]], or listen on 127.0.0.1, [::1] or unix:PATH",
                    listener.address
                ),
            ));
        }
    }
    if let Some(address) = &settings.admin.listen
        && settings.admin.token.is_empty()
        && !address.is_local()
    {
        problems.push(Problem::new(
            origin("admin.listen"),
            format!("the admin service cannot listen on {address}: without admin.token only this machine may connect"),
        ));
    }
    if settings.admin.listen.is_none() && settings.listeners.values().all(Vec::is_empty) {
        problems.push(Problem::new(
            origin("admin.listen"),
            "every listener is off: name one with --listen, or leave --only out",
        ));
    }
    problems
}
