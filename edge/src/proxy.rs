//! The PROXY protocol, versions 1 and 2: a proxy's word on who is really at the other end.

use std::io;
use std::net::SocketAddr;

use ppp::{PartialResult, v1, v2};
use tokio::io::{AsyncRead, AsyncReadExt};

/// The longest version 1 header, line end included.
const V1_BYTES_MAX: usize = 107;

/// A header that was read.
pub(crate) struct ProxyHeader {
    /// Whom the proxy speaks for; `None` when it speaks for itself (a health check) or for an unknown transport.
    pub(crate) peer: Option<SocketAddr>,
    /// Bytes behind the header that came with it.
    pub(crate) rest: Vec<u8>,
}

/// Why there was no acceptable header.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProxyError {
    #[error("the connection ended within the PROXY header: {0}")]
    Io(#[from] io::Error),
    #[error("no PROXY header, or a malformed one")]
    Malformed,
    #[error("the PROXY header exceeds {limit} bytes")]
    TooLong { limit: usize },
}

/// Reads the header from the start of a stream.
pub(crate) async fn read_header(
    stream: &mut (impl AsyncRead + Unpin),
    bytes_max: usize,
) -> Result<ProxyHeader, ProxyError> {
    let mut bytes = Vec::with_capacity(V1_BYTES_MAX);
    loop {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        if let Some(header) = parse(&bytes, bytes_max)? {
            return Ok(header);
        }
    }
}

/// `None` while the header is incomplete.
fn parse(bytes: &[u8], bytes_max: usize) -> Result<Option<ProxyHeader>, ProxyError> {
    if begins_like(bytes, v2::PROTOCOL_PREFIX) {
        let header = match v2::Header::try_from(bytes) {
            Ok(header) if header.len() <= bytes_max => header,
            Ok(_) => return Err(ProxyError::TooLong { limit: bytes_max }),
            Err(error) if error.is_incomplete() => return incomplete(bytes, bytes_max),
            Err(_) => return Err(ProxyError::Malformed),
        };
        let rest = bytes[header.len()..].to_vec();
        return Ok(Some(ProxyHeader {
            peer: v2_peer(&header),
            rest,
        }));
    }
    if !begins_like(bytes, b"PROXY ") {
        return Err(ProxyError::Malformed);
    }
    // The parser takes an address cut short for a wrong one, so it is shown whole lines only.
    let Some(end) = bytes
        .iter()
        .take(V1_BYTES_MAX)
        .position(|&byte| byte == b'\n')
    else {
        return incomplete(bytes, V1_BYTES_MAX);
    };
    let (line, rest) = bytes.split_at(end + 1);
    let header = v1::Header::try_from(line).map_err(|_| ProxyError::Malformed)?;
    Ok(Some(ProxyHeader {
        peer: v1_peer(&header),
        rest: rest.to_vec(),
    }))
}

/// Whether `bytes` begins with `prefix`, or may yet.
fn begins_like(bytes: &[u8], prefix: &[u8]) -> bool {
    let common = bytes.len().min(prefix.len());
    bytes[..common] == prefix[..common]
}

fn incomplete(bytes: &[u8], limit: usize) -> Result<Option<ProxyHeader>, ProxyError> {
    if bytes.len() >= limit {
        Err(ProxyError::TooLong { limit })
    } else {
        Ok(None)
    }
}

fn v1_peer(header: &v1::Header<'_>) -> Option<SocketAddr> {
    match header.addresses {
        v1::Addresses::Unknown => None,
        v1::Addresses::Tcp4(it) => Some(SocketAddr::from((it.source_address, it.source_port))),
        v1::Addresses::Tcp6(it) => Some(SocketAddr::from((it.source_address, it.source_port))),
    }
}

fn v2_peer(header: &v2::Header<'_>) -> Option<SocketAddr> {
    match (header.command, header.addresses) {
        (v2::Command::Proxy, v2::Addresses::IPv4(it)) => {
            Some(SocketAddr::from((it.source_address, it.source_port)))
        }
        (v2::Command::Proxy, v2::Addresses::IPv6(it)) => {
            Some(SocketAddr::from((it.source_address, it.source_port)))
        }
        (v2::Command::Local, _)
        | (v2::Command::Proxy, v2::Addresses::Unix(_) | v2::Addresses::Unspecified) => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn v2_header() -> Vec<u8> {
        let mut bytes = v2::PROTOCOL_PREFIX.to_vec();
        bytes.extend([
            0x21, 0x11, 0, 12, 192, 0, 2, 7, 10, 0, 0, 1, 0x1f, 0x90, 0, 80,
        ]);
        bytes
    }

    /// Feeds growing prefixes, as a slow sender would.
    fn feed(bytes: &[u8]) -> Result<(Option<String>, Vec<u8>), ProxyError> {
        for end in 1..=bytes.len() {
            if let Some(header) = parse(&bytes[..end], 4096)? {
                return Ok((header.peer.map(|peer| peer.to_string()), header.rest));
            }
        }
        Err(io::Error::from(io::ErrorKind::UnexpectedEof).into())
    }

    #[test]
    fn both_versions_are_understood_at_any_split() {
        let v1 = b"PROXY TCP4 192.0.2.7 10.0.0.1 8080 80\r\n";
        assert_eq!(feed(v1).unwrap().0.as_deref(), Some("192.0.2.7:8080"));
        assert_eq!(
            feed(&v2_header()).unwrap().0.as_deref(),
            Some("192.0.2.7:8080")
        );
        let v1 = b"PROXY TCP6 2001:db8::7 ::1 8080 80\r\n";
        assert_eq!(feed(v1).unwrap().0.as_deref(), Some("[2001:db8::7]:8080"));
    }

    #[test]
    fn what_follows_the_header_is_kept() {
        for mut bytes in [b"PROXY UNKNOWN\r\n".to_vec(), v2_header()] {
            bytes.extend(b"put 0 0 0 0\r\n\xff");
            let header = parse(&bytes, 4096).unwrap().unwrap();
            assert_eq!(header.rest, b"put 0 0 0 0\r\n\xff");
        }
    }

    #[test]
    fn a_proxy_that_speaks_for_itself_names_nobody() {
        let mut local = v2_header();
        local[12] = 0x20;
        assert_eq!(feed(&local).unwrap().0, None);
        assert_eq!(feed(b"PROXY UNKNOWN\r\n").unwrap().0, None);
    }

    #[test]
    fn nonsense_and_endless_headers_are_refused() {
        assert!(matches!(
            feed(b"GET / HTTP/1.1\r\n"),
            Err(ProxyError::Malformed)
        ));
        assert!(matches!(
            feed(b"PROXY TCP4\r\n"),
            Err(ProxyError::Malformed)
        ));
        assert!(matches!(
            feed(b"PROXY TCP4 1.2.3.4 nonsense 1 2\r\n"),
            Err(ProxyError::Malformed)
        ));
        let endless = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 200]].concat();
        assert!(matches!(
            feed(&endless),
            Err(ProxyError::TooLong { limit: 107 })
        ));
        let mut large = v2_header();
        large[14..16].copy_from_slice(&60_000_u16.to_be_bytes());
        large.resize(16 + 60_000, 0);
        assert!(matches!(
            feed(&large),
            Err(ProxyError::TooLong { limit: 4096 })
        ));
    }

    proptest! {
        /// How a header is cut into reads changes nothing, and no input is a panic.
        #[test]
        fn splits_do_not_matter(start in 0..4_usize, tail in prop::collection::vec(any::<u8>(), 0..60)) {
            let starts = [b"PROXY TCP4 1.2.3.4".to_vec(), b"PROXY UNKNOWN\r\n".to_vec(), v2_header(), Vec::new()];
            let bytes = [starts[start].clone(), tail].concat();
            let at_once = parse(&bytes, 4096);
            let by_bytes = (1..=bytes.len()).map(|end| parse(&bytes[..end], 4096)).find(|it| !matches!(it, Ok(None)));
            match (at_once, by_bytes) {
                (Ok(Some(a)), Some(Ok(Some(b)))) => {
                    prop_assert_eq!(a.peer, b.peer);
                    prop_assert_eq!(b.rest.len(), 0);
                    prop_assert!(bytes.ends_with(&a.rest));
                }
                (Err(_), Some(Err(_))) | (Ok(None), None) => {}
                (a, b) => prop_assert!(false, "{:?} and {:?} differ", a.err(), b.map(Result::err)),
            }
        }
    }
}
