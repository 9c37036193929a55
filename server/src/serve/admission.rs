//! Accounts at the door of beanstalkd's protocol, which has no login of its own.
//!
//! A client is whom its listener's settings name, or else whom its TLS certificate names; without accounts, everybody
//! on this machine is let in. Rules are judged once, when the client connects, for all tubes of the space together: a
//! right that an account has for some subjects only is not given, because the protocol offers nothing between a tube
//! and all of them.

use std::sync::Arc;

use longtail_beanstalk::{Admission, Denied, Grants, Peer};
use longtail_broker::auth::{
    Action, Authenticator, Credentials, Login, LoginRequest, Peer as Origin,
};
use longtail_edge::{Endpoint, TlsIdentity};
use longtail_engine::runtime::Clock;
use longtail_model::Filter;

/// Lets accounts in at one listener.
pub(super) struct AccountAdmission {
    /// Knows the accounts.
    pub(super) authenticator: Arc<Authenticator>,
    /// The time, for the limit on failures.
    pub(super) clock: Arc<dyn Clock>,
    /// The space whose tubes the service shows.
    pub(super) space: Arc<str>,
    /// Account of every connection; `None`: whom the client's certificate names.
    pub(super) account: Option<String>,
}

impl AccountAdmission {
    fn login(&self, peer: &Peer<'_>) -> Result<Login, Denied> {
        let denied = |error: longtail_broker::auth::AuthError| Denied(error.to_string());
        if let Some(account) = &self.account {
            let login = self.authenticator.grants(account, &self.space, "");
            return login.map_err(|error| Denied(format!("account {account}: {error}")));
        }
        let names = peer.identity.map(TlsIdentity::names).unwrap_or_default();
        let credentials = if names.is_empty() {
            Credentials::Anonymous
        } else {
            Credentials::Certificate { names: &names }
        };
        let request = LoginRequest {
            credentials,
            peer: match peer.remote {
                Endpoint::Tcp(address) => Origin::Address(address.ip()),
                Endpoint::Unix(_) => Origin::Unix,
            },
            space: &self.space,
            client_id: "",
        };
        self.authenticator
            .authenticate(&request, self.clock.now())
            .map_err(denied)
    }
}

impl Admission for AccountAdmission {
    fn admit(&self, peer: Peer<'_>) -> Result<Grants, Denied> {
        let login = self.login(&peer)?;
        login
            .quotas
            .admit_connection(peer.connections)
            .map_err(|full| Denied(full.to_string()))?;
        let everything = Filter::everything();
        let may = |action| login.grants.allows_filter(action, &everything);
        let grants = Grants {
            produce: may(Action::Publish),
            consume: may(Action::Consume),
            manage: may(Action::Manage),
        };
        if grants.produce || grants.consume || grants.manage {
            Ok(grants)
        } else {
            Err(Denied(format!(
                "account {:?} may do nothing with all tubes of the space {:?}: give it a rule with subject = \"#\"",
                login.account_name(),
                login.space
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use longtail_broker::auth::{AuthDocument, Directory, ThrottleLimits};
    use longtail_engine::runtime::SystemClock;

    use super::*;

    const DOCUMENT: &str = r##"
        [[spaces]]
        name = "default"
        quotas = { connections_max = 2 }
        [[accounts]]
        name = "worker"
        certificates = ["worker.example"]
        permissions = [{ space = "default", rules = [{ actions = ["consume"], subject = "#" }] }]
        [[accounts]]
        name = "web"
        permissions = [{ space = "default", rules = [
            { actions = ["publish", "consume", "manage"], subject = "#" },
            { actions = ["consume"], effect = "deny", subject = "secret/#" },
        ] }]
        [[accounts]]
        name = "narrow"
        permissions = [{ space = "default", rules = [{ actions = ["publish"], subject = "mail" }] }]
    "##;

    fn admission(document: &str, account: Option<&str>) -> AccountAdmission {
        let document: AuthDocument = toml::from_str(document).unwrap();
        let directory = Directory::new(document).unwrap();
        AccountAdmission {
            authenticator: Arc::new(Authenticator::new(directory, ThrottleLimits::default())),
            clock: Arc::new(SystemClock::new()),
            space: "default".into(),
            account: account.map(str::to_owned),
        }
    }

    fn admit(
        admission: &AccountAdmission,
        remote: &str,
        certificate: Option<&str>,
        others: u64,
    ) -> Result<Grants, Denied> {
        let remote = Endpoint::Tcp(remote.parse().unwrap());
        let local = Endpoint::Tcp("127.0.0.1:11300".parse().unwrap());
        let identity = certificate.map(|name| TlsIdentity {
            common_name: Some(name.to_owned()),
            ..TlsIdentity::default()
        });
        admission.admit(Peer::new(&remote, &local, identity.as_ref()).beside(others))
    }

    #[test]
    fn without_accounts_this_machine_may_do_everything_and_others_nothing() {
        let open = admission("", None);
        assert_eq!(admit(&open, "127.0.0.1:9", None, 5), Ok(Grants::ALL));
        assert!(admit(&open, "192.0.2.1:9", None, 0).is_err());
    }

    #[test]
    fn a_certificate_names_the_account() {
        let admission = admission(DOCUMENT, None);
        let worker = Grants {
            produce: false,
            consume: true,
            manage: false,
        };
        assert_eq!(
            admit(&admission, "192.0.2.1:9", Some("worker.example"), 0),
            Ok(worker)
        );
        assert!(admit(&admission, "127.0.0.1:9", None, 0).is_err());
        assert!(admit(&admission, "127.0.0.1:9", Some("mallory"), 0).is_err());
    }

    #[test]
    fn a_listener_names_the_account_and_rights_for_some_tubes_are_none() {
        let web = Grants {
            produce: true,
            consume: false,
            manage: true,
        };
        let admission = |account| admission(DOCUMENT, Some(account));
        assert_eq!(admit(&admission("web"), "192.0.2.1:9", None, 0), Ok(web));
        let narrow = admit(&admission("narrow"), "127.0.0.1:9", None, 0).unwrap_err();
        assert!(narrow.to_string().contains("subject = \"#\""), "{narrow}");
        assert!(admit(&admission("nobody"), "127.0.0.1:9", None, 0).is_err());
    }

    #[test]
    fn a_space_takes_only_so_many_connections() {
        let admission = admission(DOCUMENT, Some("web"));
        assert!(admit(&admission, "127.0.0.1:9", None, 1).is_ok());
        let full = admit(&admission, "127.0.0.1:9", None, 2).unwrap_err();
        assert!(
            full.to_string().contains("limited to 2 connections"),
            "{full}"
        );
    }
}
