//! Who a client certificate says its holder is.
//!
//! The certificate has been verified against the listener's authorities before it comes here; this only finds the names
//! in it. A reader for the few DER structures on the way there is all that is needed.

use crate::distinguished;
use crate::validity;

/// The names in a verified client certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsIdentity {
    /// The subject's common name; the most specific one if there are several.
    pub common_name: Option<String>,
    /// Subject alternative names: host names.
    pub dns_names: Vec<String>,
    /// Subject alternative names: mail addresses.
    pub email_addresses: Vec<String>,
    /// Subject alternative names: URIs, for example SPIFFE ids.
    pub uris: Vec<String>,
    /// The whole name of the subject, as RFC 4514 writes it: `CN=worker 7,O=Example`.
    pub subject: String,
    /// The whole name of whoever has signed it.
    pub issuer: String,
    /// From when and until when it holds, in seconds since 1970; `None` where it says times before that.
    pub validity: Option<(u64, u64)>,
}

pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const SET: u8 = 0x31;
const BOOLEAN: u8 = 0x01;
pub(crate) const OID: u8 = 0x06;
const OCTET_STRING: u8 = 0x04;
pub(crate) const UTF8_STRING: u8 = 0x0c;
pub(crate) const PRINTABLE_STRING: u8 = 0x13;
pub(crate) const TELETEX_STRING: u8 = 0x14;
pub(crate) const IA5_STRING: u8 = 0x16;
pub(crate) const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
const RFC822_NAME: u8 = 0x81;
const DNS_NAME: u8 = 0x82;
const URI: u8 = 0x86;
/// 2.5.4.3
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
/// 2.5.29.17
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];

impl TlsIdentity {
    /// Reads the names of an X.509 certificate in DER; `None` if it is not one.
    #[must_use]
    pub(crate) fn from_der(certificate: &[u8]) -> Option<TlsIdentity> {
        let mut certificate = Der(Der(certificate).expect(SEQUENCE)?);
        let mut body = Der(certificate.expect(SEQUENCE)?);
        body.skip_if(VERSION);
        for _serial_algorithm in 0..2 {
            body.next()?;
        }
        let issuer = body.expect(SEQUENCE)?;
        let validity = body.expect(SEQUENCE)?;
        let subject = body.expect(SEQUENCE)?;
        let mut identity = TlsIdentity {
            common_name: common_name(subject),
            subject: distinguished::text_of(subject)?,
            issuer: distinguished::text_of(issuer)?,
            validity: validity::both_of(validity),
            ..TlsIdentity::default()
        };
        while let Some((tag, content)) = body.next() {
            if tag == EXTENSIONS {
                identity.read_extensions(Der(content).expect(SEQUENCE)?)?;
            }
        }
        Some(identity)
    }

    /// All of them, the common name first.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.common_name
            .iter()
            .chain(&self.dns_names)
            .chain(&self.email_addresses)
            .chain(&self.uris)
            .cloned()
            .collect()
    }

    fn read_extensions(&mut self, extensions: &[u8]) -> Option<()> {
        let mut extensions = Der(extensions);
        while let Some((_, extension)) = extensions.next() {
            let mut extension = Der(extension);
            if extension.expect(OID)? != SUBJECT_ALT_NAME {
                continue;
            }
            extension.skip_if(BOOLEAN);
            let mut names = Der(Der(extension.expect(OCTET_STRING)?).expect(SEQUENCE)?);
            while let Some((tag, name)) = names.next() {
                let list = match tag {
                    RFC822_NAME => &mut self.email_addresses,
                    DNS_NAME => &mut self.dns_names,
                    URI => &mut self.uris,
                    _ => continue,
                };
                list.push(std::str::from_utf8(name).ok()?.to_owned());
            }
        }
        Some(())
    }
}

/// The last common name of a distinguished name: those go from the general to the specific.
fn common_name(name: &[u8]) -> Option<String> {
    let mut found = None;
    let mut parts = Der(name);
    while let Some((SET, part)) = parts.next() {
        let mut attributes = Der(part);
        while let Some((SEQUENCE, attribute)) = attributes.next() {
            let mut attribute = Der(attribute);
            if attribute.expect(OID) != Some(COMMON_NAME) {
                continue;
            }
            if let Some((UTF8_STRING | PRINTABLE_STRING | IA5_STRING, text)) = attribute.next() {
                found = std::str::from_utf8(text).ok().map(str::to_owned).or(found);
            }
        }
    }
    found
}

/// A run of DER elements.
pub(crate) struct Der<'a>(pub(crate) &'a [u8]);

impl<'a> Der<'a> {
    /// The next element's tag and content; `None` at the end, or when what follows is not one.
    pub(crate) fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = if first < 0x80 {
            (usize::from(first), rest)
        } else {
            // No certificate has an element that needs more than four bytes of length.
            let count = usize::from(first & 0x7f);
            if count == 0 || count > 4 {
                return None;
            }
            let (bytes, rest) = rest.split_at_checked(count)?;
            (
                bytes
                    .iter()
                    .fold(0, |length, &byte| length << 8 | usize::from(byte)),
                rest,
            )
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, content))
    }

    pub(crate) fn expect(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.next()
            .filter(|(found, _)| *found == tag)
            .map(|(_, content)| content)
    }

    pub(crate) fn skip_if(&mut self, tag: u8) {
        if self.0.first() == Some(&tag) {
            self.next();
        }
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    fn certificate() -> Vec<u8> {
        let mut params = CertificateParams::new(vec!["worker.example".to_owned()]).unwrap();
        params
            .distinguished_name
            .push(DnType::OrganizationName, "Example");
        params
            .distinguished_name
            .push(DnType::CommonName, "wörker 7");
        params.not_before = rcgen::date_time_ymd(2026, 1, 2);
        params.not_after = rcgen::date_time_ymd(2031, 5, 6);
        let uri = SanType::URI("spiffe://example/worker".try_into().unwrap());
        let email = SanType::Rfc822Name("worker@example.org".try_into().unwrap());
        params.subject_alt_names.extend([uri, email]);
        params
            .self_signed(&KeyPair::generate().unwrap())
            .unwrap()
            .der()
            .to_vec()
    }

    #[test]
    fn the_names_of_a_certificate_are_found() {
        let identity = TlsIdentity::from_der(&certificate()).unwrap();
        let expected = TlsIdentity {
            common_name: Some("wörker 7".to_owned()),
            dns_names: vec!["worker.example".to_owned()],
            email_addresses: vec!["worker@example.org".to_owned()],
            uris: vec!["spiffe://example/worker".to_owned()],
            subject: r"O=Example,CN=w\C3\B6rker 7".to_owned(),
            issuer: r"O=Example,CN=w\C3\B6rker 7".to_owned(),
            validity: Some((1_767_312_000, 1_935_792_000)),
        };
        assert_eq!(identity, expected);
    }

    #[test]
    fn damaged_certificates_are_no_identity_and_no_panic() {
        let good = certificate();
        for end in 0..good.len() {
            assert_eq!(TlsIdentity::from_der(&good[..end]), None);
        }
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0xff;
            let _ = TlsIdentity::from_der(&bad);
        }
        assert_eq!(TlsIdentity::from_der(&[0x30, 0x80, 0, 0]), None);
        assert_eq!(
            TlsIdentity::from_der(&[0x30, 0x88, 255, 255, 255, 255, 255, 255, 255, 255]),
            None
        );
    }
}
