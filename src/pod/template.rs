//! The platform engineer's pod template: YAML in, JSON with places out.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, Deserialize, Deserializer};
use serde_json::{Map, Value};
use serde_saphyr::Spanned;

use super::error::TemplateError;
use super::settings::Settings;

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
        // `defaultMode: 0644` means octal to everyone who writes manifests; `yes` is a word, as for
        // the official hooks (js-yaml 4).
        let options = serde_saphyr::options! {
            legacy_octal_numbers: true,
            strict_booleans: true,
        };
        let node: Option<Node> = serde_saphyr::from_str_with_options(text, options)
            .map_err(|error| TemplateError::Yaml(error.to_string()))?;
        let mut places = BTreeMap::new();
        let root = node.map_or(Value::Null, |node| node.into_value("", &mut places));
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
        template.settings = Settings::read(&template)?;
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
        let steps = steps(path)?;
        let root = Value::Object(self.root.clone());
        let pointer = trace(pod, &root, &steps, String::new())?;
        self.at(&pointer)
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

/// A key as part of a JSON pointer (RFC 6901).
pub(super) fn escape(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

/// Splits `spec.containers[1].foo`.
fn steps(path: &str) -> Option<Vec<Step<'_>>> {
    let mut steps = Vec::new();
    for part in path.split('.') {
        let (key, indices) = part.split_at(part.find('[').unwrap_or(part.len()));
        if !key.is_empty() {
            steps.push(Step::Key(key));
        }
        for index in indices.split('[').skip(1) {
            steps.push(Step::Index(index.strip_suffix(']')?.parse().ok()?));
        }
    }
    Some(steps)
}

/// Follows a path of the pod through the template: elements of lists are found by what they are
/// merged by, since their positions differ.
fn trace(pod: &Value, template: &Value, steps: &[Step<'_>], pointer: String) -> Option<String> {
    let Some((step, rest)) = steps.split_first() else {
        return Some(pointer);
    };
    match step {
        Step::Key(key) => {
            let template = template.get(key)?;
            let pod = pod.get(key).unwrap_or(&Value::Null);
            trace(pod, template, rest, format!("{pointer}/{}", escape(key)))
        }
        Step::Index(index) => {
            let wanted = pod.get(index)?;
            template
                .as_array()?
                .iter()
                .enumerate()
                .filter(|(_, candidate)| same(wanted, candidate))
                .find_map(|(at, candidate)| {
                    trace(wanted, candidate, rest, format!("{pointer}/{at}"))
                })
        }
    }
}

fn same(pod: &Value, template: &Value) -> bool {
    if let (Some(pod), Some(template)) = (
        pod.get("name").and_then(Value::as_str),
        template.get("name").and_then(Value::as_str),
    ) {
        return match template.strip_prefix('$') {
            // `$redis` is merged into `redis-0` too.
            Some(target) => {
                target == "default" || pod == target || pod.starts_with(&format!("{target}-"))
            }
            None => pod == template,
        };
    }
    for key in ["mountPath", "devicePath", "containerPort", "ip"] {
        if let (Some(pod), Some(template)) = (pod.get(key), template.get(key)) {
            return pod == template;
        }
    }
    pod == template
}

/// YAML with the places of its keys and elements.
struct Node(Spanned<Content>);

enum Content {
    Scalar(Value),
    List(Vec<Node>),
    Map(Vec<(Spanned<String>, Node)>),
}

impl Node {
    fn into_value(self, pointer: &str, places: &mut BTreeMap<String, Location>) -> Value {
        places
            .entry(pointer.to_owned())
            .or_insert_with(|| location(&self.0));
        match self.0.value {
            Content::Scalar(value) => value,
            Content::List(nodes) => nodes
                .into_iter()
                .enumerate()
                .map(|(index, node)| node.into_value(&format!("{pointer}/{index}"), places))
                .collect(),
            Content::Map(entries) => Value::Object(
                entries
                    .into_iter()
                    .map(|(key, node)| {
                        let pointer = format!("{pointer}/{}", escape(&key.value));
                        places.insert(pointer.clone(), location(&key));
                        let value = node.into_value(&pointer, places);
                        (key.value, value)
                    })
                    .collect(),
            ),
        }
    }
}

fn location<T>(spanned: &Spanned<T>) -> Location {
    Location {
        line: spanned.referenced.line(),
        column: spanned.referenced.column(),
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Spanned::deserialize(deserializer).map(Node)
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ContentVisitor)
    }
}

struct ContentVisitor;

impl<'de> de::Visitor<'de> for ContentVisitor {
    type Value = Content;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("YAML")
    }
    fn visit_unit<E>(self) -> Result<Content, E> {
        Ok(Content::Scalar(Value::Null))
    }
    fn visit_none<E>(self) -> Result<Content, E> {
        Ok(Content::Scalar(Value::Null))
    }
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Content, D::Error> {
        Content::deserialize(deserializer)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Content, E> {
        Ok(Content::Scalar(value.into()))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Content, E> {
        Ok(Content::Scalar(value.into()))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Content, E> {
        Ok(Content::Scalar(value.into()))
    }
    fn visit_f64<E>(self, value: f64) -> Result<Content, E> {
        Ok(Content::Scalar(value.into()))
    }
    fn visit_str<E>(self, value: &str) -> Result<Content, E> {
        Ok(Content::Scalar(value.into()))
    }
    fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Content, A::Error> {
        let mut nodes = Vec::new();
        while let Some(node) = seq.next_element()? {
            nodes.push(node);
        }
        Ok(Content::List(nodes))
    }
    fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Content, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Content::Map(entries))
    }
}
