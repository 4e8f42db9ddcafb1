//! A container hook.
