//! Several caches in one pod, of classes that bind at once and that wait, and what a container action
//! gets of them; and what a failing verification keeps from the line.

use std::sync::Arc;

use anyhow::ensure;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;

use super::lines::{Lines, said, with_lines};
use super::{Acting, Stage};
use crate::runner::guid::guid;

/// A second cache in the shipped template: `ccache`, of a class of its own.
fn second(class: &str) -> [(String, String); 4] {
    let policy = "    arc-hook/cache.ccache: |\n      \
                  parents: [\"{repository}/ccache\"]\n      \
                  promote: {to: \"{repository}/ccache\", repositories: [octo/*], events: [push], refs: [refs/heads/main]}\n      \
                  shared: true\n    arc-hook/run-as: runner\n";
    let volume = format!(
        "  volumes:\n  - name: ccache\n    ephemeral:\n      volumeClaimTemplate:\n        spec:\n          \
         storageClassName: {class}\n          accessModes: [ReadWriteOnce]\n          \
         resources: {{requests: {{storage: 64Mi}}}}\n"
    );
    let pair = |from: &str, to: &str| (from.to_owned(), to.to_owned());
    [
        pair("    arc-hook/run-as: runner\n", policy),
        pair("  volumes:\n", &volume),
        pair(
            "    volumeMounts:\n",
            "    volumeMounts:\n    - {name: ccache, mountPath: /ccache}\n",
        ),
        pair("repositories: [\"octo/*\"]", "repositories: [octo/*]"),
    ]
}

/// Two caches, each with a line of its own: one whose class binds at once and that one pod alone can
/// mount, one whose class waits for its first consumer and that an action shares.
pub fn caches(stage: Arc<Stage>) -> Acting {
    Box::pin(async move {
        let class = format!("waits-{}", &guid()[..8]);
        let classes = Api::<StorageClass>::all(stage.cluster.client.clone());
        let waits = json!({
            "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
            "metadata": {"name": class},
            "provisioner": "zfs.csi.openebs.io",
            "parameters": {"poolname": "zfspv-pool/toolchains", "fstype": "zfs",
                           "thinprovision": "yes", "shared": "yes"},
            "volumeBindingMode": "WaitForFirstConsumer",
        });
        let apply = PatchParams::apply("arc-hook-e2e").force();
        classes.patch(&class, &apply, &Patch::Apply(waits)).await?;
        let changes = second(&class);
        let changes: Vec<(&str, &str)> = changes
            .iter()
            .map(|(from, to)| (from.as_str(), to.as_str()))
            .collect();
        let shown = with_lines(&stage, &changes, async |lines| both(lines).await).await;
        classes.delete(&class, &DeleteParams::default()).await?;
        shown
    })
}

async fn both(lines: &Lines<'_>) -> anyhow::Result<()> {
    let main = lines.main();
    let second = format!("{}/ccache", lines.repository);
    let write = "echo one > /CONAN_HOME/one; echo two > /ccache/two";
    let first = lines.run(json!([{"run": write}]), json!({})).await?;
    said(&first, "Cache ccache: empty, in ")?;
    said(
        &first,
        &format!("Cache ccache: promoted to {second} generation 1"),
    )?;
    said(
        &first,
        &format!("Cache conan-home: promoted to {main} generation 1"),
    )?;
    let see = "grep one /CONAN_HOME/one && grep two /ccache/two";
    let action = "-c \"test ! -e /CONAN_HOME && cat /ccache/two && echo three > /ccache/three\"";
    let steps = json!([
        {"run": see},
        {"uses": "docker://alpine:latest", "with": {"entrypoint": "/bin/sh", "args": action},
         "driver": {"expect": ["two", "Cache conan-home is not at `/CONAN_HOME` in this action"],
                    "forbid": ["Cache ccache"]}},
        {"run": "grep three /ccache/three"},
    ]);
    let next = lines.run(steps, json!({})).await?;
    said(
        &next,
        &format!("Cache ccache: clone of {second} generation 1"),
    )?;
    said(
        &next,
        &format!("Cache conan-home: clone of {main} generation 1"),
    )?;
    said(
        &next,
        &format!("Cache ccache: promoted to {second} generation 2"),
    )?;
    said(
        &next,
        &format!("Cache conan-home: promoted to {main} generation 2"),
    )?;
    lines.await_no_orphan().await
}

/// What Conan itself finds wrong with a clone keeps it from the line, and its words are in the log.
pub fn verified(stage: Arc<Stage>) -> Acting {
    Box::pin(async move {
        let verify = (
            "keep: 3",
            "keep: 3\n      verify: conan cache check-integrity \"*\"",
        );
        with_lines(&stage, &[verify], async |lines| checked(lines).await).await
    })
}

async fn checked(lines: &Lines<'_>) -> anyhow::Result<()> {
    let main = lines.main();
    let image = json!({"container": {"image": "gcc-conan:12"}});
    let create = "conan profile detect --exist-ok; mkdir p && cd p && conan new basic -d name=demo -d version=1.0 && conan create .";
    let good = lines.run(json!([{"run": create}]), image.clone()).await?;
    said(&good, &format!("promoted to {main} generation 1"))?;
    let spoil = "conan list 'demo/1.0:*'; find /CONAN_HOME/p -name conanfile.py -exec sh -c 'echo \"# spoilt\" >> \"$1\"' x {} ';'";
    let bad = lines.run(json!([{"run": spoil}]), image.clone()).await?;
    said(
        &bad,
        "not promoted: `conan cache check-integrity *` on it: it exits with 1",
    )?;
    said(&bad, "verify | ERROR: There are corrupted artifacts")?;
    let entry = lines.entry(None).await?;
    ensure!(entry["current"] == 1, "the pointer is {}", entry["current"]);
    lines.await_no_orphan().await?;
    let good = lines
        .run(json!([{"run": "conan list 'demo/1.0:*'"}]), image)
        .await?;
    said(&good, &format!("promoted to {main} generation 2"))
}
