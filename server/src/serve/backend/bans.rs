//! Bans of MQTT, as the admin service shows them.

use std::sync::Arc;

use longtail_admin::shapes::{BanStatus, Listing};
use longtail_admin::{AdminError, ErrorKind, Page};
use longtail_model::Timestamp;
use longtail_mqtt::Tenant;
use longtail_mqtt::bans::{Ban, BanError, BanFailed, Who};

use super::{Answer, wording};

fn status(ban: &Ban) -> BanStatus {
    BanStatus {
        kind: ban.who.kind().to_owned(),
        value: ban.who.value(),
        since_ms: ban.since.0,
        until_ms: (ban.until != Timestamp::NEVER).then_some(ban.until.0),
        reason: ban.reason.to_string(),
    }
}

pub(super) fn unspoken() -> AdminError {
    AdminError::new(
        ErrorKind::Refused,
        "MQTT is not spoken, so that nobody is kept out of it",
    )
}

fn who(kind: &str, value: &str) -> Answer<Who> {
    Who::new(kind, value).map_err(|error| AdminError::new(ErrorKind::Invalid, error.to_string()))
}

pub(super) fn list(tenant: &Tenant, page: &Page) -> Listing<BanStatus> {
    let found = tenant.list_bans(page.after.as_deref(), page.limit);
    let next = (found.len() == page.limit)
        .then(|| found.last().map(|last| last.who.to_string()))
        .flatten();
    Listing {
        items: found.iter().map(|ban| status(ban)).collect(),
        next,
    }
}

pub(super) async fn set(
    tenant: &Arc<Tenant>,
    kind: &str,
    value: &str,
    until: Timestamp,
    reason: &str,
) -> Answer<BanStatus> {
    let ban = tenant.ban(who(kind, value)?, until, reason).await;
    match ban {
        Ok(ban) => Ok(status(&ban)),
        Err(BanFailed::Ban(error)) => {
            let kind = match error {
                BanError::Full => ErrorKind::Limit,
                _ => ErrorKind::Invalid,
            };
            Err(AdminError::new(kind, error.to_string()))
        }
        Err(BanFailed::Refused(refusal)) => Err(wording::refused(&refusal)),
        Err(BanFailed::Closed(error)) => {
            Err(AdminError::new(ErrorKind::Unavailable, error.to_string()))
        }
    }
}

pub(super) async fn remove(tenant: &Arc<Tenant>, kind: &str, value: &str) -> Answer<()> {
    let who = who(kind, value)?;
    match tenant.unban(&who).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(
            AdminError::new(ErrorKind::NotFound, format!("there is no ban {who}"))
                .hint("GET /api/v1/bans lists what there is"),
        ),
        Err(error) => Err(wording::broker(error)),
    }
}
