//! Attacks on the runner from within the job, one text for both proofs: that
//! each leads through a hook that trusts the job (`tests/attacks.rs`, on this
//! machine), and that none leads through ours (the scenarios, on the cluster).

use anyhow::Context;
use serde::Deserialize;
use serde_json::{Value, json};

const TABLE: &str = include_str!("table.yaml");
/// Where containers of one pod meet: the pod's shared memory.
const MEETING: &str = "/dev/shm/attack";

/// When a step is cut that an attack holds up, in milliseconds.
const LONGEST: u64 = 60_000;

/// The attacks and what a step must look like that withstood one.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Table {
    /// Names and functions that the scripts use.
    prelude: String,
    /// Commands on the runner before the first attack.
    prepare: Vec<String>,
    /// The directives of every step under attack.
    contained: Value,
    /// The attacks.
    attacks: Vec<Attack>,
}

/// One attack.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Attack {
    /// What is done.
    pub name: String,
    /// How.
    script: String,
    /// Where it makes sense; everywhere when empty.
    #[serde(default)]
    from: Vec<Origin>,
    /// How the step ends that a service or a process in the background attacks. The runner looks
    /// at the response of a good one only.
    #[serde(default)]
    exit: u8,
    /// Parts of the failures that the driver reports when it succeeds.
    pub naive: Vec<String>,
    /// It succeeds by holding the hook up until the step is cut.
    #[serde(default)]
    pub hangs: bool,
}

/// Where an attack comes from.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// The step itself.
    Job,
    /// A process that an earlier step left behind, over and over.
    Background,
    /// A container action.
    Action,
    /// A service, over and over.
    Service,
}

impl Origin {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Job, Self::Background, Self::Action, Self::Service];

    /// Whether it goes on beside the steps, so that what it meets is chance.
    #[must_use]
    pub fn races(self) -> bool {
        matches!(self, Self::Background | Self::Service)
    }
}

impl Table {
    /// Reads the table.
    pub fn read() -> anyhow::Result<Self> {
        serde_saphyr::from_str(TABLE).context("failed to parse the table of attacks")
    }

    /// The attacks that can come from there.
    pub fn attacks_from(&self, origin: Origin) -> impl Iterator<Item = &Attack> {
        self.attacks
            .iter()
            .filter(move |attack| attack.from.is_empty() || attack.from.contains(&origin))
    }

    /// A job in which these attacks come from `origin`, one after another.
    #[must_use]
    pub fn job(&self, origin: Origin, attacks: &[&Attack]) -> Value {
        let mut steps = vec![json!({
            "name": "a secret and a victim on the runner",
            "run": "true",
            "driver": {"before": self.prepare},
        })];
        let mut services = json!({});
        match origin {
            Origin::Background => steps.push(json!({
                "name": "leaves a process behind",
                "run": format!("( {} ) > /dev/null 2>&1 &", self.racer(attacks)),
            })),
            Origin::Service => {
                services = json!({"attacker": {
                    "image": "alpine:latest",
                    "entrypoint": "/bin/sh",
                    "command": quoted(&self.racer(attacks)),
                }});
            }
            Origin::Job | Origin::Action => {}
        }
        for (number, attack) in attacks.iter().enumerate() {
            steps.push(self.attacked(origin, number, attack));
            // Some do their harm when the runner comes to the next step. It fails, so that the
            // runner leaves the response file where it wrote it.
            steps.push(json!({
                "name": format!("after {}", attack.name),
                "if": "always()",
                "run": "echo in ${HOSTNAME:-$(hostname)}; exit 1",
                "timeout-ms": LONGEST,
                "driver": self.contained,
            }));
        }
        if origin.races() {
            steps.push(json!({
                "name": "ends the attacks",
                "if": "always()",
                "run": format!("touch {MEETING}-stop"),
                "driver": {"any-exit": true},
            }));
        }
        let mut after_all = self.contained.clone();
        // A call outside of steps has neither.
        for of_steps in ["env", "outputs"] {
            if let Some(directives) = after_all.as_object_mut() {
                directives.remove(of_steps);
            }
        }
        json!({
            "name": format!("Attacks from {origin:?}"),
            "container": {"image": "alpine:latest"},
            "services": services,
            "steps": steps,
            "driver": {"cleanup-job": after_all, "any-conclusion": true},
        })
    }

    fn attacked(&self, origin: Origin, number: usize, attack: &Attack) -> Value {
        let script = format!("{} {}", self.prelude, attack.script);
        let mut step = json!({
            "name": attack.name,
            "if": "always()",
            "timeout-ms": LONGEST,
            "driver": self.contained,
        });
        match origin {
            Origin::Job => step["run"] = json!(script),
            Origin::Action => {
                step["uses"] = json!("docker://alpine:latest");
                step["with"] = json!({"entrypoint": "/bin/sh", "args": quoted(&script)});
            }
            Origin::Background | Origin::Service => {
                // Shows what the attacker saw, once it did its worst.
                step["run"] = json!(format!(
                    "echo {number} > {MEETING}-go; \
                     until [ -e {MEETING}-done-{number} ]; do sleep 0.05; done; \
                     cat {MEETING}-done-{number}; \
                     [ -p $GITHUB_OUTPUT ] || echo good=yes >> $GITHUB_OUTPUT; exit {}",
                    attack.exit
                ));
            }
        }
        if origin == Origin::Service {
            // It is another's container: nothing of the step may change.
            step["driver"]["any-exit"] = json!(false);
            step["driver"]["exit"] = json!(attack.exit);
            step["driver"]["outputs"]["good"] = json!("yes");
        }
        step
    }

    /// A script that does over and over what the steps ask for.
    fn racer(&self, attacks: &[&Attack]) -> String {
        let cases: Vec<String> = attacks
            .iter()
            .enumerate()
            .map(|(number, attack)| format!("{number}) {} ;;", attack.script))
            .collect();
        format!(
            "set +e; {} while [ ! -e {MEETING}-stop ]; do go=$(cat {MEETING}-go 2>/dev/null); \
             case $go in {} esac > {MEETING}-out 2>&1; \
             case $go in ?*) [ -e {MEETING}-done-$go ] || mv {MEETING}-out {MEETING}-done-$go ;; esac; \
             sleep 0.05; done",
            self.prelude,
            cases.join(" ")
        )
    }
}

/// The arguments of `/bin/sh`, as a workflow says them in one text.
fn quoted(script: &str) -> String {
    format!("-c \"{}\"", script.replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Job;
    use crate::runner::request::split_container_arguments;

    #[test]
    fn scripts_survive_the_way_into_a_container() {
        let table = Table::read().unwrap();
        for attack in &table.attacks {
            let script = format!("{} {}", table.prelude, attack.script);
            assert!(!script.contains('\\'), "{script}");
            let parts = split_container_arguments(&quoted(&script));
            let arguments = shell_words::split(&parts.join(" ")).unwrap();
            assert_eq!(arguments, ["-c", &script]);
        }
    }

    #[test]
    fn every_origin_makes_a_job() {
        let table = Table::read().unwrap();
        for origin in Origin::ALL {
            let attacks: Vec<&Attack> = table.attacks_from(origin).collect();
            let job = Job::parse(&table.job(origin, &attacks).to_string()).unwrap();
            assert!(job.steps.len() > 2 * attacks.len(), "{origin:?}");
        }
    }
}
