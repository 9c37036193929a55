//! The running server as the admin service sees it.
//!
//! The service is up before the log is recovered: until [`Backend::serve`] is called, everything but the probes is
//! answered with "recovering". Every request gets a session of its own at the shard it is about, so that one that waits
//! holds up no other, and one whose client hangs up leaves nothing behind.

mod bans;
mod connections;
mod messages;
mod metrics;
mod retained;
mod sessions;
mod status;
mod streams;
#[cfg(test)]
mod tests;
mod watching;
mod wording;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use longtail::{Broker, Client, Longtail};
use longtail_admin::shapes::{
    BanStatus, Batch, ConnectionStatus, GroupStatus, Health, Listing, LiveMessage, Published,
    Purged, RetainedMessage, RetainedStatus, SessionStatus, Status, StreamStatus,
    SubscriptionStatus,
};
use longtail_admin::{
    AdminBackend, AdminError, ErrorKind, Metrics, NewMessage, Notation, Page, SessionFilter,
    StreamRef, SubscriptionFilter, Target,
};
use longtail_broker::auth::Authenticator;
use longtail_engine::{Command, GroupConfig, StreamConfig, StreamName};
use longtail_model::Timestamp;
use tokio::sync::mpsc;

use super::lifecycle::Listening;
use super::process;
use crate::config::Settings;

type Answer<T> = Result<T, AdminError>;

/// What the admin service asks.
pub(super) struct Backend {
    data: String,
    durability: String,
    started_ms: u64,
    authenticator: Arc<Authenticator>,
    running: OnceLock<Serving>,
    draining: AtomicBool,
}

struct Serving {
    longtail: Arc<Longtail>,
    listening: Vec<Listening>,
}

impl Backend {
    /// A server that is recovering.
    pub(super) fn new(settings: &Settings, authenticator: Arc<Authenticator>) -> Self {
        Backend {
            data: settings.data.display().to_string(),
            durability: settings.durability.to_string(),
            started_ms: process::now_ms(),
            authenticator,
            running: OnceLock::new(),
            draining: AtomicBool::new(false),
        }
    }

    /// From now on there is something to look at.
    pub(super) fn serve(&self, longtail: Arc<Longtail>, listening: Vec<Listening>) {
        // Called once; a second server would not be this one's.
        let _ = self.running.set(Serving {
            longtail,
            listening,
        });
    }

    /// From now on the server is not ready for new clients.
    pub(super) fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    fn serving(&self) -> Answer<&Serving> {
        self.running.get().ok_or_else(|| {
            AdminError::new(ErrorKind::Unavailable, "the server is recovering its log")
                .hint("wait until /readyz says yes")
        })
    }

    fn broker(&self) -> Answer<&Arc<Broker>> {
        Ok(self.serving()?.longtail.broker())
    }

    fn mqtt(&self) -> Answer<Option<&Arc<longtail_mqtt::Tenant>>> {
        Ok(self.serving()?.longtail.mqtt())
    }

    /// What a stream that does not exist yet is made of. In a space that a protocol fills, it is what that protocol
    /// would have created, so that its clients find it.
    fn new_stream(&self, name: &StreamName) -> Answer<Box<StreamConfig>> {
        self.check_space(&name.space)?;
        let tube = self.serving()?.longtail.beanstalk().and_then(|tenant| {
            (tenant.config().space == name.space).then(|| tenant.tube_config(&name.name))?
        });
        Ok(tube.unwrap_or_else(|| {
            Box::new(StreamConfig {
                group: Some(GroupConfig::default()),
                ..StreamConfig::default()
            })
        }))
    }

    fn check_space(&self, space: &str) -> Answer<()> {
        if self.authenticator.directory().space(space).is_some() {
            return Ok(());
        }
        let problem = format!("there is no space {space}");
        Err(AdminError::new(ErrorKind::NotFound, problem).hint("configure it in [[spaces]]"))
    }
}

/// Carries out a command; a refusal is an error.
async fn call(client: &Client, command: Command) -> Answer<longtail_broker::client::Answer> {
    let answer = client.call(command).await.map_err(|_| wording::closed())?;
    longtail_broker::client::accepted(answer).map_err(|refusal| wording::refused(&refusal))
}

impl AdminBackend for Backend {
    fn health(&self) -> Health {
        status::health(self)
    }

    async fn status(&self) -> Answer<Status> {
        status::show(self)
    }

    async fn streams(&self, space: Option<&str>, page: Page) -> Answer<Listing<StreamStatus>> {
        streams::list(self.broker()?, space, &page).await
    }

    async fn stream(&self, stream: &StreamRef) -> Answer<StreamStatus> {
        streams::show(self.broker()?, stream).await
    }

    async fn groups(&self, stream: &StreamRef) -> Answer<Vec<GroupStatus>> {
        streams::groups(self.broker()?, stream).await
    }

    async fn browse(
        &self,
        stream: &StreamRef,
        from: u64,
        max: usize,
        wait: Duration,
    ) -> Answer<Batch> {
        messages::browse(self.broker()?, stream, from, max, wait).await
    }

    async fn subscribe(&self, space: &str, subject: &str) -> Answer<mpsc::Receiver<LiveMessage>> {
        let broker = self.broker()?;
        self.check_space(space)?;
        messages::follow(broker, space, subject)
    }

    async fn publish(&self, target: Target, message: NewMessage) -> Answer<Published> {
        let broker = self.broker()?;
        match target {
            Target::Stream(stream) => {
                let new_stream = |name: &StreamName| self.new_stream(name);
                messages::publish_to_stream(broker, &stream, message, new_stream).await
            }
            Target::Subject { space, subject } => {
                self.check_space(&space)?;
                messages::publish_to_subject(broker, &space, &subject, message).await
            }
        }
    }

    async fn purge(&self, stream: &StreamRef) -> Answer<Purged> {
        streams::purge(self.broker()?, stream).await
    }

    async fn pause(&self, stream: &StreamRef, ms: u64) -> Answer<()> {
        streams::pause(self.broker()?, stream, ms).await
    }

    async fn connections(&self, page: Page) -> Answer<Listing<ConnectionStatus>> {
        connections::list(&self.serving()?.longtail, &page)
    }

    async fn kick(&self, connection: u64) -> Answer<()> {
        connections::kick(&self.serving()?.longtail, connection)
    }

    async fn sessions(&self, filter: &SessionFilter, page: Page) -> Answer<Listing<SessionStatus>> {
        Ok(match self.mqtt()? {
            Some(tenant) => sessions::list(self.broker()?, tenant, filter, &page).await?,
            None => sessions::none(),
        })
    }

    async fn session(&self, id: &str) -> Answer<SessionStatus> {
        match self.mqtt()? {
            Some(tenant) => sessions::show(self.broker()?, tenant, id).await,
            None => Err(sessions::unknown(id)),
        }
    }

    async fn end_session(&self, id: &str, forget: bool) -> Answer<()> {
        match self.mqtt()? {
            Some(tenant) => sessions::end(tenant, id, forget).await,
            None => Err(sessions::unknown(id)),
        }
    }

    async fn bans(&self, page: Page) -> Answer<Listing<BanStatus>> {
        Ok(match self.mqtt()? {
            Some(tenant) => bans::list(tenant, &page),
            None => sessions::none(),
        })
    }

    async fn ban(
        &self,
        kind: &str,
        value: &str,
        for_ms: Option<u64>,
        reason: &str,
    ) -> Answer<BanStatus> {
        let tenant = self.mqtt()?.ok_or_else(bans::unspoken)?;
        let now = self.broker()?.clock().now();
        let until = for_ms.map_or(Timestamp::NEVER, |ms| now.plus_millis(ms));
        bans::set(tenant, kind, value, until, reason).await
    }

    async fn unban(&self, kind: &str, value: &str) -> Answer<()> {
        let tenant = self.mqtt()?.ok_or_else(bans::unspoken)?;
        bans::remove(tenant, kind, value).await
    }

    async fn subscriptions(
        &self,
        filter: &SubscriptionFilter,
        page: Page,
    ) -> Answer<Listing<SubscriptionStatus>> {
        match self.mqtt()? {
            Some(tenant) => sessions::subscriptions(tenant, filter, &page).await,
            None => Ok(sessions::none()),
        }
    }

    async fn retained(
        &self,
        space: &str,
        filter: Option<&str>,
        notation: Notation,
        page: Page,
    ) -> Answer<Listing<RetainedStatus>> {
        self.check_space(space)?;
        retained::list(self.broker()?, space, filter, notation, &page)
    }

    async fn retained_message(
        &self,
        space: &str,
        subject: &str,
        notation: Notation,
    ) -> Answer<RetainedMessage> {
        self.check_space(space)?;
        retained::show(self.broker()?, space, subject, notation)
    }

    async fn forget_retained(&self, space: &str, subject: &str, notation: Notation) -> Answer<()> {
        self.check_space(space)?;
        retained::forget(self.broker()?, space, subject, notation).await
    }

    async fn metrics(&self, streams_max: usize) -> Answer<Metrics> {
        let mut metrics = Metrics {
            ready: self.health().ready,
            uptime_seconds: process::seconds(
                process::now_ms().saturating_sub(self.started_ms),
                1e3,
            ),
            process: process::metrics(self.started_ms),
            ..Metrics::default()
        };
        if let Some(serving) = self.running.get() {
            metrics::fill(&mut metrics, &serving.longtail);
            let directory = self.authenticator.directory();
            metrics.spaces = metrics::of_spaces(serving.longtail.broker(), directory.spaces());
            let page = Page {
                after: None,
                limit: streams_max,
            };
            if streams_max > 0 {
                metrics.streams = self.streams(None, page).await?.items;
            }
            metrics::sum_up_the_rest(&mut metrics);
        }
        Ok(metrics)
    }
}

fn bad_cursor(cursor: &str) -> AdminError {
    AdminError::new(
        ErrorKind::Invalid,
        format!("`{cursor}` is not the `next` of a page"),
    )
}
