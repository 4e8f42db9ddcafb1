//! A template within the manifest of its `ConfigMap`, as it is kept in a repository and applied.

use std::borrow::Cow;

use serde_json::Value;

use super::error::TemplateError;
use super::template::Location;
use super::yaml;

/// The text of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateText<'t> {
    /// What [`super::Template::parse`] takes.
    pub text: Cow<'t, str>,
    /// The key of the `ConfigMap` from whose value lines are counted; absent when they are the
    /// file's own.
    pub counted_from: Option<String>,
}

/// Finds the template in a text that is one, or a `ConfigMap` with it under its only key.
pub fn template_text(text: &str) -> Result<TemplateText<'_>, TemplateError> {
    let bare = TemplateText {
        text: Cow::Borrowed(text),
        counted_from: None,
    };
    // A text that is no YAML is told of by whoever parses the template, in its own words.
    let Ok((root, places)) = yaml::read(text) else {
        return Ok(bare);
    };
    if root["kind"] != "ConfigMap" {
        return Ok(bare);
    }
    let place = |pointer: &str| places.get(pointer).copied();
    let keys: Vec<(&String, &Value)> = root["data"].as_object().into_iter().flatten().collect();
    let [(key, value)] = keys[..] else {
        return Err(TemplateError::Shape {
            at: place("/data"),
            what: format!("the ConfigMap has {} keys under `data`", keys.len()),
            remedy: "keep the template under one key, and nothing else beside it",
        });
    };
    let at = place(&format!("/data/{}", yaml::escape(key)));
    let Some(value) = value.as_str() else {
        return Err(TemplateError::Shape {
            at,
            what: format!("`data.{key}` is no string"),
            remedy: "write the template as a block: `content: |`",
        });
    };
    Ok(match at.and_then(|at| in_place(text, at, value)) {
        Some(text) => TemplateText {
            text: Cow::Owned(text),
            counted_from: None,
        },
        None => TemplateText {
            text: Cow::Owned(value.to_owned()),
            counted_from: Some(key.clone()),
        },
    })
}

/// The lines of a literal block below its key, where they stand in the file: whatever is said of
/// them then names the file's own lines and columns. A mapping may be indented as a whole.
fn in_place(file: &str, key: Location, value: &str) -> Option<String> {
    let above = usize::try_from(key.line).ok()?;
    let value = value.trim_end();
    let lines: Vec<&str> = file
        .lines()
        .skip(above)
        .take(value.lines().count())
        .collect();
    let first = lines.iter().find(|line| !line.trim().is_empty())?;
    let indent = &first[..first.len() - first.trim_start().len()];
    let same = |(line, value): (&&str, &str)| {
        // At the beginning of a line these mark the document, indented they do not.
        let marks = ["---", "...", "%"]
            .iter()
            .any(|mark| value.starts_with(mark));
        let inner = line.strip_prefix(indent).unwrap_or(line.trim());
        !marks && inner == value
    };
    let literal = lines.len() == value.lines().count() && lines.iter().zip(value.lines()).all(same);
    literal.then(|| "\n".repeat(above) + &lines.join("\n") + "\n")
}
