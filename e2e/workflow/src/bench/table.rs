//! Rows of measurements, their limits, and how they are shown.

use std::fmt::{self, Write as _};

use serde::Serialize;
use serde_json::{Value, json};

/// What is held against the goal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Judged {
    /// The median of ours.
    Ours,
    /// The largest of ours.
    Largest,
    /// The median of the differences to the floor measured just before: a
    /// drift of the machine is in both.
    Excess,
    /// The median of ours over that of the floor.
    Ratio,
}

/// The budget of a row.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Budget {
    /// The design's number.
    pub goal: f64,
    /// By which factor the goal may be missed before the run fails. 1 where
    /// the number does not depend on who else uses the machine.
    pub slack: f64,
    /// Why there is slack.
    pub why: &'static str,
    /// The goal is a least, not a most.
    pub least: bool,
}

impl Budget {
    /// At most so much, on any machine.
    #[must_use]
    pub const fn most(goal: f64) -> Self {
        Self {
            goal,
            slack: 1.0,
            why: "",
            least: false,
        }
    }

    /// At least so much, on any machine.
    #[must_use]
    pub const fn least(goal: f64) -> Self {
        Self {
            least: true,
            ..Self::most(goal)
        }
    }

    /// The goal may be missed by this factor, and why.
    #[must_use]
    pub const fn slack(self, slack: f64, why: &'static str) -> Self {
        Self { slack, why, ..self }
    }

    /// Where the run fails.
    #[must_use]
    pub fn limit(&self) -> f64 {
        if self.least {
            self.goal / self.slack
        } else {
            self.goal * self.slack
        }
    }

    fn verdict(&self, value: f64) -> Verdict {
        let meets = |bound: f64| {
            if self.least {
                value >= bound
            } else {
                value <= bound
            }
        };
        // A value that could not be measured compares with nothing.
        if meets(self.goal) {
            Verdict::Good
        } else if meets(self.limit()) {
            Verdict::Slack
        } else {
            Verdict::Missed
        }
    }
}

/// How a row did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Within the goal.
    Good,
    /// Beyond the goal, within the limit.
    Slack,
    /// Beyond the limit: the run fails.
    Missed,
    /// Nothing is asked of it.
    Told,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Good => "ok",
            Self::Slack => "slack",
            Self::Missed => "MISSED",
            Self::Told => "",
        })
    }
}

/// One measurement.
#[derive(Clone, Debug)]
pub struct Row {
    /// What was measured.
    pub what: String,
    /// `ms`, `MB`...
    pub unit: &'static str,
    /// Samples of the floor, if there is one.
    pub floor: Vec<f64>,
    /// Samples of ours, in the same order.
    pub ours: Vec<f64>,
    /// What counts.
    pub judged: Judged,
    /// What is asked.
    pub budget: Option<Budget>,
}

impl Row {
    /// Ours alone.
    #[must_use]
    pub fn ours(what: impl Into<String>, unit: &'static str, ours: Vec<f64>) -> Self {
        Self {
            what: what.into(),
            unit,
            floor: Vec::new(),
            ours,
            judged: Judged::Ours,
            budget: None,
        }
    }

    /// Ours over a floor, sample by sample.
    #[must_use]
    pub fn over(
        what: impl Into<String>,
        unit: &'static str,
        floor: Vec<f64>,
        ours: Vec<f64>,
    ) -> Self {
        Self {
            floor,
            judged: Judged::Excess,
            ..Self::ours(what, unit, ours)
        }
    }

    /// What is asked.
    #[must_use]
    pub fn within(self, budget: Budget) -> Self {
        Self {
            budget: Some(budget),
            ..self
        }
    }

    /// What counts.
    #[must_use]
    pub fn judged(self, judged: Judged) -> Self {
        Self { judged, ..self }
    }

    /// The number that counts.
    #[must_use]
    pub fn value(&self) -> f64 {
        match self.judged {
            Judged::Ours => median(&self.ours),
            Judged::Largest => self.ours.iter().copied().fold(f64::NAN, f64::max),
            Judged::Excess => median(&self.differences()),
            Judged::Ratio => median(&self.ours) / median(&self.floor),
        }
    }

    fn differences(&self) -> Vec<f64> {
        let pairs = self.ours.iter().zip(&self.floor);
        pairs.map(|(ours, floor)| ours - floor).collect()
    }

    /// How it did.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        self.budget
            .map_or(Verdict::Told, |budget| budget.verdict(self.value()))
    }

    fn json(&self) -> Value {
        json!({
            "what": self.what,
            "unit": self.unit,
            "floor": self.floor,
            "ours": self.ours,
            "judged": self.judged,
            "value": self.value(),
            "goal": self.budget.map(|budget| budget.goal),
            "limit": self.budget.map(|budget| budget.limit()),
            "slack": self.budget.map(|budget| budget.slack),
            "why": self.budget.map(|budget| budget.why),
            "verdict": self.verdict(),
        })
    }
}

/// The middle one, or the mean of the middle two; not a number without samples.
#[must_use]
pub fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// Whether any row is beyond its limit.
#[must_use]
pub fn failed(rows: &[Row]) -> bool {
    rows.iter().any(|row| row.verdict() == Verdict::Missed)
}

/// All rows as JSON, samples included.
#[must_use]
pub fn json(rows: &[Row]) -> Value {
    rows.iter().map(Row::json).collect()
}

/// The head of the table.
#[must_use]
pub fn head() -> String {
    line(["", "floor", "ours", "over", "goal", "limit"], "") + "\n"
}

/// One line of the table: medians, and what is asked of which.
#[must_use]
pub fn shown(row: &Row) -> String {
    let none = String::new();
    let floor = if row.floor.is_empty() {
        none.clone()
    } else {
        number(median(&row.floor), row.unit)
    };
    let over = match row.judged {
        Judged::Excess => format!("{:+}", Short(row.value())),
        Judged::Ratio => format!("x {:.2}", row.value()),
        Judged::Ours | Judged::Largest => none.clone(),
    };
    let ours = match row.judged {
        Judged::Largest => row.value(),
        Judged::Ours | Judged::Excess | Judged::Ratio => median(&row.ours),
    };
    let (goal, limit) = row.budget.map_or((none.clone(), none), |budget| {
        let sign = if budget.least { "≥ " } else { "≤ " };
        (
            format!("{sign}{}", Short(budget.goal)),
            Short(budget.limit()).to_string(),
        )
    });
    let cells = [
        &row.what,
        &floor,
        &number(ours, row.unit),
        &over,
        &goal,
        &limit,
    ];
    line(cells.map(String::as_str), &row.verdict().to_string()) + "\n"
}

fn line(cells: [&str; 6], verdict: &str) -> String {
    let [what, floor, ours, over, goal, limit] = cells;
    let mut text = String::new();
    let _ = write!(
        text,
        "{what:<42}{floor:>12}{ours:>12}{over:>9}{goal:>8}{limit:>7}  {verdict}"
    );
    text.trim_end().to_owned()
}

fn number(value: f64, unit: &str) -> String {
    format!("{} {unit}", Short(value)).trim_end().to_owned()
}

/// A number with as many digits as are worth reading.
struct Short(f64);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = match self.0.abs() {
            value if value >= 99.95 || value == 0.0 => 0,
            value if value >= 0.995 => 1,
            _ => 3,
        };
        let text = if f.sign_plus() {
            format!("{:+.digits$}", self.0)
        } else {
            format!("{:.digits$}", self.0)
        };
        f.write_str(text.strip_suffix(".0").unwrap_or(&text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_whatever_the_order() {
        assert_eq!(median(&[3.0, 1.0, 2.0]).to_string(), "2");
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]).to_string(), "2.5");
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn a_ratio_is_of_the_medians() {
        let row = |ours: f64| {
            Row::over("x", "ms", vec![100.0, 90.0, 2000.0], vec![ours; 2])
                .judged(Judged::Ratio)
                .within(Budget::most(1.2))
        };
        assert_eq!(row(120.0).verdict(), Verdict::Good);
        assert_eq!(row(121.0).verdict(), Verdict::Missed);
        assert!(shown(&row(121.0)).contains("x 1.21"));
    }

    #[test]
    fn a_drift_of_the_machine_does_not_count() {
        let floor = vec![100.0, 200.0, 900.0];
        let ours = vec![110.0, 210.0, 910.0];
        let row = Row::over("x", "ms", floor, ours).within(Budget::most(10.0));
        assert_eq!(row.value().to_string(), "10");
        assert_eq!(row.verdict(), Verdict::Good);
    }

    #[test]
    fn beyond_the_goal_is_slack_and_beyond_the_limit_a_miss() {
        let most = Budget::most(100.0).slack(1.5, "noise");
        let least = Budget::least(300.0).slack(1.5, "noise");
        for (budget, value, verdict) in [
            (most, 100.0, Verdict::Good),
            (most, 150.0, Verdict::Slack),
            (most, 150.1, Verdict::Missed),
            (least, 300.0, Verdict::Good),
            (least, 200.0, Verdict::Slack),
            (least, 199.9, Verdict::Missed),
            (Budget::most(0.0), 0.0, Verdict::Good),
            (Budget::most(0.0), 1.0, Verdict::Missed),
            (most, f64::NAN, Verdict::Missed),
        ] {
            let row = Row::ours("x", "ms", vec![value]).within(budget);
            assert_eq!(row.verdict(), verdict, "{budget:?} {value}");
            assert_eq!(failed(&[row]), verdict == Verdict::Missed);
        }
        let told = Row::ours("x", "ms", vec![1e9]);
        assert_eq!(told.verdict(), Verdict::Told);
    }

    #[test]
    fn a_bound_holds_for_the_largest_sample() {
        let row = Row::ours("x", "MB", vec![1.0, 65.0, 2.0]).within(Budget::most(64.0));
        assert_eq!(row.verdict(), Verdict::Good);
        assert_eq!(row.judged(Judged::Largest).verdict(), Verdict::Missed);
    }

    #[test]
    fn rows_line_up_and_fit_a_hundred_columns() {
        let rows = [
            Row::over(
                "prepare_job, with a redis service",
                "ms",
                vec![612.0],
                vec![705.4],
            )
            .within(Budget::most(100.0).slack(1.5, "")),
            Row::over("run_script_step", "ms", vec![2.25], vec![123_456.7])
                .within(Budget::most(15.0)),
            Row::ours("log of 1 GB, counted by the runner", "MB/s", vec![412.3])
                .within(Budget::least(300.0).slack(1.5, "")),
            Row::ours("CPU of the idle supervisor", "%", vec![0.0421]),
        ];
        let text: String = rows.iter().map(shown).collect();
        assert_eq!(
            head() + &text,
            "                                                 floor        ours     over    goal  limit\n\
             prepare_job, with a redis service               612 ms      705 ms    +93.4   ≤ 100    150  ok\n\
             run_script_step                                 2.2 ms   123457 ms  +123454    ≤ 15     15  MISSED\n\
             log of 1 GB, counted by the runner                        412 MB/s            ≥ 300    200  ok\n\
             CPU of the idle supervisor                                 0.042 %\n"
        );
        assert!(text.lines().all(|line| line.chars().count() <= 100));
    }

    #[test]
    fn the_json_holds_every_sample_and_says_why_there_is_slack() {
        let row = Row::over("x", "ms", vec![1.0, 2.0], vec![3.0, 5.0])
            .within(Budget::most(2.0).slack(2.0, "noise"));
        assert_eq!(
            json(&[row]),
            json!([{
                "what": "x", "unit": "ms", "floor": [1.0, 2.0], "ours": [3.0, 5.0],
                "judged": "excess", "value": 2.5, "goal": 2.0, "limit": 4.0, "slack": 2.0,
                "why": "noise", "verdict": "slack",
            }])
        );
    }
}
