//! `arc-hook rbac`: the least Role, and what is granted beside it.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::access::Access;
use super::rights::{self, Comparison, Feature, Right, Rule};
use super::{Format, Worst, print, template};
use crate::cluster::{Cluster, ClusterError};
use crate::config::WorkVolume;
use crate::pod::Template;

/// How long an API server that does not answer is asked.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the printed objects are called.
const NAME: &str = "arc-hook-runner";

const EXAMPLES: &str = "\
Examples:
  arc-hook rbac hook-templates/conan-zfs.yaml
  arc-hook rbac --arc-values hook-templates/conan-zfs.yaml
  arc-hook rbac --check --service-account arc-hook-runner hook-templates/conan-zfs.yaml";

/// Prints the least Role for what the hook templates use
///
/// With its service account and binding, each rule with its reason. With `--check` compares it with
/// what is granted instead, and ends with 0 when that is just right, 1 when it is more than
/// the hook and ARC's chart ask for, 2 when something is missing or could not be found out.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Rbac {
    /// The scale sets' hook templates, or manifests of a `ConfigMap` with one under its only key
    #[arg(env = "ACTIONS_RUNNER_CONTAINER_HOOK_TEMPLATE")]
    templates: Vec<PathBuf>,

    /// How the job pod comes by the workspace
    #[arg(long, value_enum, env = "ARC_HOOK_WORK", default_value_t)]
    work: WorkVolume,

    /// Prints what ARC's chart does not grant by itself, for its values
    #[arg(long, conflicts_with = "check")]
    arc_values: bool,

    /// Leaves out what the hook can do without
    #[arg(long)]
    least: bool,

    /// Compares with what is granted to whoever calls, or to `--service-account`
    #[arg(long)]
    check: bool,

    #[command(flatten)]
    access: Access,

    /// How to print
    #[arg(long, value_enum, default_value_t)]
    output: Format,
}

impl Rbac {
    /// Prints what was asked for, and returns the exit code.
    ///
    /// # Errors
    /// A template cannot be read, or the API server not be asked.
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        let mut templates = Vec::new();
        for path in &self.templates {
            templates.push(template(path)?);
        }
        if templates.is_empty() {
            templates.push(Template::none());
        }
        let mut features = rights::features(&templates, self.work);
        features.retain(|feature| !(self.least && feature.is_optional()));
        let rules = rights::rules(&features);
        if self.check {
            return self.compare(&rules);
        }
        let name = self.access.service_account.as_deref().unwrap_or(NAME);
        print(&match self.output {
            Format::Json => format!("{:#}\n", listed(&features, &rules)),
            Format::Text if self.arc_values => values(&rules),
            Format::Text => manifests(name, &rules),
        })?;
        Ok(ExitCode::SUCCESS)
    }

    fn compare(&self, rules: &[Rule]) -> anyhow::Result<ExitCode> {
        let api = self.access.connect()?;
        let cluster = api.cluster.patient(PATIENCE).telling(|words| {
            eprintln!("{words}");
        });
        let comparison = api.run(comparison(&cluster, rules))?;
        let worst = worst(&comparison);
        print(&match self.output {
            Format::Json => format!("{:#}\n", judged(&comparison)),
            Format::Text => told(&comparison, cluster.namespace()),
        })?;
        Ok(worst.exit_code())
    }
}

/// Asks what is granted. What RBAC's rules do not hold another authorizer may grant, so each right
/// that seems to be missing is asked for by itself when the server says that it does not know all.
pub(super) async fn comparison(
    cluster: &Cluster,
    rules: &[Rule],
) -> Result<Comparison, ClusterError> {
    let granted = cluster.rules().await?;
    let mut comparison = rights::compare(rules, &granted.resource_rules);
    if granted.incomplete {
        for (right, rule) in std::mem::take(&mut comparison.missing) {
            let may = cluster.may(&right.group, &right.resource, &right.verb);
            let list = if may.await? {
                &mut comparison.present
            } else {
                &mut comparison.missing
            };
            list.push((right, rule));
        }
    }
    Ok(comparison)
}

/// What a comparison comes to.
pub(super) fn worst(comparison: &Comparison) -> Worst {
    let required = |(_, rule): &(Right, Rule)| !rule.feature.is_optional();
    if comparison.missing.iter().any(required) {
        Worst::Fail
    } else if !comparison.missing.is_empty() || !comparison.more.is_empty() {
        Worst::Warn
    } else {
        Worst::Pass
    }
}

/// The objects, each rule with its reason.
fn manifests(name: &str, rules: &[Rule]) -> String {
    let rules: String = rules.iter().map(|rule| commented(rule, 0)).collect();
    format!(
        "apiVersion: v1\nkind: ServiceAccount\nmetadata:\n  name: {name}\n---\n\
         apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata:\n  name: {name}\n\
         rules:\n{rules}---\n\
         apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata:\n  name: {name}\n\
         roleRef:\n  apiGroup: rbac.authorization.k8s.io\n  kind: Role\n  name: {name}\n\
         subjects:\n- kind: ServiceAccount\n  name: {name}\n"
    )
}

/// What is to be added to the values of ARC's chart.
pub(super) fn values(rules: &[Rule]) -> String {
    let added: Vec<&Rule> = rules.iter().filter(|rule| !rule.is_of_arc()).collect();
    if added.is_empty() {
        return "# ARC's chart grants all of it by itself in Kubernetes mode.\n".to_owned();
    }
    let mut text =
        "containerMode:\n  type: kubernetes\n  kubernetesModeAdditionalRoleRules:\n".to_owned();
    for rule in added {
        text += &commented(rule, 2);
    }
    text
}

fn commented(rule: &Rule, indent: usize) -> String {
    format!(
        "{}# {}\n{}",
        " ".repeat(indent),
        rule.reason,
        rule.yaml(indent)
    )
}

fn listed(features: &[Feature], rules: &[Rule]) -> Value {
    let features: Vec<&str> = features.iter().map(|feature| feature.name()).collect();
    json!({"features": features, "rules": rules.iter().map(as_json).collect::<Vec<_>>()})
}

fn as_json(rule: &Rule) -> Value {
    json!({
        "feature": rule.feature.name(), "optional": rule.feature.is_optional(),
        "apiGroup": rule.group, "resource": rule.resource, "verbs": rule.verbs,
        "reason": rule.reason,
    })
}

fn judged(comparison: &Comparison) -> Value {
    let with_reason = |(right, rule): &(Right, Rule)| {
        json!({"right": right.to_string(), "reason": rule.reason,
               "feature": rule.feature.name(), "optional": rule.feature.is_optional()})
    };
    let plain = |rights: &[Right]| -> Vec<String> { rights.iter().map(Right::to_string).collect() };
    json!({
        "verdict": worst(comparison).name(),
        "present": comparison.present.iter().map(with_reason).collect::<Vec<_>>(),
        "missing": comparison.missing.iter().map(with_reason).collect::<Vec<_>>(),
        "grantedByArc": plain(&comparison.of_arc),
        "more": plain(&comparison.more),
    })
}

fn told(comparison: &Comparison, namespace: &str) -> String {
    let mut text = format!("Rights in namespace `{namespace}`:\n");
    for (right, _) in &comparison.present {
        let _ = writeln!(text, "  present   {right}");
    }
    for (right, rule) in &comparison.missing {
        let _ = writeln!(text, "  MISSING   {right}: {}", rule.reason);
    }
    for right in &comparison.of_arc {
        let _ = writeln!(
            text,
            "  not used  {right} (ARC's chart grants it by itself)"
        );
    }
    for right in &comparison.more {
        let _ = writeln!(text, "  MORE      {right}: the hook does not need it");
    }
    text
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use k8s_openapi::api::authorization::v1::ResourceRule;

    use super::*;

    #[test]
    fn every_feature_stands_in_the_role_with_its_reason() {
        assert_snapshot!(manifests("runner", rights::RULES));
    }

    #[test]
    fn what_arcs_chart_lacks_is_printed_for_its_values() {
        assert_snapshot!(values(rights::RULES));
        let least = rights::rules(&[Feature::Jobs]);
        assert!(values(&least).starts_with("# ARC's chart grants all"));
    }

    #[test]
    fn a_comparison_is_told_right_by_right() {
        let granted = |resource: &str, verbs: &[&str]| ResourceRule {
            api_groups: Some(vec![String::new()]),
            resources: Some(vec![resource.to_owned()]),
            resource_names: None,
            verbs: verbs.iter().map(|verb| (*verb).to_owned()).collect(),
        };
        let comparison = rights::compare(
            &rights::rules(&[Feature::Jobs, Feature::Watch]),
            &[
                granted("pods", &["get", "list", "create"]),
                granted("pods/log", &["get", "watch"]),
                granted("secrets", &["get", "list", "create", "delete", "update"]),
            ],
        );
        assert_eq!(worst(&comparison), Worst::Fail);
        assert_snapshot!(told(&comparison, "ci"));
        assert_snapshot!(format!("{:#}", judged(&comparison)));
    }
}
