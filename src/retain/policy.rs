//! What the template's `arc-hook/retain...` annotations allow, and what a job may ask of it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::pod::quantity;
use crate::protocol::Environment;

/// Longest time that an annotation may name: a month.
const LONGEST: Duration = Duration::from_hours(31 * 24);
/// Most bytes of a workspace that are copied, whatever an annotation says.
const MOST: u64 = 1 << 40;
/// Variable of `container.env` by which a job asks to be kept less often.
const ASK: &str = "ARC_HOOK_RETAIN";
/// The same, for how long.
const ASK_TTL: &str = "ARC_HOOK_RETAIN_TTL";

/// When a job is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum When {
    /// Never, the default.
    #[default]
    Never,
    /// When it failed.
    OnFailure,
    /// However it ended.
    Always,
}

impl When {
    /// Reads `never`, `on-failure` or `always`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text.trim() {
            "never" => Some(Self::Never),
            "on-failure" => Some(Self::OnFailure),
            "always" => Some(Self::Always),
            _ => None,
        }
    }
}

/// What of a job is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Its pod, running, and its volumes.
    #[default]
    Pod,
    /// Its volumes; an equal pod is made when someone enters.
    Volumes,
}

impl Mode {
    /// Reads `pod` or `volumes`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text.trim() {
            "pod" => Some(Self::Pod),
            "volumes" => Some(Self::Volumes),
            _ => None,
        }
    }
}

/// Which jobs are kept, how, and within which bounds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Policy {
    /// `arc-hook/retain`.
    pub when: When,
    /// `arc-hook/retain-ttl`: how long a job is kept.
    pub ttl: Duration,
    /// `arc-hook/retain-max-ttl`: the end that no `extend` moves.
    pub max_ttl: Duration,
    /// `arc-hook/retain-max`: most that are kept of a scale set, and of a repository.
    pub max: usize,
    /// `arc-hook/retain-mode`.
    pub mode: Mode,
    /// `arc-hook/retain-env`: variables that are kept besides the harmless ones.
    pub env: Vec<String>,
    /// `arc-hook/retain-script`: the failed step's script and last words are kept, with whatever the
    /// workflow wrote into them.
    pub script: bool,
    /// `arc-hook/retain-cancelled`: a cancelled job counts as failed.
    pub cancelled: bool,
    /// `arc-hook/retain-storage-class`: of a claim to which a workspace is copied.
    pub storage_class: Option<String>,
    /// `arc-hook/retain-copy-limit`: most bytes that are copied to it.
    pub copy_limit: u64,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            when: When::Never,
            ttl: Duration::from_hours(4),
            max_ttl: Duration::from_hours(24),
            max: 5,
            mode: Mode::Pod,
            env: Vec::new(),
            script: false,
            cancelled: false,
            storage_class: None,
            copy_limit: 10 << 30,
        }
    }
}

impl Policy {
    /// Takes one annotation, whose name follows `arc-hook/`. `None` when it is none of these, else
    /// whether its value means something; the error is the remedy.
    pub fn set(&mut self, key: &str, value: &str) -> Option<Result<(), &'static str>> {
        fn put<T>(to: &mut T, value: Option<T>, remedy: &'static str) -> Result<(), &'static str> {
            *to = value.ok_or(remedy)?;
            Ok(())
        }
        const TIME: &str = "use a time as \"4h\", \"30m\" or \"1d\", at most 31d";
        let value = value.trim();
        Some(match key {
            "retain" => put(
                &mut self.when,
                When::parse(value),
                "use `never`, `on-failure` or `always`",
            ),
            "retain-ttl" => put(&mut self.ttl, annotated(value), TIME),
            "retain-max-ttl" => put(&mut self.max_ttl, annotated(value), TIME),
            "retain-max" => put(
                &mut self.max,
                value.parse().ok().filter(|max| (1..=1000).contains(max)),
                "use a number from 1 to 1000; `arc-hook/retain: never` keeps none",
            ),
            "retain-mode" => put(&mut self.mode, Mode::parse(value), "use `pod` or `volumes`"),
            "retain-env" => {
                let names = value.split([',', ' ', '\n']).map(str::trim);
                self.env = names
                    .filter(|name| !name.is_empty())
                    .map(str::to_owned)
                    .collect();
                Ok(())
            }
            "retain-script" => put(&mut self.script, switch(value), "use \"true\" or \"false\""),
            "retain-storage-class" => put(
                &mut self.storage_class,
                Some(Some(value.to_owned()).filter(|name| !name.is_empty())),
                "name a storage class",
            ),
            "retain-copy-limit" => put(
                &mut self.copy_limit,
                quantity::bytes(value)
                    .and_then(|bytes| u64::try_from(bytes).ok())
                    .filter(|bytes| (1..=MOST).contains(bytes)),
                "use a quantity as \"10Gi\" or \"512Mi\", at most 1Ti",
            ),
            "retain-cancelled" => put(
                &mut self.cancelled,
                switch(value),
                "use \"true\" or \"false\"",
            ),
            _ => return None,
        })
    }

    /// Whether a job may be kept at all.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.when != When::Never
    }

    /// What a job asks for in `container.env`, as far as it is less. What is more, or means nothing,
    /// changes nothing, and is told.
    pub fn ask(&mut self, environment: &Environment) -> Vec<String> {
        let mut told = Vec::new();
        if let Some(wanted) = environment.get(ASK) {
            match When::parse(wanted) {
                Some(when) if when <= self.when => self.when = when,
                Some(_) => told.push(format!(
                    "`{ASK}: {wanted}` asks for more than the hook template allows, and changes \
                     nothing"
                )),
                None => told.push(format!(
                    "`{ASK}` means nothing; use `never`, `on-failure` or `always`"
                )),
            }
        }
        if let Some(wanted) = environment.get(ASK_TTL) {
            match duration(wanted) {
                Some(ttl) if ttl <= self.ttl => self.ttl = ttl,
                Some(_) => told.push(format!(
                    "`{ASK_TTL}: {wanted}` is longer than the {} that the hook template allows, and \
                     changes nothing",
                    words(self.ttl)
                )),
                None => told.push(format!("`{ASK_TTL}` means nothing; use a time as `30m`")),
            }
        }
        if !self.is_on() {
            // Nobody waits for it.
            told.clear();
        }
        self.max_ttl = self.max_ttl.max(self.ttl);
        told
    }
}

fn switch(value: &str) -> Option<bool> {
    if crate::config::is_true(value) {
        return Some(true);
    }
    value.eq_ignore_ascii_case("false").then_some(false)
}

fn annotated(value: &str) -> Option<Duration> {
    duration(value).filter(|time| !time.is_zero() && *time <= LONGEST)
}

/// Reads `90` or `90s`, `30m`, `4h`, `1d`.
#[must_use]
pub fn duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let units = BTreeMap::from([('s', 1), ('m', 60), ('h', 3_600), ('d', 86_400)]);
    let last = text.chars().last()?;
    let (digits, unit) = match units.get(&last) {
        Some(unit) => (&text[..text.len() - 1], *unit),
        None => (text, 1),
    };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits
        .parse::<u64>()
        .ok()?
        .checked_mul(unit)
        .map(Duration::from_secs)
}

/// A time in the largest unit that loses nothing much: `4h`, `90m`, `45s`.
#[must_use]
pub fn words(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        ..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn policy(annotations: &[(&str, &str)]) -> Policy {
        let mut policy = Policy::default();
        for (key, value) in annotations {
            policy.set(key, value).unwrap().unwrap();
        }
        policy
    }

    fn asked(policy: &mut Policy, variables: &[(&str, &str)]) -> Vec<String> {
        let variables = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        policy.ask(&variables.collect())
    }

    #[test]
    fn nothing_is_kept_unless_the_template_says_so() {
        assert!(!Policy::default().is_on());
        assert!(policy(&[("retain", "on-failure")]).is_on());
    }

    #[test]
    fn every_annotation_is_read() {
        let policy = policy(&[
            ("retain", "always"),
            ("retain-ttl", "30m"),
            ("retain-max-ttl", "2h"),
            ("retain-max", "7"),
            ("retain-mode", "volumes"),
            ("retain-env", "CC, CXX\nLANG"),
            ("retain-script", "true"),
            ("retain-cancelled", "True"),
            ("retain-storage-class", "fast"),
            ("retain-copy-limit", "512Mi"),
        ]);
        assert_eq!(
            policy,
            Policy {
                when: When::Always,
                ttl: Duration::from_mins(30),
                max_ttl: Duration::from_hours(2),
                max: 7,
                mode: Mode::Volumes,
                env: ["CC", "CXX", "LANG"].map(str::to_owned).to_vec(),
                script: true,
                cancelled: true,
                storage_class: Some("fast".to_owned()),
                copy_limit: 512 << 20,
            }
        );
    }

    #[test]
    fn a_value_that_means_nothing_is_refused_with_the_remedy() {
        for (key, value, remedy) in [
            ("retain", "sometimes", "on-failure"),
            ("retain-ttl", "soon", "4h"),
            ("retain-ttl", "0", "4h"),
            ("retain-max-ttl", "400d", "31d"),
            ("retain-max", "0", "1 to 1000"),
            ("retain-mode", "disk", "volumes"),
            ("retain-script", "maybe", "true"),
            ("retain-copy-limit", "0", "10Gi"),
            ("retain-copy-limit", "much", "10Gi"),
        ] {
            let refused = Policy::default().set(key, value).unwrap().unwrap_err();
            assert!(refused.contains(remedy), "{key}: {refused}");
        }
        assert_eq!(Policy::default().set("retained", "x"), None);
    }

    #[test]
    fn a_job_gets_less_for_the_asking_and_never_more() {
        let mut policy = policy(&[("retain", "on-failure"), ("retain-ttl", "1h")]);
        let told = asked(
            &mut policy,
            &[("ARC_HOOK_RETAIN", "always"), ("ARC_HOOK_RETAIN_TTL", "2h")],
        );
        assert_eq!(told.len(), 2, "{told:?}");
        assert_eq!(
            (policy.when, policy.ttl),
            (When::OnFailure, Duration::from_hours(1))
        );
        assert!(asked(&mut policy, &[("ARC_HOOK_RETAIN_TTL", "5m")]).is_empty());
        assert_eq!(policy.ttl, Duration::from_mins(5));
        assert!(asked(&mut policy, &[("ARC_HOOK_RETAIN", "never")]).is_empty());
        assert!(!policy.is_on());
    }

    #[test]
    fn times_are_read_and_told() {
        for (text, seconds, told) in [
            ("90", 90, "90s"),
            ("30m", 1800, "30m"),
            ("4h", 14_400, "4h"),
            ("3d", 259_200, "3d"),
        ] {
            let time = Duration::from_secs(seconds);
            assert_eq!(duration(text), Some(time));
            assert_eq!(words(time), told);
        }
        for text in ["", "h", "-1h", "1.5h", "1w", "99999999999999999999d", "1é"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn whatever_a_job_asks_for_the_bounds_only_shrink(
            when in "never|on-failure|always|.{0,8}", ttl in ".{0,12}|[0-9]{1,6}[smhd]"
        ) {
            let before = policy(&[("retain", "on-failure")]);
            let mut after = before.clone();
            asked(&mut after, &[("ARC_HOOK_RETAIN", &when), ("ARC_HOOK_RETAIN_TTL", &ttl)]);
            prop_assert!(after.when <= before.when && after.ttl <= before.ttl);
            prop_assert!(after.max_ttl == before.max_ttl && after.max == before.max);
        }
    }
}
