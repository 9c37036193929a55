//! The shard's replies to ours.

use longtail_engine::effect::{Refusal, Reply};
use longtail_engine::message::Message;

use super::pending::{Kind, Pending};
use super::{Outbox, Session};
use crate::codec::{Word, reply};
use crate::stats;
use crate::tenant::Tenant;

impl Session {
    /// Writes the answer to what was pending.
    pub(super) fn answer(
        &mut self,
        pending: Pending,
        answer: &Reply,
        messages: &[Option<Message<'_>>],
        tenant: &Tenant,
        out: &mut impl Outbox,
    ) {
        if matches!(answer, Reply::Refused(Refusal::UnknownLink))
            && !matches!(pending, Pending::Watch)
        {
            self.is_cut_off = true;
        }
        let body = || {
            messages
                .first()
                .and_then(Option::as_ref)
                .map(|message| message.payload)
        };
        match (pending, answer) {
            (Pending::Put(_), Reply::Published { seq, .. }) => reply::inserted(out.tail(), seq.0),
            (Pending::Reserve, Reply::Delivered(delivery)) => match body() {
                Some(body) => {
                    self.becomes(Kind::Worker, &tenant.counters);
                    reply::reserved(out.tail(), delivery.seq.0, body);
                }
                None => reply::word(out.tail(), Word::InternalError),
            },
            (Pending::Peek, Reply::Peeked { seq, .. }) => match body() {
                Some(body) => reply::found(out.tail(), seq.0, body),
                None => reply::word(out.tail(), Word::InternalError),
            },
            (Pending::Done(word), Reply::Done) => reply::word(out.tail(), word),
            (Pending::Reserve, Reply::TimedOut) => reply::word(out.tail(), Word::TimedOut),
            (Pending::Reserve, Reply::DeadlineSoon) => reply::word(out.tail(), Word::DeadlineSoon),
            (Pending::Kick, Reply::Count(count)) => reply::kicked(out.tail(), *count),
            (Pending::Use(tube), Reply::Opened { .. }) => {
                self.used = tube;
                reply::using(out.tail(), &self.used);
            }
            (Pending::Open, Reply::Opened { .. })
            | (Pending::Silent, Reply::Opened { .. } | Reply::Done) => {}
            (Pending::Open, other) => {
                if let Some(opening) = &mut self.opening {
                    opening.refused = Some(word_for(other));
                }
            }
            (Pending::Watch, answer) => self.watched(answer, out),
            (Pending::Ignore(left), Reply::Done) => reply::watching(out.tail(), left as usize),
            (Pending::StatsJob, Reply::MessageInfo(info)) => {
                let file = tenant.host.segment_of(info.position);
                reply::ok(out.tail(), &stats::job(info, tenant.host.now(), file));
            }
            (Pending::StatsTube(tube), Reply::StreamInfo(info)) => {
                reply::ok(out.tail(), &stats::tube(&tube, info));
            }
            (Pending::Stats, Reply::ShardInfo(info)) => {
                self.publish_counts(&tenant.counters);
                reply::ok(out.tail(), &stats::server(tenant, info));
            }
            (Pending::ListTubes, Reply::Streams(names)) => {
                reply::ok_list(out.tail(), names.iter().map(|name| &*name.name));
            }
            (Pending::Silent, other) => {
                tracing::warn!(answer = ?other, "a tube could not be opened or closed");
            }
            (_, other) => reply::word(out.tail(), word_for(other)),
        }
    }

    /// The end of a `watch`.
    fn watched(&mut self, answer: &Reply, out: &mut impl Outbox) {
        let Some(opening) = self.opening.take() else {
            return;
        };
        match (opening.refused, answer) {
            (None, Reply::Done) => {
                self.watched.push(opening.watched);
                reply::watching(out.tail(), self.watched.len());
            }
            (refused, answer) => {
                self.free_links.push(opening.watched.link);
                reply::word(out.tail(), refused.unwrap_or_else(|| word_for(answer)));
            }
        }
    }
}

/// What the client is told when a command did not succeed. The only place where refusals are translated.
fn word_for(answer: &Reply) -> Word {
    match answer {
        Reply::NotFound => Word::NotFound,
        Reply::Refused(refusal) => match refusal {
            Refusal::Gone => Word::NotFound,
            Refusal::Limit(_) | Refusal::Full(_) => Word::OutOfMemory,
            Refusal::TooLarge(_) => Word::JobTooBig,
            Refusal::Failed(_)
            | Refusal::UnknownLink
            | Refusal::Exists
            | Refusal::Step { .. }
            | Refusal::Unmet(_)
            | Refusal::Unsupported(_) => Word::InternalError,
        },
        other => {
            tracing::error!(answer = ?other, "the shard's reply does not fit the request");
            Word::InternalError
        }
    }
}
