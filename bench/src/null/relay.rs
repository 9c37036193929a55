//! Messages that connections of a null sink pass to each other: bytes as they came, written once a round of events.

use std::collections::HashMap;

/// Who hears what, and what they are about to hear. Connections are named by their tokens.
#[derive(Debug, Default)]
pub(crate) struct Relay {
    audiences: Vec<Audience>,
    names: HashMap<Vec<u8>, Vec<usize>>,
    groups: HashMap<Vec<u8>, usize>,
    dirty: Vec<usize>,
    here: u64,
}

#[derive(Debug)]
struct Audience {
    members: Vec<u64>,
    /// One of the members gets each message, in turn; otherwise all.
    shared: bool,
    turn: usize,
    /// Messages for all of them, or one list for each.
    pending: Vec<Vec<u8>>,
}

impl Relay {
    /// From here on `join` means this connection.
    pub(crate) fn turn_to(&mut self, token: u64) {
        self.here = token;
    }

    /// The connection hears what is sent to `name`; each message once a `group`, if there is one.
    pub(crate) fn join(&mut self, name: &[u8], group: Option<&[u8]>) {
        let mut key = group.unwrap_or_default().to_vec();
        key.push(b'/');
        key.extend_from_slice(name);
        let place = *self.groups.entry(key).or_insert_with(|| {
            self.audiences.push(Audience {
                members: Vec::new(),
                shared: group.is_some(),
                turn: 0,
                pending: vec![Vec::new()],
            });
            let place = self.audiences.len() - 1;
            self.names.entry(name.to_vec()).or_default().push(place);
            place
        });
        if let Some(audience) = self.audiences.get_mut(place) {
            audience.members.push(self.here);
            if audience.shared {
                audience.pending.resize(audience.members.len(), Vec::new());
            }
        }
    }

    /// One message to all that joined `name`.
    pub(crate) fn send(&mut self, name: &[u8], message: &[u8]) {
        let Some(places) = self.names.get(name) else {
            return;
        };
        for &place in places {
            let Some(audience) = self.audiences.get_mut(place) else {
                continue;
            };
            if audience.pending.iter().all(Vec::is_empty) {
                self.dirty.push(place);
            }
            let turn = audience.turn;
            if audience.shared {
                audience.turn = (turn + 1) % audience.members.len().max(1);
            }
            if let Some(pending) = audience.pending.get_mut(turn) {
                pending.extend_from_slice(message);
            }
        }
    }

    /// Hands out what is pending, by connection.
    pub(crate) fn flush(&mut self, mut write: impl FnMut(u64, &[u8])) {
        for place in self.dirty.drain(..) {
            let Some(audience) = self.audiences.get_mut(place) else {
                continue;
            };
            for (number, &member) in audience.members.iter().enumerate() {
                let pending = audience
                    .pending
                    .get(if audience.shared { number } else { 0 });
                if let Some(bytes) = pending.filter(|bytes| !bytes.is_empty()) {
                    write(member, bytes);
                }
            }
            audience.pending.iter_mut().for_each(Vec::clear);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flushed(relay: &mut Relay) -> Vec<(u64, String)> {
        let mut all = Vec::new();
        relay.flush(|token, bytes| all.push((token, String::from_utf8_lossy(bytes).into_owned())));
        all.sort();
        all
    }

    #[test]
    fn all_that_joined_hear_a_message_and_one_of_each_group() {
        let mut relay = Relay::default();
        for (token, group) in [(1, None), (2, None), (3, Some("g")), (4, Some("g"))] {
            relay.turn_to(token);
            relay.join(b"a", group.map(str::as_bytes));
        }
        relay.send(b"a", b"x");
        relay.send(b"a", b"y");
        relay.send(b"a", b"z");
        relay.send(b"b", b"nobody");
        let expected = [(1, "xyz"), (2, "xyz"), (3, "xz"), (4, "y")];
        assert_eq!(
            flushed(&mut relay),
            expected.map(|(token, text)| (token, text.to_owned()))
        );
        assert!(flushed(&mut relay).is_empty());
    }
}
