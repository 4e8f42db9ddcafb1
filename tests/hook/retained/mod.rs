//! Failed jobs that are kept: what of them stays, what must not, how many, and for how long.

mod bounds;
mod copied;
mod kept;
mod people;

use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::fake_api::{BINARY, FakeApi};
use crate::runner::{Outcome, RUNNER, Runner, job};

const CLAIMS: &str = "persistentvolumeclaims";
const WORK: &str = "runner-1-work";
const LEDGER: &str = "arc-hook-retained";
const LABEL: &str = "arc-hook/retained";

/// A runner whose template keeps jobs.
struct Retaining {
    runner: Runner,
    template: PathBuf,
}

impl Retaining {
    fn new(annotations: &str) -> Self {
        Self::of(Runner::new(), RUNNER, annotations)
    }

    fn of(runner: Runner, name: &str, annotations: &str) -> Self {
        let text =
            format!("metadata:\n  annotations: {{{annotations}}}\nspec: {{containers: []}}\n");
        let template = runner.write("pod-template/content", &text);
        let work = format!("{name}-work");
        runner.api.put(
            CLAIMS,
            json!({"metadata": {"name": work, "uid": format!("uid-of-{work}"), "ownerReferences": [
                {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": "x", "controller": true}]}}),
        );
        Self { runner, template }
    }

    fn api(&self) -> &FakeApi {
        &self.runner.api
    }

    fn environment(&self) -> Vec<(&str, &str)> {
        vec![
            (
                "ACTIONS_RUNNER_CONTAINER_HOOK_TEMPLATE",
                self.template.to_str().unwrap(),
            ),
            ("GITHUB_REPOSITORY", "octo/demo"),
            ("GITHUB_RUN_ID", "42"),
            ("GITHUB_RUN_ATTEMPT", "1"),
            ("GITHUB_SERVER_URL", "https://github.com"),
            ("GITHUB_JOB", "build"),
        ]
    }

    fn call(&self, command: &str, args: &Value) -> Outcome {
        self.runner.call_with(command, args, &self.environment())
    }

    fn prepare(&self, services: &[Value]) {
        self.prepare_with(&job(services));
    }

    fn prepare_with(&self, job: &Value) -> Outcome {
        let prepared = self.call("prepare_job", job);
        assert_eq!(prepared.code, 0, "{prepared:?}");
        prepared
    }

    fn cleanup(&self) -> Outcome {
        let cleaned = self.call("cleanup_job", &json!({}));
        assert_eq!(cleaned.code, 0, "{cleaned:?}");
        cleaned
    }

    /// A job whose one step fails.
    fn fail(&self) -> Outcome {
        self.prepare(&[]);
        assert_eq!(self.runner.script("exit 3").code, 3);
        self.cleanup()
    }

    /// The one entry of the ledger.
    fn entry(&self) -> Value {
        let entries = entries(self.api());
        assert_eq!(entries.len(), 1, "{entries:?}");
        entries[0].clone()
    }

    /// Runs a verb as from a laptop.
    fn verb(&self, words: &[&str]) -> (i32, String, String) {
        let output = Command::new(BINARY)
            .args(words)
            .env_clear()
            .env("KUBECONFIG", self.runner.kubeconfig())
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let code = output.status.code().unwrap();
        (code, text(output.stdout), text(output.stderr))
    }

    /// A person's own command runs where the job's steps did, and its exit code comes through.
    fn is_entered(&self, id: &str) {
        let script = "echo $HOME; exit 7";
        let (code, out, errors) = self.verb(&["retained", "enter", id, "--", "sh", "-c", script]);
        assert_eq!((code, out.as_str()), (7, "/github/home\n"), "{errors}");
    }

    /// What ARC does next: all that bears the runner's label goes, then the runner, then what it owns.
    fn runner_goes(&self) {
        let mut state = self.api().state();
        state.objects.retain(|_, object| {
            let metadata = &object["metadata"];
            let owned = &metadata["ownerReferences"][0]["name"];
            metadata["labels"]["runner-pod"] != RUNNER
                && owned != RUNNER
                && metadata["name"] != RUNNER
        });
    }
}

fn entries(api: &FakeApi) -> Vec<Value> {
    let ledger = api.object("configmaps", LEDGER).unwrap_or_default();
    let data = ledger["data"].as_object().cloned().unwrap_or_default();
    data.values()
        .map(|text| serde_json::from_str(text.as_str().unwrap()).unwrap())
        .collect()
}
