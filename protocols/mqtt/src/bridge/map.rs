//! Topics here and topics there.

use longtail_model::{DollarRule, Filter, SubjectRef};

use super::config::{Direction, TopicLine};
use crate::codec::{Qos, topic};

/// The lines of one bridge, ready to be matched.
pub(super) struct TopicMap {
    lines: Vec<Line>,
}

struct Line {
    direction: Direction,
    qos: Qos,
    local: Filter,
    remote: Filter,
    remote_text: String,
    local_prefix: String,
    remote_prefix: String,
}

/// Where a message goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mapped {
    /// Its topic there.
    pub(super) topic: String,
    /// Highest QoS.
    pub(super) qos: Qos,
}

/// A filter that is subscribed to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) filter: String,
    pub(super) qos: Qos,
}

impl TopicMap {
    /// From checked lines; one that is not is left out.
    pub(super) fn new(lines: &[TopicLine]) -> Self {
        let line = |line: &TopicLine| {
            let remote_text = line.remote_filter();
            Some(Line {
                direction: line.direction,
                qos: line.qos(),
                local: line.local_filter().ok()?,
                remote: Filter::parse_mqtt(&remote_text).ok()?,
                remote_text,
                local_prefix: line.local_prefix.clone(),
                remote_prefix: line.remote_prefix.clone(),
            })
        };
        TopicMap {
            lines: lines.iter().filter_map(line).collect(),
        }
    }

    /// Where a message of this broker goes: as the first line that matches says. `None`: nowhere.
    pub(super) fn outgoing(&self, subject: SubjectRef<'_>) -> Option<Mapped> {
        let mut out = self.lines.iter().filter(|line| line.direction.is_out());
        let line = out.find(|line| line.local.matches_with(subject, DollarRule::Hide))?;
        let rest = subject.as_str().strip_prefix(&*line.local_prefix)?;
        mapped(&line.remote_prefix, rest, line.qos)
    }

    /// Where a message of the other broker goes.
    pub(super) fn incoming(&self, subject: SubjectRef<'_>) -> Option<Mapped> {
        let mut lines = self.lines.iter().filter(|line| line.direction.is_in());
        let line = lines.find(|line| line.remote.matches_with(subject, DollarRule::Hide))?;
        let rest = subject.as_str().strip_prefix(&*line.remote_prefix)?;
        mapped(&line.local_prefix, rest, line.qos)
    }

    /// The filters of messages that go out, with the highest QoS of each.
    pub(super) fn local_filters(&self) -> Vec<(Filter, Qos)> {
        let mut filters: Vec<(Filter, Qos)> = Vec::new();
        for line in self.lines.iter().filter(|line| line.direction.is_out()) {
            match filters.iter_mut().find(|(filter, _)| *filter == line.local) {
                Some((_, qos)) => *qos = line.qos.max(*qos),
                None => filters.push((line.local.clone(), line.qos)),
            }
        }
        filters
    }

    /// The filters to subscribe to there.
    pub(super) fn remote_filters(&self) -> Vec<Wanted> {
        let mut wanted: Vec<Wanted> = Vec::new();
        for line in self.lines.iter().filter(|line| line.direction.is_in()) {
            match wanted
                .iter_mut()
                .find(|known| known.filter == line.remote_text)
            {
                Some(known) => known.qos = line.qos.max(known.qos),
                None => wanted.push(Wanted {
                    filter: line.remote_text.clone(),
                    qos: line.qos,
                }),
            }
        }
        wanted
    }
}

fn mapped(prefix: &str, rest: &str, qos: Qos) -> Option<Mapped> {
    let topic = format!("{prefix}{rest}");
    topic::check_name(&topic).ok()?;
    Some(Mapped { topic, qos })
}

#[cfg(test)]
mod tests {
    use longtail_model::Subject;

    use super::*;

    fn line(filter: &str, direction: Direction, qos: u8, prefixes: (&str, &str)) -> TopicLine {
        TopicLine {
            filter: filter.to_owned(),
            direction,
            qos,
            local_prefix: prefixes.0.to_owned(),
            remote_prefix: prefixes.1.to_owned(),
        }
    }

    #[test]
    fn the_first_line_that_matches_exchanges_the_prefixes() {
        let map = TopicMap::new(&[
            line("a/+", Direction::Out, 1, ("here/", "there/")),
            line("#", Direction::Both, 2, ("here/", "all/")),
            line("", Direction::In, 0, ("one/here", "one/there")),
        ]);
        let outgoing = [
            ("here/a/b", Some(("there/a/b", Qos::AtLeastOnce))),
            ("here/c", Some(("all/c", Qos::ExactlyOnce))),
            ("elsewhere", None),
            ("one/here", None),
        ];
        for (from, to) in outgoing {
            let subject = Subject::new(from).unwrap();
            let found = map.outgoing(subject.as_ref());
            let found = found
                .as_ref()
                .map(|found| (found.topic.as_str(), found.qos));
            assert_eq!(found, to, "{from}");
        }
        let incoming = [
            ("there/a/b", None),
            ("all/x/y", Some(("here/x/y", Qos::ExactlyOnce))),
            ("one/there", Some(("one/here", Qos::AtMostOnce))),
        ];
        for (from, to) in incoming {
            let subject = Subject::new(from).unwrap();
            let found = map.incoming(subject.as_ref());
            let found = found
                .as_ref()
                .map(|found| (found.topic.as_str(), found.qos));
            assert_eq!(found, to, "{from}");
        }
    }

    #[test]
    fn a_prefix_without_a_slash_is_taken_as_it_stands() {
        let map = TopicMap::new(&[line("#", Direction::Out, 0, ("", "x/"))]);
        let subject = Subject::new("a").unwrap();
        assert_eq!(map.outgoing(subject.as_ref()).unwrap().topic, "x/a");
    }

    #[test]
    fn filters_named_twice_are_subscribed_to_once_at_the_higher_qos() {
        let map = TopicMap::new(&[
            line("a", Direction::Both, 0, ("", "")),
            line("a", Direction::Both, 2, ("", "")),
        ]);
        assert_eq!(map.remote_filters().len(), 1);
        assert_eq!(map.remote_filters()[0].qos, Qos::ExactlyOnce);
        assert_eq!(map.local_filters()[0].1, Qos::ExactlyOnce);
    }
}
