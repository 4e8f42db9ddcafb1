//! What is granted, beside what is needed and what ARC's chart grants anyway.

use k8s_openapi::api::authorization::v1::ResourceRule;

use super::{Right, Rule};

/// What ARC's chart gha-runner-scale-set 0.14 grants by itself in Kubernetes mode
/// (`templates/kube_mode_role.yaml`).
const OF_ARC: &[(&str, &str, &[&str])] = &[
    ("", "pods", &["get", "list", "create", "delete"]),
    ("", "pods/exec", &["get", "create"]),
    ("", "pods/log", &["get", "list", "watch"]),
    ("batch", "jobs", &["get", "list", "create", "delete"]),
    ("", "secrets", &["get", "list", "create", "delete"]),
];

/// Optional, and no namespace's: whether the runner's node can mount its image (`node-rbac.yaml`).
const NODE: &str = "get nodes";

/// What everyone may ask of oneself (Kubernetes, `system:basic-user`).
const OF_EVERYONE: [&str; 2] = ["authorization.k8s.io", "authentication.k8s.io"];

/// What is granted beside what is needed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Comparison {
    /// Needed and granted.
    pub present: Vec<(Right, Rule)>,
    /// Needed and not granted.
    pub missing: Vec<(Right, Rule)>,
    /// Not needed, but part of what ARC's chart grants anyway.
    pub of_arc: Vec<Right>,
    /// Granted, and neither needed nor ARC's.
    pub more: Vec<Right>,
}

/// Compares what is granted with what these rules need.
#[must_use]
pub fn compare(needed: &[Rule], granted: &[ResourceRule]) -> Comparison {
    let mut comparison = Comparison::default();
    for rule in needed {
        for right in rule.rights() {
            let found = granted.iter().any(|granted| grants(granted, &right));
            let list = if found {
                &mut comparison.present
            } else {
                &mut comparison.missing
            };
            list.push((right, *rule));
        }
    }
    let mut beyond: Vec<Right> = granted
        .iter()
        .flat_map(each)
        .filter(|right| !OF_EVERYONE.contains(&right.group.as_str()) && right.to_string() != NODE)
        .filter(|right| {
            !comparison
                .present
                .iter()
                .any(|(present, _)| present == right)
        })
        .collect();
    beyond.sort();
    beyond.dedup();
    (comparison.of_arc, comparison.more) = beyond.into_iter().partition(is_of_arc);
    comparison
}

pub(super) fn is_of_arc(right: &Right) -> bool {
    OF_ARC.iter().any(|(group, resource, verbs)| {
        right.group == *group && right.resource == *resource && verbs.contains(&right.verb.as_str())
    })
}

/// A rule for named objects only does not help: the names are made by ARC, job by job.
fn grants(rule: &ResourceRule, right: &Right) -> bool {
    let has = |list: Option<&Vec<String>>, wanted: &str| {
        list.into_iter()
            .flatten()
            .any(|one| one == "*" || one == wanted)
    };
    let subresource = right.resource.split_once('/').map(|(_, sub)| sub);
    rule.resource_names.as_ref().is_none_or(Vec::is_empty)
        && has(rule.api_groups.as_ref(), &right.group)
        && (has(rule.resources.as_ref(), &right.resource)
            || subresource.is_some_and(|sub| has(rule.resources.as_ref(), &format!("*/{sub}"))))
        && has(Some(&rule.verbs), &right.verb)
}

fn each(rule: &ResourceRule) -> impl Iterator<Item = Right> {
    let groups = rule.api_groups.iter().flatten();
    groups.flat_map(move |group| {
        let resources = rule.resources.iter().flatten();
        resources.flat_map(move |resource| {
            rule.verbs.iter().map(move |verb| Right {
                group: group.clone(),
                resource: resource.clone(),
                verb: verb.clone(),
            })
        })
    })
}

#[cfg(test)]
mod tests {
    use super::super::{Feature, RULES, rules};
    use super::*;

    fn granted(group: &str, resource: &str, verbs: &[&str]) -> ResourceRule {
        ResourceRule {
            api_groups: Some(vec![group.to_owned()]),
            resources: Some(vec![resource.to_owned()]),
            resource_names: None,
            verbs: verbs.iter().map(|verb| (*verb).to_owned()).collect(),
        }
    }

    fn of_arc() -> Vec<ResourceRule> {
        OF_ARC
            .iter()
            .map(|(group, resource, verbs)| granted(group, resource, verbs))
            .collect()
    }

    fn words(rights: &[(Right, Rule)]) -> Vec<String> {
        rights.iter().map(|(right, _)| right.to_string()).collect()
    }

    #[test]
    fn arcs_own_role_lacks_only_what_the_hook_can_do_without() {
        let of_jobs = [
            Feature::Jobs,
            Feature::Watch,
            Feature::Events,
            Feature::Copy,
        ];
        let comparison = compare(&rules(&of_jobs), &of_arc());
        assert_eq!(words(&comparison.missing), ["watch pods", "list events"]);
        assert!(
            comparison
                .missing
                .iter()
                .all(|(_, rule)| rule.feature.is_optional())
        );
        assert_eq!(comparison.more, []);
    }

    #[test]
    fn what_arc_grants_beyond_the_need_is_told_apart_from_what_someone_added() {
        let mut rules = of_arc();
        rules.push(granted("", "nodes", &["get", "list"]));
        rules.push(granted(
            "authorization.k8s.io",
            "selfsubjectaccessreviews",
            &["create"],
        ));
        let comparison = compare(&self::rules(&[Feature::Jobs]), &rules);
        assert_eq!(
            comparison
                .more
                .iter()
                .map(Right::to_string)
                .collect::<Vec<_>>(),
            ["list nodes"]
        );
        let of_arc: Vec<String> = comparison.of_arc.iter().map(Right::to_string).collect();
        assert!(
            of_arc.contains(&"create jobs.batch".to_owned()),
            "{of_arc:?}"
        );
        assert!(
            of_arc.contains(&"create pods/exec".to_owned()),
            "{of_arc:?}"
        );
    }

    #[test]
    fn stars_grant_and_names_do_not() {
        let all = granted("*", "*", &["*"]);
        assert_eq!(compare(RULES, &[all]).missing, []);
        let logs = granted("", "*/log", &["get"]);
        let needed = [RULES[1]];
        assert_eq!(compare(&needed, &[logs]).missing, []);
        let mut one = granted("", "pods/log", &["get"]);
        one.resource_names = Some(vec!["a".to_owned()]);
        assert_eq!(words(&compare(&needed, &[one]).missing), ["get pods/log"]);
    }
}
