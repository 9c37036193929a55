//! Taking frames into memory, with room for them on the disk.

use longtail_model::Lsn;

use super::{FileLog, State};
use crate::api::{AppendError, Class, RecordParts};
use crate::record::{self, ALIGN, CONTINUES, HEADER, RETAINED};

impl FileLog {
    #[inline]
    pub(super) fn append_frame(
        &mut self,
        frame: &[RecordParts<'_>],
        class: Class,
    ) -> Result<Lsn, AppendError> {
        let size: u64 = frame
            .iter()
            .map(|parts| ((HEADER + parts.len()) as u64).next_multiple_of(ALIGN))
            .sum();
        let start = self.tail.end();
        let open = match self.state {
            State::Good => true,
            State::Full(_) => class == Class::Control,
            State::Poisoned(_) => false,
        };
        if !open || start + size > self.limit {
            self.make_room(size, class)?;
        }
        let (mut retained, mut retained_bytes) = (0, 0);
        let mut more = frame.len();
        for parts in frame {
            more -= 1;
            let mut flags = if more > 0 { CONTINUES } else { 0 };
            if parts.retained {
                flags |= RETAINED;
                retained += 1;
                retained_bytes += record::span(parts.len());
            }
            let body = parts.body.bytes();
            self.tail
                .push(self.nonce, flags, parts.head, body, self.written);
        }
        if let Some(newest) = self.segments.0.last_mut() {
            newest.live += retained;
            newest.total += retained;
            newest.total_bytes += retained_bytes;
        }
        Ok(Lsn(start))
    }

    /// Makes sure that a frame of `size` bytes can go to the end of the log.
    #[cold]
    fn make_room(&mut self, size: u64, class: Class) -> Result<(), AppendError> {
        if size > self.options.max_frame_bytes {
            return Err(AppendError::TooLarge {
                bytes: size,
                limit: self.options.max_frame_bytes,
            });
        }
        let was_full = match &self.state {
            State::Poisoned(why) => return Err(AppendError::Poisoned { why: why.clone() }),
            State::Full(why) if class == Class::Message && !self.space.reserve_is_whole() => {
                let why = why.clone();
                self.space.retry();
                return Err(AppendError::Full { why });
            }
            State::Full(_) => class == Class::Message,
            State::Good => false,
        };
        // Leaving the full state takes more than this frame, or the next one would enter it again.
        let wanted = if was_full {
            size + self.options.ahead_bytes
        } else {
            size
        };
        loop {
            let error = match self.room_for(wanted) {
                Ok(()) => {
                    if was_full {
                        self.state = State::Good;
                    }
                    return Ok(());
                }
                Err(error) => error,
            };
            if !crate::disk::is_full(&error) {
                self.poison("making room for records", &error);
                return Err(AppendError::Poisoned {
                    why: crate::disk::explain(&error),
                });
            }
            let why = crate::disk::explain(&error);
            if !matches!(self.state, State::Full(_)) {
                tracing::warn!(dir = %self.dir.display(), %why, "no space for messages");
            }
            self.state = State::Full(why.clone());
            if class == Class::Control && self.release_reserve() {
                continue;
            }
            return Err(AppendError::Full { why });
        }
    }
}
