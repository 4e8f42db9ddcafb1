//! What became of each call that a fault befell.

use super::job::{counter, step};
use super::plan::{Case, Command, Fault, JobPlan, Way};
use crate::report::{Call, Report};

/// What became of one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The fault did not come about.
    Missed,
    /// The call did what it was to do, once, with its whole log.
    CameThrough,
    /// It failed and said why.
    Named,
    /// Neither.
    Violated(String),
}

/// Judges each case. `struck` is how many connections had been harmed before each, and in the end;
/// `counted` reads a counter file, if it is there.
#[must_use]
pub fn judge(
    plan: &JobPlan,
    report: &Report,
    struck: &[u32],
    counted: &dyn Fn(&str) -> Option<String>,
) -> Vec<Verdict> {
    let mut verdicts: Vec<Verdict> = plan
        .cases
        .iter()
        .enumerate()
        .map(|(number, case)| {
            let wrong = wrong(number, case, report, counted);
            match (wrong, struck.get(number..number + 2)) {
                (Some(wrong), _) => Verdict::Violated(wrong),
                (None, None) => Verdict::Missed,
                (None, Some(struck)) if !case.wires.is_empty() && struck[0] == struck[1] => {
                    Verdict::Missed
                }
                (None, Some(_)) if case.fault.passes() => Verdict::CameThrough,
                (None, Some(_)) => Verdict::Named,
            }
        })
        .collect();
    for failure in &report.failures {
        let found = plan.cases.iter().enumerate().position(|(number, case)| {
            failure.starts_with(&format!("step `{}`", title(number, case)))
        });
        // What is nobody's is the last one's.
        let at = found.unwrap_or(plan.cases.len() - 1);
        verdicts[at] = Verdict::Violated(match &verdicts[at] {
            Verdict::Violated(before) => format!("{before}; {failure}"),
            _ => failure.clone(),
        });
    }
    verdicts
}

/// What the driver calls the call's step.
fn title(number: usize, case: &Case) -> String {
    match case.command {
        Command::Prepare => "Initialize containers".to_owned(),
        Command::Cleanup => "Stop containers".to_owned(),
        Command::Script | Command::Container => step(number, case),
    }
}

fn wrong(
    number: usize,
    case: &Case,
    report: &Report,
    counted: &dyn Fn(&str) -> Option<String>,
) -> Option<String> {
    let title = title(number, case);
    let Some(call) = report.calls.iter().find(|call| call.step == title) else {
        return Some("the job did not come to it".to_owned());
    };
    if matches!(case.command, Command::Script | Command::Container)
        && let Some(wrong) = miscounted(case, counted(&counter(number)).as_deref())
    {
        return Some(wrong);
    }
    (!case.fault.passes() && !names_cause(case.fault, call)).then(|| {
        format!(
            "exit {}, and nothing of what it says is the cause: {}",
            call.exit,
            call.annotations.join("; ")
        )
    })
}

/// A step that came through ran once. One that failed may have taken its counter along.
fn miscounted(case: &Case, count: Option<&str>) -> Option<String> {
    let once = count == Some("x\n");
    let gone = count.is_none() && !case.fault.passes() && case.way == Way::Copy;
    (!once && !gone).then(|| format!("its counter is {count:?}"))
}

fn names_cause(fault: Fault, call: &Call) -> bool {
    if fault == Fault::HookKilled {
        return true;
    }
    let said = call.annotations.join("\n").to_lowercase();
    fault.causes().iter().any(|cause| said.contains(cause))
}

#[cfg(test)]
mod tests {
    use super::super::plan::plan;
    use super::*;

    fn one(fault: Fault) -> JobPlan {
        let plans = plan(1, 20, &[fault]);
        let mut cases = plans.into_iter().flat_map(|plan| plan.cases);
        let case = cases.find(|case| case.command == Command::Script && case.way == Way::Copy);
        JobPlan {
            way: Way::Copy,
            cases: vec![case.unwrap()],
        }
    }

    fn verdict(fault: Fault, annotation: &str, struck: &[u32], count: Option<&str>) -> Verdict {
        let plan = one(fault);
        let report = Report {
            calls: vec![Call {
                step: step(0, &plan.cases[0]),
                annotations: vec![annotation.to_owned()],
                ..Call::default()
            }],
            ..Report::default()
        };
        judge(&plan, &report, struck, &|_| count.map(str::to_owned)).remove(0)
    }

    #[test]
    fn a_call_comes_through_when_its_step_ran_once() {
        assert_eq!(
            verdict(Fault::Cut, "", &[0, 1], Some("x\n")),
            Verdict::CameThrough
        );
        assert_eq!(
            verdict(Fault::Cut, "", &[1, 1], Some("x\n")),
            Verdict::Missed
        );
        for count in [None, Some(""), Some("x\nx\n")] {
            let verdict = verdict(Fault::Cut, "", &[0, 1], count);
            assert!(matches!(verdict, Verdict::Violated(_)), "{count:?}");
        }
    }

    #[test]
    fn a_call_that_fails_names_its_cause() {
        let said = "error title=Pod deleted: the pod was Deleted";
        assert_eq!(verdict(Fault::Deleted, said, &[0, 0], None), Verdict::Named);
        let silent = verdict(Fault::Deleted, "error: exit code 1", &[0, 0], None);
        assert!(matches!(silent, Verdict::Violated(_)));
        let twice = verdict(Fault::Deleted, said, &[0, 0], Some("x\nx\n"));
        assert!(matches!(twice, Verdict::Violated(_)));
    }

    #[test]
    fn what_the_driver_finds_is_the_steps_or_the_last_ones() {
        let plan = one(Fault::Cut);
        for failure in [
            format!("step `{}`: exit 1", step(0, &plan.cases[0])),
            "left".to_owned(),
        ] {
            let report = Report {
                failures: vec![failure],
                ..Report::default()
            };
            let found = judge(&plan, &report, &[0, 1], &|_| None).remove(0);
            assert!(matches!(found, Verdict::Violated(_)));
        }
    }

    #[test]
    fn a_case_that_the_job_did_not_come_to_is_none() {
        let plan = one(Fault::Cut);
        let found = judge(&plan, &Report::default(), &[0], &|_| None).remove(0);
        assert!(matches!(found, Verdict::Violated(_)));
    }
}
