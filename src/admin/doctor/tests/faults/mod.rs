//! Faults, and the check that must find each.

mod volumes;

use serde_json::{Value, json};

use super::{healthy, in_force, namespace, with_rights, with_runner, with_template, with_variable};
use crate::admin::doctor::Verdict::{self, Fail, Warn};
use crate::admin::doctor::facts::{Fact, Facts};

/// What is wrong, the check that must find it, how bad it is, and the facts.
pub(super) struct Fault(pub &'static str, pub &'static str, pub Verdict, pub Facts);

/// All of them.
pub(super) fn faults() -> Vec<Fault> {
    [
        of_server(),
        of_namespace(),
        of_rights(),
        of_hooks(),
        of_runner(),
        of_settings(),
        volumes::of_work(),
        of_template(),
        of_user(),
        volumes::of_class(),
        volumes::of_parent(),
        volumes::of_caches(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn of_server() -> Vec<Fault> {
    let silent = Facts {
        version: Fact::Hidden("connection refused".to_owned()),
        ..healthy()
    };
    let skewed = |ahead| Facts {
        ahead: Fact::Known(ahead),
        ..healthy()
    };
    let old = Facts {
        version: Fact::Known((1, 28)),
        ..healthy()
    };
    vec![
        Fault(
            "the API server does not answer",
            "server/version",
            Fail,
            silent,
        ),
        Fault("the API server is old", "server/version", Warn, old),
        Fault("the clocks differ", "server/clock", Fail, skewed(-300)),
        Fault(
            "the clocks differ a little",
            "server/clock",
            Warn,
            skewed(8),
        ),
    ]
}

fn of_namespace() -> Vec<Fault> {
    const NAME: &str = "namespace/pod-security";
    let absent = Facts {
        namespace: Fact::Absent,
        ..healthy()
    };
    let restricted = namespace(&json!({"pod-security.kubernetes.io/enforce": "restricted"}));
    let ports = with_template(
        "arc-hook/run-as: runner",
        "arc-hook/run-as: runner\n        arc-hook/host-ports: \"true\"",
    );
    let open = Facts {
        policies: in_force(&[]),
        ..healthy()
    };
    let half = Facts {
        policies: in_force(&["pods", "secrets", "records", "kinds"]),
        ..healthy()
    };
    let kept = Facts {
        policies: in_force(&["pods", "secrets", "deletions", "programs", "kinds"]),
        ..with_template(
            "arc-hook/run-as: runner",
            "arc-hook/run-as: runner\n        arc-hook/retain: on-failure",
        )
    };
    vec![
        Fault("the namespace does not exist", NAME, Fail, absent),
        Fault(
            "the namespace is restricted and the template is not",
            NAME,
            Fail,
            restricted,
        ),
        Fault(
            "the namespace allows no ports of the node",
            NAME,
            Fail,
            ports,
        ),
        Fault(
            "nothing confines the account",
            "namespace/admission-policy",
            Warn,
            open,
        ),
        Fault(
            "some of the policies are missing",
            "namespace/admission-policy",
            Warn,
            half,
        ),
        Fault(
            "jobs are kept, and the policies for that are missing",
            "namespace/admission-policy",
            Warn,
            kept,
        ),
    ]
}

fn of_rights() -> Vec<Fault> {
    let missing = with_rights(|rules| rules[2].verbs.retain(|verb| verb != "create"));
    let least = with_rights(|rules| rules.truncate(3));
    let more = with_rights(|rules| rules[0].verbs.push("patch".to_owned()));
    vec![
        Fault("a right is missing", "rights/missing", Fail, missing),
        Fault(
            "watch and events are not granted",
            "rights/optional",
            Warn,
            least,
        ),
        Fault("more is granted than is needed", "rights/more", Warn, more),
    ]
}

fn of_hooks() -> Vec<Fault> {
    const NAME: &str = "runner/hooks";
    let hooks = |path| with_variable("ACTIONS_RUNNER_CONTAINER_HOOKS", path);
    let shim = |found| {
        let mut facts = healthy();
        if let Some(own) = &mut facts.own {
            own.shim = found;
        }
        facts
    };
    let other = shim(Fact::Known("node index.js".to_owned()));
    let binary = hooks("/home/runner/arc-hook/arc-hook");
    vec![
        Fault(
            "the official hooks run",
            NAME,
            Fail,
            hooks("/home/runner/k8s/index.js"),
        ),
        Fault(
            "the binary is named in place of the shim",
            NAME,
            Fail,
            binary,
        ),
        Fault("no hooks are named", NAME, Fail, hooks("")),
        Fault("the shim does not exist", NAME, Fail, shim(Fact::Absent)),
        Fault("the shim calls something else", NAME, Warn, other),
    ]
}

fn of_runner() -> Vec<Fault> {
    const TEMPLATE: &str = "ACTIONS_RUNNER_CONTAINER_HOOK_TEMPLATE";
    const ACCOUNT: &str = "runner/service-account";
    let bare = with_variable("ACTIONS_RUNNER_REQUIRE_JOB_CONTAINER", "false");
    let another = with_variable("ACTIONS_RUNNER_POD_NAME", "another");
    let unmounted = with_variable(TEMPLATE, "/etc/template/content");
    let tokenless = with_runner(|pod| {
        pod["spec"]["automountServiceAccountToken"] = json!(false);
    });
    let powerless = with_runner(|pod| {
        pod["spec"]["serviceAccountName"] = json!("conan-zfs-gha-rs-no-permission");
    });
    let docker = with_runner(|pod| {
        let containers = pod["spec"]["containers"].as_array_mut();
        containers
            .unwrap()
            .push(json!({"name": "dind", "image": "docker:dind"}));
    });
    let root = with_user(json!({"runAsUser": 0}));
    let nobody = with_user(Value::Null);
    vec![
        Fault(
            "no template is named",
            "runner/template",
            Warn,
            with_variable(TEMPLATE, ""),
        ),
        Fault(
            "nothing is mounted where the template should be",
            "runner/template",
            Warn,
            unmounted,
        ),
        Fault(
            "jobs without container run in the runner pod",
            "runner/require-container",
            Warn,
            bare,
        ),
        Fault(
            "the pod's name is another's",
            "runner/pod-name",
            Fail,
            another,
        ),
        Fault(
            "the account's token is not mounted",
            ACCOUNT,
            Fail,
            tokenless,
        ),
        Fault("ARC is not in Kubernetes mode", ACCOUNT, Fail, powerless),
        Fault("a Docker daemon runs beside", "runner/docker", Warn, docker),
        Fault("the runner is root", "runner/user", Warn, root),
        Fault("nobody says who the runner is", "runner/user", Warn, nobody),
    ]
}

fn with_user(context: Value) -> Facts {
    let mut facts = with_runner(|pod| pod["spec"]["securityContext"] = context);
    facts.own = None;
    facts
}

fn of_settings() -> Vec<Fault> {
    let state = with_variable("ARC_HOOK_STATE", "/home/runner/_work/state");
    let read_only = with_runner(|pod| {
        pod["spec"]["containers"][0]["securityContext"] = json!({"readOnlyRootFilesystem": true});
    });
    let timeout = with_variable("ACTIONS_RUNNER_PREPARE_JOB_TIMEOUT_SECONDS", "ten");
    vec![
        Fault(
            "the state lies where jobs write",
            "runner/state",
            Fail,
            state,
        ),
        Fault(
            "a state directory that cannot be written",
            "runner/state",
            Fail,
            read_only,
        ),
        Fault(
            "a setting means nothing",
            "runner/settings",
            Fail,
            with_variable("ARC_HOOK_AFFINITY", "yes"),
        ),
        Fault(
            "a setting is misspelt",
            "runner/settings",
            Warn,
            with_variable("ARC_HOOK_AFINITY", "none"),
        ),
        Fault("a time means nothing", "runner/settings", Warn, timeout),
    ]
}

fn of_template() -> Vec<Fault> {
    let broken = Facts {
        template: Fact::Known(Err(
            "line 3 column 5: `volumes` is a mapping; write a list".to_owned()
        )),
        ..healthy()
    };
    let absent = Facts {
        template: Fact::Absent,
        ..healthy()
    };
    let refused = Facts {
        dry_run: Fact::Known(Err(
            "create pod `r-workflow`: Kubernetes does not know a field: `spec.volume`".to_owned(),
        )),
        ..healthy()
    };
    let misspelt = with_template(
        "arc-hook/run-as",
        "arc-hook/runas: runner\n        arc-hook/run-as",
    );
    vec![
        Fault(
            "the template cannot be parsed",
            "template/file",
            Fail,
            broken,
        ),
        Fault("the template does not exist", "template/file", Fail, absent),
        Fault(
            "the API server refuses the pod",
            "template/dry-run",
            Fail,
            refused,
        ),
        Fault(
            "an annotation is misspelt",
            "template/annotations",
            Warn,
            misspelt,
        ),
    ]
}

fn of_user() -> Vec<Fault> {
    const NAME: &str = "template/user";
    let run_as = |line| with_template("arc-hook/run-as: runner", line);
    let policy = with_template(
        "fsGroupChangePolicy: OnRootMismatch",
        "fsGroupChangePolicy: Always",
    );
    vec![
        Fault(
            "nobody says who jobs run as",
            NAME,
            Warn,
            run_as("kept: \"true\""),
        ),
        Fault(
            "jobs run as their images' users",
            NAME,
            Warn,
            run_as("arc-hook/run-as: image"),
        ),
        Fault(
            "jobs run as another user than the runner",
            NAME,
            Fail,
            run_as("arc-hook/run-as: \"1000\""),
        ),
        Fault(
            "volumes are given to another group",
            "template/fs-group",
            Warn,
            with_template("fsGroup: 1001", "fsGroup: 123"),
        ),
        Fault(
            "every file of a volume is walked",
            "template/fs-group",
            Warn,
            policy,
        ),
    ]
}
