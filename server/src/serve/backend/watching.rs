//! What can be watched of MQTT, as the admin service shows it.

use longtail_admin::shapes::{
    DropStatus, Drops, SlowStatus, SlowSubscription, TopicStatus, TraceLines, TraceStatus,
};
use longtail_admin::{AdminError, DropFilter, ErrorKind, NewTrace, SlowChange, Watching};
use longtail_model::Filter;
use longtail_mqtt::watch::Watch;
use longtail_mqtt::watch::drops::DropView;
use longtail_mqtt::watch::slow::{SlowConfig, Span, TOP_MAX};
use longtail_mqtt::watch::topics::{TopicError, TopicView};
use longtail_mqtt::watch::trace::{Payload, Status, Subject, TraceError, TraceSpec, TraceView};

use super::{Answer, Backend};

fn invalid(message: impl Into<String>) -> AdminError {
    AdminError::new(ErrorKind::Invalid, message)
}

fn no_trace(name: &str) -> AdminError {
    AdminError::new(ErrorKind::NotFound, format!("there is no trace {name}"))
        .hint("GET /api/v1/traces lists what there is")
}

fn not_watched(topic: &str) -> AdminError {
    AdminError::new(
        ErrorKind::NotFound,
        format!("the topic {topic} is not watched"),
    )
    .hint("GET /api/v1/topic-metrics lists those that are")
}

fn trace(view: TraceView) -> TraceStatus {
    TraceStatus {
        kind: view.subject.kind().to_owned(),
        value: view.subject.value(),
        status: view.status.name().to_owned(),
        start_ms: view.start.0,
        end_ms: view.end.0,
        payload: view.payload.name().to_owned(),
        bytes: view.bytes,
        lost: view.lost,
        name: view.name,
    }
}

fn topic(view: TopicView) -> TopicStatus {
    let [in0, in1, in2, out0, out1, out2, dropped] = view.rates;
    TopicStatus {
        topic: view.topic,
        since_ms: view.since.0,
        reset_ms: view.reset.map(|at| at.0),
        received: view.counts.received,
        sent: view.counts.sent,
        dropped: view.counts.dropped,
        received_rate: in0 + in1 + in2,
        sent_rate: out0 + out1 + out2,
        dropped_rate: dropped,
    }
}

fn dropped(view: &DropView) -> DropStatus {
    DropStatus {
        at_ms: view.at.0,
        what: view.what.kind().to_owned(),
        session: view.client_id.to_string(),
        topic: view.topic.to_string(),
        reason: view.what.reason(),
    }
}

impl Backend {
    fn watch(&self) -> Answer<&Watch> {
        let tenant = self.mqtt()?.ok_or_else(|| {
            AdminError::new(
                ErrorKind::Refused,
                "MQTT is not spoken, so that there is nothing of it to watch",
            )
        })?;
        Ok(tenant.watch())
    }
}

impl Watching for Backend {
    fn traces(&self) -> Answer<Vec<TraceStatus>> {
        let views = self.watch()?.traces.list();
        Ok(views.into_iter().map(trace).collect())
    }

    fn trace(&self, name: &str) -> Answer<TraceStatus> {
        let views = self.watch()?.traces.list();
        let view = views.into_iter().find(|view| view.name == name);
        view.map(trace).ok_or_else(|| no_trace(name))
    }

    fn begin_trace(&self, wanted: NewTrace) -> Answer<TraceStatus> {
        let traces = &self.watch()?.traces;
        let payload = match &wanted.payload {
            None => Payload::Hidden,
            Some(name) => Payload::named(name)
                .ok_or_else(|| invalid(format!("payload is hidden, text or hex, not {name:?}")))?,
        };
        let subject = Subject::new(&wanted.kind, &wanted.value);
        let now = self.broker()?.clock().now();
        let spec = TraceSpec {
            name: wanted.name,
            subject: subject.map_err(|error| invalid(error.to_string()))?,
            start: None,
            end: wanted.for_ms.map(|ms| now.plus_millis(ms)),
            payload,
        };
        traces.begin(spec).map(trace).map_err(|error| {
            let kind = match error {
                TraceError::Exists(_) => ErrorKind::Refused,
                TraceError::Full => ErrorKind::Limit,
                _ => ErrorKind::Invalid,
            };
            AdminError::new(kind, error.to_string())
        })
    }

    fn stop_trace(&self, name: &str) -> Answer<TraceStatus> {
        let view = self.watch()?.traces.stop(name);
        view.map(trace).ok_or_else(|| no_trace(name))
    }

    fn delete_trace(&self, name: &str) -> Answer<()> {
        if self.watch()?.traces.delete(name) {
            Ok(())
        } else {
            Err(no_trace(name))
        }
    }

    fn trace_lines(&self, name: &str, from: u64, max: usize) -> Answer<TraceLines> {
        let traces = &self.watch()?.traces;
        // Before the lines: what was written before the end is read then.
        let views = traces.list();
        let view = views.iter().find(|view| view.name == name);
        let open = view.is_some_and(|view| view.status != Status::Stopped);
        let part = traces.read(name, from, max).ok_or_else(|| no_trace(name))?;
        Ok(TraceLines {
            text: part.text,
            next: part.position,
            open,
        })
    }

    fn slow(&self) -> Answer<SlowStatus> {
        let slow = &self.watch()?.slow;
        let config = slow.config();
        let items = slow.list().into_iter().map(|view| SlowSubscription {
            session: view.client_id.to_string(),
            topic: view.topic.to_string(),
            took_ms: view.ms,
            at_ms: view.at.0,
        });
        Ok(SlowStatus {
            enabled: config.enabled,
            threshold_ms: config.threshold_ms,
            expire_ms: config.expire_ms,
            top: config.top as u64,
            span: config.span.name().to_owned(),
            items: items.collect(),
        })
    }

    fn change_slow(&self, change: SlowChange) -> Answer<SlowStatus> {
        let slow = &self.watch()?.slow;
        let old = slow.config();
        let top = match change.top {
            None => old.top,
            Some(top) => usize::try_from(top)
                .ok()
                .filter(|top| (1..=TOP_MAX).contains(top))
                .ok_or_else(|| invalid(format!("top is 1 to {TOP_MAX}")))?,
        };
        let span = match &change.span {
            None => old.span,
            Some(name) => Span::named(name).ok_or_else(|| {
                invalid(format!("span is whole, internal or response, not {name:?}"))
            })?,
        };
        slow.configure(SlowConfig {
            enabled: change.enabled.unwrap_or(old.enabled),
            threshold_ms: change.threshold_ms.unwrap_or(old.threshold_ms),
            expire_ms: change.expire_ms.unwrap_or(old.expire_ms),
            top,
            span,
        });
        Watching::slow(self)
    }

    fn clear_slow(&self) -> Answer<()> {
        self.watch()?.slow.clear();
        Ok(())
    }

    fn topics(&self) -> Answer<Vec<TopicStatus>> {
        let views = self.watch()?.topics.list();
        Ok(views.into_iter().map(topic).collect())
    }

    fn watch_topic(&self, name: &str) -> Answer<TopicStatus> {
        self.watch()?
            .topics
            .watch(name)
            .map(topic)
            .map_err(|error| {
                let kind = match error {
                    TopicError::NoTopic(_) => ErrorKind::Invalid,
                    TopicError::Exists(_) => ErrorKind::Refused,
                    TopicError::Full => ErrorKind::Limit,
                };
                AdminError::new(kind, error.to_string())
            })
    }

    fn reset_topic(&self, topic: &str) -> Answer<()> {
        if self.watch()?.topics.reset(Some(topic)) {
            Ok(())
        } else {
            Err(not_watched(topic))
        }
    }

    fn forget_topic(&self, topic: &str) -> Answer<()> {
        if self.watch()?.topics.forget(topic) {
            Ok(())
        } else {
            Err(not_watched(topic))
        }
    }

    fn drops(&self, filter: &DropFilter, max: usize) -> Answer<Drops> {
        let drops = &self.watch()?.drops;
        let topics = filter.topic.as_deref().map(|text| {
            Filter::parse_mqtt(text).map_err(|error| invalid(format!("`{text}`: {error}")))
        });
        let topics = topics.transpose()?;
        let found = drops.list(filter.session.as_deref(), topics.as_ref(), max);
        Ok(Drops {
            items: found.iter().map(dropped).collect(),
            unlisted: drops.unlisted(),
        })
    }
}
