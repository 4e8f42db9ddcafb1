//! What the template's `arc-hook/...` annotations ask for.

use std::collections::BTreeMap;

use super::error::TemplateError;
use super::template::{Location, Template};
use super::yaml::escape;
use crate::cache;
use crate::config::is_true;
use crate::retain::Policy;

/// The annotations, checked once when the template is read.
#[allow(clippy::struct_excessive_bools)] // Each is an annotation of its own.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Settings {
    /// `arc-hook/run-as`.
    pub run_as: Option<RunAs>,
    /// `arc-hook/allow-user-option`: whether a workflow's `--user` counts.
    pub allow_user_option: bool,
    /// `arc-hook/passwd`: whether the forced user gets an entry in `/etc/passwd`.
    pub passwd: bool,
    /// `arc-hook/security: restricted`.
    pub restricted: bool,
    /// `arc-hook/host-ports`: whether `ports:` of services become ports of the node.
    pub host_ports: bool,
    /// `arc-hook/max-cpu`, in thousandths of a processor.
    pub max_cpu: Option<i64>,
    /// `arc-hook/max-memory`, in bytes.
    pub max_memory: Option<i64>,
    /// `arc-hook/cache.<volume>`, by volume.
    pub caches: BTreeMap<String, cache::Policy>,
    /// `arc-hook/retain` and its like.
    pub retain: Policy,
    /// Annotations of ours that mean nothing.
    pub unknown: Vec<String>,
}

/// Who the job container and container actions run as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunAs {
    /// The user and group of the hook process.
    Runner,
    /// As the image says.
    Image,
    /// This user.
    Fixed {
        /// User id.
        uid: u32,
        /// Group id.
        gid: Option<u32>,
    },
}

impl RunAs {
    /// Reads `runner`, `image` or `UID[:GID]`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text.trim() {
            "runner" => Some(Self::Runner),
            "image" => Some(Self::Image),
            numbers => {
                let (uid, gid) = match numbers.split_once(':') {
                    Some((uid, gid)) => (uid, Some(id(gid)?)),
                    None => (numbers, None),
                };
                Some(Self::Fixed { uid: id(uid)?, gid })
            }
        }
    }
}

/// A user or group id as Kubernetes takes it: 0 to 2^31-1.
pub(super) fn id(text: &str) -> Option<u32> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|id| i32::try_from(*id).is_ok())
}

impl Settings {
    /// Reads the annotations of a template whose text is `text`.
    pub(super) fn read(template: &Template, text: &str) -> Result<Self, TemplateError> {
        let mut settings = Self::default();
        for (name, value) in template.metadata("annotations") {
            let Some(key) = name.strip_prefix("arc-hook/") else {
                continue;
            };
            let refuse = |remedy| TemplateError::Annotation {
                at: template.at(&format!("/metadata/annotations/{}", escape(name))),
                name: name.to_owned(),
                value: value.to_owned(),
                remedy,
            };
            let switch = || match value.trim() {
                value if is_true(value) => Ok(true),
                value if value.eq_ignore_ascii_case("false") => Ok(false),
                _ => Err(refuse("use \"true\" or \"false\"")),
            };
            match key {
                "run-as" => {
                    settings.run_as = Some(RunAs::parse(value).ok_or_else(|| {
                        refuse("use `runner`, `image`, or numbers as \"1000\" or \"1000:1000\"")
                    })?);
                }
                "allow-user-option" => settings.allow_user_option = switch()?,
                "passwd" => settings.passwd = switch()?,
                "host-ports" => settings.host_ports = switch()?,
                "security" => match value.trim() {
                    "restricted" => settings.restricted = true,
                    "default" => {}
                    _ => return Err(refuse("use `restricted`, or leave it away")),
                },
                "max-cpu" => {
                    settings.max_cpu = Some(
                        super::quantity::milli(value)
                            .filter(|milli| *milli > 0)
                            .ok_or_else(|| refuse("use a quantity as \"4\" or \"500m\""))?,
                    );
                }
                "max-memory" => {
                    settings.max_memory = Some(
                        super::quantity::bytes(value)
                            .filter(|bytes| *bytes > 0)
                            .ok_or_else(|| refuse("use a quantity as \"8Gi\" or \"512Mi\""))?,
                    );
                }
                _ if key.starts_with("retain") => match settings.retain.set(key, value) {
                    Some(set) => set.map_err(refuse)?,
                    None => settings.unknown.push(name.to_owned()),
                },
                _ => match key.strip_prefix("cache.") {
                    Some(volume) => {
                        let policy = read_cache(template, text, name, volume, value)?;
                        settings.caches.insert(volume.to_owned(), policy);
                    }
                    None => settings.unknown.push(name.to_owned()),
                },
            }
        }
        Ok(settings)
    }
}

/// Reads `arc-hook/cache.<volume>`, whose volume must be one that a claim can be made for.
fn read_cache(
    template: &Template,
    text: &str,
    name: &str,
    volume: &str,
    value: &str,
) -> Result<cache::Policy, TemplateError> {
    let at = template.at(&format!("/metadata/annotations/{}", escape(name)));
    let refuse = |at, what: String, remedy: &str| TemplateError::Cache {
        at,
        name: name.to_owned(),
        what,
        remedy: remedy.to_owned(),
    };
    let policy = cache::Policy::parse(value).map_err(|error| {
        let (at, what) = match (at, error.at) {
            (Some(key), Some(inner)) => match absolute(text, key, value, inner) {
                Some(at) => (Some(at), error.what),
                None => (Some(key), format!("{inner} of its value: {}", error.what)),
            },
            _ => (at, error.what),
        };
        refuse(at, what, &error.remedy)
    })?;
    let volumes = template.spec().and_then(|spec| spec.get("volumes"));
    let found = volumes
        .and_then(|volumes| volumes.as_array())
        .and_then(|volumes| volumes.iter().find(|found| found["name"] == volume));
    match found {
        None => Err(refuse(
            at,
            format!("the template has no volume `{volume}`"),
            "name one of `spec.volumes`",
        )),
        Some(found) if !found["ephemeral"]["volumeClaimTemplate"]["spec"].is_object() => {
            Err(refuse(
                at,
                format!("volume `{volume}` is no generic ephemeral volume"),
                "give it `ephemeral.volumeClaimTemplate.spec` with class and size: a cache that has \
                 no parent begins so",
            ))
        }
        Some(_) => Ok(policy),
    }
}

/// Where a place within an annotation's value is in the template's file. Known for a block, the
/// usual way to write one: its lines stand in the file as they are, behind their indentation.
fn absolute(text: &str, key: Location, value: &str, inner: Location) -> Option<Location> {
    let index = |number: u64| usize::try_from(number).ok();
    let line = key.line + inner.line;
    let wanted = value.lines().nth(index(inner.line)?.checked_sub(1)?)?;
    let found = text.lines().nth(index(line)?.checked_sub(1)?)?;
    let indentation = found.strip_suffix(wanted)?;
    indentation.trim().is_empty().then_some(Location {
        line,
        column: inner.column + indentation.len() as u64,
    })
}
