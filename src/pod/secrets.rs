//! What must not stand in a pod: environments and credentials.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, Secret, SecretKeySelector};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::json;

use super::error::SpecError;
use super::names;
use crate::protocol::{Environment, Registry};

/// What a Secret holds at most (Kubernetes, `core.MaxSecretSize`).
const SECRET_LIMIT: usize = 1024 * 1024;

/// The registry that an image without a host comes from, as `docker login` writes it.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

/// The Secrets of one pod while it is being built.
#[derive(Debug)]
pub struct Secrets<'a> {
    pod_name: &'a str,
    nonce: &'a str,
    metadata: ObjectMeta,
    environment: BTreeMap<String, ByteString>,
    registries: Vec<(String, String)>,
}

impl<'a> Secrets<'a> {
    /// `metadata` are label and owner, without a name.
    #[must_use]
    pub fn new(pod_name: &'a str, nonce: &'a str, metadata: ObjectMeta) -> Self {
        Self {
            pod_name,
            nonce,
            metadata,
            environment: BTreeMap::new(),
            registries: Vec::new(),
        }
    }

    /// Puts a container's environment into the Secret and returns the references to it, in the
    /// order of the names.
    ///
    /// One reference per variable, not `envFrom`: a key of a Secret allows fewer characters than
    /// the name of a variable, and `envFrom` leaves out what it cannot name without a word. Neither
    /// way expands `$(NAME)` in values.
    pub fn environment(
        &mut self,
        container: &str,
        variables: &Environment,
    ) -> Result<Vec<EnvVar>, SpecError> {
        let secret = self.environment_name();
        let mut references = Vec::new();
        for (index, (name, value)) in variables.iter().enumerate() {
            // Kubernetes allows printable ASCII but `=` (validation.IsRelaxedEnvVarName); a value
            // ends at a NUL.
            let printable = name
                .bytes()
                .all(|byte| (b' '..=b'~').contains(&byte) && byte != b'=');
            if name.is_empty() || !printable || value.contains('\0') {
                return Err(SpecError::EnvironmentName {
                    container: format!("container `{container}`"),
                    name: name.escape_debug().to_string(),
                });
            }
            // A container's name holds neither dot nor underscore, so no two keys ever meet.
            let mut key = format!("{container}.{name}");
            if !is_secret_key(&key) {
                key = format!("_{container}.{index}");
            }
            self.environment
                .insert(key.clone(), ByteString(value.as_bytes().to_vec()));
            references.push(EnvVar {
                name: name.clone(),
                value_from: Some(EnvVarSource {
                    secret_key_ref: Some(SecretKeySelector {
                        name: secret.clone(),
                        key,
                        optional: None,
                    }),
                    ..Default::default()
                }),
                ..Default::default()
            });
        }
        Ok(references)
    }

    /// Keeps an image's credentials and returns the name of the pull secret to refer to.
    pub fn registry(&mut self, registry: Option<&Registry>) -> Option<String> {
        let registry = registry?;
        // The runner sends credentials whenever there is a user name (`COP`, login).
        let username = registry
            .username
            .as_deref()
            .filter(|name| !name.is_empty())?;
        let password = registry.password.as_deref().unwrap_or_default();
        let server = registry
            .server_url
            .as_deref()
            .filter(|url| !url.is_empty())
            .unwrap_or(DOCKER_HUB);
        let auth = base64(format!("{username}:{password}").as_bytes());
        let config = json!({"auths": {server: {
            "username": username,
            "password": password,
            "auth": auth,
        }}})
        .to_string();
        if let Some((name, _)) = self.registries.iter().find(|(_, known)| *known == config) {
            return Some(name.clone());
        }
        let purpose = format!("registry-{}", self.registries.len());
        let name = names::secret(self.pod_name, &names::derived(self.nonce, &purpose));
        self.registries.push((name.clone(), config));
        Some(name)
    }

    /// The Secrets that are needed.
    pub fn finish(self) -> Result<Vec<Secret>, SpecError> {
        let size: usize = self.environment.values().map(|value| value.0.len()).sum();
        if size > SECRET_LIMIT {
            return Err(SpecError::EnvironmentSize {
                size,
                limit: SECRET_LIMIT,
            });
        }
        let mut secrets = Vec::new();
        if !self.environment.is_empty() {
            secrets.push(Secret {
                metadata: self.named(self.environment_name()),
                data: Some(self.environment.clone()),
                immutable: Some(true),
                type_: Some("Opaque".to_owned()),
                ..Default::default()
            });
        }
        for (name, config) in &self.registries {
            secrets.push(Secret {
                metadata: self.named(name.clone()),
                data: Some(BTreeMap::from([(
                    ".dockerconfigjson".to_owned(),
                    ByteString(config.as_bytes().to_vec()),
                )])),
                immutable: Some(true),
                type_: Some("kubernetes.io/dockerconfigjson".to_owned()),
                ..Default::default()
            });
        }
        Ok(secrets)
    }

    fn environment_name(&self) -> String {
        names::secret(self.pod_name, &names::derived(self.nonce, "environment"))
    }

    fn named(&self, name: String) -> ObjectMeta {
        ObjectMeta {
            name: Some(name),
            ..self.metadata.clone()
        }
    }
}

/// Kubernetes, `validation.IsConfigMapKey`.
fn is_secret_key(key: &str) -> bool {
    key.len() <= 253
        && key
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// Each name once, in order.
#[must_use]
pub fn distinct(names: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    names
        .into_iter()
        .filter(|name| seen.insert(name.clone()))
        .collect()
}

fn base64(bytes: &[u8]) -> String {
    // The encoding of `ByteString` is the standard one, with padding.
    serde_json::to_value(ByteString(bytes.to_vec()))
        .ok()
        .and_then(|value| value.as_str().map(str::to_owned))
        .unwrap_or_default()
}
