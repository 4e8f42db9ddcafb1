//! The platform engineer's pod template: YAML in, JSON with places out.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Map, Value};

use super::error::TemplateError;
use super::settings::Settings;
use super::trace;
use super::yaml::{self, escape};

/// A place in the template's file, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location {
    /// Line.
    pub line: u64,
    /// Column.
    pub column: u64,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {} column {}", self.line, self.column)
    }
}

/// A template for the pods of jobs and container actions
/// (`ACTIONS_RUNNER_CONTAINER_HOOK_TEMPLATE`).
///
/// Its shape is that of the official hooks' extension: `metadata` and `spec` of a pod at the top
/// level (actions/runner-container-hooks, ADR 0096 and 0134). `apiVersion` and `kind` may stand
/// beside them and mean nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Template {
    root: Map<String, Value>,
    /// Where each key and each element stands, by JSON pointer.
    places: BTreeMap<String, Location>,
    settings: Settings,
}

impl Template {
    /// Reads the text of a template.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let (root, places) = yaml::read(text).map_err(TemplateError::Yaml)?;
        let Value::Object(root) = root else {
            return Err(TemplateError::Shape {
                at: None,
                what: format!("it is {}", kind(&root)),
                remedy: "write a mapping with `metadata:` and `spec:`",
            });
        };
        let mut template = Self {
            root,
            places,
            settings: Settings::default(),
        };
        template.check()?;
        template.settings = Settings::read(&template, text)?;
        Ok(template)
    }

    /// No template.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// What the `arc-hook/...` annotations ask for.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Labels or annotations.
    #[must_use]
    pub fn metadata(&self, key: &str) -> Vec<(&str, &str)> {
        self.root
            .get("metadata")
            .and_then(|metadata| metadata.get(key))
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .filter_map(|(name, value)| Some((name.as_str(), value.as_str()?)))
            .collect()
    }

    /// The pod's spec, as far as the template gives one.
    #[must_use]
    pub fn spec(&self) -> Option<&Map<String, Value>> {
        self.root.get("spec").and_then(Value::as_object)
    }

    /// The containers of `spec.containers` or `spec.initContainers`, with their names.
    pub fn containers(&self, list: &str) -> impl Iterator<Item = (&str, &Map<String, Value>)> {
        self.spec()
            .and_then(|spec| spec.get(list))
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(|container| {
                let container = container.as_object()?;
                Some((container.get("name")?.as_str()?, container))
            })
    }

    /// Where a key or an element stands, by its JSON pointer.
    #[must_use]
    pub fn at(&self, pointer: &str) -> Option<Location> {
        self.places.get(pointer).copied()
    }

    /// Where in the file a field of the built pod comes from, for the API server's words on it:
    /// `path` as in `spec.containers[1].imagePullPolicies`. Absent when the field is not the
    /// template's.
    #[must_use]
    pub fn locate(&self, pod: &Value, path: &str) -> Option<Location> {
        let root = Value::Object(self.root.clone());
        self.at(&trace::trace(pod, &root, path)?)
    }

    /// The fields in a message of the API server that come from the template, and where they stand.
    #[must_use]
    pub fn blamed(&self, pod: &Value, message: &str) -> Vec<(String, Location)> {
        trace::fields(message)
            .into_iter()
            .filter_map(|field| Some((field.to_owned(), self.locate(pod, field)?)))
            .collect()
    }

    fn check(&self) -> Result<(), TemplateError> {
        for (key, value) in &self.root {
            let known = match key.as_str() {
                "apiVersion" | "kind" => true,
                "metadata" | "spec" => {
                    if !value.is_object() && !value.is_null() {
                        return Err(self.shape(
                            &format!("/{key}"),
                            format!("`{key}` is {}", kind(value)),
                            "write a mapping",
                        ));
                    }
                    true
                }
                _ => false,
            };
            if !known {
                return Err(self.shape(
                    &format!("/{key}"),
                    format!("unknown key `{key}`"),
                    "a template has `metadata` and `spec` of a pod at its top level",
                ));
            }
        }
        for key in ["labels", "annotations"] {
            let pointer = format!("/metadata/{key}");
            let Some(value) = self.root.get("metadata").and_then(|value| value.get(key)) else {
                continue;
            };
            let Some(map) = value.as_object() else {
                if value.is_null() {
                    continue;
                }
                return Err(self.shape(
                    &pointer,
                    format!("`metadata.{key}` is {}", kind(value)),
                    "write a mapping of strings",
                ));
            };
            for (name, value) in map {
                if !value.is_string() {
                    return Err(self.shape(
                        &format!("{pointer}/{}", escape(name)),
                        format!("`metadata.{key}.{name}` is {}", kind(value)),
                        "put the value in quotes: it must be a string",
                    ));
                }
            }
        }
        for (list, key) in super::merge::NAMED_LISTS {
            self.check_list("/spec", self.spec(), list, key)?;
        }
        for list in ["containers", "initContainers"] {
            let elements = self.spec().and_then(|spec| spec.get(list));
            for (index, container) in elements
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .enumerate()
            {
                for (inner, key) in super::merge::CONTAINER_LISTS {
                    self.check_list(
                        &format!("/spec/{list}/{index}"),
                        container.as_object(),
                        inner,
                        key,
                    )?;
                }
            }
        }
        Ok(())
    }

    /// A list that is merged by a key of its elements must have that key in each.
    fn check_list(
        &self,
        base: &str,
        owner: Option<&Map<String, Value>>,
        list: &str,
        key: &str,
    ) -> Result<(), TemplateError> {
        let Some(value) = owner.and_then(|owner| owner.get(list)) else {
            return Ok(());
        };
        let Some(elements) = value.as_array() else {
            if value.is_null() {
                return Ok(());
            }
            return Err(self.shape(
                &format!("{base}/{list}"),
                format!("`{list}` is {}", kind(value)),
                "write a list",
            ));
        };
        for (index, element) in elements.iter().enumerate() {
            let found = element.get(key);
            if !found.is_some_and(|value| value.is_string() || value.is_number()) {
                return Err(self.shape(
                    &format!("{base}/{list}/{index}"),
                    format!("an element of `{list}` has no `{key}`"),
                    "give each element its own; lists are merged by it",
                ));
            }
        }
        Ok(())
    }

    pub(super) fn shape(&self, pointer: &str, what: String, remedy: &'static str) -> TemplateError {
        TemplateError::Shape {
            at: self.at(pointer),
            what,
            remedy,
        }
    }
}

/// What a value is, in a sentence.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "empty",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    }
}
