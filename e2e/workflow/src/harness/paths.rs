//! Where the test cluster keeps its things; `e2e/lib.sh` says the same.

use std::path::{Path, PathBuf};

/// Directories of the project and of the running cluster.
#[derive(Clone, Debug)]
pub struct Paths {
    /// The project.
    pub project: PathBuf,
    /// What one run of the cluster makes.
    pub state: PathBuf,
}

impl Paths {
    /// `ARC_HOOK_E2E_STATE` or its default, and the project this program was
    /// built from.
    #[must_use]
    pub fn new() -> Self {
        let project = Path::new(env!("CARGO_MANIFEST_DIR"))
            .ancestors()
            .nth(2)
            .unwrap_or(Path::new("/"));
        Self {
            project: project.to_owned(),
            state: std::env::var_os("ARC_HOOK_E2E_STATE")
                .map_or_else(|| PathBuf::from("/var/lib/arc-hook-e2e"), PathBuf::from),
        }
    }

    /// The administrator's.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.state.join("kubeconfig")
    }

    /// A key or certificate of the cluster.
    #[must_use]
    pub fn pki(&self, name: &str) -> PathBuf {
        self.state.join("pki").join(name)
    }

    /// Requests of the runners' accounts, one JSON object a line.
    #[must_use]
    pub fn audit_log(&self) -> PathBuf {
        self.state.join("log/audit.log")
    }

    /// A file of `hook-templates/`.
    #[must_use]
    pub fn template(&self, name: &str) -> PathBuf {
        self.project.join("hook-templates").join(name)
    }

    /// A script of `e2e/`.
    #[must_use]
    pub fn script(&self, name: &str) -> PathBuf {
        self.project.join("e2e").join(name)
    }
}

impl Default for Paths {
    fn default() -> Self {
        Self::new()
    }
}
