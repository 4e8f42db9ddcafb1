//! What the hook itself says in the job's log, as workflow commands where the runner has one.
//!
//! Escapes are those of actions/runner 2.336.0, `src/Runner.Common/ActionCommand.cs`.

use std::io::Write;

use crate::cluster::ClusterError;
use crate::explain::Explanation;

/// An annotation that the runner shows red. It does not fail the step; an exit code does.
pub fn error(message: &str) {
    print(&format!("::error::{}", escape(message)));
}

/// An annotation with a title.
pub fn titled_error(title: &str, message: &str) {
    let title = escape(title).replace(':', "%3A").replace(',', "%2C");
    print(&format!("::error title={title}::{}", escape(message)));
}

/// The end of a command that failed on the hook's own side: the whole chain, once, with a title
/// where the cause has one.
pub fn failure(error: &anyhow::Error) {
    let title = error.chain().find_map(|cause| {
        let explanation = cause.downcast_ref::<Explanation>();
        let refusal = cause.downcast_ref::<ClusterError>();
        explanation
            .map(|found| found.title)
            .or(refusal.map(ClusterError::title))
    });
    let message = format!("{error:#}");
    match title {
        Some(title) => titled_error(title, &message),
        None => self::error(&message),
    }
}

/// An annotation that the runner shows yellow.
pub fn warning(message: &str) {
    print(&format!("::warning::{}", escape(message)));
}

/// A plain line of the hook's own words.
pub fn line(message: &str) {
    print(&plain(message));
}

/// A line that is shown when the job is debugged.
pub fn debug(message: &str) {
    print(&format!("::debug::{}", escape(message)));
}

/// Begins a group of lines that the runner folds.
pub fn group(title: &str) {
    print(&format!("::group::{}", escape(title)));
}

/// Ends it.
pub fn end_group() {
    print("::endgroup::");
}

/// Text from elsewhere, every line behind a prefix that no command can begin with.
pub fn quoted(prefix: &str, text: &str) {
    for part in text.split(['\n', '\r']).filter(|part| !part.is_empty()) {
        print(&format!("{} | {}", plain(prefix), plain(part)));
    }
}

/// Breaks up what the runner would take for a command.
fn plain(text: &str) -> String {
    let line = text.replace(['\r', '\n'], " ").replace("##[", "## [");
    match line.trim_start().strip_prefix("::") {
        Some(_) => format!("- {line}"),
        None => line,
    }
}

fn escape(message: &str) -> String {
    message
        // An explanation quotes what containers said.
        .replace("##[", "## [")
        .replace('%', "%25")
        .replace('\r', "%0D")
        .replace('\n', "%0A")
}

fn print(line: &str) {
    // The runner may be gone; there is nobody else to tell.
    let _ = writeln!(std::io::stdout(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_elsewhere_never_becomes_a_command() {
        assert_eq!(
            plain("  ::set-output name=x::y"),
            "-   ::set-output name=x::y"
        );
        assert_eq!(plain("x ##[add-path]/tmp"), "x ## [add-path]/tmp");
        assert_eq!(plain("a\r::add-path::/tmp"), "a ::add-path::/tmp");
    }

    #[test]
    fn an_annotation_stays_on_one_line() {
        assert_eq!(escape("50 %\r\nof it"), "50 %25%0D%0Aof it");
        assert_eq!(escape("it said ##[add-path]/x"), "it said ## [add-path]/x");
    }
}
