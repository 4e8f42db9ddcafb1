//! Random identifiers in the runner's form.

use std::fmt::Write;

/// A GUID in lower case, with hyphens.
///
/// # Panics
///
/// When the kernel has no random bytes.
#[must_use]
pub fn guid() -> String {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes).expect("the kernel has random bytes");
    let mut text = String::with_capacity(36);
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}
