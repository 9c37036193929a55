//! The beginning and the end of a connection: SASL, what both ends agree on, the vhost, goodbye (specification, 2.2.4).

use std::sync::Arc;

use longtail_broker::auth::CachedGrants;
use longtail_edge::{CloseReason, Out};

use super::shared::Answerer;
use super::{Action, Phase, Session, Slot, channel_error, say};
use crate::access::Admitted;
use crate::codec::{Decoder, Level, Method, ReplyCode, Table, TableBuf, Value};
use crate::config::Config;
use crate::exception::Exception;
use crate::tenant::Tenant;
use crate::topology::Topology;

/// What clients may rely on; they do without what is not here.
const CAPABILITIES: &[&str] = &[
    "publisher_confirms",
    "exchange_exchange_bindings",
    "basic.nack",
    "consumer_cancel_notify",
    "consumer_priorities",
    "authentication_failure_close",
    "per_consumer_qos",
    "direct_reply_to",
    "connection.blocked",
];

/// SASL mechanisms.
const MECHANISMS: &str = "PLAIN AMQPLAIN";

/// The same for a client that has shown a certificate. Py-amqp prefers `EXTERNAL` to all others wherever it is offered.
const MECHANISMS_EXTERNAL: &str = "PLAIN AMQPLAIN EXTERNAL";

impl Session {
    /// `connection.start`.
    pub(super) fn greet(&mut self, config: &Config, out: &mut Out) {
        self.phase = Phase::Start;
        self.shared.consumer_timeout_ms = config.consumer_timeout_ms;
        self.shared.strict = config.strict;
        self.shared.qos_updates_existing = config.qos_updates_existing;
        self.shared.consumers_max = config.consumers_max;
        let mut capabilities = TableBuf::default();
        let mut properties = TableBuf::default();
        let put = |table: &mut TableBuf, key: &str, value: Value<'_>| {
            if let Err(error) = table.put(key, value) {
                tracing::error!(%error, key, "a server property is left out");
            }
        };
        for key in CAPABILITIES {
            put(&mut capabilities, key, Value::Bool(true));
        }
        put(
            &mut properties,
            "capabilities",
            Value::Table(capabilities.as_table()),
        );
        for (key, value) in [
            ("product", config.product.as_str()),
            ("version", config.version.as_str()),
            ("platform", "Rust"),
            ("cluster_name", "longtail"),
            ("copyright", "Longtail's authors"),
            ("information", "Licensed under the Apache License 2.0"),
        ] {
            put(&mut properties, key, Value::LongString(value.as_bytes()));
        }
        let start = Method::ConnectionStart {
            version_major: 0,
            version_minor: 9,
            server_properties: properties.as_table(),
            mechanisms: if self.certified.is_some() {
                MECHANISMS_EXTERNAL.as_bytes()
            } else {
                MECHANISMS.as_bytes()
            },
            locales: b"en_US",
        };
        say(&start, 0, out);
    }

    pub(super) fn unexpected_method(&self) -> Exception {
        channel_error(&format!(
            "unexpected method in connection state {}",
            match self.phase {
                Phase::Header | Phase::Start => "starting",
                Phase::Tune => "tuning",
                Phase::Open => "opening",
                Phase::Running => "running",
                Phase::Over => "closing",
            }
        ))
    }

    pub(super) fn connection_method(
        &mut self,
        method: &Method<'_>,
        tenant: &Tenant,
    ) -> Result<(), Exception> {
        match (self.phase, method) {
            (_, Method::ConnectionClose { .. }) => {
                let (ended, unused) = self.end();
                // Until the answer is out, nothing more is looked at.
                self.shared.busy = Some(Answerer::Service);
                let unused = unused.into_iter().map(Action::DeleteUnused);
                self.shared.actions.extend(unused);
                self.shared.actions.push(Action::Goodbye(ended));
                Ok(())
            }
            (_, Method::ConnectionCloseOk {}) => {
                self.phase = Phase::Over;
                Ok(())
            }
            (
                Phase::Start,
                Method::ConnectionStartOk {
                    client_properties,
                    mechanism,
                    response,
                    ..
                },
            ) => {
                self.remember_capabilities(client_properties);
                self.shared.introduction.keep(client_properties);
                self.shared.introduction.mechanism = match *mechanism {
                    "AMQPLAIN" => "AMQPLAIN",
                    "EXTERNAL" => "EXTERNAL",
                    _ => "PLAIN",
                };
                self.shared.credentials = match *mechanism {
                    "PLAIN" => plain(response)?,
                    "AMQPLAIN" => amqplain(response)?,
                    "EXTERNAL" if self.certified.is_some() => self.external(),
                    other => {
                        return Err(Exception::new(
                            ReplyCode::CommandInvalid,
                            format!("unknown authentication mechanism '{other}'"),
                        ));
                    }
                };
                self.shared.busy = Some(Answerer::Service);
                self.shared.actions.push(Action::Verify);
                Ok(())
            }
            (
                Phase::Tune,
                Method::ConnectionTuneOk {
                    channel_max,
                    frame_max,
                    heartbeat,
                },
            ) => self.tune(*channel_max, *frame_max, *heartbeat, tenant.config()),
            (Phase::Open, Method::ConnectionOpen { virtual_host, .. }) => {
                let vhost = if virtual_host.is_empty() {
                    "/"
                } else {
                    virtual_host
                };
                self.shared.asker.vhost = vhost.into();
                self.shared.busy = Some(Answerer::Service);
                self.shared.actions.push(Action::Admit);
                Ok(())
            }
            (Phase::Running, Method::ConnectionUpdateSecret { .. })
                if self.shared.credentials.external =>
            {
                Err(Exception::new(
                    ReplyCode::NotAllowed,
                    "this login has no secret that could be renewed",
                ))
            }
            (Phase::Running, Method::ConnectionUpdateSecret { new_secret, .. }) => {
                self.shared.credentials.password = new_secret.to_vec();
                self.shared.busy = Some(Answerer::Service);
                self.shared.actions.push(Action::Renew);
                Ok(())
            }
            (Phase::Running, _) if method.id().0 != 10 => Err(channel_error(
                "only methods of class connection are expected on channel 0",
            )),
            _ => Err(self.unexpected_method()),
        }
    }

    /// The client is whom its certificate names.
    fn external(&self) -> super::Credentials {
        super::Credentials {
            user: self.certified.clone().unwrap_or_default(),
            password: Vec::new(),
            external: true,
        }
    }

    fn remember_capabilities(&mut self, properties: &Table<'_>) {
        if let Some(Value::Table(capabilities)) = properties.get("capabilities") {
            let has = |key| capabilities.get(key) == Some(Value::Bool(true));
            self.shared.capabilities.consumer_cancel_notify = has("consumer_cancel_notify");
            self.shared.capabilities.connection_blocked = has("connection.blocked");
            self.shared.capabilities.authentication_failure_close =
                has("authentication_failure_close");
        }
    }

    /// Largest frame that the client may ask for.
    fn frame_offered(&self, config: &Config) -> u32 {
        self.frame_max
            .map_or(config.frame_max, |max| max.min(config.frame_max))
    }

    fn tune(
        &mut self,
        channel_max: u16,
        frame_max: u32,
        heartbeat: u16,
        config: &Config,
    ) -> Result<(), Exception> {
        let not_allowed = |text: String| Err(Exception::new(ReplyCode::NotAllowed, text));
        for (what, asked, max) in [
            (
                "channel_max",
                u32::from(channel_max),
                u32::from(config.channel_max),
            ),
            ("frame_max", frame_max, self.frame_offered(config)),
        ] {
            if max > 0 && (asked == 0 || asked > max) {
                let asked = if asked == 0 {
                    "no limit".to_owned()
                } else {
                    asked.to_string()
                };
                return not_allowed(format!(
                    "negotiated {what} = {asked} is higher than the maximum allowed value ({max})"
                ));
            }
        }
        if frame_max > 0 && frame_max < Config::FRAME_MIN {
            return not_allowed(format!(
                "negotiated frame_max = {frame_max} is lower than the minimum allowed value ({})",
                Config::FRAME_MIN
            ));
        }
        self.channel_max = channel_max;
        self.shared.frame_max = frame_max;
        self.shared.introduction.heartbeat = heartbeat;
        self.decoder = Decoder::new(if frame_max == 0 { u32::MAX } else { frame_max });
        self.phase = Phase::Open;
        self.shared.actions.push(Action::Heartbeat(heartbeat));
        Ok(())
    }

    /// User and password are right, or not. `Some`: that ends the connection.
    pub(crate) fn verified(
        &mut self,
        right: bool,
        config: &Config,
        out: &mut Out,
    ) -> Option<CloseReason> {
        self.shared.answered();
        if self.phase != Phase::Start {
            return None;
        }
        if right {
            self.phase = Phase::Tune;
            let tune = Method::ConnectionTune {
                channel_max: config.channel_max,
                frame_max: self.frame_offered(config),
                heartbeat: config.heartbeat_s,
            };
            say(&tune, 0, out);
            return None;
        }
        self.phase = Phase::Over;
        if self.shared.capabilities.authentication_failure_close {
            Exception {
                code: ReplyCode::AccessRefused,
                level: Level::Connection,
                text: format!(
                    "Login was refused using authentication mechanism {}. For details see the broker logfile.",
                    self.shared.introduction.mechanism
                ),
                id: (0, 0),
            }
            .write(0, out.tail());
        }
        Some(CloseReason::Refused("bad credentials".into()))
    }

    /// The client is let into its vhost, or not. `Some`: that ends the connection.
    pub(crate) fn admitted(
        &mut self,
        admitted: Result<(Admitted, Arc<Topology>), Exception>,
        out: &mut Out,
    ) -> Option<CloseReason> {
        self.shared.answered();
        if self.phase != Phase::Open {
            return None;
        }
        match admitted {
            Ok((admitted, topology)) => {
                self.shared.grants = CachedGrants::new(admitted.grants);
                self.shared.introduction.principal = admitted.principal;
                self.shared.introduction.impersonates = admitted.impersonates;
                self.shared.topology = Some(topology);
                self.shared.credentials.password = Vec::new();
                self.phase = Phase::Running;
                say(&Method::ConnectionOpenOk { reserved_1: "" }, 0, out);
                None
            }
            Err(exception) => self.fail(0, &exception.about((10, 40)), out),
        }
    }

    /// Another secret is right, or not. `Some`: that ends the connection.
    pub(crate) fn renewed(
        &mut self,
        admitted: Option<Admitted>,
        out: &mut Out,
    ) -> Option<CloseReason> {
        self.shared.answered();
        self.shared.credentials.password = Vec::new();
        if self.phase != Phase::Running {
            return None;
        }
        let Some(admitted) = admitted else {
            let text = "New secret was refused by one of the backends";
            let refused = Exception::new(ReplyCode::NotAllowed, text).about((10, 70));
            return self.fail(0, &refused, out);
        };
        self.shared.introduction.principal = admitted.principal;
        self.shared.introduction.impersonates = admitted.impersonates;
        self.set_grants(admitted.grants);
        say(&Method::ConnectionUpdateSecretOk {}, 0, out);
        None
    }

    /// The number of the secret that the client has shown last.
    pub(crate) fn next_secret(&mut self) -> u32 {
        self.shared.secrets += 1;
        self.shared.secrets
    }

    /// The time of a secret is over. `true`: the client has shown no other, and is told to go.
    pub(crate) fn expire(&mut self, secret: u32, out: &mut Out) -> bool {
        let is_last = self.shared.secrets == secret && self.phase != Phase::Over;
        if is_last {
            self.evict("what the client has logged in with has expired", out);
        }
        is_last
    }

    /// The seconds between its heartbeats, as agreed.
    pub(crate) fn heartbeat(&self) -> u16 {
        self.shared.introduction.heartbeat
    }

    /// The goodbye is answered.
    pub(crate) fn goodbye(&mut self, out: &mut Out) {
        self.shared.answered();
        say(&Method::ConnectionCloseOk {}, 0, out);
    }

    /// The server goes down.
    pub(crate) fn force_close(&mut self, why: &str, out: &mut Out) {
        self.evict(
            &format!("broker forced connection closure with reason '{why}'"),
            out,
        );
    }

    /// An operator ends the connection, and the client is told why.
    pub(crate) fn evict(&mut self, text: &str, out: &mut Out) {
        if !matches!(self.phase, Phase::Header | Phase::Over) {
            Exception::new(ReplyCode::ConnectionForced, text).write(0, out.tail());
        }
        self.phase = Phase::Over;
    }

    /// What the client may do in the vhost `/`, if that is known.
    pub(crate) fn known_grants(&self) -> Option<Admitted> {
        self.shared.known.clone()
    }

    pub(crate) fn remember_grants(&mut self, known: Option<Admitted>) {
        self.shared.known = known;
    }

    pub(crate) fn credentials(&self) -> &super::Credentials {
        &self.shared.credentials
    }

    /// Channels open.
    #[must_use]
    pub fn channels(&self) -> usize {
        let open = |slot: &&Slot| matches!(slot, Slot::Open(_));
        self.channels.values().filter(open).count()
    }
}

fn syntax_error(text: &str) -> Exception {
    Exception::new(ReplyCode::SyntaxError, text)
}

/// `[authzid] NUL user NUL password` (RFC 4616).
fn plain(response: &[u8]) -> Result<super::Credentials, Exception> {
    let mut parts = response.splitn(3, |&octet| octet == 0);
    let (Some(_), Some(user), Some(password)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(syntax_error(
            "PLAIN response is not authzid, user and password",
        ));
    };
    credentials(user, password)
}

/// A table without its length, with `LOGIN` and `PASSWORD`.
fn amqplain(response: &[u8]) -> Result<super::Credentials, Exception> {
    let table = Table::decode(response)
        .map_err(|fault| syntax_error(&format!("AMQPLAIN response: {fault}")))?;
    let (Some(Value::LongString(user)), Some(Value::LongString(password))) =
        (table.get("LOGIN"), table.get("PASSWORD"))
    else {
        return Err(syntax_error("AMQPLAIN response lacks LOGIN or PASSWORD"));
    };
    credentials(user, password)
}

fn credentials(user: &[u8], password: &[u8]) -> Result<super::Credentials, Exception> {
    Ok(super::Credentials {
        user: std::str::from_utf8(user)
            .map_err(|_| syntax_error("the user name is not UTF-8"))?
            .to_owned(),
        password: password.to_vec(),
        external: false,
    })
}
