//! The ids of jobs on both servers.
//!
//! The original numbers a job when its `put` line is read, and so spends a number on a body that then turns out not to
//! end with a line end. Longtail numbers what it stores. Commands are written with the reference's ids and translated
//! for the candidate; a reply of the reference is translated before it is compared.

use std::collections::HashMap;

use crate::beanstalk::{Received, Reply};

/// Which id of the candidate stands for which of the reference.
#[derive(Debug)]
pub(super) struct Ids {
    next_reference: u64,
    next_candidate: u64,
    candidate: HashMap<u64, u64>,
}

impl Ids {
    pub(super) fn new() -> Self {
        Ids {
            next_reference: 1,
            next_candidate: 1,
            candidate: HashMap::new(),
        }
    }

    /// Both servers number the next job.
    pub(super) fn put(&mut self) {
        self.candidate
            .insert(self.next_reference, self.next_candidate);
        self.next_reference += 1;
        self.next_candidate += 1;
    }

    /// The reference spends a number for nothing.
    pub(super) fn spend(&mut self) {
        self.next_reference += 1;
    }

    /// The candidate's id for one of the reference; what is no job there is none here.
    pub(super) fn of(&self, id: u64) -> u64 {
        match id.checked_sub(self.next_reference) {
            Some(ahead) => self.next_candidate + ahead,
            None => self.candidate.get(&id).copied().unwrap_or(0),
        }
    }

    /// What the candidate should answer where the reference answered this.
    pub(super) fn translate(&self, received: &Received) -> Received {
        let Received::Reply(Reply { line, body }) = received else {
            return received.clone();
        };
        let line = self
            .number_in(line, &["INSERTED ", "RESERVED ", "FOUND "], ' ')
            .unwrap_or_else(|| line.clone());
        // Only the document about one job starts with an id.
        let body = body.as_ref().map(|body| {
            std::str::from_utf8(body)
                .ok()
                .filter(|_| line.starts_with("OK "))
                .and_then(|text| self.number_in(text, &["---\nid: "], '\n'))
                .map_or_else(|| body.clone(), String::into_bytes)
        });
        Received::Reply(Reply { line, body })
    }

    /// The text with the id translated that stands between one of the beginnings and `end`, if there is one.
    fn number_in(&self, text: &str, beginnings: &[&str], end: char) -> Option<String> {
        let start = beginnings.iter().find(|start| text.starts_with(**start))?;
        let rest = &text[start.len()..];
        let (number, rest) = rest.split_at(rest.find(end).unwrap_or(rest.len()));
        let id = self.of(number.parse().ok()?);
        Some(format!("{start}{id}{rest}"))
    }
}

#[cfg(test)]
mod tests {
    use super::Ids;
    use crate::beanstalk::{Received, Reply};

    #[test]
    fn spent_numbers_are_no_jobs() {
        let mut ids = Ids::new();
        ids.put();
        ids.spend();
        ids.put();
        let all: Vec<_> = (0..=5).map(|id| ids.of(id)).collect();
        assert_eq!(all, [0, 1, 0, 2, 3, 4]);
        assert!(ids.of(u64::MAX) > 4);
    }

    #[test]
    fn replies_are_translated_where_they_name_jobs() {
        let mut ids = Ids::new();
        ids.spend();
        ids.put();
        let reply = |line: &str, body: Option<&str>| {
            Received::Reply(Reply {
                line: line.to_owned(),
                body: body.map(|body| body.as_bytes().to_vec()),
            })
        };
        for (from, to) in [
            (reply("INSERTED 2", None), reply("INSERTED 1", None)),
            (
                reply("RESERVED 2 2", Some("22")),
                reply("RESERVED 1 2", Some("22")),
            ),
            (
                reply("OK 20", Some("---\nid: 2\npri: 2\n")),
                reply("OK 20", Some("---\nid: 1\npri: 2\n")),
            ),
            (
                reply("OK 20", Some("---\npri: 2\nid: 2\n")),
                reply("OK 20", Some("---\npri: 2\nid: 2\n")),
            ),
            (reply("KICKED 2", None), reply("KICKED 2", None)),
            (Received::Closed, Received::Closed),
        ] {
            assert_eq!(ids.translate(&from), to);
        }
    }
}
