//! Messages of shares about which hooks are asked before they are sent.

use std::sync::Arc;

use longtail_broker::ephemeral::DropReason;
use longtail_model::{DollarRule, Filter, SubjectRef};

use super::feed::Source;
use super::outbound::Copy;
use super::{Cx, Session};

/// A message of a share that this member has drawn, and that may be for another.
pub(crate) struct Drawn {
    pub(crate) copy: Copy,
    source: Source,
    /// The name of the group.
    pub(crate) group: Arc<str>,
    /// The filter that its members have subscribed to.
    pub(crate) filter: Filter,
}

impl Drawn {
    pub(crate) fn source(&self) -> Source {
        self.source
    }
}

impl Session {
    /// The messages that hooks are to be asked about. What came for a subscription that has ended since goes back.
    pub(crate) fn take_unselected(&mut self) -> Option<Vec<Drawn>> {
        let feed = self.feed.as_deref_mut()?;
        let copies = std::mem::take(&mut feed.unselected);
        let mut drawn = Vec::with_capacity(copies.len());
        for copy in copies {
            let Some(source) = copy.source else { continue };
            let text = feed.text_of(source.group);
            let held = text.and_then(|text| self.state.subscriptions.get(text));
            let share = held.and_then(|held| Some((held.group.clone()?, held.filter.clone())));
            match share {
                Some((group, filter)) => drawn.push(Drawn {
                    copy,
                    source,
                    group,
                    filter,
                }),
                None => feed.give_back(source),
            }
        }
        Some(drawn)
    }

    /// Nobody is to get a message.
    pub(crate) fn drop_selected(&mut self, copy: &Copy, cx: &Cx<'_>) {
        self.lose(copy.message(), DropReason::Denied, cx);
        if let Some(source) = copy.source {
            self.done_with(source);
        }
    }

    /// A message is for another member: it is given back for so long.
    pub(crate) fn hand_over(&mut self, source: Source, delay_ms: u64) {
        if let Some(feed) = self.feed.as_deref_mut() {
            feed.give_back_in(source, delay_ms);
        }
    }

    /// Asks for a message that another member has given back for this one.
    pub(crate) fn is_chosen_for(&mut self, source: Source) {
        if let Some(feed) = self.feed.as_deref_mut() {
            feed.take_chosen(source);
        }
    }

    /// Whether a message that it is chosen for could be sent at once, those included that it has asked for already.
    pub(crate) fn has_room_to_be_chosen(&self) -> bool {
        let asked = self.feed.as_ref().map_or(usize::MAX, |feed| feed.chosen());
        let left = usize::from(self.window).saturating_sub(self.state.outbound.in_flight());
        self.is_open() && self.state.outbound.is_clear(self.window) && asked < left
    }

    /// Whether it is a member of the share of this name under this filter.
    pub(crate) fn is_member(&self, group: &str, filter: &Filter) -> bool {
        let mut held = self.state.subscriptions.values();
        held.any(|held| held.group.as_deref() == Some(group) && held.filter == *filter)
    }

    /// The filter of a share of this name that matches a subject, of which it is a member.
    pub(crate) fn membership_for(&self, group: &str, subject: SubjectRef<'_>) -> Option<Filter> {
        let mut held = self.state.subscriptions.values();
        let found = held.find(|held| {
            held.group.as_deref() == Some(group)
                && held.filter.matches_with(subject, DollarRule::Hide)
        });
        found.map(|held| held.filter.clone())
    }
}
