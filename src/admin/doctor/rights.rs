//! The Role: present, missing, and more than needed.

use super::Check;
use super::facts::{Fact, Facts};
use crate::admin::rbac;
use crate::admin::rights::{Right, Rule};

pub(super) fn examine(facts: &Facts) -> Vec<Check> {
    let comparison = match &facts.rights {
        Fact::Known(comparison) => comparison,
        Fact::Absent => return Vec::new(),
        Fact::Hidden(why) => {
            return vec![Check::unknown(
                "rights/present",
                format!(
                    "the runner's rights cannot be asked for: {why}; run this in the runner pod, \
                     or with the right to `impersonate` its service account"
                ),
            )];
        }
    };
    let mut checks = Vec::new();
    let (optional, required): (Vec<_>, Vec<_>) = comparison
        .missing
        .iter()
        .partition(|(_, rule)| rule.feature.is_optional());
    if required.is_empty() {
        checks.push(Check::pass(
            "rights/present",
            format!(
                "all {} rights that jobs need are granted",
                comparison.present.len()
            ),
        ));
    } else {
        checks.push(
            Check::fail(
                "rights/missing",
                format!("the runner's account lacks: {}", words(&required)),
                "add to its Role (`arc-hook rbac` prints all of it)",
            )
            .change(rules(&required)),
        );
    }
    if !optional.is_empty() {
        let missing: Vec<Rule> = optional.iter().map(|(_, rule)| *rule).collect();
        checks.push(
            Check::warn(
                "rights/optional",
                format!(
                    "the runner's account does without: {}; jobs start later, and failures are \
                     explained less",
                    words(&optional)
                ),
                "add to the values of ARC's chart",
            )
            .change(rbac::values(&missing)),
        );
    }
    if comparison.more.is_empty() {
        checks.push(Check::pass(
            "rights/more",
            "nothing is granted beyond what the hook uses and ARC's chart grants",
        ));
    } else {
        let more: Vec<String> = comparison.more.iter().map(Right::to_string).collect();
        checks.push(Check::warn(
            "rights/more",
            format!(
                "the runner's account has more than it needs: {}",
                more.join(", ")
            ),
            "take it out of the Roles and ClusterRoles that are bound to it: whoever takes over a \
             runner has these rights",
        ));
    }
    checks
}

fn words(rights: &[&(Right, Rule)]) -> String {
    let words: Vec<String> = rights.iter().map(|(right, _)| right.to_string()).collect();
    words.join(", ")
}

fn rules(rights: &[&(Right, Rule)]) -> String {
    let mut text = "rules:\n".to_owned();
    let mut before = None;
    for (_, rule) in rights {
        if before != Some(rule) {
            text += &rule.yaml(0);
        }
        before = Some(rule);
    }
    text
}
