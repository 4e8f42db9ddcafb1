//! The runners' namespace: what its `PodSecurity` level and its policies say.

use super::Check;
use super::facts::{Fact, Facts};

const ENFORCE: &str = "pod-security.kubernetes.io/enforce";

pub(super) fn examine(facts: &Facts) -> Vec<Check> {
    vec![level(facts), policy(facts)]
}

fn level(facts: &Facts) -> Check {
    const NAME: &str = "namespace/pod-security";
    let name = &facts.namespace_name;
    let namespace = match &facts.namespace {
        Fact::Known(namespace) => namespace,
        Fact::Absent => {
            return Check::fail(
                NAME,
                format!("namespace `{name}` does not exist"),
                "name the scale set's namespace with `--namespace`, or create it",
            )
            .change(format!(
                "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {name}"
            ));
        }
        Fact::Hidden(why) => {
            return Check::unknown(NAME, format!("the namespace cannot be read: {why}"));
        }
    };
    let labels = namespace.metadata.labels.as_ref();
    let enforced = labels
        .and_then(|labels| labels.get(ENFORCE))
        .map_or("privileged", String::as_str);
    let settings = facts.template().map(crate::pod::Template::settings);
    let restricted = settings.is_some_and(|settings| settings.restricted);
    let host_ports = settings.is_some_and(|settings| settings.host_ports);
    match enforced {
        "restricted" if !restricted => Check::fail(
            NAME,
            format!("namespace `{name}` enforces `restricted`, which refuses the job's pods"),
            "ask for restricted pods in the hook template",
        )
        .change("metadata:\n  annotations:\n    arc-hook/security: restricted"),
        "restricted" | "baseline" if host_ports => Check::fail(
            NAME,
            format!(
                "namespace `{name}` enforces `{enforced}`, which refuses the node's ports that \
                 `arc-hook/host-ports` asks for"
            ),
            "take the annotation out of the hook template: services are reachable without",
        )
        .change("metadata:\n  annotations:\n    arc-hook/host-ports: \"false\""),
        enforced => Check::pass(
            NAME,
            format!("namespace `{name}` enforces `{enforced}`, which admits the job's pods"),
        ),
    }
}

fn policy(facts: &Facts) -> Check {
    const NAME: &str = "namespace/admission-policy";
    let name = &facts.namespace_name;
    match &facts.policy {
        Fact::Known(()) => Check::pass(
            NAME,
            "an admission policy confines what the runner's account creates",
        ),
        Fact::Absent => Check::warn(
            NAME,
            format!(
                "nothing confines what service accounts create in namespace `{name}`: who can \
                 create pods can become root on a node"
            ),
            format!(
                "kubectl apply -f hook-templates/admission-policy.yaml && \
                 kubectl label namespace {name} arc-hook/confine=true"
            ),
        ),
        Fact::Hidden(why) => Check::unknown(
            NAME,
            format!("whether the admission policy is in force cannot be seen: {why}"),
        ),
    }
}
