//! Placeholder.

pub mod structures;
