//! Listeners that answer HTTP: bound before their protocol is spoken, named and served once everything listens.

use std::net::TcpListener;
use std::sync::Arc;

use longtail_edge::Address;
use longtail_web::Socket;

use super::{ListeningOn, Longtail};
use crate::builder::{StartError, WebListener};

impl Longtail {
    pub(super) fn bind_site(
        &self,
        protocol: &'static str,
        listener: WebListener,
    ) -> Result<Socket, StartError> {
        let WebListener { address, tls } = listener;
        self.exposure.check(&Address::Tcp(address))?;
        let listener = TcpListener::bind(address).map_err(|source| StartError::Site {
            protocol,
            address,
            source,
        })?;
        let local = listener.local_addr().map_err(StartError::Management)?;
        let certificates = tls.map(|tls| self.edge.certificates(&local.to_string(), tls));
        let certificates = certificates.transpose();
        let certificates = certificates.map_err(|source| StartError::Certificates {
            protocol,
            address,
            source: Box::new(source),
        })?;
        let certificates = certificates.map(|certificates| -> longtail_web::Certificates {
            Arc::new(move || certificates.current())
        });
        Ok(Socket {
            listener,
            certificates,
        })
    }

    pub(super) fn name_site(
        &mut self,
        protocol: &'static str,
        socket: &Socket,
    ) -> Result<(), StartError> {
        let local = socket.listener.local_addr();
        let local = local.map_err(StartError::Management)?;
        self.addresses.push(ListeningOn {
            protocol,
            address: local.to_string(),
            tls: socket.certificates.is_some(),
        });
        Ok(())
    }
}

/// What this machine is called.
pub(super) fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "localhost".to_owned(),
        name => name.to_owned(),
    }
}
