//! What not all of very many sessions have: nothing but a pointer until it is wanted.

use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};

/// A value that takes memory from when it is first changed until it is replaced by a new `Rare`.
#[derive(Debug)]
pub(super) struct Rare<T>(Option<Box<T>>);

/// What can be looked at without being there.
pub(super) trait Unused: Default + 'static {
    /// What one is as long as nothing was done to it.
    fn unused() -> &'static Self;
}

impl<T> Rare<T> {
    pub(super) const NONE: Self = Rare(None);

    /// Whether it takes memory.
    pub(super) fn is_there(&self) -> bool {
        self.0.is_some()
    }
}

impl<T> Default for Rare<T> {
    fn default() -> Self {
        Rare(None)
    }
}

impl<T: Unused> Deref for Rare<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        match &self.0 {
            Some(there) => there,
            None => T::unused(),
        }
    }
}

impl<T: Unused> DerefMut for Rare<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        self.0.get_or_insert_default()
    }
}

/// A value that is empty at first, as an [`Unused`] one.
macro_rules! unused {
    ($type:ty, $empty:expr) => {
        impl Unused for $type {
            fn unused() -> &'static Self {
                static EMPTY: $type = $empty;
                &EMPTY
            }
        }
    };
}

type Fixed = foldhash::fast::FixedState;

unused!(
    super::receiving::Receiving,
    super::receiving::Receiving::NOTHING
);
unused!(VecDeque<super::sending::Replay>, VecDeque::new());
unused!(
    hashbrown::HashMap<u16, super::receiving::Held, Fixed>,
    hashbrown::HashMap::with_hasher(Fixed::with_seed(0))
);
unused!(
    hashbrown::HashMap<u16, longtail_model::Subject, Fixed>,
    hashbrown::HashMap::with_hasher(Fixed::with_seed(0))
);
