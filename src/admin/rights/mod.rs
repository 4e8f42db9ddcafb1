//! Which right the hook needs for what: the one place that says it.
//!
//! A feature that calls the API server in a new way adds its rows to [`RULES`] and says in
//! [`Feature::is_used`] when it does. `arc-hook rbac`, `arc-hook doctor` and
//! `hook-templates/rbac.yaml` follow.

mod compare;

use std::fmt;

pub use compare::{Comparison, compare};

use crate::cache::Kind;
use crate::cluster;
use crate::config::WorkVolume;
use crate::pod::Template;
use crate::retain::Mode;

/// What a rule is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Feature {
    /// What every job needs.
    Jobs,
    /// `prepare_job` is told of a ready pod instead of asking. Goes without.
    Watch,
    /// A pod that does not start is explained. Goes without.
    Events,
    /// `ARC_HOOK_WORK=copy`: the work volume cannot be shared with the job pod.
    Copy,
    /// `arc-hook/cache.<volume>`: parents are chosen and clones promoted.
    Caches,
    /// The same with `via: snapshot`: generations are snapshots.
    Snapshots,
    /// `arc-hook/retain`: failed jobs are kept.
    Retain,
    /// `arc-hook/retain-mode: volumes`: a workspace whose volume cannot be kept is copied.
    RetainVolumes,
    /// A kept job gives its processors back. Goes without.
    Resize,
}

impl Feature {
    /// All of them, in the order of a Role.
    pub const ALL: [Self; 9] = [
        Self::Jobs,
        Self::Watch,
        Self::Events,
        Self::Copy,
        Self::Caches,
        Self::Snapshots,
        Self::Retain,
        Self::RetainVolumes,
        Self::Resize,
    ];

    /// What people call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Jobs => "jobs",
            Self::Watch => "watch",
            Self::Events => "events",
            Self::Copy => "copy",
            Self::Caches => "caches",
            Self::Snapshots => "snapshots",
            Self::Retain => "retain",
            Self::RetainVolumes => "retain-volumes",
            Self::Resize => "resize",
        }
    }

    /// Whether the hook does without, only worse.
    #[must_use]
    pub fn is_optional(self) -> bool {
        matches!(self, Self::Watch | Self::Events | Self::Resize)
    }

    /// Whether jobs with this template, and the work volume used this way, come to it.
    #[must_use]
    pub fn is_used(self, template: &Template, work: WorkVolume) -> bool {
        match self {
            Self::Jobs | Self::Watch | Self::Events => true,
            Self::Copy => work == WorkVolume::Copy,
            Self::Caches => !template.settings().caches.is_empty(),
            Self::Snapshots => {
                let mut policies = template.settings().caches.values();
                policies.any(|policy| policy.via == Kind::Snapshot)
            }
            Self::RetainVolumes => {
                let policy = &template.settings().retain;
                policy.is_on() && policy.mode == Mode::Volumes
            }
            Self::Retain | Self::Resize => template.settings().retain.is_on(),
        }
    }
}

/// A rule of the Role, and why it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// What it is for.
    pub feature: Feature,
    /// API group; empty for the core.
    pub group: &'static str,
    /// The plural, with the subresource if it is one.
    pub resource: &'static str,
    /// In the order of a Role.
    pub verbs: &'static [&'static str],
    /// Why, as a sentence.
    pub reason: &'static str,
}

/// Every right that the hook uses in the runners' namespace.
pub const RULES: &[Rule] = &[
    Rule {
        feature: Feature::Jobs,
        group: "",
        resource: "pods",
        verbs: &["get", "list", "create", "delete"],
        reason: "The runner's own pod, the job's, and one for each container action.",
    },
    Rule {
        feature: Feature::Jobs,
        group: "",
        resource: "pods/log",
        verbs: &["get"],
        reason: "Output of services that fail, and of container actions that have no known entry point.",
    },
    Rule {
        feature: Feature::Jobs,
        group: "",
        resource: "secrets",
        verbs: &["get", "list", "create", "delete"],
        reason: "Registry credentials, and the environment of services and container actions.",
    },
    Rule {
        feature: Feature::Watch,
        group: "",
        resource: "pods",
        verbs: &["watch"],
        reason: "Optional, read-only: prepare_job is told of a ready pod instead of asking.",
    },
    Rule {
        feature: Feature::Events,
        group: "",
        resource: "events",
        verbs: &["list"],
        reason: "Optional, read-only: why a pod does not start.",
    },
    Rule {
        feature: Feature::Copy,
        group: "",
        resource: "pods/exec",
        verbs: &["get", "create"],
        reason: "The workspace is copied: the work volume is not shared with the job pod.",
    },
    Rule {
        feature: Feature::Caches,
        group: "",
        resource: "persistentvolumeclaims",
        verbs: &["get", "list", "watch", "create", "patch", "delete"],
        reason: "A clone of a cache for each job; a good one stays when its owner is taken away.",
    },
    Rule {
        feature: Feature::Caches,
        group: "",
        resource: "configmaps",
        verbs: &["get", "list", "create", "update"],
        reason: "The lines of the caches: which claim is the parent of the next clone.",
    },
    Rule {
        feature: Feature::Caches,
        group: "coordination.k8s.io",
        resource: "leases",
        verbs: &["get", "create", "update"],
        reason: "Of jobs that end together one removes old generations.",
    },
    Rule {
        feature: Feature::Snapshots,
        group: cluster::GROUP,
        resource: "volumesnapshots",
        verbs: &["get", "list", "create", "delete"],
        reason: "`via: snapshot`: the generations of caches whose volumes are not cloned.",
    },
    Rule {
        feature: Feature::Retain,
        group: "",
        resource: "pods",
        verbs: &["patch"],
        reason: "A failed job's pod is kept: its owner and ARC's label are taken away.",
    },
    Rule {
        feature: Feature::Retain,
        group: "",
        resource: "pods/exec",
        verbs: &["get", "create"],
        reason: "Services of a kept job are ended: their environments hold secrets.",
    },
    Rule {
        feature: Feature::Retain,
        group: "",
        resource: "persistentvolumeclaims",
        verbs: &["get", "list", "patch", "delete"],
        reason: "The work volume and the caches of a kept job stay, and go when its time is up.",
    },
    Rule {
        feature: Feature::Retain,
        group: "",
        resource: "configmaps",
        verbs: &["get", "list", "create", "update", "delete"],
        reason: "The ledger of kept jobs, by which they are bounded.",
    },
    Rule {
        feature: Feature::RetainVolumes,
        group: "",
        resource: "persistentvolumeclaims",
        verbs: &["create"],
        reason: "`retain-mode: volumes`: a workspace whose volume cannot be kept is copied to one of its own.",
    },
    Rule {
        feature: Feature::Resize,
        group: "",
        resource: "pods/resize",
        verbs: &["patch"],
        reason: "Optional: a kept job gives its processors back.",
    },
];

/// One verb on one resource.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Right {
    /// API group; empty for the core.
    pub group: String,
    /// The plural, with the subresource if it is one.
    pub resource: String,
    /// The verb.
    pub verb: String,
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            group,
            resource,
            verb,
        } = self;
        if group.is_empty() {
            write!(f, "{verb} {resource}")
        } else {
            write!(f, "{verb} {resource}.{group}")
        }
    }
}

impl Rule {
    /// Its verbs, one by one.
    pub fn rights(&self) -> impl Iterator<Item = Right> {
        self.verbs.iter().map(|verb| Right {
            group: self.group.to_owned(),
            resource: self.resource.to_owned(),
            verb: (*verb).to_owned(),
        })
    }

    /// Whether ARC's chart grants it without being told to.
    #[must_use]
    pub fn is_of_arc(&self) -> bool {
        self.rights().all(|right| compare::is_of_arc(&right))
    }

    /// As it stands in a Role, without comment; `indent` blanks in front of each line.
    #[must_use]
    pub fn yaml(&self, indent: usize) -> String {
        let blanks = " ".repeat(indent);
        format!(
            "{blanks}- apiGroups: [{}]\n{blanks}  resources: [{}]\n{blanks}  verbs: [{}]\n",
            if self.group.is_empty() {
                "\"\""
            } else {
                self.group
            },
            self.resource,
            self.verbs.join(", ")
        )
    }
}

/// The rules of these features, in the order of a Role.
#[must_use]
pub fn rules(features: &[Feature]) -> Vec<Rule> {
    RULES
        .iter()
        .filter(|rule| features.contains(&rule.feature))
        .copied()
        .collect()
}

/// The features that come to use with any of these templates.
#[must_use]
pub fn features(templates: &[Template], work: WorkVolume) -> Vec<Feature> {
    Feature::ALL
        .into_iter()
        .filter(|feature| {
            templates
                .iter()
                .any(|template| feature.is_used(template, work))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_feature_has_a_rule_and_every_rule_is_of_a_known_feature() {
        for feature in Feature::ALL {
            assert!(
                RULES.iter().any(|rule| rule.feature == feature),
                "{feature:?}"
            );
        }
        for rule in RULES {
            assert!(Feature::ALL.contains(&rule.feature), "{rule:?}");
        }
    }

    #[test]
    fn caches_with_lines_need_claims_lines_and_a_lease() {
        let template = "metadata: {annotations: {arc-hook/cache.c: '{}'}}\n\
                        spec: {volumes: [{name: c, ephemeral: {volumeClaimTemplate: {spec: {}}}}]}";
        let features = |template| features(&[template], WorkVolume::Auto);
        assert!(features(Template::parse(template).unwrap()).contains(&Feature::Caches));
        assert!(!features(Template::none()).contains(&Feature::Caches));
    }

    #[test]
    fn generations_that_are_snapshots_need_snapshots() {
        let template = |policy: &str| {
            let text = format!(
                "metadata: {{annotations: {{arc-hook/cache.c: '{policy}'}}}}\nspec: {{volumes: \
                 [{{name: c, ephemeral: {{volumeClaimTemplate: {{spec: {{}}}}}}}}]}}"
            );
            features(&[Template::parse(&text).unwrap()], WorkVolume::Auto)
        };
        assert!(template("via: snapshot").contains(&Feature::Snapshots));
        assert!(!template("via: clone").contains(&Feature::Snapshots));
    }

    #[test]
    fn claims_are_made_for_kept_jobs_only_where_volumes_alone_are_kept() {
        let features = |annotations: &str| {
            let text =
                format!("metadata: {{annotations: {{{annotations}}}}}\nspec: {{containers: []}}");
            features(&[Template::parse(&text).unwrap()], WorkVolume::Auto)
        };
        let volumes = features("arc-hook/retain: always, arc-hook/retain-mode: volumes");
        assert!(volumes.contains(&Feature::RetainVolumes));
        for others in ["arc-hook/retain: always", "arc-hook/retain-mode: volumes"] {
            assert!(
                !features(others).contains(&Feature::RetainVolumes),
                "{others}"
            );
        }
    }

    #[test]
    fn a_copied_workspace_needs_exec() {
        let none = [Template::none()];
        assert!(!features(&none, WorkVolume::Auto).contains(&Feature::Copy));
        assert!(features(&none, WorkVolume::Copy).contains(&Feature::Copy));
    }
}
