//! Which faults befall which calls of the hook, decided by a seed.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::proxy::plan::Numbers;
use crate::proxy::raw::{Harm, Wire};

/// How files get from runner to job pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// Over a volume that both mount.
    Shared,
    /// Over one connection a call.
    Copy,
}

/// The runner's four commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Command {
    /// `prepare_job`.
    Prepare,
    /// `run_script_step`.
    Script,
    /// `run_container_step`.
    Container,
    /// `cleanup_job`.
    Cleanup,
}

impl Command {
    /// All, in the order of a job.
    pub const ALL: [Self; 4] = [Self::Prepare, Self::Script, Self::Container, Self::Cleanup];

    /// As the runner says it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Prepare => "prepare_job",
            Self::Script => "run_script_step",
            Self::Container => "run_container_step",
            Self::Cleanup => "cleanup_job",
        }
    }
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A connection to the API server is reset at some byte.
    Cut,
    /// Nothing passes over it for a while, from some byte on.
    Stall,
    /// Little passes over it.
    Slow,
    /// The API server is killed and comes back.
    ApiServer,
    /// So is the kubelet.
    Kubelet,
    /// The hook is stopped for a while.
    HookStopped,
    /// The hook is killed.
    HookKilled,
    /// The supervisor is killed.
    Supervisor,
    /// The pod is deleted.
    Deleted,
    /// The pod is evicted.
    Evicted,
    /// The step uses more memory than its container may.
    Memory,
    /// The step fills the disk.
    Disk,
}

impl Fault {
    /// All.
    pub const ALL: [Self; 12] = [
        Self::Cut,
        Self::Stall,
        Self::Slow,
        Self::ApiServer,
        Self::Kubelet,
        Self::HookStopped,
        Self::HookKilled,
        Self::Supervisor,
        Self::Deleted,
        Self::Evicted,
        Self::Memory,
        Self::Disk,
    ];

    /// As a table says it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cut => "connection cut",
            Self::Stall => "connection stalled",
            Self::Slow => "connection slow",
            Self::ApiServer => "API server killed",
            Self::Kubelet => "kubelet restarted",
            Self::HookStopped => "hook stopped",
            Self::HookKilled => "hook killed",
            Self::Supervisor => "supervisor killed",
            Self::Deleted => "pod deleted",
            Self::Evicted => "pod evicted",
            Self::Memory => "out of memory",
            Self::Disk => "disk full",
        }
    }

    /// The commands that it can befall.
    #[must_use]
    pub fn commands(self, way: Way) -> &'static [Command] {
        use Command::{Cleanup, Container, Prepare, Script};
        match self {
            // A script step on a shared volume has no connection.
            Self::Cut | Self::Stall | Self::Slow | Self::ApiServer if way == Way::Shared => {
                &[Prepare, Container, Cleanup]
            }
            Self::Supervisor | Self::Deleted | Self::Evicted | Self::Memory | Self::Disk => {
                &[Script, Container]
            }
            _ => &Command::ALL,
        }
    }

    /// The call comes through it as if nothing had been.
    #[must_use]
    pub fn passes(self) -> bool {
        matches!(
            self,
            Self::Cut
                | Self::Stall
                | Self::Slow
                | Self::ApiServer
                | Self::Kubelet
                | Self::HookStopped
        )
    }

    /// It befalls every job of the cluster.
    #[must_use]
    pub fn is_everywhere(self) -> bool {
        matches!(self, Self::ApiServer | Self::Kubelet)
    }

    /// Which other faults its jobs may meet.
    fn company(self) -> Company {
        match self {
            _ if self.is_everywhere() => Company::Alone,
            Self::Memory => Company::Bounded,
            _ => Company::Any,
        }
    }

    /// What the log says of a call that failed by it: one of these, whatever the case of letters.
    #[must_use]
    pub fn causes(self) -> &'static [&'static str] {
        match self {
            Self::Supervisor => &["exited with code 137"],
            Self::Deleted => &["deleted"],
            Self::Evicted => &["evicted", "deleted"],
            Self::Memory => &["out of memory", "want of memory"],
            Self::Disk => &["no space left", "is full", "disk full"],
            // Nobody is left to say anything.
            _ => &[],
        }
    }

    /// What is done to the connections of a call of that command.
    fn wires(self, way: Way, command: Command, numbers: &mut Numbers) -> Vec<Wire> {
        let mut wires = Vec::new();
        // So many connections a call makes, or more: one for what it asks, one for each relay.
        let many = match (way, command) {
            (_, Command::Script | Command::Cleanup) => 1,
            (Way::Copy, Command::Container) => 6,
            _ => 2,
        };
        let first = numbers.below(many);
        wires.resize(usize::try_from(first).unwrap_or(0), Wire::default());
        for _ in 0..=numbers.below(2) {
            let long = way == Way::Copy && command == Command::Script;
            let down = numbers.below(3) > 0;
            // A handshake is about 2,000 bytes down and 1,000 up.
            let most = match (down, long && numbers.below(3) > 0) {
                (true, true) => 2 * LOG_BYTES,
                (true, false) => 4000,
                (false, _) => 2500,
            };
            let at = numbers.below(most);
            let harm = match self {
                Self::Cut => Harm::Cut(at),
                // Now and then longer than a relay may be mute.
                Self::Stall if numbers.below(8) == 0 => Harm::Stall(at, Duration::from_secs(18)),
                Self::Stall => Harm::Stall(at, Duration::from_millis(500 + numbers.below(2500))),
                Self::Slow => {
                    Harm::Slow(u32::try_from(20 + numbers.below(200)).unwrap_or(u32::MAX))
                }
                _ => return Vec::new(),
            };
            wires.push(if down {
                Wire {
                    up: Harm::None,
                    down: harm,
                }
            } else {
                Wire {
                    up: harm,
                    down: Harm::None,
                }
            });
        }
        wires
    }
}

/// Faults that may befall one job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Company {
    /// Each other.
    Any,
    /// Nothing but what no other job may meet either.
    Alone,
    /// Nothing but themselves: once a container has used too much memory, Kubernetes says so of whatever
    /// ends it later.
    Bounded,
}

/// Bytes of half a step's log.
pub const LOG_BYTES: u64 = 48_894;
/// The lines of it: the numbers up to this one.
pub const LOG_LINES: u32 = 10_000;

/// One fault in one call.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// How files cross.
    pub way: Way,
    /// What is called.
    pub command: Command,
    /// What goes wrong.
    pub fault: Fault,
    /// Harm to the connections that the call makes, in their order.
    pub wires: Vec<Wire>,
    /// When it goes wrong, after the call's start or after the step's first half.
    pub after: Duration,
    /// How long it lasts.
    pub lasts: Duration,
    /// The step's exit code.
    pub exit: u8,
}

impl Case {
    fn new(way: Way, command: Command, fault: Fault, numbers: &mut Numbers) -> Self {
        let most = match command {
            Command::Prepare => 900,
            Command::Script | Command::Container => 500,
            Command::Cleanup => 80,
        };
        Self {
            way,
            command,
            fault,
            wires: fault.wires(way, command, numbers),
            after: Duration::from_millis(numbers.below(most)),
            lasts: Duration::from_millis(500 + numbers.below(2000)),
            exit: [0, 1, 7, 42][usize::try_from(numbers.below(4)).unwrap_or(0)],
        }
    }

    /// The job's pod does not outlive it, or there is none.
    #[must_use]
    pub fn ends_the_job(&self) -> bool {
        match self.command {
            Command::Prepare => self.fault == Fault::HookKilled,
            Command::Script => matches!(
                self.fault,
                Fault::Supervisor | Fault::Deleted | Fault::Evicted | Fault::Disk
            ),
            Command::Container => self.fault == Fault::Disk,
            Command::Cleanup => false,
        }
    }
}

/// Faults that befall one job, one call after another.
#[derive(Clone, Debug, PartialEq)]
pub struct JobPlan {
    /// How files cross.
    pub way: Way,
    /// In the order of the calls.
    pub cases: Vec<Case>,
}

impl JobPlan {
    /// No other job may run meanwhile.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.cases.iter().any(|case| case.fault.is_everywhere())
    }

    /// A step uses too much memory: there is to be a bound.
    #[must_use]
    pub fn fills_the_memory(&self) -> bool {
        self.cases.iter().any(|case| case.fault == Fault::Memory)
    }

    /// The step fills the disk: it is to be a small one.
    #[must_use]
    pub fn fills_the_disk(&self) -> bool {
        self.cases.iter().any(|case| case.fault == Fault::Disk)
    }
}

/// Most faults that befall steps of one job.
const STEPS: usize = 9;

/// `count` faults of each of the `wanted` kinds (of those that stop all other jobs three quarters),
/// spread over what they can befall, in as few jobs as hold them.
#[must_use]
pub fn plan(seed: u64, count: usize, wanted: &[Fault]) -> Vec<JobPlan> {
    let mut numbers = Numbers::new(seed);
    let mut groups: BTreeMap<(Way, Company), Vec<Case>> = BTreeMap::new();
    for &fault in wanted {
        let mut cells: Vec<(Way, Command)> = [Way::Copy, Way::Shared]
            .into_iter()
            .flat_map(|way| {
                fault
                    .commands(way)
                    .iter()
                    .map(move |command| (way, *command))
            })
            .collect();
        shuffle(&mut cells, &mut numbers);
        let count = if fault.is_everywhere() {
            count * 3 / 4
        } else {
            count
        };
        for (way, command) in cells.into_iter().cycle().take(count) {
            let case = Case::new(way, command, fault, &mut numbers);
            groups.entry((way, fault.company())).or_default().push(case);
        }
    }
    let mut plans = Vec::new();
    for ((way, _), mut cases) in groups {
        shuffle(&mut cases, &mut numbers);
        plans.extend(pack(way, cases));
    }
    shuffle(&mut plans, &mut numbers);
    plans
}

fn shuffle<T>(items: &mut [T], numbers: &mut Numbers) {
    for end in (1..items.len()).rev() {
        let other = numbers.below(end as u64 + 1);
        items.swap(end, usize::try_from(other).unwrap_or(end));
    }
}

/// A job has one `prepare_job`, one `cleanup_job`, and one end.
fn pack(way: Way, cases: Vec<Case>) -> Vec<JobPlan> {
    let (mut first, mut steps, mut ends, mut last) = (
        VecDeque::new(),
        VecDeque::new(),
        VecDeque::new(),
        VecDeque::new(),
    );
    for case in cases {
        match case.command {
            Command::Prepare => first.push_back(case),
            Command::Cleanup => last.push_back(case),
            _ if case.ends_the_job() => ends.push_back(case),
            _ => steps.push_back(case),
        }
    }
    let mut plans = Vec::new();
    while !(first.is_empty() && steps.is_empty() && ends.is_empty() && last.is_empty()) {
        // So many jobs are to come yet, this one among them.
        let whole = first.iter().filter(|case| !case.ends_the_job()).count();
        let jobs = whole
            .max(ends.len())
            .max(last.len())
            .max(steps.len().div_ceil(STEPS))
            .max(1);
        let mut cases = Vec::new();
        cases.extend(first.pop_front());
        if !cases.first().is_some_and(Case::ends_the_job) {
            let share = steps.len().div_ceil(jobs);
            cases.extend(steps.drain(..share));
            cases.extend(ends.pop_front());
        }
        cases.extend(last.pop_front());
        plans.push(JobPlan { way, cases });
    }
    plans
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(seed: u64, count: usize) -> Vec<Case> {
        let plans = plan(seed, count, &Fault::ALL);
        plans.into_iter().flat_map(|plan| plan.cases).collect()
    }

    #[test]
    fn a_seed_determines_the_plan() {
        assert_eq!(plan(7, 3, &Fault::ALL), plan(7, 3, &Fault::ALL));
        assert_ne!(plan(7, 3, &Fault::ALL), plan(8, 3, &Fault::ALL));
    }

    #[test]
    fn each_fault_befalls_so_many_calls_and_all_that_it_can() {
        let cases = all(1, 20);
        for fault in Fault::ALL {
            let found: Vec<_> = cases.iter().filter(|case| case.fault == fault).collect();
            let expected = if fault.is_everywhere() { 15 } else { 20 };
            assert_eq!(found.len(), expected, "{fault:?}");
            for way in [Way::Shared, Way::Copy] {
                for command in fault.commands(way) {
                    let cell = |case: &&&Case| case.way == way && case.command == *command;
                    assert!(
                        found.iter().find(cell).is_some(),
                        "{fault:?} {way:?} {command:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_job_has_one_beginning_and_one_end_and_steps_between() {
        for seed in 0..50 {
            for plan in plan(seed, 5, &Fault::ALL) {
                let commands: Vec<Command> = plan.cases.iter().map(|case| case.command).collect();
                let count = |wanted| commands.iter().filter(|found| **found == wanted).count();
                assert!(count(Command::Prepare) <= 1 && count(Command::Cleanup) <= 1);
                let at = commands.iter().position(|found| *found == Command::Prepare);
                assert!(at.is_none_or(|at| at == 0));
                let at = commands.iter().position(|found| *found == Command::Cleanup);
                assert!(at.is_none_or(|at| at + 1 == commands.len()));
                let end = plan.cases.iter().position(Case::ends_the_job);
                let after = end.map_or(&[][..], |end| &commands[end + 1..]);
                assert!(
                    after.iter().all(|found| *found == Command::Cleanup),
                    "{plan:?}"
                );
                let everywhere = plan.cases.iter().filter(|case| case.fault.is_everywhere());
                assert!([0, plan.cases.len()].contains(&everywhere.count()));
                let memory = plan.cases.iter().filter(|case| case.fault == Fault::Memory);
                assert!([0, plan.cases.len()].contains(&memory.count()));
            }
        }
    }

    #[test]
    fn the_log_is_as_long_as_is_said() {
        let bytes: usize = (1..=LOG_LINES)
            .map(|number| number.to_string().len() + 1)
            .sum();
        assert_eq!(bytes as u64, LOG_BYTES);
    }
}
