//! Command lines, as the runner splits them and as Kubernetes takes them.

use super::error::SpecError;

/// Splits what the runner cut at blanks: joined again and split as a shell would, as the official
/// hooks do (`fixArgs`), so that quotes hold together what they hold.
pub fn split(parts: &[String], container: &str) -> Result<Vec<String>, SpecError> {
    // What was split already stays: the official hooks leave `sh -c <script>` alone.
    if let [shell, flag, script] = parts
        && shell == "sh"
        && flag == "-c"
        && script.contains(char::is_whitespace)
    {
        return Ok(parts.to_vec());
    }
    let text = parts.join(" ");
    shell_words::split(&text).map_err(|_| SpecError::Quotes {
        container: container.to_owned(),
        text,
    })
}

/// Arguments for a manifest, in which `$(NAME)` would be replaced by a variable: Docker replaces
/// nothing there. `$$` stands for `$` (Kubernetes, `third_party/forked/golang/expansion`).
#[must_use]
pub fn literal(arguments: Vec<String>) -> Vec<String> {
    arguments
        .into_iter()
        .map(|argument| {
            if argument.contains("$(") || argument.contains("$$") {
                argument.replace('$', "$$")
            } else {
                argument
            }
        })
        .collect()
}
