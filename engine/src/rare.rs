//! What few of very many things have: nothing but a pointer until it is wanted.

use std::ops::Deref;

/// What can be looked at without being there.
pub(crate) trait Unused: Sized + 'static {
    /// What one is as long as nothing was done to it.
    const UNUSED: &'static Self;

    /// The same, to change.
    fn new() -> Self;
}

/// A value that takes memory from when it is first changed until it is replaced by a new `Rare`.
pub(crate) struct Rare<T>(Option<Box<T>>);

impl<T> Default for Rare<T> {
    fn default() -> Self {
        Rare(None)
    }
}

impl<T: Unused> Rare<T> {
    /// To take something away: nothing when there is nothing.
    #[inline]
    pub(crate) fn get_mut(&mut self) -> Option<&mut T> {
        self.0.as_deref_mut()
    }

    /// To add something.
    #[inline]
    pub(crate) fn make(&mut self) -> &mut T {
        self.0.get_or_insert_with(|| Box::new(T::new()))
    }

    /// Bytes of the value itself, not of what it refers to.
    pub(crate) fn heap_bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |_| size_of::<T>())
    }
}

impl<T: Unused> Deref for Rare<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        self.0.as_deref().unwrap_or(T::UNUSED)
    }
}
