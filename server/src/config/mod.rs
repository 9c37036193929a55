//! Settings: where they come from, what is allowed, and how they are shown.
//!
//! ```text
//! defaults < file < LONGTAIL__SECTION__KEY < --set section.key=value < dedicated flags
//!     └───────┴──────────────┬─────────────────────┴───────────────────────┘
//!                    entries (path, value, origin)          layer.rs, origin.rs
//!                            │  checked against schema.rs   check.rs
//!                            ▼
//!                   one strict deserialisation              settings.rs ──▶ rules.rs
//! ```
//!
//! [`schema`] is the only list of keys: it drives the checks, the suggestions, `config show` and `config default`.
//! All problems of all sources are reported at once, each with the line, variable or flag it comes from.

mod address;
mod check;
mod error;
mod layer;
mod mqtt;
mod origin;
mod render;
mod rules;
mod schema;
mod settings;
pub(crate) mod suggest;
#[cfg(test)]
mod tests;

pub(crate) use address::{ListenAddress, ListenFlag};
pub(crate) use check::milliseconds;
pub(crate) use error::ConfigError;
pub(crate) use layer::{Overrides, Sources};
pub(crate) use render::{default_document, effective_document};
pub(crate) use schema::{
    ADMIN, AMQP, AMQP_MANAGEMENT, AMQP_METRICS, AMQP_TLS, AMQP_WEBSOCKET, AMQP_WEBSOCKET_TLS,
    BEANSTALK, MQTT, MQTT_HTTP, MQTT_TLS, MQTT_WEBSOCKET, MQTT_WEBSOCKET_TLS,
};
pub(crate) use settings::{LogFormat, LoggingSettings, Settings};

use std::collections::BTreeMap;

use error::Problem;
use origin::Origin;
use toml::Value;

/// One value of one key, and where it was written.
#[derive(Clone, Debug)]
struct Entry {
    path: String,
    value: Value,
    origin: Origin,
}

/// The settings in force, with the origin of each.
#[derive(Clone, Debug)]
pub(crate) struct Loaded {
    /// What the server runs with.
    pub(crate) settings: Settings,
    /// The winning value of every key, in canonical units.
    values: BTreeMap<String, (Value, Origin)>,
}

/// Reads all sources, lets the stronger ones win, and checks the result.
///
/// # Errors
/// Everything that is wrong, together: unknown keys, wrong types, values out of range, settings that contradict one
/// another, a file that cannot be read.
pub(crate) fn load(sources: &Sources) -> Result<Loaded, ConfigError> {
    let mut problems = Vec::new();
    let mut values: BTreeMap<String, (Value, Origin)> = BTreeMap::new();
    for entry in layer::entries(sources, &mut problems) {
        values.insert(entry.path, (entry.value, entry.origin));
    }
    layer::apply_only(
        sources.overrides.only,
        &sources.overrides.listen,
        &mut values,
    );
    if !problems.is_empty() {
        return Err(ConfigError { problems });
    }
    let settings = settings::assemble(&values).map_err(|problem| ConfigError {
        problems: vec![problem],
    })?;
    let contradictions = rules::check(&settings, &values);
    if contradictions.is_empty() {
        Ok(Loaded { settings, values })
    } else {
        Err(ConfigError {
            problems: contradictions,
        })
    }
}
