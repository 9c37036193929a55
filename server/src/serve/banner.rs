//! The few lines a person sees first: what listens where, where the data is, what an acknowledgement means.

use std::fmt::Write as _;

use longtail_model::Durability;
use tracing::info;

use super::lifecycle::Listening;
use crate::config::{
    ADMIN, AMQP_MANAGEMENT, AMQP_METRICS, ListenAddress, LogFormat, MQTT_HTTP, Settings,
};

/// Prints the banner for people, or one event for machines.
pub(super) fn announce(settings: &Settings, listening: &[Listening]) {
    match settings.logging.format {
        LogFormat::Human => eprint!("{}", text(settings, listening)),
        LogFormat::Json => {
            let listeners: Vec<String> = listening
                .iter()
                .map(|l| format!("{}={}", l.protocol, l.address))
                .collect();
            info!(
                version = env!("CARGO_PKG_VERSION"),
                listeners = listeners.join(" "),
                data = %settings.data.display(),
                durability = %settings.durability,
                connections_max = settings.limits.connections_max,
                "started"
            );
        }
    }
}

fn text(settings: &Settings, listening: &[Listening]) -> String {
    let mut out = format!("longtail {}\n", env!("CARGO_PKG_VERSION"));
    let names = listening.iter().map(|listener| listener.protocol.len());
    let width = names.max().unwrap_or(0).max("connections".len());
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(out, "  {name:<width$} {value}");
    };
    for listener in listening {
        let value = match (listener.protocol.as_str(), listener.tls) {
            (ADMIN, _) => {
                let scheme = match listener.address {
                    ListenAddress::Tcp { .. } => "http://",
                    ListenAddress::Unix(_) => "",
                };
                format!(
                    "{scheme}{}  (/metrics /healthz /readyz /api/v1)",
                    listener.address
                )
            }
            (AMQP_MANAGEMENT | MQTT_HTTP | AMQP_METRICS, tls) => {
                let scheme = if tls { "https" } else { "http" };
                let paths = match listener.protocol.as_str() {
                    AMQP_MANAGEMENT => "/api",
                    MQTT_HTTP => "/api/v4 /api/v5 /metrics",
                    _ => "/metrics",
                };
                format!("{scheme}://{}  ({paths})", listener.address)
            }
            (_, true) => format!("{} (TLS)", listener.address),
            (_, false) => listener.address.to_string(),
        };
        line(&listener.protocol, &value);
    }
    let promise = match settings.durability {
        Durability::Sync => "sync: acknowledged means on the disk".to_owned(),
        Durability::Interval => {
            format!(
                "interval: acknowledged means written, synced every {} ms",
                settings.interval_ms
            )
        }
        Durability::Memory => "memory: nothing is written, a restart starts empty".to_owned(),
    };
    if settings.durability != Durability::Memory {
        line("data", &settings.data.display().to_string());
    }
    line("durability", &promise);
    let connections = settings.limits.connections_max;
    line("connections", &format!("{connections} at most"));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Overrides, Sources, load};

    fn settings(durability: &str) -> Settings {
        let overrides = Overrides {
            durability: Some(durability.to_owned()),
            ..Overrides::default()
        };
        load(&Sources {
            overrides,
            ..Sources::default()
        })
        .unwrap()
        .settings
    }

    #[test]
    fn it_says_what_listens_where_the_data_is_and_what_is_promised() {
        let listening = [
            ("beanstalk", "127.0.0.1:11300", true),
            ("admin", "127.0.0.1:9400", false),
        ]
        .map(|(protocol, address, tls)| Listening {
            protocol: protocol.to_owned(),
            address: address.parse().unwrap(),
            tls,
        });
        let banner = text(&settings("sync"), &listening);
        assert!(
            banner.contains("  beanstalk   127.0.0.1:11300 (TLS)\n"),
            "{banner}"
        );
        assert!(banner.contains("http://127.0.0.1:9400"), "{banner}");
        assert!(
            banner.contains("  data        ./longtail-data\n"),
            "{banner}"
        );
        assert!(banner.contains("on the disk"), "{banner}");
        assert!(banner.contains("  connections 65536 at most\n"), "{banner}");
    }

    #[test]
    fn memory_names_no_directory() {
        let banner = text(&settings("memory"), &[]);
        assert!(
            !banner.contains("longtail-data") && banner.contains("starts empty"),
            "{banner}"
        );
    }
}
