//! Verbs for people, one file each.

pub mod render;
