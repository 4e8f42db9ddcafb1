//! Why an image cannot be pulled.

use std::time::Duration;

use super::{Explanation, Judgement, LONG_GRACE, SHORT_GRACE, quote};

/// One way to fail: the words by which registry or container runtime say it, and what follows.
struct Failure {
    words: &'static [&'static str],
    title: &'static str,
    cause: &'static str,
    remedy: &'static str,
    /// `None` for what passes by itself.
    grace: Option<Duration>,
}

/// In order: the first that fits counts.
const FAILURES: &[Failure] = &[
    // Docker Hub answers for an image that is not there as for one that is not yours.
    Failure {
        words: &["does not exist or may require"],
        title: "Image not found or private",
        cause: "is not there, or not for these credentials",
        remedy: "correct `image:` in the workflow, or give it `credentials:`",
        grace: Some(SHORT_GRACE),
    },
    Failure {
        words: &["too many requests", "toomanyrequests"],
        title: "Registry limits pulls",
        cause: "is held back by the registry's rate limit",
        remedy: "pull with credentials, or through a registry mirror",
        grace: None,
    },
    Failure {
        words: &[
            "unauthorized",
            "denied",
            "forbidden",
            "authorization failed",
            "no basic auth",
        ],
        title: "Image needs credentials",
        cause: "was refused by the registry",
        remedy: "give the container `credentials:` in the workflow, or correct them; a container \
                 action has none: give the runner pod an imagePullSecret, which its pods take over",
        grace: Some(SHORT_GRACE),
    },
    Failure {
        words: &["no match for platform"],
        title: "Image has no such platform",
        cause: "does not exist for the node's architecture",
        remedy: "build the image for that architecture, or choose nodes with `nodeSelector` in the \
                 hook template",
        grace: Some(SHORT_GRACE),
    },
    Failure {
        words: &["no space left"],
        title: "Node's disk is full",
        cause: "does not fit on the node's disk",
        remedy: "free space on the node, or use a smaller image",
        grace: Some(LONG_GRACE),
    },
    Failure {
        words: &["x509", "certificate"],
        title: "Registry not trusted",
        cause: "comes from a registry whose certificate the node does not trust",
        remedy: "give the nodes' container runtime the registry's certificate authority",
        grace: Some(SHORT_GRACE),
    },
    // Name servers have bad moments.
    Failure {
        words: &["no such host"],
        title: "Registry not found",
        cause: "names a registry that the node cannot find",
        remedy: "correct `image:` in the workflow, or the node's name server",
        grace: Some(LONG_GRACE),
    },
    Failure {
        words: &["not found", "manifest unknown", "name unknown"],
        title: "Image not found",
        cause: "does not exist",
        remedy: "correct `image:` in the workflow, or push that image",
        grace: Some(SHORT_GRACE),
    },
    Failure {
        words: &[
            "timeout",
            "timed out",
            "connection refused",
            "connection reset",
            "unreachable",
            "deadline exceeded",
            "eof",
            "internal server error",
            "bad gateway",
            "service unavailable",
        ],
        title: "Registry does not answer",
        cause: "cannot be fetched now",
        remedy: "see that the node reaches the registry and that the registry is well",
        grace: None,
    },
];

/// What nobody foresaw, or what an older kubelet keeps to itself while it waits for its next try.
const OTHER: Failure = Failure {
    words: &[],
    title: "Image cannot be pulled",
    cause: "cannot be pulled",
    remedy: "look at the pod's events and the container runtime's log on that node",
    grace: Some(LONG_GRACE),
};

/// Judges a failed pull.
pub(super) fn judge(which: &str, image: &str, message: &str) -> Judgement {
    let lower = message.to_lowercase();
    let failure = FAILURES
        .iter()
        .find(|failure| failure.words.iter().any(|word| lower.contains(word)))
        .unwrap_or(&OTHER);
    let explanation = Explanation::new(
        failure.title,
        format!(
            "image `{image}` of {which} {}: {}",
            failure.cause,
            quote(message)
        ),
        failure.remedy,
    );
    match failure.grace {
        Some(grace) => Judgement::Failing(explanation, grace),
        None => Judgement::Waiting(Some(explanation)),
    }
}
