//! `options:` of the workflow: the part of `docker create` that a pod can grant.
//!
//! The syntax is Docker's: `--flag value`, `--flag=value`, `-f value`, `-fvalue`, short switches
//! together. What is not understood is an error: an option that silently does nothing is found when
//! the build that relied on it fails.

use std::path::Path;
use std::time::Duration;

use super::error::SpecError;
use super::flags;
use super::names::is_dns_label;
use super::quantity;
use super::settings::id;
use crate::protocol::Environment;

/// What `options:` asks for.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Options {
    /// `--cpus`, in thousandths.
    pub cpu: Option<i64>,
    /// `--memory`, in bytes.
    pub memory: Option<i64>,
    /// `--shm-size`, in bytes.
    pub shm_size: Option<i64>,
    /// `--env`.
    pub environment: Environment,
    /// `--workdir`.
    pub working_directory: Option<String>,
    /// `--entrypoint`.
    pub entry_point: Option<String>,
    /// `--hostname`.
    pub hostname: Option<String>,
    /// `--add-host`, name and address.
    pub hosts: Vec<(String, String)>,
    /// `--network-alias`.
    pub aliases: Vec<String>,
    /// `--label`.
    pub labels: Vec<(String, String)>,
    /// `--tmpfs`.
    pub tmpfs: Vec<Tmpfs>,
    /// `--user`, as written.
    pub user: Option<String>,
    /// `--pull`.
    pub pull_policy: Option<&'static str>,
    /// `--health-cmd` and its like.
    pub health: Option<Health>,
    /// Options that are understood and mean nothing here.
    pub without_effect: Vec<String>,
}

/// One `--tmpfs`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tmpfs {
    /// Where.
    pub path: String,
    /// `size=`, in bytes.
    pub size: Option<i64>,
    /// `ro`.
    pub read_only: bool,
}

/// A health check, with Docker's defaults (docs.docker.com, `docker container create`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// The command line, run by a shell.
    pub command: String,
    /// Time between two checks.
    pub interval: Duration,
    /// Time that one check may take.
    pub timeout: Duration,
    /// Failures in a row that make a container unhealthy.
    pub retries: u32,
    /// Time in which failures do not count.
    pub start_period: Duration,
    /// Time between two checks until the first success.
    pub start_interval: Option<Duration>,
}

impl Health {
    /// How long after its start a container that was never healthy counts as unhealthy.
    #[must_use]
    pub fn deadline(&self) -> Duration {
        self.start_period + self.interval * self.retries + self.timeout
    }
}

impl Options {
    /// Reads `options:`; `container` is the container's name, for errors.
    pub fn parse(text: Option<&str>, container: &str) -> Result<Self, SpecError> {
        let mut options = Self::default();
        let text = text.unwrap_or_default();
        let words = shell_words::split(text).map_err(|_| SpecError::Quotes {
            container: container.to_owned(),
            text: text.to_owned(),
        })?;
        let mut health = Health {
            command: String::new(),
            interval: Duration::from_secs(30),
            timeout: Duration::from_secs(30),
            retries: 3,
            start_period: Duration::ZERO,
            start_interval: None,
        };
        let mut checks = true;
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            for (flag, value) in flags::flags(&word, container)? {
                let switch = flags::is_switch(&flag);
                let shown = match &value {
                    Some(value) => format!("--{flag}={value}"),
                    None => format!("--{flag}"),
                };
                let refuse = |reason: &str| SpecError::Option {
                    container: container.to_owned(),
                    option: shown.clone(),
                    reason: reason.to_owned(),
                };
                if switch && value.as_deref() == Some("false") {
                    continue;
                }
                if let Some(reason) = flags::refusal(&flag) {
                    return Err(refuse(reason));
                }
                let value = match value {
                    Some(value) => value,
                    None if switch => String::new(),
                    None => words.next().ok_or_else(|| refuse("its value is missing"))?,
                };
                if flags::is_without_effect(&flag) {
                    options.without_effect.push(format!("--{flag}"));
                    continue;
                }
                if flag == "no-healthcheck" {
                    checks = false;
                    continue;
                }
                let wrong = |what: &str| SpecError::Option {
                    container: container.to_owned(),
                    option: format!("--{flag}={value}"),
                    reason: what.to_owned(),
                };
                if flag.starts_with("health-") {
                    health.set(&flag, &value).map_err(wrong)?;
                } else {
                    options.set(&flag, &value).map_err(wrong)?;
                }
            }
        }
        // Docker takes `NONE` for the absence of a check.
        if checks && !health.command.is_empty() && !health.command.eq_ignore_ascii_case("none") {
            options.health = Some(health);
        }
        Ok(options)
    }

    fn set(&mut self, flag: &str, value: &str) -> Result<(), &'static str> {
        let whole = || (!value.is_empty()).then(|| value.to_owned());
        match flag {
            "cpus" => {
                let cpu = quantity::docker_cpus(value).ok_or("write a number, as 1.5")?;
                self.cpu = Some(cpu);
            }
            "memory" => {
                let bytes = quantity::docker_bytes(value).ok_or("write a size, as 512m or 2g")?;
                self.memory = Some(bytes);
            }
            "shm-size" => {
                let bytes = quantity::docker_bytes(value).ok_or("write a size, as 512m or 2g")?;
                self.shm_size = Some(bytes);
            }
            "env" => {
                let (name, value) = value
                    .split_once('=')
                    .ok_or("write NAME=value: the environment of the runner is not passed on")?;
                if name.is_empty() {
                    return Err("write NAME=value");
                }
                self.environment.insert(name.to_owned(), value.to_owned());
            }
            "workdir" => {
                let path = whole().filter(|path| Path::new(path).is_absolute());
                self.working_directory = Some(path.ok_or("write an absolute path")?);
            }
            "entrypoint" => self.entry_point = whole(),
            "hostname" => {
                let name = whole().filter(|name| is_dns_label(name));
                self.hostname =
                    Some(name.ok_or("write at most 63 lower-case letters, digits and hyphens")?);
            }
            "add-host" => self.hosts.push(host(value)?),
            "network-alias" => {
                let name = whole().filter(|name| name.split('.').all(is_dns_label));
                self.aliases.push(name.ok_or("write a host name")?);
            }
            "label" => {
                let (name, value) = value.split_once('=').unwrap_or((value, ""));
                self.labels.push((name.to_owned(), value.to_owned()));
            }
            "tmpfs" => self.tmpfs.push(Tmpfs::parse(value)?),
            "user" => self.user = whole(),
            "pull" => {
                self.pull_policy = Some(match value {
                    "always" => "Always",
                    "missing" => "IfNotPresent",
                    "never" => "Never",
                    _ => return Err("write always, missing or never"),
                });
            }
            _ => return Err(flags::KNOWN),
        }
        Ok(())
    }

    /// `--user` as numbers, since a pod knows no names; `root` is 0 everywhere.
    pub fn user_numbers(&self, container: &str) -> Result<Option<(u32, Option<u32>)>, SpecError> {
        let Some(text) = &self.user else {
            return Ok(None);
        };
        let number = |text: &str| if text == "root" { Some(0) } else { id(text) };
        let numbers = match text.split_once(':') {
            None => number(text).map(|uid| (uid, None)),
            Some((uid, gid)) => number(uid)
                .zip(number(gid))
                .map(|(uid, gid)| (uid, Some(gid))),
        };
        numbers.map(Some).ok_or_else(|| SpecError::Option {
            container: container.to_owned(),
            option: format!("--user={text}"),
            reason: "write numbers, UID or UID:GID: a pod does not know the names of the image"
                .to_owned(),
        })
    }
}

impl Health {
    fn set(&mut self, flag: &str, value: &str) -> Result<(), &'static str> {
        let time = || duration(value).ok_or("write a duration, as 10s or 1m30s");
        match flag {
            "health-cmd" => value.clone_into(&mut self.command),
            // Zero stands for Docker's default.
            "health-interval" => self.interval = time()?.max(Duration::from_secs(1)),
            "health-timeout" => self.timeout = time()?.max(Duration::from_secs(1)),
            "health-start-period" => self.start_period = time()?,
            "health-start-interval" => {
                self.start_interval = Some(time()?.max(Duration::from_secs(1)));
            }
            "health-retries" => {
                self.retries = value
                    .parse()
                    .ok()
                    .filter(|retries| (1..=10_000).contains(retries))
                    .ok_or("write a number from 1")?;
            }
            _ => return Err(flags::KNOWN),
        }
        Ok(())
    }
}

impl Tmpfs {
    fn parse(text: &str) -> Result<Self, &'static str> {
        let (path, settings) = text.split_once(':').unwrap_or((text, ""));
        let mut tmpfs = Self {
            path: path.to_owned(),
            size: None,
            read_only: false,
        };
        for setting in settings.split(',').filter(|setting| !setting.is_empty()) {
            match setting.split_once('=').unwrap_or((setting, "")) {
                ("size", size) => {
                    tmpfs.size =
                        Some(quantity::docker_bytes(size).ok_or("write a size, as size=64m")?);
                }
                ("ro", _) => tmpfs.read_only = true,
                // A pod's volume has no such settings; none of them is needed to use it.
                (
                    "rw" | "exec" | "noexec" | "suid" | "nosuid" | "dev" | "nodev" | "mode" | "uid"
                    | "gid" | "relatime" | "noatime",
                    _,
                ) => {}
                _ => return Err("known settings are size, ro, rw"),
            }
        }
        Ok(tmpfs)
    }
}

/// `name:address` or `name=address`.
fn host(text: &str) -> Result<(String, String), &'static str> {
    let shape = "write name:address, with a numeric address";
    let (name, address) = text
        .split_once('=')
        .or_else(|| text.split_once(':'))
        .ok_or(shape)?;
    let address = address.trim_matches(['[', ']']);
    let numeric = address.parse::<std::net::IpAddr>().is_ok();
    if !numeric || !name.split('.').all(is_dns_label) {
        return Err(shape);
    }
    Ok((name.to_owned(), address.to_owned()))
}

/// A duration of Go, as Docker takes it: `1h`, `1m30s`, `500ms`, `0`.
fn duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let unit = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(unit);
        let end = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let seconds = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        let number: f64 = number.parse().ok()?;
        total += Duration::try_from_secs_f64(number * seconds).ok()?;
        rest = tail;
    }
    // A day is more than any job has.
    (!text.is_empty() && total <= Duration::from_hours(24)).then_some(total)
}
