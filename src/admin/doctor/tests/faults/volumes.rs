//! Faults of the work volume, of storage classes, and of caches and their parents.

use serde_json::{Value, json};

use super::super::{
    caching, class, healthy, object, runner, with_cache, with_class, with_parent, with_runner,
    with_template, with_work, work,
};
use super::Fault;
use crate::admin::doctor::Verdict::{Fail, Warn};
use crate::admin::doctor::facts::{Fact, Facts};
use crate::pod::Template;

pub(super) fn of_work() -> Vec<Fault> {
    const VOLUME: &str = "work/volume";
    const MODE: &str = "work/access-mode";
    let set = |mut facts: Facts, wish: &str| {
        if let Fact::Known(pod) = &mut facts.runner {
            let variable = json!({"name": "ARC_HOOK_WORK", "value": wish});
            let env = &mut pod.spec.as_mut().unwrap().containers[0].env;
            let env = env.as_mut().unwrap();
            env.push(serde_json::from_value(variable).unwrap());
        }
        facts
    };
    let empty = with_work(json!({"name": "work", "emptyDir": {}}), "");
    let in_memory = json!({"name": "work", "emptyDir": {"medium": "Memory"}});
    let one_pod = || with_work(work("ReadWriteOncePod"), "");
    let anywhere = with_work(work("ReadWriteOnce"), "none");
    let claim = json!({"name": "work", "persistentVolumeClaim": {"claimName": "shared"}});
    let mount = |key: &str, value: Value| {
        with_runner(|pod| pod["spec"]["containers"][0]["volumeMounts"][1][key] = value)
    };
    let read_only = mount("readOnly", json!(true));
    let computed = mount("subPathExpr", json!("$(A)"));
    let nobodys = set(one_pod(), "shared");
    vec![
        Fault(
            "no claim is there to share",
            VOLUME,
            Fail,
            set(empty, "shared"),
        ),
        Fault("the work volume is read-only", VOLUME, Warn, read_only),
        Fault(
            "the work volume's place is computed",
            VOLUME,
            Warn,
            computed,
        ),
        Fault(
            "a workspace that is copied lies in memory",
            VOLUME,
            Warn,
            with_work(in_memory, ""),
        ),
        Fault("the work volume is for one pod", VOLUME, Warn, one_pod()),
        Fault(
            "one pod's work volume is to be shared",
            VOLUME,
            Fail,
            nobodys,
        ),
        Fault(
            "the work volume's claim does not exist",
            MODE,
            Fail,
            with_work(claim, ""),
        ),
        Fault(
            "job pods may go where the work volume is not",
            MODE,
            Fail,
            anywhere,
        ),
    ]
}

pub(super) fn of_class() -> Vec<Fault> {
    let of = |mode, provisioner| {
        let class = serde_json::from_value(class(mode, provisioner));
        with_class(Fact::Known(class.unwrap()))
    };
    let waits = of("WaitForFirstConsumer", "zfs.csi.openebs.io");
    let empty = of("WaitForFirstConsumer", "rancher.io/local-path");
    let unnamed = with_template("storageClassName: openebs-zfspv\n", "\n");
    vec![
        Fault("no storage class is named", "storage/class", Warn, unnamed),
        Fault(
            "the storage class does not exist",
            "storage/class",
            Fail,
            with_class(Fact::Absent),
        ),
        Fault(
            "the storage class cannot clone",
            "storage/clone",
            Fail,
            empty,
        ),
        Fault(
            "the storage class waits for its first consumer",
            "storage/binding",
            Warn,
            waits,
        ),
    ]
}

pub(super) fn of_parent() -> Vec<Fault> {
    const NAME: &str = "storage/parent";
    let change = |change: fn(&mut Value)| {
        let mut parent = super::super::parent("Bound", "200Gi");
        change(&mut parent);
        let parent = Fact::Known(serde_json::from_value(parent).unwrap());
        Facts {
            parents: [("gcc12-toolchain-main".to_owned(), parent)].into(),
            ..healthy()
        }
    };
    let absent = Facts {
        parents: [("gcc12-toolchain-main".to_owned(), Fact::Absent)].into(),
        ..healthy()
    };
    let going =
        change(|parent| parent["metadata"]["deletionTimestamp"] = json!("2026-11-21T12:00:00Z"));
    let other = change(|parent| parent["spec"]["storageClassName"] = json!("fast"));
    let mut elsewhere = runner();
    elsewhere["spec"]["nodeName"] = json!("node-2");
    let elsewhere = with_runner(|pod| *pod = elsewhere);
    vec![
        Fault("the parent does not exist", NAME, Fail, absent),
        Fault(
            "the parent is pending",
            NAME,
            Fail,
            with_parent("Pending", "200Gi"),
        ),
        Fault("the parent is being deleted", NAME, Fail, going),
        Fault(
            "the parent is of another class",
            "storage/parent-class",
            Fail,
            other,
        ),
        Fault(
            "the clone has another size than its parent",
            "storage/size",
            Fail,
            with_parent("Bound", "100Gi"),
        ),
        Fault(
            "the runner is on another node than the parent",
            "storage/node",
            Fail,
            elsewhere,
        ),
    ]
}
pub(super) fn of_caches() -> Vec<Fault> {
    const ZFS: &str = "zfs.csi.openebs.io";
    let main = "parents: [\"{repository}/main\"]";
    let via = format!("{main}\nvia: snapshot");
    let named = format!("{via}\nsnapshot-class: fast");
    let of_driver = |policy: &str| Facts {
        snapshot_classes: Fact::Known(vec![object(
            json!({"metadata": {"name": "ebs"}, "driver": "ebs.csi.aws.com"}),
        )]),
        ..with_cache(policy, &[], "ebs.csi.aws.com")
    };
    let mut elsewhere = with_cache("parents: [toolchain]", &["toolchain"], ZFS);
    if let Fact::Known(lines) = &mut elsewhere.lines {
        let entry = lines[0].nodes.remove("node-1").unwrap();
        lines[0].nodes.insert("node-2".to_owned(), entry);
    }
    let text = caching(main);
    let (begin, end) = (text.find("dataSource:"), text.find("resources:"));
    let text = format!("{}{}", &text[..begin.unwrap()], &text[end.unwrap()..]);
    let empty = |lines, provisioner| Facts {
        template: Fact::Known(Ok(Template::parse(&text).unwrap())),
        ..with_cache(main, lines, provisioner)
    };
    vec![
        Fault(
            "a cache of a class that makes empty volumes only",
            "caches/clone",
            Fail,
            empty(&["octo/demo/main"], "rancher.io/local-path"),
        ),
        Fault(
            "a line that is named and does not exist",
            "caches/parents",
            Warn,
            with_cache("parents: [toolchain]", &["octo/demo/main"], ZFS),
        ),
        Fault(
            "a line without a generation on the runner's node",
            "caches/parents",
            Warn,
            elsewhere,
        ),
        Fault(
            "a cache that begins empty",
            "caches/parents",
            Warn,
            empty(&[], ZFS),
        ),
        Fault(
            "snapshots on a cluster without any",
            "caches/snapshot",
            Fail,
            with_cache(&via, &[], "ebs.csi.aws.com"),
        ),
        Fault(
            "snapshots without a default class",
            "caches/snapshot",
            Fail,
            of_driver(&via),
        ),
        Fault(
            "snapshots of a class that does not exist",
            "caches/snapshot",
            Fail,
            of_driver(&named),
        ),
        Fault(
            "snapshots of a driver without a class",
            "caches/snapshot",
            Fail,
            Facts {
                snapshot_classes: Fact::Known(Vec::new()),
                ..of_driver(&named)
            },
        ),
    ]
}
