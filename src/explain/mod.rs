//! From what Kubernetes says to one cause and one remedy.
//!
//! Everything here is a pure function over objects that were read elsewhere:
//!
//! - [`judge`]: a pod, and what else the Role lets us see → go on waiting, give up after a stated
//!   grace, or give up now;
//! - [`refusal`]: an error answer of the API server → why it said no.
//!
//! Messages of Kubernetes are matched by the words that its components have used for years, and
//! quoted whole, so that a message nobody foresaw still reaches the reader.

mod container;
mod disruption;
mod events;
mod image;
mod pod;
mod refusal;
mod scheduling;

use std::fmt;
use std::time::Duration;

use k8s_openapi::api::core::v1::Event;

pub use pod::{
    End, Subject, all_ready, deleted, end, ending, facts, has_started, judge, timed_out, unwell,
};
pub use refusal::{Attempt, MISSING_PERMISSION, refusal};

/// One cause and one remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// A few words, for the title of an annotation.
    pub title: &'static str,
    /// What is wrong, as a lower-case fragment.
    pub cause: String,
    /// What to do, as a lower-case fragment.
    pub remedy: String,
}

impl Explanation {
    pub(crate) fn new(
        title: &'static str,
        cause: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            title,
            cause: cause.into(),
            remedy: remedy.into(),
        }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.cause, self.remedy)
    }
}

impl std::error::Error for Explanation {}

/// What a pod's state means for the one who waits for it.
#[derive(Debug, Clone, PartialEq)]
pub enum Judgement {
    /// Every container that counts runs and is ready.
    Running,
    /// Nothing speaks against it; what it waits for, when Kubernetes says so.
    Waiting(Option<Explanation>),
    /// It will hardly come right by itself: fail when this lasts longer than the grace.
    Failing(Explanation, Duration),
    /// It will not come right.
    Dead(Explanation),
}

/// What is known beside the pod itself.
#[derive(Debug, Clone, Default)]
pub enum Evidence {
    /// Nothing: nobody was asked, or nobody answered.
    #[default]
    Unknown,
    /// The Role withholds it.
    Withheld,
    /// Events about the pod and its claims, oldest first.
    Events(Vec<Event>),
}

/// How long a failure is given that may pass when someone acts at once: an image that is being
/// pushed, a Secret that is being made.
const SHORT_GRACE: Duration = Duration::from_secs(15);
/// How long a failure is given that sometimes heals: a name server, a registry in trouble.
const LONG_GRACE: Duration = Duration::from_mins(2);

/// The right that would have told more, where the Role withholds events.
const EVENTS_HINT: &str = "the Role lacks `list` on `events`, which would tell more";

/// One line of someone else's text: cut at a length that leaves room for the rest of the message.
fn quote(text: &str) -> String {
    const LONGEST: usize = 700;
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let line = line.trim_end_matches('.');
    match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}
