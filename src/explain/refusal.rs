//! Why the API server said no.

use kube::core::Status;

use super::{Explanation, quote};

/// Title of a refusal for want of a right.
pub const MISSING_PERMISSION: &str = "Missing permission";

/// What was attempted, in the words of a Role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// `create`, `get`, `list` or `delete`.
    pub verb: &'static str,
    /// `pods`, `secrets`, `pods/log`, ...
    pub resource: &'static str,
    /// The namespace.
    pub namespace: String,
}

/// Explains an error answer.
#[must_use]
pub fn refusal(attempt: &Attempt, status: &Status) -> Explanation {
    let message = status.message.as_str();
    // The order counts: an admission plug-in's refusal bears the code and the reason of a missing
    // right, and a webhook may refuse with any code.
    admission(attempt, message)
        .or_else(|| by_code(attempt, status))
        .unwrap_or_else(|| {
            Explanation::new(
                "Kubernetes API error",
                format!(
                    "the API server answered {}: {}",
                    status.code,
                    quote(message)
                ),
                "look for the reason in the API server's answer",
            )
        })
}

fn admission(attempt: &Attempt, message: &str) -> Option<Explanation> {
    let Attempt { namespace, .. } = attempt;
    let words = tail(message);
    let explanation = if message.contains("exceeded quota: ") {
        Explanation::new(
            "Quota exceeded",
            format!("the namespace's quota is used up: {words}"),
            format!(
                "run fewer jobs at once, ask for less in the hook template, or raise the \
                 ResourceQuota in namespace `{namespace}`"
            ),
        )
    } else if message.contains("failed quota: ") {
        Explanation::new(
            "Quota needs limits",
            format!(
                "the namespace's quota counts resources that a container does not state: {words}"
            ),
            "give `$job` and `$default` the named `resources` in the hook template",
        )
    } else if message.contains("violates PodSecurity") {
        Explanation::new(
            "Pod security",
            format!("the namespace's pod-security level refuses the pod: {words}"),
            format!(
                "set the annotation `arc-hook/security: restricted` in the hook template, or relax \
                 `pod-security.kubernetes.io/enforce` on namespace `{namespace}`"
            ),
        )
    } else if message.contains(" usage per ") {
        Explanation::new(
            "Limit range",
            format!("the namespace's LimitRange refuses the pod: {words}"),
            "change `resources` of the named container in the hook template, or the LimitRange",
        )
    } else if let Some(webhook) = between(message, "failed calling webhook \"", "\"") {
        Explanation::new(
            "Admission webhook unreachable",
            format!(
                "the admission webhook `{webhook}` does not answer: {}",
                quote(after(message, "failed to call webhook: ").unwrap_or(message))
            ),
            "repair the service behind the webhook; until then nothing of this kind can be created",
        )
    } else if let Some(webhook) = between(message, "admission webhook \"", "\" denied") {
        let said = after(message, "denied the request: ").unwrap_or(message);
        Explanation::new(
            "Denied by policy",
            format!(
                "the admission webhook `{webhook}` denied it: {}",
                quote(said)
            ),
            "change the hook template to satisfy that policy, or have the policy exempt job pods",
        )
    } else if let Some(policy) = between(message, "ValidatingAdmissionPolicy '", "'") {
        let said = after(message, "denied request: ").unwrap_or(message);
        Explanation::new(
            "Denied by policy",
            format!("the admission policy `{policy}` denied it: {}", quote(said)),
            if policy.starts_with("arc-hook-") {
                "take it out of the hook template, or allow it in the policy, \
                 hook-templates/admission-policy.yaml"
            } else {
                "change the hook template to satisfy that policy, or have the policy exempt job pods"
            },
        )
    } else if message.contains("error looking up service account") {
        Explanation::new(
            "Service account missing",
            quote(after(message, "error looking up ").unwrap_or(message)),
            format!(
                "create that ServiceAccount in namespace `{namespace}`, or correct \
                 `serviceAccountName` in the hook template"
            ),
        )
    } else if message.contains("because it is being terminated") {
        Explanation::new(
            "Namespace is going away",
            format!("namespace `{namespace}` is being deleted"),
            "run the job again where the namespace is there to stay",
        )
    } else if let (Some(user), true) = (
        between(message, "User \"", "\""),
        message.contains(" cannot "),
    ) {
        missing_right(attempt, user)
    } else {
        return None;
    };
    Some(explanation)
}

fn missing_right(attempt: &Attempt, user: &str) -> Explanation {
    let Attempt {
        verb,
        resource,
        namespace,
    } = attempt;
    let who = user
        .strip_prefix("system:serviceaccount:")
        .and_then(|account| account.split_once(':'))
        .map_or_else(
            || format!("user `{user}`"),
            |(_, account)| format!("service account `{account}`"),
        );
    Explanation::new(
        MISSING_PERMISSION,
        format!("{who} lacks the right to `{verb}` `{resource}` in namespace `{namespace}`"),
        format!(
            "add the verb `{verb}` for the resource `{resource}` to its Role; with ARC's chart, \
             under `containerMode.kubernetesModeAdditionalRoleRules`"
        ),
    )
}

fn by_code(attempt: &Attempt, status: &Status) -> Option<Explanation> {
    let message = status.message.as_str();
    let Attempt { namespace, .. } = attempt;
    let explanation = match status.code {
        401 => Explanation::new(
            "Not authenticated",
            "the API server does not know the credentials of this pod",
            "see that the runner pod mounts its service account's token and that its clock is right, \
             or renew the kubeconfig's credentials",
        ),
        403 => Explanation::new(
            "Forbidden",
            format!("the API server forbids it: {}", quote(message)),
            "change what the message names, or the rule that forbids it",
        ),
        404 if message.starts_with("namespaces ") => Explanation::new(
            "Namespace missing",
            format!("namespace `{namespace}` does not exist"),
            "correct `ACTIONS_RUNNER_KUBERNETES_NAMESPACE`, or the kubeconfig's context",
        ),
        400 if message.contains("strict decoding error: ") => Explanation::new(
            "Unknown field",
            format!(
                "Kubernetes does not know a field: {}",
                quote(after(message, "strict decoding error: ").unwrap_or(message))
            ),
            "correct the spelling or the place of that key in the hook template",
        ),
        413 => Explanation::new(
            "Object too large",
            format!("the API server refuses its size: {}", quote(message)),
            "shorten `env:` of the container, its services, or the hook template",
        ),
        422 => Explanation::new(
            "Invalid specification",
            format!(
                "Kubernetes refuses the specification: {}",
                quote(after(message, " is invalid: ").unwrap_or(message))
            ),
            "correct the named field in the workflow's `container:` or `services:`, or in the hook \
             template",
        ),
        429 => Explanation::new(
            "API server overloaded",
            format!(
                "the API server keeps refusing for overload: {}",
                quote(message)
            ),
            "run the job again; if it persists, look at the API server's priority and fairness settings",
        ),
        500..=599 => Explanation::new(
            "API server trouble",
            format!(
                "the API server keeps answering {}: {}",
                status.code,
                quote(message)
            ),
            "look at the API server's health, then run the job again",
        ),
        _ => return None,
    };
    Some(explanation)
}

/// What follows `pods "x" is forbidden: `, which repeats what the message already says.
fn tail(message: &str) -> String {
    quote(after(message, " is forbidden: ").unwrap_or(message))
}

fn after<'m>(message: &'m str, mark: &str) -> Option<&'m str> {
    message.split_once(mark).map(|(_, after)| after)
}

fn between<'m>(message: &'m str, start: &str, end: &str) -> Option<&'m str> {
    after(message, start)?
        .split_once(end)
        .map(|(between, _)| between)
}
