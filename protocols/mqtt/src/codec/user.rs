//! User properties, kept as they lie in the packet.

use super::fault::EncodeError;
use super::primitive::Sink;
use super::property;

/// User properties of a packet: pairs of strings in their order, repeated keys included.
///
/// They are not taken apart: the bytes are kept, checked, as they came or as [`UserPropertiesBuf`] wrote them.
#[derive(Clone, Copy, Debug, Default)]
pub struct UserProperties<'a> {
    /// Valid properties, from the first user property to the last.
    encoded: &'a [u8],
    /// There are other properties between them.
    mixed: bool,
}

impl<'a> UserProperties<'a> {
    /// No user properties.
    pub const NONE: UserProperties<'static> = UserProperties {
        encoded: &[],
        mixed: false,
    };

    pub(super) const fn from_checked(encoded: &'a [u8], mixed: bool) -> Self {
        UserProperties { encoded, mixed }
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.encoded.is_empty()
    }

    /// The pairs, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &'a str)> + Clone + use<'a> {
        property::users(self.encoded)
    }

    /// Appends them as properties.
    pub(super) fn write(&self, out: &mut impl Sink) {
        if self.mixed {
            for (key, value) in self.iter() {
                property::write_user(key, value, out);
            }
        } else {
            out.bytes(self.encoded);
        }
    }
}

impl PartialEq for UserProperties<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for UserProperties<'_> {}

/// User properties to be sent.
#[derive(Clone, Debug, Default)]
pub struct UserPropertiesBuf {
    encoded: Vec<u8>,
}

impl UserPropertiesBuf {
    /// None yet.
    #[must_use]
    pub const fn new() -> Self {
        UserPropertiesBuf {
            encoded: Vec::new(),
        }
    }

    /// Adds a pair behind the others.
    ///
    /// # Errors
    /// [`EncodeError::FieldTooLong`] if key or value is over 65535 bytes.
    pub fn push(&mut self, key: &str, value: &str) -> Result<(), EncodeError> {
        for field in [key, value] {
            if field.len() > usize::from(u16::MAX) {
                return Err(EncodeError::FieldTooLong(field.len()));
            }
        }
        property::write_user(key, value, &mut self.encoded);
        Ok(())
    }

    /// As a packet carries them.
    #[must_use]
    pub fn as_properties(&self) -> UserProperties<'_> {
        UserProperties::from_checked(&self.encoded, false)
    }
}
