//! Proves arc-hook on a real cluster.
