//! What the checks judge, from the API server and from this process's own surroundings.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Volume};
use k8s_openapi::jiff::Timestamp;

use super::Doctor;
use super::facts::{Fact, Facts, Own, claims};
use super::work;
use crate::admin::{rbac, rights, template};
use crate::cache::{Kind, Line, ROLE_LABEL, Role};
use crate::cluster::{Cluster, ClusterError};
use crate::config::{Config, WorkVolume};
use crate::hook::api::Api;
use crate::hook::surroundings::Surroundings;
use crate::pod::{self, Identity, RunnerPod, Template};
use crate::protocol::{Command, Request};
use crate::spool::Nonce;

/// How long an API server that does not answer is asked, for each question.
const PATIENCE: Duration = Duration::from_secs(5);
/// In place of what is random in a real run.
const NONCE: &str = "00000000000000000000000000000000";
/// Carried by the runner pods of ARC.
const RUNNER_LABEL: (&str, &str) = ("actions-ephemeral-runner", "True");

pub(super) fn gather(doctor: &Doctor) -> anyhow::Result<Facts> {
    // Of the questions only some are the account's; the rest may see more as whoever calls.
    let api = Api::connect(doctor.access.namespace.as_deref())?;
    let cluster = api.cluster.patient(PATIENCE).telling(|_| {});
    let own = in_runner_pod();
    let mut facts = Facts {
        namespace_name: cluster.namespace().to_owned(),
        ..Facts::default()
    };
    api.run(async {
        facts.version = fact(cluster.version().await.map(|info| {
            let number = |text: &str| text.trim_end_matches('+').parse().ok();
            Some((number(&info.major)?, number(&info.minor)?))
        }));
        if let Fact::Hidden(_) = facts.version {
            // It would say so for each question.
            return;
        }
        let asked = Timestamp::now();
        facts.ahead = fact(cluster.clock().await.map(|clock| {
            // The date counts whole seconds, as of some moment since we asked.
            clock.map(|clock| clock.as_second() - asked.as_second())
        }));
        facts.namespace = fact(cluster.namespace_object().await);
        facts.policies = fact(cluster.denying_policies().await.map(Some));
        facts.runner = runner(&cluster, doctor).await;
        facts.own = own.then(|| look_around(&facts));
        if let Some(node) = node(&facts) {
            facts.node = fact(cluster.node(&node).await);
        }
        template_of(&cluster, doctor, own, &mut facts).await;
        storage(&cluster, &mut facts).await;
        facts.dry_run = dry_run(&cluster, &facts).await;
    });
    facts.rights = rights_of(doctor, own, &api, &facts);
    Ok(facts)
}

/// With its own service account, not with someone's kubeconfig.
fn in_runner_pod() -> bool {
    let set = |name: &str| std::env::var_os(name).is_some();
    set("KUBERNETES_SERVICE_HOST") && set("ACTIONS_RUNNER_POD_NAME") && !set("KUBECONFIG")
}

fn fact<T>(answer: Result<Option<T>, ClusterError>) -> Fact<T> {
    match answer {
        Ok(Some(found)) => Fact::Known(found),
        Ok(None) => Fact::Absent,
        Err(error) if error.is_forbidden() => {
            Fact::Hidden("the account that asks has no right to, a person's kubeconfig may".into())
        }
        Err(error) => Fact::Hidden(error.to_string()),
    }
}

fn look_around(facts: &Facts) -> Own {
    let shim = facts.variable("ACTIONS_RUNNER_CONTAINER_HOOKS");
    let shim = match fs::read_to_string(shim.unwrap_or_default()) {
        Ok(text) => Fact::Known(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Fact::Absent,
        Err(error) => Fact::Hidden(error.to_string()),
    };
    Own {
        identity: Identity {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
        },
        shim,
    }
}

async fn runner(cluster: &Cluster, doctor: &Doctor) -> Fact<Pod> {
    if let Some(name) = &doctor.runner_pod {
        return fact(cluster.get::<Pod>(name).await);
    }
    let (label, value) = RUNNER_LABEL;
    let found = cluster.labelled::<Pod>(label, value).await;
    fact(found.map(|pods| {
        let running = |pod: &Pod| {
            let phase = pod
                .status
                .as_ref()
                .and_then(|status| status.phase.as_deref());
            phase == Some("Running")
        };
        let at = pods.iter().position(running).unwrap_or_default();
        pods.into_iter().nth(at)
    }))
}

fn node(facts: &Facts) -> Option<String> {
    facts.runner.known()?.spec.as_ref()?.node_name.clone()
}

/// The template of the option; else, in the pod, of its variable's file; else of the `ConfigMap`
/// that the runner pod mounts there.
async fn template_of(cluster: &Cluster, doctor: &Doctor, own: bool, facts: &mut Facts) {
    let path = doctor.template.clone();
    if let Some(path) = path {
        facts.template_place = format!("the hook template `{}`", path.display());
        facts.template = read(&path);
        return;
    }
    let Some(path) = facts
        .variable("ACTIONS_RUNNER_CONTAINER_HOOK_TEMPLATE")
        .filter(|path| !path.is_empty())
        .map(PathBuf::from)
    else {
        return;
    };
    if own {
        facts.template_place = format!("the hook template `{}`", path.display());
        facts.template = read(&path);
        return;
    }
    let Some((map, key)) = mounted(facts, &path) else {
        facts.template_place = format!(
            "the hook template `{}` of the runner's image",
            path.display()
        );
        facts.template = Fact::Hidden("name a copy of it with `--template`".to_owned());
        return;
    };
    facts.template_place = format!("key `{key}` of ConfigMap `{map}`");
    let found = fact(cluster.config_map(&map).await);
    facts.template = match found {
        Fact::Known(map) => match map.data.as_ref().and_then(|data| data.get(&key)) {
            Some(text) => Fact::Known(Template::parse(text).map_err(|error| error.to_string())),
            None => Fact::Absent,
        },
        Fact::Absent => Fact::Absent,
        Fact::Hidden(why) => Fact::Hidden(why),
    };
}

fn read(path: &Path) -> Fact<Result<Template, String>> {
    if !path.exists() {
        return Fact::Absent;
    }
    Fact::Known(template(path).map_err(|error| format!("{:#}", error.root_cause())))
}

/// Name and key of the `ConfigMap` that is mounted at a path.
fn mounted(facts: &Facts, path: &Path) -> Option<(String, String)> {
    let mounts = facts.container()?.volume_mounts.as_ref()?;
    let mount = mounts
        .iter()
        .filter(|mount| path.starts_with(&mount.mount_path))
        .max_by_key(|mount| mount.mount_path.len())?;
    let volumes = facts.runner.known()?.spec.as_ref()?.volumes.as_ref()?;
    let volume: &Volume = volumes.iter().find(|volume| volume.name == mount.name)?;
    let map = volume.config_map.as_ref()?;
    let file = match &mount.sub_path {
        Some(file) if path == Path::new(&mount.mount_path) => file.clone(),
        _ => path
            .strip_prefix(&mount.mount_path)
            .ok()?
            .to_str()?
            .to_owned(),
    };
    let items = map.items.iter().flatten();
    let key = items.into_iter().find(|item| item.path == file);
    let key = key.map_or(file.clone(), |item| item.key.clone());
    Some((map.name.clone(), key))
}

async fn storage(cluster: &Cluster, facts: &mut Facts) {
    if let Some(name) = work_claim(facts) {
        facts.work_claim = fact(cluster.get::<PersistentVolumeClaim>(&name).await);
    }
    let claims = facts.template().map(claims).unwrap_or_default();
    let names: BTreeSet<&String> = claims
        .iter()
        .filter_map(|claim| claim.class.as_ref())
        .collect();
    for name in names {
        let class = fact(cluster.storage_class(name).await);
        facts.classes.insert(name.clone(), class);
    }
    caches(cluster, facts).await;
    let mut parents = BTreeMap::new();
    for claim in &claims {
        if let Some((kind, name)) = &claim.source
            && kind == "PersistentVolumeClaim"
        {
            let parent = fact(cluster.get::<PersistentVolumeClaim>(name).await);
            parents.insert(name.clone(), parent);
        }
    }
    for parent in parents.values().filter_map(Fact::known) {
        let volume = parent
            .spec
            .as_ref()
            .and_then(|spec| spec.volume_name.clone());
        if let Some(name) = volume {
            let volume = fact(cluster.volume(&name).await);
            facts.volumes.insert(name, volume);
        }
    }
    facts.parents = parents;
}

async fn caches(cluster: &Cluster, facts: &mut Facts) {
    let caches = facts.template().map(|one| one.settings().caches.clone());
    let caches = caches.unwrap_or_default();
    if caches.is_empty() {
        return;
    }
    let label = format!("{ROLE_LABEL}={}", Role::Line.as_str());
    let maps = cluster.list::<ConfigMap>(Some(&label)).await;
    facts.lines = fact(maps.map(|maps| {
        let lines = maps.iter().filter_map(|map| Line::read(map).ok());
        Some(lines.collect())
    }));
    if caches.values().any(|policy| policy.via == Kind::Snapshot) {
        facts.snapshot_classes = fact(cluster.snapshot_classes().await);
    }
}

/// The named claim behind the work directory; an ephemeral one says itself what it is.
fn work_claim(facts: &Facts) -> Option<String> {
    let directory = work::directory(facts);
    let mounts = facts.container()?.volume_mounts.as_ref()?;
    let mount = mounts
        .iter()
        .find(|one| directory == Path::new(&one.mount_path))?;
    let volumes = facts.runner.known()?.spec.as_ref()?.volumes.as_ref()?;
    let volume = volumes.iter().find(|volume| volume.name == mount.name)?;
    let claim = volume.persistent_volume_claim.as_ref()?;
    Some(claim.claim_name.clone())
}

/// Has the API server judge the pod of an ordinary job.
async fn dry_run(cluster: &Cluster, facts: &Facts) -> Fact<Result<(), String>> {
    match job_pod(cluster, facts).await {
        Ok(()) => Fact::Known(Ok(())),
        Err(error) if facts.template().is_none() => Fact::Hidden(format!("{error:#}")),
        Err(error) => Fact::Known(Err(format!("{error:#}"))),
    }
}

async fn job_pod(cluster: &Cluster, facts: &Facts) -> anyhow::Result<()> {
    let Some(template) = facts.template() else {
        anyhow::bail!("there is no hook template to build it with");
    };
    let work = work::directory(facts);
    let work = work.display();
    let pod_name = facts
        .runner
        .known()
        .and_then(|pod| pod.metadata.name.clone());
    let pod_name = pod_name.unwrap_or_else(|| "example-runner".to_owned());
    let config = Config::read(|name| match name {
        "ACTIONS_RUNNER_POD_NAME" => Some(pod_name.clone()),
        "RUNNER_TEMP" => Some(format!("{work}/_temp")),
        "GITHUB_WORKSPACE" => Some(format!("{work}/example/example")),
        _ => facts.variable(name).map(str::to_owned),
    })?;
    let around = Surroundings {
        config: &config,
        runner: facts
            .runner
            .known()
            .map(|pod| RunnerPod::from_pod(pod, &config)),
        template,
        identity: facts.identity().unwrap_or(Identity {
            uid: 1001,
            gid: 1001,
        }),
        program: "/home/runner/arc-hook/arc-hook".into(),
    };
    let nonce = Nonce::try_from(NONCE.to_owned()).map_err(|error| anyhow::anyhow!(error))?;
    let request = Request::parse(include_str!("../examples/job.json"))?;
    let Command::PrepareJob(job) = request.command else {
        anyhow::bail!("the example is no `prepare_job`");
    };
    let plan = pod::job(&around.inputs(&nonce), &job)?;
    let judged = cluster.dry_run::<Pod>(&plan.pod, NONCE).await;
    judged.map_err(|error| around.blame(&plan, error))
}

fn rights_of(doctor: &Doctor, own: bool, api: &Api, facts: &Facts) -> Fact<rights::Comparison> {
    let work = if super::work::copies(facts) {
        WorkVolume::Copy
    } else {
        WorkVolume::Shared
    };
    let template = facts.template().cloned().unwrap_or_default();
    let rules = rights::rules(&rights::features(&[template], work));
    if own {
        let cluster = api.cluster.patient(PATIENCE).telling(|_| {});
        return fact(api.run(rbac::comparison(&cluster, &rules)).map(Some));
    }
    let of_pod = facts.runner.known().and_then(|pod| pod.spec.as_ref());
    let of_pod = of_pod.and_then(|spec| spec.service_account_name.clone());
    let Some(account) = doctor.access.service_account.clone().or(of_pod) else {
        return Fact::Hidden("name its service account with `--service-account`".to_owned());
    };
    let connected = Api::connect_as(Some(&facts.namespace_name), Some(&account));
    match connected {
        Ok(api) => {
            let cluster = api.cluster.patient(PATIENCE).telling(|_| {});
            fact(api.run(rbac::comparison(&cluster, &rules)).map(Some))
        }
        Err(error) => Fact::Hidden(format!("{error:#}")),
    }
}
