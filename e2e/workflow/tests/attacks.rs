//! Every attack that the scenarios show to lead nowhere, against a hook that
//! trusts the job: with the same text, and with the same directives, whose
//! failures tell what it let through.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod local;

use arc_hook_e2e::attacks::{Attack, Origin, Table};
use local::{Outcome, Runner};
use serde_json::{Value, json};

/// Steps of `path-attacks.yaml` that plant a `bash` for the runner.
const PLANTED: [&str; 12] = [
    "by its path on the runner",
    "by two paths in one entry",
    "by a relative path",
    "by a path with dots",
    "behind a carriage return",
    "by a command in the output",
    "by an indented command",
    "by a command of the old form",
    "by a command of the old form behind other text",
    "by a command with a property in capitals",
    "by a command behind a carriage return",
    "by a command of a container action",
];

/// So often an attack may come too late that goes on beside the steps.
const RACES: u32 = 20;

impl Outcome {
    /// What the driver found wrong, but for processes that the runner kills.
    fn failures(&self) -> Vec<&str> {
        let failures = self.report.failures.iter().map(String::as_str);
        failures
            .filter(|failure| !failure.starts_with("the hook left process"))
            .collect()
    }

    /// The first of `wanted` that is part of no failure.
    fn lacks<'w>(&self, wanted: &'w [String]) -> Option<&'w String> {
        let failures = self.failures();
        wanted
            .iter()
            .find(|&part| !failures.iter().any(|failure| failure.contains(part)))
    }

    /// Asserts that each of `wanted` is part of a failure, and with `only` that no failure is
    /// about anything else.
    fn lets_through(&self, what: &str, wanted: &[String], only: bool) {
        let failures = self.failures();
        if let Some(part) = self.lacks(wanted) {
            panic!(
                "{what}: no failure says {part}: {failures:#?}\n{}",
                self.log
            );
        }
        let others: Vec<&&str> = failures
            .iter()
            .filter(|failure| !wanted.iter().any(|part| failure.contains(part)))
            .collect();
        assert!(
            !only || others.is_empty(),
            "{what}: {others:#?}\n{}",
            self.log
        );
    }
}

fn every_attack_succeeds_from(origin: Origin) {
    let table = Table::read().unwrap();
    for attack in table.attacks_from(origin) {
        let mut job = table.job(origin, &[attack]);
        if attack.hangs {
            cut_short(&mut job, attack);
        }
        let run = || Runner::with("naive-hook").run(&job.to_string());
        let mut outcome = run();
        let races = if origin.races() { RACES } else { 1 };
        for _ in 1..races {
            if outcome.lacks(&attack.naive).is_none() {
                break;
            }
            outcome = run();
        }
        let what = format!("{} from {origin:?}", attack.name);
        outcome.lets_through(&what, &attack.naive, !origin.races());
    }
}

/// The hook hangs until it is told to end.
fn cut_short(job: &mut Value, attack: &Attack) {
    for step in job["steps"].as_array_mut().unwrap() {
        if step["name"].as_str().unwrap().contains(&attack.name) {
            step["timeout-ms"] = json!(1500);
            step["driver"]["max-ms"] = json!(1400);
        }
    }
}

#[test]
fn every_attack_of_a_step_succeeds() {
    every_attack_succeeds_from(Origin::Job);
}

#[test]
fn every_attack_of_a_background_process_succeeds() {
    every_attack_succeeds_from(Origin::Background);
}

#[test]
fn every_attack_of_a_container_action_succeeds() {
    every_attack_succeeds_from(Origin::Action);
}

#[test]
fn every_attack_of_a_service_succeeds() {
    every_attack_succeeds_from(Origin::Service);
}

/// A job of `e2e/jobs/`, cut to a few of its steps.
fn cut(file: &str, steps: &[&str]) -> Value {
    let mut job = local::job(file);
    let all = job["steps"].as_array_mut().unwrap();
    all.retain(|step| steps.contains(&step["name"].as_str().unwrap()));
    assert_eq!(all.len(), steps.len(), "{file} has no more such steps");
    job
}

fn strings(parts: &[&str]) -> Vec<String> {
    parts.iter().map(|part| (*part).to_owned()).collect()
}

#[test]
fn a_planted_bash_is_run_for_the_next_call() {
    let wanted = "step `Stop containers`: on the runner `test ! -e $RUNNER_ROOT/HIJACKED` failed";
    for attack in PLANTED {
        let job = cut("path-attacks.yaml", &["plant it", attack]);
        let outcome = Runner::with("naive-hook").run(&job.to_string());
        outcome.lets_through(attack, &strings(&[wanted]), true);
    }
}

#[test]
fn a_planted_bash_without_the_exec_bit_stops_the_runner() {
    let attack = "without the exec bit, so that the runner cannot start its own";
    let job = cut("path-attacks.yaml", &["plant it", attack]);
    let outcome = Runner::with("naive-hook").run(&job.to_string());
    let wanted = [
        "step `Stop containers`: cleanup_job: the hook could not be run",
        "the job ended in failure",
    ];
    outcome.lets_through(attack, &strings(&wanted), true);
}

#[test]
fn a_forged_state_leads_to_another_s_pod() {
    let runner = Runner::with("naive-hook");
    let victim = runner.beside("cluster/victims-pod");
    std::fs::write(&victim, "").unwrap();
    let job = local::job("forged-state.yaml").to_string();
    let outcome = runner.run(&job.replace("VICTIM", "victims-pod"));
    let step = "step `runs where it should`: the log";
    let wanted = [
        format!("{step} does not show `-workflow`"),
        format!("{step} shows `victims-pod`"),
    ];
    outcome.lets_through("a forged state", &wanted, true);
    assert!(!victim.exists(), "the pod that the state names is there");
}

#[test]
fn planted_secrets_stand_in_pods() {
    let runner = Runner::with("naive-hook");
    let job = local::job("planted-secrets.yaml").to_string();
    let mut worker = runner.worker(&job).spawn().unwrap();
    while worker.try_wait().unwrap().is_none() {
        // What the steps wait for.
        let _ = std::fs::write(runner.root().join("_work/demo/demo/go"), "");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    runner.outcome().unwrap().lets_through("secrets", &[], true);
    let pods: Vec<String> = std::fs::read_dir(runner.beside("cluster"))
        .unwrap()
        .filter_map(|pod| std::fs::read_to_string(pod.unwrap().path()).ok())
        .collect();
    for place in ["job", "container", "service", "action", "plain"] {
        let planted = format!("PLANTED-{place}");
        assert!(pods.iter().any(|pod| pod.contains(&planted)), "{planted}");
    }
}
