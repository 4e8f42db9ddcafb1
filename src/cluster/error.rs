//! What could not be done in the cluster, to what, and why.

use std::fmt;
use std::time::Duration;

use thiserror::Error;

use crate::explain::{Attempt, Explanation, MISSING_PERMISSION};

/// One act on one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Act {
    /// The verb, resource and namespace, as a Role names them.
    pub attempt: Attempt,
    /// The object's name, or a label selector.
    pub name: String,
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { attempt, name } = self;
        match (attempt.verb, attempt.resource) {
            ("list", resource) => write!(f, "list {resource} of `{name}`"),
            (_, "pods/exec") => write!(f, "run arc-hook in pod `{name}`"),
            (_, "pods/resize") => write!(f, "resize pod `{name}`"),
            (_, "pods/log") => write!(f, "read the log of `{name}`"),
            (verb, resource) => write!(f, "{verb} {} `{name}`", singular(resource)),
        }
    }
}

fn singular(resource: &str) -> &str {
    match resource {
        "persistentvolumeclaims" => "claim",
        "volumesnapshots" => "snapshot",
        other => other.strip_suffix('s').unwrap_or(other),
    }
}

/// Why the cluster did not do what it was asked to.
#[derive(Debug, Error)]
pub enum ClusterError {
    /// There is nobody to ask.
    #[error(
        "find the Kubernetes API: {0}; run in a pod with a service account, or set `KUBECONFIG`"
    )]
    Connect(String),
    /// The API server said no.
    #[error("{act}: {explanation}")]
    Refused {
        /// What was attempted.
        act: Act,
        /// HTTP status.
        code: u16,
        /// Why, and what to do.
        explanation: Box<Explanation>,
    },
    /// No answer came.
    #[error(
        "{act}: no answer from the Kubernetes API for {} s: {cause}; see that the API server runs \
         and that network policies let this pod reach it",
        waited.as_secs()
    )]
    Unreachable {
        /// What was attempted.
        act: Act,
        /// How long it was tried.
        waited: Duration,
        /// The last failure.
        cause: String,
    },
    /// The name is taken by an object that this call did not make.
    #[error("{act}: another object has that name; delete it, then run the job again")]
    Taken {
        /// What was attempted.
        act: Act,
    },
    /// The request could not even be made, or the answer not be understood.
    #[error("{act}: {cause}")]
    Malformed {
        /// What was attempted.
        act: Act,
        /// What is wrong with it.
        cause: String,
    },
}

impl ClusterError {
    /// A few words, for the title of an annotation.
    #[must_use]
    pub fn title(&self) -> &'static str {
        match self {
            Self::Refused { explanation, .. } => explanation.title,
            Self::Connect(_) | Self::Unreachable { .. } => "Kubernetes API not reachable",
            Self::Taken { .. } => "Name taken",
            Self::Malformed { .. } => "Kubernetes API error",
        }
    }

    /// The Role does not allow it.
    #[must_use]
    pub fn is_forbidden(&self) -> bool {
        matches!(self, Self::Refused { code: 403, .. })
    }

    /// The account lacks the right: no Role gives it.
    #[must_use]
    pub fn lacks_right(&self) -> bool {
        self.is_forbidden() && self.title() == MISSING_PERMISSION
    }

    /// The account has the right, and someone denies what it asked for all the same.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        let refused = matches!(
            self,
            Self::Refused {
                code: 403 | 422,
                ..
            }
        );
        refused && !self.lacks_right()
    }

    /// An admission policy does not let this account touch the object: such a denial is an invalid
    /// request, which a deletion is for no other reason.
    #[must_use]
    pub fn is_protected(&self) -> bool {
        matches!(self, Self::Refused { act, code: 422, .. } if act.attempt.verb == "delete")
    }

    /// There is no such object, or the cluster does not know its kind.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Refused { code: 404, .. })
    }

    /// Nobody answered; the cluster may well be fine.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
            || matches!(self, Self::Refused { code, .. } if *code >= 500 || *code == 429)
    }
}
