//! The job that a plan befalls.

use std::fmt::Write as _;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::plan::{Case, Command, Fault, JobPlan, LOG_BYTES, LOG_LINES, Way};
use crate::harness::runner::Options;

/// Where runner and harness wait for each other.
pub const GATES: &str = "/home/runner/jobs";
/// A small disk, with room for the runner's programs.
const DISK: &str = "640Mi";
/// No call may take longer, whatever befalls it: the hook's own patience with a silent pod is 5 minutes, and
/// nothing here lasts nearly so long.
const LONGEST_MS: u32 = 100_000;

/// The step of the `number`th case, as its display name.
#[must_use]
pub fn step(number: usize, case: &Case) -> String {
    format!(
        "case {number}: {} in {}",
        case.fault.name(),
        case.command.name()
    )
}

/// The file in the workspace that tells how often it ran.
#[must_use]
pub fn counter(number: usize) -> String {
    format!("count-{number}")
}

/// The line that a step prints in its middle.
#[must_use]
pub fn middle(number: usize) -> String {
    format!("MIDDLE-{number}")
}

/// The job's description.
#[must_use]
pub fn describe(plan: &JobPlan) -> String {
    let mut job = json!({
        "name": "Faults",
        "container": {"image": "alpine:latest"},
        "steps": [],
        "driver": {"any-conclusion": true, "prepare-job": {}, "cleanup-job": {}},
    });
    let mut steps = Vec::new();
    for (number, case) in plan.cases.iter().enumerate() {
        let directives = directives(number, case);
        match case.command {
            Command::Prepare => job["driver"]["prepare-job"] = directives,
            Command::Cleanup => job["driver"]["cleanup-job"] = directives,
            Command::Script => steps.push(json!({
                "name": step(number, case), "run": script(number, case),
                "continue-on-error": true, "driver": directives,
            })),
            Command::Container => steps.push(json!({
                "name": step(number, case), "uses": "docker://alpine:latest",
                "with": {"entrypoint": "/bin/sh", "args": format!("-ec \"{}\"", script(number, case))},
                "continue-on-error": true, "driver": directives,
            })),
        }
    }
    job["steps"] = Value::Array(steps);
    job.to_string()
}

fn directives(number: usize, case: &Case) -> Value {
    let mut directives = json!({
        "before": [format!("touch $RUNNER_ROOT/jobs/at-{number}")],
        "wait-for": format!("{GATES}/go-{number}"),
        "max-ms": LONGEST_MS,
    });
    let in_step = matches!(case.command, Command::Script | Command::Container);
    let moment = |after: u128| {
        if in_step {
            json!({"line": middle(number), "after-ms": after})
        } else {
            json!({"after-ms": after})
        }
    };
    let (after, lasts) = (case.after.as_millis(), case.lasts.as_millis());
    match case.fault {
        Fault::HookStopped => {
            directives["signals"] = json!([
                {"send": "STOP", "when": moment(after)},
                {"send": "CONT", "when": moment(after + lasts)},
            ]);
        }
        Fault::HookKilled => {
            directives["signals"] = json!([{"send": "KILL", "when": moment(after)}]);
        }
        _ => {}
    }
    if !case.fault.passes() {
        // A hook that is killed says so itself; the rest is judged by what it says.
        let any = case.fault == Fault::HookKilled && !in_step;
        directives[if any { "any-exit" } else { "fails" }] = json!(true);
    } else if in_step {
        directives["exit"] = json!(case.exit);
        directives["digest"] = json!({
            "from": format!("BEGIN-{number}"), "to": format!("END-{number}"),
            "bytes": 2 * LOG_BYTES + middle(number).len() as u64 + 1,
            "sha256": digest(number),
        });
    }
    directives
}

fn digest(number: usize) -> String {
    let mut half = String::new();
    for line in 1..=LOG_LINES {
        let _ = writeln!(half, "{line}");
    }
    let mut hash = Sha256::new();
    hash.update(&half);
    hash.update(middle(number) + "\n");
    hash.update(&half);
    hash.finalize()
        .iter()
        .fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// Counts itself, prints a log in two halves, and does its own harm between them.
fn script(number: usize, case: &Case) -> String {
    let harm = match case.fault {
        Fault::Memory => "head -c 300m /dev/zero | tail -c 250m > /dev/null".to_owned(),
        // Until not even a line of the log finds room.
        Fault::Disk => "dd if=/dev/zero of=fill bs=1M || true; \
                        dd if=/dev/zero of=rest bs=1 || true; \
                        while true; do echo more; done"
            .to_owned(),
        fault if !fault.passes() => "sleep 300".to_owned(),
        Fault::Cut | Fault::Stall | Fault::Slow => "sleep 0.2".to_owned(),
        _ => format!("sleep {:.1}", (case.after + case.lasts).as_secs_f64()),
    };
    // The shell is to go on when the harm fails.
    let harm = if case.fault == Fault::Memory {
        harm
    } else {
        format!("{harm} || true")
    };
    format!(
        "echo x >> {}; echo BEGIN-{number}; seq 1 {LOG_LINES}; echo {}; {harm}; \
         seq 1 {LOG_LINES}; echo END-{number}; exit {}",
        counter(number),
        middle(number),
        case.exit
    )
}

/// How its runner pod differs from the shipped one.
#[must_use]
pub fn options(plan: &JobPlan, proxy: std::net::SocketAddr) -> Options {
    let mut variables = vec![
        ("KUBERNETES_SERVICE_HOST".to_owned(), proxy.ip().to_string()),
        (
            "KUBERNETES_SERVICE_PORT".to_owned(),
            proxy.port().to_string(),
        ),
    ];
    if plan.way == Way::Copy {
        variables.push(("ARC_HOOK_WORK".to_owned(), "copy".to_owned()));
    }
    let limits = if plan.fills_the_memory() {
        json!({"memory": "160Mi"})
    } else {
        json!({})
    };
    let mut template = json!({
        "metadata": {"annotations": {"arc-hook/run-as": "runner"}},
        "spec": {"containers": [{"name": "$job", "resources": {"limits": limits}}]},
    });
    if plan.fills_the_disk() && plan.way == Way::Copy {
        // A volume of the pod's own is as large as the node's disk, unless it is in memory.
        template["spec"]["volumes"] =
            json!([{"name": "work", "emptyDir": {"medium": "Memory", "sizeLimit": DISK}}]);
    }
    Options {
        template: Some(template.to_string()),
        work_size: plan.fills_the_disk().then(|| DISK.to_owned()),
        variables,
        ..Options::default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::plan;
    use super::*;
    use crate::job::Job;

    #[test]
    fn the_driver_reads_every_job_and_meets_its_calls_in_order() {
        for plan in plan(1, 20, &Fault::ALL) {
            let job = Job::parse(&describe(&plan)).unwrap();
            let steps = plan
                .cases
                .iter()
                .filter(|case| matches!(case.command, Command::Script | Command::Container));
            assert_eq!(job.steps.len(), steps.count());
            for (number, case) in plan.cases.iter().enumerate() {
                let gate = Some(format!("{GATES}/go-{number}").into());
                let directives = match case.command {
                    Command::Prepare => &job.driver.prepare_job,
                    Command::Cleanup => &job.driver.cleanup_job,
                    _ => {
                        let name = Some(step(number, case));
                        let step = job.steps.iter().find(|step| step.name == name);
                        &step.unwrap().driver
                    }
                };
                assert_eq!(directives.wait_for, gate, "{plan:?}");
            }
        }
    }
}
