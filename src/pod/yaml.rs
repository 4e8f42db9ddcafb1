//! YAML as JSON, with the places of its keys and elements.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, Deserialize, Deserializer};
use serde_json::Value;
use serde_saphyr::Spanned;

use super::template::Location;

/// Reads a text. The places are found by JSON pointer.
pub fn read(text: &str) -> Result<(Value, BTreeMap<String, Location>), String> {
    // `defaultMode: 0644` means octal to everyone who writes manifests; `yes` is a word, as for
    // the official hooks (js-yaml 4).
    let options = serde_saphyr::options! {
        legacy_octal_numbers: true,
        strict_booleans: true,
    };
    let node: Option<Node> =
        serde_saphyr::from_str_with_options(text, options).map_err(|error| error.to_string())?;
    let mut places = BTreeMap::new();
    let value = node.map_or(Value::Null, |node| node.into_value("", &mut places));
    Ok((value, places))
}

/// A key as part of a JSON pointer (RFC 6901).
pub fn escape(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
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
