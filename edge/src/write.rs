//! Writing, for whoever connects to others.

use std::io;

use tokio::io::{AsyncWrite, AsyncWriteExt};

/// Writes what a socket takes of `out`, and flushes once all is written. `unflushed` is kept between calls, so that it may
/// be dropped half-way and called again.
///
/// # Errors
/// What the socket says; [`io::ErrorKind::WriteZero`] when it takes nothing.
pub async fn write_some(
    writer: &mut (impl AsyncWrite + Unpin),
    out: &mut Vec<u8>,
    unflushed: &mut bool,
) -> io::Result<()> {
    if !out.is_empty() {
        let taken = writer.write(out).await?;
        if taken == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        out.drain(..taken);
        *unflushed = true;
    }
    if out.is_empty() {
        writer.flush().await?;
        *unflushed = false;
    }
    Ok(())
}
