//! The flags of `docker create`: how a word is taken apart, and what each flag is to a pod.

use super::error::SpecError;

/// Flags that take no value.
const SWITCHES: [(&str, Option<char>); 12] = [
    ("detach", Some('d')),
    ("disable-content-trust", None),
    ("help", None),
    ("init", None),
    ("interactive", Some('i')),
    ("no-healthcheck", None),
    ("oom-kill-disable", None),
    ("privileged", None),
    ("publish-all", Some('P')),
    ("quiet", Some('q')),
    ("rm", None),
    ("tty", Some('t')),
];

/// One-letter forms of flags that take a value.
const SHORT: [(char, &str); 13] = [
    ('a', "attach"),
    ('c', "cpu-shares"),
    ('e', "env"),
    ('h', "hostname"),
    ('l', "label"),
    ('m', "memory"),
    ('p', "publish"),
    ('u', "user"),
    ('v', "volume"),
    ('w', "workdir"),
    // Switches, for those who write `-i=true`.
    ('d', "detach"),
    ('i', "interactive"),
    ('t', "tty"),
];

pub const KNOWN: &str = "known are --cpus, --memory, --shm-size, --env, --workdir, --entrypoint, \
    --hostname, --add-host, --network-alias, --label, --tmpfs, --user, --pull, --health-*";

/// What an option would grant that no workflow may have, and what to do instead.
pub fn refusal(flag: &str) -> Option<&'static str> {
    Some(match flag {
        "privileged" | "cap-add" | "security-opt" | "device" | "device-cgroup-rule" | "userns"
        | "group-add" | "sysctl" | "runtime" | "cgroup-parent" | "cgroupns" | "device-read-bps"
        | "device-write-bps" | "oom-kill-disable" | "oom-score-adj" => {
            "a workflow cannot widen its rights; have `$job` or `$<service>` of the hook template \
             set what is needed in `securityContext`"
        }
        "pid" | "uts" | "volumes-from" | "link" => {
            "containers of a pod do not share that; remove it"
        }
        "ipc" => "a pod has its own shared memory; use --shm-size for more of it",
        "network" | "net" | "ip" | "ip6" | "mac-address" | "dns" | "dns-search" | "dns-option" => {
            "the pod's network is the cluster's; remove it"
        }
        "volume" | "mount" => "use `volumes:` of the container",
        "publish" | "publish-all" | "expose" => "use `ports:` of the container",
        "gpus" => "have the hook template set the device in `resources` of `$job`",
        "env-file" => "the runner's files are not the job's; use `env:`",
        _ => return None,
    })
}

/// Options that change nothing a pod could do otherwise.
pub fn is_without_effect(flag: &str) -> bool {
    matches!(
        flag,
        "attach"
            | "cidfile"
            | "cpu-shares"
            | "detach"
            | "detach-keys"
            | "disable-content-trust"
            | "init"
            | "interactive"
            | "log-driver"
            | "log-opt"
            | "memory-reservation"
            | "memory-swap"
            | "memory-swappiness"
            | "name"
            | "pids-limit"
            | "platform"
            | "quiet"
            | "restart"
            | "rm"
            | "stop-signal"
            | "stop-timeout"
            | "tty"
            | "ulimit"
    )
}

/// True for a flag that takes no value.
pub fn is_switch(flag: &str) -> bool {
    SWITCHES.iter().any(|(name, _)| *name == flag)
}

/// The flags of one word, without dashes, each with the value that is in the word.
pub fn flags(word: &str, container: &str) -> Result<Vec<(String, Option<String>)>, SpecError> {
    let refuse = |option: &str, reason: &str| SpecError::Option {
        container: container.to_owned(),
        option: option.to_owned(),
        reason: reason.to_owned(),
    };
    if let Some(long) = word.strip_prefix("--").filter(|long| !long.is_empty()) {
        let (flag, value) = match long.split_once('=') {
            Some((flag, value)) => (flag, Some(value.to_owned())),
            None => (long, None),
        };
        return if is_known(flag) {
            Ok(vec![(flag.to_owned(), value)])
        } else {
            Err(refuse(word, &format!("it is unknown; {KNOWN}")))
        };
    }
    let Some(letters) = word
        .strip_prefix('-')
        .filter(|letters| !letters.is_empty() && *letters != "-")
    else {
        return Err(refuse(
            word,
            "it is no option; put the value of an option that holds blanks in quotes",
        ));
    };
    let mut found = Vec::new();
    let mut rest = letters.chars();
    while let Some(letter) = rest.next() {
        let switch = SWITCHES.iter().find(|(_, short)| *short == Some(letter));
        let left = rest.as_str();
        if let Some((flag, _)) = switch.filter(|_| !left.starts_with('=')) {
            found.push(((*flag).to_owned(), None));
            continue;
        }
        let Some((_, flag)) = SHORT.iter().find(|(short, _)| *short == letter) else {
            return Err(refuse(word, &format!("it is unknown; {KNOWN}")));
        };
        let value = (!left.is_empty()).then(|| left.strip_prefix('=').unwrap_or(left).to_owned());
        found.push(((*flag).to_owned(), value));
        break;
    }
    Ok(found)
}

fn is_known(flag: &str) -> bool {
    refusal(flag).is_some()
        || is_without_effect(flag)
        || matches!(
            flag,
            "cpus"
                | "memory"
                | "shm-size"
                | "env"
                | "workdir"
                | "entrypoint"
                | "hostname"
                | "add-host"
                | "network-alias"
                | "label"
                | "tmpfs"
                | "user"
                | "pull"
                | "no-healthcheck"
                | "health-cmd"
                | "health-interval"
                | "health-timeout"
                | "health-retries"
                | "health-start-period"
                | "health-start-interval"
        )
}
