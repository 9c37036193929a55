//! AMQP: its service and management, its listeners, and the HTTP sites beside them.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use longtail_amqp::Amqp;
use longtail_amqp::management::{self, ListenerFact, Management, Site};
use longtail_edge::ListenerConfig;

use super::{ListeningOn, Longtail, host_name};
use crate::builder::StartError;

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

    pub(super) fn listen_amqp(
        &mut self,
        listeners: Vec<(ListenerConfig, Arc<dyn longtail_amqp::Admission>)>,
    ) -> Result<(), StartError> {
        let Some(tenant) = &self.amqp else {
            return Ok(());
        };
        for (listener, admission) in listeners {
            let websocket = listener.websocket.is_some();
            let protocol = match (websocket, listener.tls.is_some()) {
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
            let open = self.listen(protocol, listener, service)?;
            self.addresses.push(open);
        }
        Ok(())
    }

    pub(super) fn bind_amqp_sites(
        &self,
        sites: Vec<(Site, SocketAddr)>,
    ) -> Result<Vec<(Site, TcpListener)>, StartError> {
        let bind = |(site, address)| Ok((site, self.bind_site(protocol_of(site), address)?));
        sites.into_iter().map(bind).collect()
    }

    pub(super) fn name_amqp_sites(
        &mut self,
        sockets: Vec<(Site, TcpListener)>,
    ) -> Result<Vec<(Site, TcpListener)>, StartError> {
        for (site, socket) in &sockets {
            self.name_site(protocol_of(*site), socket)?;
        }
        Ok(sockets)
    }

    /// When everything listens, so that the management knows what else does.
    pub(super) fn serve_amqp_sites(
        &mut self,
        sockets: Vec<(Site, TcpListener)>,
    ) -> Result<(), StartError> {
        let Some(management) = &self.management else {
            return Ok(());
        };
        let fact = |on: &ListeningOn| {
            let address: Option<SocketAddr> = on.address.parse().ok();
            ListenerFact {
                protocol: match on.protocol {
                    "amqp-management" => "http",
                    "amqp-metrics" => "http/prometheus",
                    protocol => protocol,
                }
                .to_owned(),
                host: address.map_or_else(|| on.address.clone(), |at| at.ip().to_string()),
                port: address.map_or(0, |at| at.port()),
                tls: on.tls,
            }
        };
        management.set_listeners(self.addresses.iter().map(fact).collect());
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
