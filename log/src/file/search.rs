//! Reading a stretch of the log from front to back, for an owner that has lost what was derived from it.

use std::io;
use std::sync::Arc;

use longtail_model::Lsn;

use super::FileLog;
use super::rewrite::Source;
use crate::record;
use crate::scan::{FIRST, Order, Scanner, Step};
use crate::segment::Layout;

impl FileLog {
    /// Calls `with` with each retained record from `from`, which is the position of a record or zero, up to `to`.
    /// What cannot be read of a segment is left out, and reported.
    pub(super) fn scan_stretch(
        &self,
        from: u64,
        to: u64,
        with: &mut dyn FnMut(Lsn, &[u8]),
    ) -> io::Result<()> {
        let to = to.min(self.tail.end());
        for segment in &self.segments.0 {
            if segment.end <= from || segment.base >= to.min(self.written) {
                continue;
            }
            let mut scanner = match segment.layout {
                Layout::Rewritten(_) => {
                    let source = Source::new(segment, &self.dir);
                    source.scanner(self.disk.as_ref(), FIRST, segment.base)?
                }
                Layout::Original => {
                    let start = from.max(segment.base);
                    let file = match &segment.file {
                        Some(file) => Arc::clone(file),
                        None => self.disk.open(&segment.path(&self.dir), false)?,
                    };
                    Scanner::new(
                        file,
                        segment.nonce,
                        Order::Contiguous,
                        segment.offset(start),
                        start,
                        segment.offset(segment.end.min(self.written)),
                    )
                }
            };
            loop {
                match scanner.next_frame()? {
                    Step::Frame(frame) if frame.lsn().0 >= to => break,
                    Step::Frame(frame) => {
                        for record in frame.records().filter(|record| record.retained) {
                            if (from..to).contains(&record.lsn.0) {
                                with(record.lsn, record.payload);
                            }
                        }
                    }
                    Step::End => break,
                    Step::Bad(bad) => {
                        tracing::error!(
                            file = %segment.path(&self.dir).display(),
                            offset = bad.offset,
                            why = bad.what,
                            "the rest of a segment cannot be read"
                        );
                        break;
                    }
                }
            }
        }
        // What waits to be written is in no file.
        let mut at = from.max(self.written);
        while at < to {
            let Some((retained, payload)) = self.tail.record(at) else {
                break;
            };
            if retained {
                with(Lsn(at), payload);
            }
            at += record::span(payload.len());
        }
        Ok(())
    }
}
