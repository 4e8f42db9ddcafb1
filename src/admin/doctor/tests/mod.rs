//! A set-up that is right, and faults planted in it one by one.

mod faults;

use std::collections::BTreeSet;
use std::fmt::Write as _;

use insta::assert_snapshot;
use k8s_openapi::api::authorization::v1::ResourceRule;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::facts::{Fact, Facts, Own};
use super::{Check, Verdict, examine, text, worst};
use crate::admin::Worst;
use crate::admin::rights;
use crate::cache::Line;
use crate::cache::line::tests::generation;
use crate::pod::{Identity, Template};
use faults::{Fault, faults};

const TEMPLATE: &str = include_str!("../../../../hook-templates/conan-zfs.yaml");
const LINES: &str = include_str!("../../../../hook-templates/conan-lines.yaml");
const SHIM: &str = include_str!("../../../../runner-image/index.sh");

fn object<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn template(text: &str) -> Template {
    Template::parse(&crate::pod::template_text(text).unwrap().text).unwrap()
}

/// As ARC's chart makes it of hook-templates/arc-values.yaml.
fn runner() -> Value {
    let variable = |name: &str, value: &str| json!({"name": name, "value": value});
    json!({
        "metadata": {"name": "conan-zfs-runner", "uid": "u"},
        "spec": {
            "nodeName": "node-1",
            "serviceAccountName": "conan-zfs-gha-rs-kube-mode",
            "securityContext": {"runAsUser": 1001, "runAsGroup": 1001, "fsGroup": 1001},
            "containers": [{
                "name": "runner", "image": "runner",
                "env": [
                    variable("ACTIONS_RUNNER_CONTAINER_HOOKS", "/home/runner/arc-hook/index.sh"),
                    variable("ACTIONS_RUNNER_CONTAINER_HOOK_TEMPLATE", "/home/runner/pod-template/content"),
                    variable("ACTIONS_RUNNER_REQUIRE_JOB_CONTAINER", "true"),
                    {"name": "ACTIONS_RUNNER_POD_NAME",
                     "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                ],
                "volumeMounts": [
                    {"name": "hooks", "mountPath": "/home/runner/pod-template"},
                    {"name": "work", "mountPath": "/home/runner/_work"},
                ],
            }],
            "volumes": [
                {"name": "hooks", "configMap": {"name": "github-arc-container-hooks"}},
                {"name": "work", "ephemeral": {"volumeClaimTemplate": {"spec": {
                    "accessModes": ["ReadWriteOnce"]}}}},
            ],
        },
    })
}

fn granted(rules: &[rights::Rule]) -> Vec<ResourceRule> {
    let rule = |rule: &rights::Rule| ResourceRule {
        api_groups: Some(vec![rule.group.to_owned()]),
        resources: Some(vec![rule.resource.to_owned()]),
        resource_names: None,
        verbs: rule.verbs.iter().map(|verb| (*verb).to_owned()).collect(),
    };
    rules.iter().map(rule).collect()
}

fn needed() -> Vec<rights::Rule> {
    rights::rules(&rights::features(
        &[template(TEMPLATE)],
        crate::config::WorkVolume::Auto,
    ))
}

fn class(mode: &str, provisioner: &str) -> Value {
    json!({"metadata": {"name": "openebs-zfspv"}, "provisioner": provisioner,
           "volumeBindingMode": mode})
}

fn parent(phase: &str, size: &str) -> Value {
    json!({"metadata": {"name": "gcc12-toolchain-main"},
           "spec": {"storageClassName": "openebs-zfspv", "volumeName": "pv"},
           "status": {"phase": phase, "capacity": {"storage": size}}})
}

fn in_force(policies: &[&str]) -> Fact<BTreeSet<String>> {
    let names = policies.iter().map(|name| format!("arc-hook-{name}"));
    Fact::Known(names.collect())
}

fn healthy() -> Facts {
    let node = json!({"key": "openebs.io/nodeid", "operator": "In", "values": ["node-1"]});
    let volume = json!({"spec": {"nodeAffinity": {"required": {"nodeSelectorTerms": [
        {"matchExpressions": [node]}]}}}});
    Facts {
        namespace_name: "arc-runners".to_owned(),
        version: Fact::Known((1, 36)),
        ahead: Fact::Known(0),
        namespace: Fact::Known(object(
            json!({"metadata": {"name": "arc-runners", "labels": {
            "arc-hook/confine": "true", "pod-security.kubernetes.io/enforce": "baseline"}}}),
        )),
        policies: in_force(&[
            "pods",
            "secrets",
            "changes",
            "deletions",
            "records",
            "programs",
            "kinds",
        ]),
        rights: Fact::Known(rights::compare(&needed(), &granted(&needed()))),
        runner: Fact::Known(object(runner())),
        own: Some(Own {
            identity: Identity {
                uid: 1001,
                gid: 1001,
            },
            shim: Fact::Known(SHIM.to_owned()),
        }),
        node: Fact::Known(object(json!({"status": {"nodeInfo": {
            "containerRuntimeVersion": "containerd://2.4.2", "architecture": "", "bootID": "",
            "kernelVersion": "", "kubeProxyVersion": "", "kubeletVersion": "v1.36.3", "machineID": "",
            "operatingSystem": "", "osImage": "", "systemUUID": ""}}}))),
        template_place: "key `content` of ConfigMap `github-arc-container-hooks`".to_owned(),
        template: Fact::Known(Ok(template(TEMPLATE))),
        dry_run: Fact::Known(Ok(())),
        work_claim: Fact::Absent,
        parents: [(
            "gcc12-toolchain-main".to_owned(),
            Fact::Known(object(parent("Bound", "200Gi"))),
        )]
        .into(),
        volumes: [("pv".to_owned(), Fact::Known(object(volume)))].into(),
        classes: [(
            "openebs-zfspv".to_owned(),
            Fact::Known(object(class("Immediate", "zfs.csi.openebs.io"))),
        )]
        .into(),
        snapshot_classes: Fact::Absent,
        lines: Fact::Absent,
    }
}

/// The shipped template with lines, and another policy.
fn caching(policy: &str) -> String {
    let text = crate::pod::template_text(LINES).unwrap().text;
    let begin = text.find("parents:").unwrap();
    let indent = begin - text[..begin].rfind('\n').unwrap() - 1;
    let policy = policy.replace('\n', &format!("\n{}", " ".repeat(indent)));
    let end = text.find("\n    spec:").unwrap();
    format!("{}{policy}{}", &text[..begin], &text[end..])
}

/// The set-up with a cache of this policy, these lines, and a volume of this class.
fn with_cache(policy: &str, lines: &[&str], provisioner: &str) -> Facts {
    let text = caching(policy);
    let line = |key: &&str| {
        let mut line = Line::new(key.parse().unwrap());
        let entry = line.nodes.entry("node-1".to_owned()).or_default();
        entry.promote(generation(1, "2026-01-01T00:00:00Z"));
        line
    };
    Facts {
        template: Fact::Known(Ok(Template::parse(&text).unwrap())),
        lines: Fact::Known(lines.iter().map(line).collect()),
        ..with_class(Fact::Known(object(class("Immediate", provisioner))))
    }
}

/// The set-up with another runner pod.
fn with_runner(change: impl FnOnce(&mut Value)) -> Facts {
    let mut pod = runner();
    change(&mut pod);
    Facts {
        runner: Fact::Known(object(pod)),
        ..healthy()
    }
}

fn with_variable(name: &str, value: &str) -> Facts {
    with_runner(|pod| {
        let env = pod["spec"]["containers"][0]["env"].as_array_mut().unwrap();
        env.retain(|one| one["name"] != name);
        env.push(json!({"name": name, "value": value}));
    })
}

fn with_template(from: &str, to: &str) -> Facts {
    let text = TEMPLATE.replace(from, to);
    assert_ne!(text, TEMPLATE, "{from}");
    Facts {
        template: Fact::Known(Ok(template(&text))),
        ..healthy()
    }
}

fn with_parent(phase: &str, size: &str) -> Facts {
    let parent = Fact::Known(object(parent(phase, size)));
    Facts {
        parents: [("gcc12-toolchain-main".to_owned(), parent)].into(),
        ..healthy()
    }
}

fn with_class(class: Fact<k8s_openapi::api::storage::v1::StorageClass>) -> Facts {
    Facts {
        classes: [("openebs-zfspv".to_owned(), class)].into(),
        ..healthy()
    }
}

fn with_work(volume: Value, affinity: &str) -> Facts {
    let mut facts = with_runner(|pod| pod["spec"]["volumes"][1] = volume);
    if let (Fact::Known(pod), false) = (&mut facts.runner, affinity.is_empty()) {
        let env = pod.spec.as_mut().unwrap().containers[0]
            .env
            .as_mut()
            .unwrap();
        env.push(object(
            json!({"name": "ARC_HOOK_AFFINITY", "value": affinity}),
        ));
    }
    facts
}

fn work(mode: &str) -> Value {
    json!({"name": "work", "ephemeral": {"volumeClaimTemplate": {"spec": {"accessModes": [mode]}}}})
}

fn with_rights(change: impl FnOnce(&mut Vec<ResourceRule>)) -> Facts {
    let mut rules = granted(&needed());
    change(&mut rules);
    Facts {
        rights: Fact::Known(rights::compare(&needed(), &rules)),
        ..healthy()
    }
}

fn namespace(labels: &Value) -> Facts {
    Facts {
        namespace: Fact::Known(object(json!({"metadata": {"labels": labels}}))),
        ..healthy()
    }
}

fn troubles(facts: &Facts) -> Vec<Check> {
    let mut checks = examine(facts);
    checks.retain(|check| check.verdict != Verdict::Pass);
    checks
}

#[test]
fn a_set_up_that_is_right_passes_every_check() {
    let checks = examine(&healthy());
    assert_eq!(worst(&checks), Worst::Pass);
    assert_snapshot!(text(&checks));
}

#[test]
fn caches_with_lines_that_are_right_pass() {
    let parents = "parents: [\"{repository}/main\", toolchain]";
    let clones = with_cache(parents, &["toolchain"], "zfs.csi.openebs.io");
    let mut snapshots = with_cache(
        "parents: [\"{repository}/main\"]\nvia: snapshot",
        &[],
        "ebs.csi.aws.com",
    );
    snapshots.snapshot_classes = Fact::Known(vec![object(json!({
        "metadata": {"name": "ebs", "annotations": {
            "snapshot.storage.kubernetes.io/is-default-class": "true"}},
        "driver": "ebs.csi.aws.com"}))]);
    let told: Vec<String> = [clones, snapshots]
        .iter()
        .flat_map(examine)
        .filter(|check| check.name.starts_with("caches/"))
        .inspect(|check| assert_eq!(check.verdict, Verdict::Pass, "{check:?}"))
        .map(|check| check.found)
        .collect();
    assert_snapshot!(told.join("\n"));
}

#[test]
fn each_planted_fault_is_found_with_its_remedy() {
    let mut told = String::new();
    for Fault(fault, name, verdict, facts) in faults() {
        let troubles = troubles(&facts);
        let found = troubles.iter().find(|check| check.name == name);
        let found = found.unwrap_or_else(|| panic!("{fault}: not found in {troubles:#?}"));
        assert_eq!(found.verdict, verdict, "{fault}");
        assert!(found.remedy.is_some(), "{fault}: no remedy");
        let lines = text(&troubles);
        let lines: Vec<&str> = lines.lines().collect();
        let _ = writeln!(
            told,
            "== {fault}\n{}\n",
            lines[..lines.len() - 1].join("\n")
        );
    }
    assert_snapshot!(told);
}

#[test]
fn every_change_is_yaml() {
    for Fault(fault, _, _, facts) in faults() {
        for change in troubles(&facts)
            .iter()
            .filter_map(|check| check.change.as_ref())
        {
            let yaml: Result<Value, _> = serde_saphyr::from_str(change);
            let yaml = yaml.unwrap_or_else(|error| panic!("{fault}: {error}\n{change}"));
            assert!(yaml.is_object(), "{fault}: {change}");
        }
    }
}

#[test]
fn what_arcs_role_does_not_show_is_unknown_and_no_fault() {
    let why = || "the account that asks has no right to".to_owned();
    let facts = Facts {
        namespace: Fact::Hidden(why()),
        policies: Fact::Hidden(why()),
        node: Fact::Hidden(why()),
        parents: [("gcc12-toolchain-main".to_owned(), Fact::Hidden(why()))].into(),
        classes: [("openebs-zfspv".to_owned(), Fact::Hidden(why()))].into(),
        ..healthy()
    };
    let checks = examine(&facts);
    assert_eq!(worst(&checks), Worst::Pass);
    let unknown: Vec<&str> = checks
        .iter()
        .filter(|check| check.verdict == Verdict::Unknown)
        .map(|check| check.name)
        .collect();
    assert_eq!(
        unknown,
        [
            "namespace/pod-security",
            "namespace/admission-policy",
            "storage/class",
            "storage/parent"
        ]
    );
}

#[test]
fn a_laptop_without_a_runner_pod_still_judges_template_and_storage() {
    let facts = Facts {
        runner: Fact::Absent,
        own: None,
        ..healthy()
    };
    let checks = examine(&facts);
    assert_eq!(worst(&checks), Worst::Pass);
    assert!(checks.iter().any(|check| check.name == "storage/size"));
}

#[test]
fn every_variable_that_the_hook_reads_is_known_to_the_doctor() {
    let config = include_str!("../../../config.rs");
    let names = config.split('"').filter(|text| {
        let rest = text.strip_prefix("ARC_HOOK_");
        rest.is_some_and(|rest| {
            rest.bytes()
                .all(|byte| byte.is_ascii_uppercase() || byte == b'_')
        })
    });
    let mut count = 0;
    for name in names {
        count += 1;
        let known = super::runner::KNOWN.iter().any(|(one, _)| *one == name);
        assert!(known, "{name}");
    }
    assert!(count >= 5);
}

#[test]
fn a_runner_of_mode_novolume_is_right_as_it_is() {
    let facts = with_work(serde_json::json!({"name": "work", "emptyDir": {}}), "");
    let checks = examine(&facts);
    assert_eq!(worst(&checks), Worst::Pass, "{checks:?}");
    let work = checks.iter().find(|check| check.name == "work/volume");
    assert!(work.is_some_and(|check| check.found.contains("copied")));
}
