//! How often which fault befell which command, and how that ended.

use std::collections::BTreeMap;
use std::fmt;

use super::judge::Verdict;
use super::plan::{Command, Fault, JobPlan};

/// Counts of one cell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Cell {
    came_through: usize,
    named: usize,
    violated: usize,
}

impl Cell {
    fn all(self) -> usize {
        self.came_through + self.named + self.violated
    }

    fn plus(self, other: Self) -> Self {
        Self {
            came_through: self.came_through + other.came_through,
            named: self.named + other.named,
            violated: self.violated + other.violated,
        }
    }
}

/// The result of a run.
#[derive(Clone, Debug, Default)]
pub struct Table {
    cells: BTreeMap<(Fault, Command), Cell>,
    /// Faults that did not come about.
    pub missed: usize,
    /// Jobs that ran.
    pub jobs: usize,
}

impl Table {
    /// Counts a job.
    pub fn add(&mut self, plan: &JobPlan, verdicts: &[Verdict]) {
        self.jobs += 1;
        for (case, verdict) in plan.cases.iter().zip(verdicts) {
            let mut cell = Cell::default();
            match verdict {
                Verdict::Missed => {
                    self.missed += 1;
                    continue;
                }
                Verdict::CameThrough => cell.came_through = 1,
                Verdict::Named => cell.named = 1,
                Verdict::Violated(_) => cell.violated = 1,
            }
            let sum = self.cells.entry((case.fault, case.command)).or_default();
            *sum = sum.plus(cell);
        }
    }

    fn sum(&self, wanted: impl Fn(Fault, Command) -> bool) -> Cell {
        let found = self.cells.iter();
        let found = found.filter(|((fault, command), _)| wanted(*fault, *command));
        found.fold(Cell::default(), |sum, (_, cell)| sum.plus(*cell))
    }

    /// Faults that came about and ended as they should.
    #[must_use]
    pub fn passed(&self) -> usize {
        self.sum(|_, _| true).all() - self.violated()
    }

    /// Faults that did not.
    #[must_use]
    pub fn violated(&self) -> usize {
        self.sum(|_, _| true).violated
    }

    /// Kinds of which there were fewer than so many.
    #[must_use]
    pub fn rarer_than(&self, least: usize, kinds: &[Fault]) -> Vec<&'static str> {
        kinds
            .iter()
            .filter(|kind| self.sum(|fault, _| fault == **kind).all() < least)
            .map(|kind| kind.name())
            .collect()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<20}", "fault")?;
        for command in Command::ALL {
            write!(f, "{:>20}", command.name())?;
        }
        writeln!(f, "{:>8}", "all")?;
        for fault in Fault::ALL {
            let all = self.sum(|found, _| found == fault).all();
            if all == 0 {
                continue;
            }
            write!(f, "{:<20}", fault.name())?;
            for command in Command::ALL {
                let cell = self.sum(|found, of| found == fault && of == command);
                match (cell.all(), cell.violated) {
                    (0, _) => write!(f, "{:>20}", "-")?,
                    (all, 0) => write!(f, "{all:>20}")?,
                    (all, violated) => {
                        write!(f, "{:>20}", format!("{all} ({violated} bad)"))?;
                    }
                }
            }
            writeln!(f, "{all:>8}")?;
        }
        let sum = self.sum(|_, _| true);
        writeln!(
            f,
            "{} faults in {} jobs: {} calls came through, {} failed and named the cause, {} violations; \
             {} more faults did not come about",
            sum.all(),
            self.jobs,
            sum.came_through,
            sum.named,
            sum.violated,
            self.missed
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::plan;
    use super::*;

    #[test]
    fn each_verdict_is_counted_where_it_belongs() {
        let mut table = Table::default();
        let mut number = 0;
        for plan in plan(1, 3, &Fault::ALL) {
            let verdicts: Vec<Verdict> = plan
                .cases
                .iter()
                .map(|case| {
                    number += 1;
                    match number {
                        1 => Verdict::Violated("x".to_owned()),
                        2 => Verdict::Missed,
                        _ if case.fault.passes() => Verdict::CameThrough,
                        _ => Verdict::Named,
                    }
                })
                .collect();
            table.add(&plan, &verdicts);
        }
        assert_eq!((table.violated(), table.missed, table.passed()), (1, 1, 32));
        assert_eq!(table.rarer_than(1, &Fault::ALL).len(), 0);
        assert_eq!(table.rarer_than(100, &Fault::ALL).len(), Fault::ALL.len());
        assert!(table.to_string().contains("(1 bad)"));
    }
}
