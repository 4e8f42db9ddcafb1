//! Caches: the parent that is chosen, the good clone that becomes the next, and what is left when
//! the hook dies in the middle.

mod choosing;
mod collecting;
mod crashing;
mod promoting;
mod trusting;
mod verifying;

use std::collections::BTreeSet;
use std::process::Command;

use arc_hook::cache::{Key, Line};
use serde_json::{Value, json};

use crate::fake_api::{BINARY, FakeApi};
use crate::runner::{Outcome, Runner, job};

const CLAIMS: &str = "persistentvolumeclaims";
pub const MAIN: &str = "octo/demo/main";
const OLD: &str = "2020-01-01T00:00:00Z";

pub const TEMPLATE: &str = r#"
metadata:
  annotations:
    arc-hook/run-as: runner
    arc-hook/cache.conan-home: |
      parents: ["{repository}/{base_ref}", "{repository}/main"]
      promote:
        to: "{repository}/{ref_name}"
        repositories: [octo/*]
        events: [push, pull_request]
        refs: [refs/heads/**, refs/pull/**]
      keep: 1
      allow: [toolchain/*]
spec:
  containers:
  - name: $job
    env: [{name: CONAN_HOME, value: /CONAN_HOME}]
    volumeMounts: [{name: conan-home, mountPath: /CONAN_HOME}]
  volumes:
  - name: conan-home
    ephemeral:
      volumeClaimTemplate:
        spec:
          storageClassName: openebs-zfspv
          accessModes: [ReadWriteOnce]
          dataSource: {kind: PersistentVolumeClaim, name: seed}
          resources: {requests: {storage: 200Gi}}
"#;

/// A runner, and what it calls the hook with.
pub struct Caching {
    /// The runner.
    pub runner: Runner,
    template: String,
}

impl Caching {
    fn new() -> Self {
        Self::of(Runner::new(), TEMPLATE)
    }

    pub fn of(runner: Runner, template: &str) -> Self {
        let template = runner.write("pod-template/content", template);
        Self {
            runner,
            template: template.display().to_string(),
        }
    }

    pub fn api(&self) -> &FakeApi {
        &self.runner.api
    }

    /// A call as a push to main makes it, with these changes.
    pub fn call(&self, command: &str, args: &Value, with: &[(&str, &str)]) -> Outcome {
        let all = self.environment(with);
        self.runner.call_with(command, args, &all)
    }

    /// What the runner of a push to main sets, with these changes.
    fn environment<'e>(&'e self, with: &[(&'e str, &'e str)]) -> Vec<(&'e str, &'e str)> {
        let mut all = vec![
            (
                "ACTIONS_RUNNER_CONTAINER_HOOK_TEMPLATE",
                self.template.as_str(),
            ),
            ("GITHUB_REPOSITORY", "octo/demo"),
            ("GITHUB_REPOSITORY_OWNER", "octo"),
            ("GITHUB_REF", "refs/heads/main"),
            ("GITHUB_EVENT_NAME", "push"),
            ("GITHUB_SHA", "ffac537e6cbbf934b08745a378932722df287a53"),
            ("GITHUB_RUN_ID", "42"),
            ("RUNNER_ARCH", "X64"),
        ];
        all.extend(with);
        all
    }

    pub fn prepare(&self, with: &[(&str, &str)]) -> Outcome {
        let prepared = self.call("prepare_job", &job(&[]), with);
        assert_eq!(prepared.code, 0, "{prepared:?}");
        prepared
    }

    pub fn cleanup(&self, with: &[(&str, &str)]) -> Outcome {
        self.call("cleanup_job", &json!({}), with)
    }

    /// A job whose one step exits with this.
    pub fn run(&self, code: i32) -> (Outcome, Outcome) {
        let prepared = self.prepare(&[]);
        assert_eq!(self.runner.script(&format!("exit {code}")).code, code);
        (prepared, self.cleanup(&[]))
    }

    pub fn line(&self, key: &str) -> Option<Line> {
        line(self.api(), key)
    }

    /// Number of the current generation of main.
    fn current(&self) -> u64 {
        let line = self.line(MAIN).unwrap();
        line.current("node-1").unwrap().number
    }

    pub fn claims(&self) -> BTreeSet<String> {
        self.api().names(CLAIMS).into_iter().collect()
    }

    /// The pointer names a complete generation, or there is none yet.
    fn assert_whole(&self, key: &str) {
        let Some(line) = self.line(key) else { return };
        let current = line.current("node-1").expect("a current generation");
        let claim = self
            .api()
            .object(CLAIMS, &current.claim)
            .expect("its claim");
        assert_eq!(claim["metadata"]["uid"], *current.uid);
        assert_eq!(claim["metadata"]["labels"]["arc-hook/cache"], "generation");
        assert!(
            claim["metadata"].get("ownerReferences").is_none(),
            "{claim}"
        );
        assert_eq!(claim["status"]["phase"], "Bound");
    }

    /// What happens once the runner pod is deleted, and then the hours pass.
    pub fn later(&self) {
        let mut state = self.api().state();
        state.objects.retain(|_, object| {
            let owner = &object["metadata"]["ownerReferences"][0]["uid"];
            *owner != "uid-of-runner"
        });
        for object in state.objects.values_mut() {
            if let Some(sealed) = object.pointer_mut("/metadata/annotations/arc-hook~1sealed") {
                *sealed = json!(OLD);
            }
            let data = object.get_mut("data").and_then(Value::as_object_mut);
            for entry in data.into_iter().flat_map(|data| data.values_mut()) {
                let text = entry.as_str().unwrap();
                if let Ok(mut value @ Value::Object(_)) = serde_json::from_str::<Value>(text) {
                    let generations = value["generations"].as_array_mut().unwrap();
                    for one in generations {
                        if one["superseded"].is_string() {
                            one["superseded"] = json!(OLD);
                        }
                    }
                    *entry = json!(value.to_string());
                }
            }
        }
    }

    pub fn gc(&self, with: &[(&str, &str)]) -> String {
        self.collect(&[], with)
    }

    fn collect(&self, arguments: &[&str], with: &[(&str, &str)]) -> String {
        let output = Command::new(BINARY)
            .args(["gc", "--output", "json"])
            .args(arguments)
            .env_clear()
            .env("KUBECONFIG", self.runner.kubeconfig())
            .envs(with.iter().copied())
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    /// Claims that a line names.
    pub fn named(&self, key: &str) -> BTreeSet<String> {
        let line = self.line(key);
        let entries = line.iter().flat_map(|line| line.nodes.values());
        let generations = entries.flat_map(|entry| &entry.generations);
        generations.map(|one| one.claim.clone()).collect()
    }
}

fn line(api: &FakeApi, key: &str) -> Option<Line> {
    let key: Key = key.parse().unwrap();
    let object = api.object("configmaps", &key.object_name())?;
    let map = serde_json::from_value(object).unwrap();
    Some(Line::read(&map).unwrap())
}

pub fn said(outcome: &Outcome, text: &str) {
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let found = outcome.log.lines().any(|line| line.contains(text));
    assert!(found, "no `{text}` in {}", outcome.log);
}
