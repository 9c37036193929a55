//! From which streams a session draws: those of its filters, from a subscription or a resumption on until the
//! subscription ends.

use std::sync::Arc;

use longtail_engine::{Command, Credit, Dispatch, Role, StreamName, Target};
use longtail_model::{GroupId, Link, Seq, StreamId};

use super::{
    Asked, CONSUMER, Drawn, Feed, Mark, Share, Source, Way, group_config, share_name, stream_config,
};

/// Answers that come before a stream is drawn from.
const DRAWING: usize = 4;

impl Feed {
    /// Opens the stream of a filter and draws from it. Answers: [`DRAWING`].
    fn draw(&mut self, text: &Arc<str>, name: &StreamName, share: Option<Share<'_>>, way: Way) {
        self.links += 1;
        let link = Link(self.links);
        let how = share.map_or(Dispatch::Turns, |share| share.strategy.of_group());
        let share = share.map(|share| share_name(share.name));
        let group = share.as_ref().unwrap_or(&self.group).clone();
        let drawn = Drawn {
            text: Arc::clone(text),
            link,
            share,
        };
        self.ask(
            Asked::Open(Arc::clone(text), way),
            Command::Open {
                link,
                name: name.clone(),
                create: Some(Box::new(stream_config())),
                role: Role::Consumer,
            },
        );
        self.ask(
            Asked::Join(Arc::clone(text), way),
            Command::DefineGroup {
                stream: name.clone(),
                group: group.clone(),
                config: Box::new(group_config()),
            },
        );
        if how != Dispatch::Turns {
            // Every member says the same. That there is such a group is said above.
            self.tell(Command::Dispatch {
                stream: Target::Link(link),
                group: group.clone(),
                how,
            });
        }
        self.ask(
            Asked::Marked(drawn, way),
            Command::Marked {
                stream: Target::Link(link),
                group: group.clone(),
            },
        );
        self.ask(
            Asked::Join(Arc::clone(text), way),
            Command::Subscribe {
                consumer: CONSUMER,
                link,
                group,
            },
        );
        // A consumer that draws from nothing is forgotten, and its credit with it.
        self.say_credit();
    }

    pub(super) fn say_credit(&mut self) {
        if let Some(window) = self.credit {
            self.tell(Command::Credit {
                consumer: CONSUMER,
                credit: Credit::Level(window),
            });
        }
    }

    /// Draws from the stream of a filter again, and looks for what was under way.
    pub(crate) fn resume(&mut self, text: &Arc<str>, name: &StreamName, share: Option<Share<'_>>) {
        self.draw(text, name, share, Way::Resume);
        self.resuming += DRAWING;
    }

    /// Draws from the stream of a new subscription; [`Feed::has_joined`] says when.
    pub(crate) fn join(&mut self, text: &Arc<str>, name: &StreamName, share: Option<Share<'_>>) {
        self.draw(text, name, share, Way::Join);
        self.joining += DRAWING;
    }

    /// The groups that the subscription with this text draws from.
    pub(crate) fn groups_of(&self, text: &str) -> Vec<GroupId> {
        let groups = self.groups.iter();
        groups
            .filter(|(_, drawn)| *drawn.text == *text)
            .map(|(group, _)| *group)
            .collect()
    }

    /// Draws no more for a subscription that has ended. Unless it `is_done` with what it holds, that is finished.
    pub(crate) fn leave(&mut self, text: &str, is_done: bool) {
        for group in self.groups_of(text) {
            let Some(drawn) = self.groups.get(&group).cloned() else {
                continue;
            };
            let unsubscribe = Command::Unsubscribe {
                consumer: CONSUMER,
                link: drawn.link,
                group: drawn.share.unwrap_or_else(|| self.group.clone()),
            };
            if is_done {
                self.groups.remove(&group);
                self.tell(unsubscribe);
            } else {
                self.ask(Asked::Left(group), unsubscribe);
            }
            self.tell(Command::Close { link: drawn.link });
        }
    }

    /// Whether every new subscription is answered.
    pub(crate) fn has_joined(&self) -> bool {
        self.joining == 0
    }

    /// Filters that could not be joined.
    pub(crate) fn take_failed(&mut self) -> Vec<Arc<str>> {
        std::mem::take(&mut self.failed)
    }

    /// Streams that were opened since this was last asked.
    pub(crate) fn take_opened(&mut self) -> Vec<(Arc<str>, StreamId)> {
        std::mem::take(&mut self.opened)
    }

    /// Marked messages of a group, while the session comes back: those whose marks it made.
    pub(super) fn find(&mut self, group: GroupId, drawn: &Drawn, messages: &[(Seq, u64)]) {
        let is_shared = drawn.share.is_some();
        let signature = self.signature();
        let known = messages.iter().filter_map(|(seq, mark)| {
            let mut mark = Mark::unpack(*mark)?;
            if is_shared {
                if mark.send != signature {
                    return None;
                }
                // Whatever the place was among all sends, of one share's they ascend.
                mark.send = seq.0;
            }
            let source = Source {
                group,
                seq: *seq,
                is_shared,
                redeliveries: 0,
            };
            Some((mark, source))
        });
        self.found.extend(known);
    }
}
