//! AMQP: its listeners, and the HTTP APIs that manage it.

use std::net::SocketAddr;
use std::sync::Arc;

use longtail_amqp::Amqp;
use longtail_amqp::management::{self, ListenerFact, Management, Site};
use longtail_edge::ListenerConfig;
use longtail_web::Socket;

use super::web::host_name;
use super::{ListeningOn, Longtail};
use crate::builder::{StartError, WebListener};

impl Longtail {
    pub(super) fn start_amqp(
        &mut self,
        config: longtail_amqp::Config,
        definitions: Option<&[u8]>,
    ) -> Result<(), StartError> {
        let tenant = longtail_amqp::Tenant::new(config, Arc::clone(&self.broker));
        if let Some(runtime) = self.edge.runtime(0) {
            tenant.live_on(runtime);
        }
        let judge = Arc::downgrade(&tenant);
        self.roster.watch(Box::new(move || {
            if let Some(tenant) = judge.upgrade() {
                tenant.judge_again();
            }
        }));
        let tickets = Arc::new(management::Tickets::default());
        let admission: Arc<dyn longtail_amqp::Admission> = tickets.clone();
        let inside = self
            .edge
            .inside(Amqp::inside(Arc::clone(&tenant), admission));
        let management = Management::new(
            Arc::clone(&tenant),
            Arc::clone(&self.roster),
            management::Door::new(inside, tickets, &tenant),
            management::Facts {
                host: host_name(),
                listeners: Vec::new(),
            },
        );
        if let Some(definitions) = definitions {
            import(&management, definitions)?;
        }
        tenant.open_all().map_err(StartError::Amqp)?;
        self.management = Some(management);
        self.amqp = Some(tenant);
        Ok(())
    }

    pub(super) fn bind_amqp_sites(
        &self,
        sites: Vec<(Site, WebListener)>,
    ) -> Result<Vec<(Site, Socket)>, StartError> {
        let bind = |(site, listener)| Ok((site, self.bind_site(protocol_of(site), listener)?));
        sites.into_iter().map(bind).collect()
    }

    pub(super) fn listen_amqp(
        &mut self,
        listeners: Vec<(ListenerConfig, Arc<dyn longtail_amqp::Admission>)>,
    ) -> Result<(), StartError> {
        let Some(tenant) = &self.amqp else {
            return Ok(());
        };
        for (listener, admission) in listeners {
            self.exposure.check(&listener.address)?;
            let tls = listener.tls.is_some();
            let websocket = listener.websocket.is_some();
            let protocol = match (websocket, tls) {
                (false, false) => "amqp",
                (false, true) => "amqps",
                (true, false) => "amqp-ws",
                (true, true) => "amqp-wss",
            };
            let service = if websocket {
                Amqp::over_websocket(Arc::clone(tenant), admission)
            } else {
                Amqp::new(Arc::clone(tenant), admission)
            };
            let open = self.edge.listen(listener, service);
            let open = open.map_err(|source| StartError::Listen {
                protocol,
                source: Box::new(source),
            })?;
            self.addresses.push(ListeningOn {
                protocol,
                address: open.local().to_string(),
                tls,
            });
        }
        Ok(())
    }

    pub(super) fn name_amqp_sites(
        &mut self,
        sockets: Vec<(Site, Socket)>,
    ) -> Result<Vec<(Site, Socket)>, StartError> {
        for (site, socket) in &sockets {
            self.name_site(protocol_of(*site), socket)?;
        }
        Ok(sockets)
    }

    /// As [`Longtail::serve_mqtt_sites`].
    pub(super) fn serve_amqp_sites(
        &mut self,
        sockets: Vec<(Site, Socket)>,
    ) -> Result<(), StartError> {
        let Some(management) = &self.management else {
            return Ok(());
        };
        let fact = |on: &ListeningOn| {
            let address: Option<SocketAddr> = on.address.parse().ok();
            ListenerFact {
                protocol: match (on.protocol, on.tls) {
                    ("amqp-management", false) => "http",
                    ("amqp-management", true) => "https",
                    ("amqp-metrics", false) => "http/prometheus",
                    ("amqp-metrics", true) => "https/prometheus",
                    (protocol, _) => protocol,
                }
                .to_owned(),
                host: address.map_or_else(|| on.address.clone(), |at| at.ip().to_string()),
                port: address.map_or(0, |at| at.port()),
                tls: on.tls,
            }
        };
        management.set_listeners(self.addresses.iter().map(fact).collect());
        let edge = Arc::downgrade(&self.edge);
        management.set_certificates(Box::new(move || {
            edge.upgrade()
                .map_or_else(Vec::new, |edge| edge.certificate_ends())
        }));
        if !sockets.is_empty() {
            let server = management::serve(management, sockets);
            let server = server.map_err(StartError::Management)?;
            self.web.lock().push(server);
        }
        Ok(())
    }
}

fn protocol_of(site: Site) -> &'static str {
    match site {
        Site::Api => "amqp-management",
        Site::Metrics => "amqp-metrics",
    }
}

/// Imports definitions while nothing listens yet. On a thread of its own: whoever starts the broker may be in a runtime.
fn import(management: &Arc<Management>, definitions: &[u8]) -> Result<(), StartError> {
    let imported = std::thread::scope(|scope| {
        let run = || -> Result<management::Import, StartError> {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(StartError::Management)?;
            Ok(runtime.block_on(management.import(definitions, None))?)
        };
        let ended = scope.spawn(run).join();
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    let imported = imported?;
    tracing::info!(
        entries = imported.done,
        skipped = imported.skipped.len(),
        "definitions imported"
    );
    Ok(())
}
