//! Names of the objects, equal to those of the official hooks wherever theirs are valid.
//!
//! The official ones are cut to the length that leaves room for their suffix
//! (actions/runner-container-hooks, `packages/k8s/src/hooks/constants.ts`), which may leave a name
//! that no API server takes. A name that is no DNS label is replaced by one that is, with a piece
//! of a hash, so that different sources stay different.

use std::collections::BTreeSet;

use sha2::{Digest, Sha256};

use super::error::SpecError;

/// Key of the label by which ARC finds what it must delete with the runner.
///
/// actions/actions-runner-controller, `ephemeralrunner_controller.go`: pods and secrets labelled
/// `runner-pod=<runner>` go with it.
pub const RUNNER_POD_LABEL: &str = "runner-pod";

/// The container that steps run in, in job and action pods alike.
pub const JOB_CONTAINER: &str = "job";

/// The longest DNS label, and the longest value of a label (Kubernetes, "Object Names and IDs").
const LABEL_LENGTH: usize = 63;

/// Hexadecimal digits of a hash in a name.
const HASH_LENGTH: usize = 8;

/// Name of the job's pod.
#[must_use]
pub fn job_pod(pod_name: &str) -> String {
    with_suffix(pod_name, 54, "-workflow")
}

/// Name of a container action's pod; `random` are 8 characters.
#[must_use]
pub fn step_pod(pod_name: &str, random: &str) -> String {
    with_suffix(pod_name, 49, &format!("-step-{random}"))
}

/// Name of a secret; `random` are 8 characters.
#[must_use]
pub fn secret(pod_name: &str, random: &str) -> String {
    with_suffix(pod_name, 47, &format!("-secret-{random}"))
}

/// Value of the label [`RUNNER_POD_LABEL`]: the runner pod's name. One that is too long for a
/// label is cut; such a pod is then deleted through its owner only.
#[must_use]
pub fn label(pod_name: &str) -> String {
    if is_label_value(pod_name) {
        return pod_name.to_owned();
    }
    hashed(pod_name, LABEL_LENGTH)
}

/// Eight characters for one purpose, derived from a nonce.
#[must_use]
pub fn derived(nonce: &str, purpose: &str) -> String {
    hash(&format!("{nonce}/{purpose}"))
}

/// True for what Kubernetes takes for a DNS label (RFC 1123): at most 63 lower-case letters,
/// digits and hyphens, no hyphen at either end.
#[must_use]
pub fn is_dns_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !text.is_empty()
        && text.len() <= LABEL_LENGTH
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn is_label_value(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    !text.is_empty()
        && text.len() <= LABEL_LENGTH
        && text.bytes().all(inner)
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.ends_with(|c: char| c.is_ascii_alphanumeric())
}

/// The first `length` characters and the suffix, as the official hooks make it.
fn with_suffix(pod_name: &str, length: usize, suffix: &str) -> String {
    let official: String = pod_name
        .chars()
        .take(length)
        .chain(suffix.chars())
        .collect();
    if is_dns_label(&official) {
        return official;
    }
    format!("{}{suffix}", hashed(pod_name, length))
}

/// A DNS label of at most `length` characters that ends in a hash of the source.
fn hashed(source: &str, length: usize) -> String {
    let room = length - HASH_LENGTH - 1;
    let readable = cleaned(source, room);
    if readable.is_empty() {
        return format!("x-{}", hash(source));
    }
    format!("{readable}-{}", hash(source))
}

/// The letters, digits and hyphens of a text, cut; empty when none is left.
pub(crate) fn cleaned(source: &str, length: usize) -> String {
    let replaced: String = source
        .to_lowercase()
        .chars()
        .map(|c| {
            if c.is_ascii_lowercase() || c.is_ascii_digit() {
                c
            } else {
                '-'
            }
        })
        .collect();
    let cut: String = replaced.trim_matches('-').chars().take(length).collect();
    cut.trim_end_matches('-').to_owned()
}

fn hash(text: &str) -> String {
    Sha256::digest(text.as_bytes())
        .iter()
        .take(HASH_LENGTH / 2)
        .fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}

/// The name that the official hooks give a service: the last segment of its image, without tag
/// and, other than there, without digest, made a DNS label.
///
/// The words of the error are theirs.
pub fn of_image(image: &str) -> Result<String, SpecError> {
    let refuse = || SpecError::Image(image.to_owned());
    let segment = image.rsplit('/').next().unwrap_or_default();
    // A digest holds no slash, so the last segment still has the name in front of it.
    let name = segment.split(['@', ':']).next().unwrap_or_default();
    if name.is_empty() {
        return Err(refuse());
    }
    if is_dns_label(name) {
        return Ok(name.to_owned());
    }
    let plain = cleaned(name, usize::MAX);
    Ok(if is_dns_label(&plain) {
        plain
    } else {
        hashed(name, LABEL_LENGTH)
    })
}

/// A service's names: the container's, and that of its image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceName {
    /// Name of the container, unlike any other in the pod.
    pub container: String,
    /// Name of the image, which several services may have.
    pub image: String,
}

/// Names of the service containers, in the order of `images`, none of which is in `taken`.
///
/// Services of one image are numbered, `redis-0` and `redis-1`, as the official hooks do since
/// pull request 308.
pub fn services(images: &[&str], taken: &BTreeSet<String>) -> Result<Vec<ServiceName>, SpecError> {
    let bases: Vec<String> = images
        .iter()
        .map(|image| of_image(image))
        .collect::<Result<_, _>>()?;
    let alone = |base: &String| bases.iter().filter(|other| *other == base).count() == 1;
    let mut used = taken.clone();
    let mut names: Vec<Option<String>> = vec![None; bases.len()];
    // Those that keep their plain name come first: a number must not take it from them.
    for (name, base) in names.iter_mut().zip(&bases) {
        if alone(base) && used.insert(base.clone()) {
            *name = Some(base.clone());
        }
    }
    for (index, base) in bases.iter().enumerate() {
        if names[index].is_some() {
            continue;
        }
        let number = bases[..index].iter().filter(|other| *other == base).count();
        let numbered = if alone(base) {
            base.clone()
        } else {
            format!("{base}-{number}")
        };
        let mut name = numbered.clone();
        let mut attempt = 0;
        while !is_dns_label(&name) || !used.insert(name.clone()) {
            name = hashed(&format!("{numbered}/{attempt}"), LABEL_LENGTH);
            attempt += 1;
        }
        names[index] = Some(name);
    }
    Ok(names
        .into_iter()
        .flatten()
        .zip(bases)
        .map(|(container, image)| ServiceName { container, image })
        .collect())
}
