//! The registries that want a password; `e2e/cluster/config.sh` says the same.

use serde_json::{Value, json};

/// One of them. It has the images of the local registry, and one user of its own.
#[derive(Clone, Copy, Debug)]
pub struct PrivateRegistry {
    port: u16,
}

impl PrivateRegistry {
    /// For the job container, for a service, for a container action.
    pub const ALL: [Self; 3] = [
        Self { port: 5001 },
        Self { port: 5002 },
        Self { port: 5003 },
    ];

    /// `host:port`, as images and credentials name it.
    #[must_use]
    pub fn host(self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The reference of one of the library's images.
    #[must_use]
    pub fn image(self, name: &str) -> String {
        format!("{}/library/{name}:latest", self.host())
    }

    /// Its only user.
    #[must_use]
    pub fn user(self) -> String {
        format!("user-{}", self.port)
    }

    /// That user's password.
    #[must_use]
    pub fn password(self) -> String {
        format!("password-of-{}", self.port)
    }

    /// `credentials:` of a workflow.
    #[must_use]
    pub fn credentials(self) -> Value {
        json!({"username": self.user(), "password": self.password()})
    }

    /// A pull secret, as `kubectl create secret docker-registry` makes it.
    #[must_use]
    pub fn pull_secret(self, name: &str) -> Value {
        let logins = json!({"auths": {self.host(): self.credentials()}});
        json!({
            "metadata": {"name": name},
            "type": "kubernetes.io/dockerconfigjson",
            "stringData": {".dockerconfigjson": logins.to_string()},
        })
    }
}
