//! Streams and their groups.

use std::sync::Arc;

use longtail::Broker;
use longtail_admin::shapes::{GroupStatus, Listing, Purged, StreamStatus};
use longtail_admin::{AdminError, Page, StreamRef};
use longtail_engine::{Command, Reply, StreamInfo, StreamName, Until};
use longtail_model::{ShardId, StreamId};

use super::{Answer, bad_cursor, call, wording};

pub(super) async fn list(
    broker: &Arc<Broker>,
    space: Option<&str>,
    page: &Page,
) -> Answer<Listing<StreamStatus>> {
    let space: Option<Arc<str>> = space.map(Arc::from);
    let shards = broker.shards().count();
    let (first, mut after) = match page.after.as_deref() {
        None => (0, None),
        Some(cursor) => parse_cursor(cursor)?,
    };
    let mut items = Vec::new();
    for shard in first..shards {
        let client = broker.client(ShardId(shard));
        loop {
            let limit = u32::try_from(page.limit - items.len()).unwrap_or(u32::MAX);
            let describe = Command::DescribeStreams {
                space: space.clone(),
                after,
                limit,
            };
            let reply = call(&client, describe).await?.reply;
            let Reply::StreamPage { streams, next } = reply else {
                return Err(wording::unexpected(&reply));
            };
            items.extend(
                streams
                    .iter()
                    .map(|(name, info)| StreamStatus::new(name, info)),
            );
            after = next;
            if items.len() >= page.limit {
                let next = match next {
                    Some(stream) => Some(format!("{shard}.{}", stream.0)),
                    None => (shard + 1 < shards).then(|| format!("{}.0", shard + 1)),
                };
                return Ok(Listing { items, next });
            }
            if next.is_none() {
                break;
            }
        }
    }
    Ok(Listing { items, next: None })
}

pub(super) async fn find(
    broker: &Broker,
    stream: &StreamRef,
) -> Answer<(StreamName, ShardId, StreamInfo)> {
    let name = StreamName::new(stream.space.as_str(), stream.name.as_str());
    match broker.find(&name).await.map_err(wording::broker)? {
        Some((shard, info)) => Ok((name, shard, info)),
        None => Err(AdminError::no_stream(stream)),
    }
}

pub(super) async fn show(broker: &Broker, stream: &StreamRef) -> Answer<StreamStatus> {
    let (name, _, info) = find(broker, stream).await?;
    Ok(StreamStatus::new(&name, &info))
}

pub(super) async fn groups(broker: &Arc<Broker>, stream: &StreamRef) -> Answer<Vec<GroupStatus>> {
    let (name, shard, info) = find(broker, stream).await?;
    let client = broker.client(shard);
    let reply = call(&client, Command::DescribeGroups { stream: name })
        .await?
        .reply;
    match reply {
        Reply::Groups(groups) => Ok(groups
            .into_iter()
            .map(|group| GroupStatus {
                // Links are counted by stream, not by group: those of named groups are known when they wait.
                consumers: if group.name.is_empty() {
                    info.consumers
                } else {
                    group.waiting
                },
                name: group.name.to_string(),
                ready: group.ready,
                held: group.held,
                delayed: group.delayed,
                parked: group.parked,
                waiting: group.waiting,
            })
            .collect()),
        Reply::NotFound => Err(AdminError::no_stream(stream)),
        other => Err(wording::unexpected(&other)),
    }
}

pub(super) async fn purge(broker: &Arc<Broker>, stream: &StreamRef) -> Answer<Purged> {
    let purge = |stream| Command::Purge {
        stream,
        group: None,
        held: false,
    };
    match at(broker, stream, purge).await? {
        Reply::Count(messages) => Ok(Purged { messages }),
        other => Err(wording::unexpected(&other)),
    }
}

pub(super) async fn pause(broker: &Arc<Broker>, stream: &StreamRef, ms: u64) -> Answer<()> {
    let pause = |stream| Command::Pause {
        stream,
        group: None,
        until: Until::Millis(ms),
        durable: false,
    };
    match at(broker, stream, pause).await? {
        Reply::Done => Ok(()),
        other => Err(wording::unexpected(&other)),
    }
}

/// Carries out a command about one stream at its shard.
async fn at(
    broker: &Arc<Broker>,
    stream: &StreamRef,
    command: impl FnOnce(StreamName) -> Command,
) -> Answer<Reply> {
    let (name, shard, _) = find(broker, stream).await?;
    let client = broker.client(shard);
    match call(&client, command(name)).await?.reply {
        Reply::NotFound => Err(AdminError::no_stream(stream)),
        reply => Ok(reply),
    }
}

/// `SHARD.STREAM`: where a listing of streams goes on.
fn parse_cursor(cursor: &str) -> Answer<(u16, Option<StreamId>)> {
    let parsed = cursor.split_once('.').and_then(|(shard, stream)| {
        let (shard, stream) = (shard.parse().ok()?, stream.parse().ok()?);
        Some((shard, Some(StreamId(stream))))
    });
    parsed.ok_or_else(|| bad_cursor(cursor))
}
