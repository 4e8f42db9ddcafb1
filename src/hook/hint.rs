//! One line after the log of a step that seems to have failed because of its user.
//!
//! Images are mostly made for root. Where a hook template has jobs run as someone else, `apt-get`
//! and its like fail with words that speak of permissions and not of the template; their reader
//! does not know of it.

use std::io::{self, Write};

use super::output;
use crate::record::{ForcedBy, ForcedUser};

/// How much of a log's end is looked at: what a program says last when it gives up.
const KEPT: usize = 4096;

/// Passes a log on and keeps its end in mind.
#[derive(Debug)]
pub struct Tail<W> {
    out: W,
    kept: Vec<u8>,
}

impl<W: Write> Tail<W> {
    /// Passes on to `out`.
    pub fn new(out: W) -> Self {
        Self {
            out,
            kept: Vec::new(),
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(KEPT)..];
        let rest = KEPT - bytes.len();
        // Moved once per so many bytes, not once per write.
        if rest == 0 || self.kept.len() + bytes.len() > 2 * KEPT {
            self.kept.drain(..self.kept.len().saturating_sub(rest));
        }
        self.kept.extend_from_slice(bytes);
    }

    /// The end of what was passed on.
    pub fn last_words(&self) -> &[u8] {
        &self.kept[self.kept.len().saturating_sub(KEPT)..]
    }

    /// Says in one line why a step with this end may have failed, if its user is a likely cause.
    pub fn tell(&self, user: Option<ForcedUser>, code: u8) {
        let Some(user) = user.filter(|_| code != 0) else {
            return;
        };
        let tail = self.last_words();
        if let Some(words) = hint(user, code, &String::from_utf8_lossy(tail)) {
            if tail.last() != Some(&b'\n') {
                output::line("");
            }
            output::line(&words);
        }
    }
}

impl<W: Write> Write for Tail<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.out.write(bytes)?;
        self.keep(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// What a step wanted that its user cannot have, the most telling first.
#[derive(Debug, Clone, Copy)]
enum Want {
    Name,
    Packages,
    NodePackages,
    Permission,
}

const WANTS: [Want; 4] = [
    Want::Name,
    Want::Packages,
    Want::NodePackages,
    Want::Permission,
];

impl Want {
    /// Whether a line, in lower case, tells of it.
    fn is_told_by(self, line: &str) -> bool {
        let any = |words: &[&str]| words.iter().any(|word| line.contains(word));
        match self {
            // ssh, whoami, git, Python's `getpass`, sudo.
            Self::Name => any(&[
                "no user exists for uid",
                "cannot find name for user id",
                "unable to look up current user in the passwd file",
                "getpwuid(): uid not found",
                "do not exist in the passwd database",
            ]),
            // apt-get and dpkg, apk, dnf, microdnf and pacman.
            Self::Packages => any(&[
                "are you root?",
                "/var/lib/dpkg/",
                "/var/lib/apt/",
                "requested operation requires superuser privilege",
                "apk database",
                "unable to lock database",
                "has to be run with superuser privileges",
                "unless you are root",
            ]),
            Self::NodePackages => line.contains("npm ") && line.contains("eacces"),
            Self::Permission => {
                any(&[
                    "permission denied",
                    "eacces",
                    "operation not permitted",
                    "must be root",
                    "run as root",
                    "requires root",
                ]) && !any(&[
                    // What a remote host says of credentials.
                    "publickey",
                    "keyboard-interactive",
                    "please try again",
                ])
            }
        }
    }

    fn remedy(self) -> &'static str {
        match self {
            Self::Name => {
                "and the image's /etc/passwd has no entry for it: have the template say \
                 `arc-hook/passwd: \"true\"`"
            }
            Self::Packages => "and only root installs packages: put them into the image",
            Self::NodePackages => {
                "and only root writes where `npm install -g` does: install into the project, or set \
                 `NPM_CONFIG_PREFIX` to a directory below `$HOME`"
            }
            Self::Permission => {
                "which may lack a permission: write below `$HOME`, `$RUNNER_TEMP` or the \
                 workspace, or have the image open the directory to that user"
            }
        }
    }
}

/// The line for a failed step, by the end of its log.
fn hint(user: ForcedUser, code: u8, tail: &str) -> Option<String> {
    /// A shell's code for a program that it may not execute, which a script without an x is to
    /// every user.
    const NOT_EXECUTABLE: u8 = 126;
    if user.uid == 0 {
        return None;
    }
    let tail = tail.to_ascii_lowercase();
    let want = WANTS
        .into_iter()
        .filter(|want| match want {
            Want::Name => !user.named,
            Want::Permission => code != NOT_EXECUTABLE,
            Want::Packages | Want::NodePackages => true,
        })
        .find(|want| tail.lines().any(|line| want.is_told_by(line)))?;
    let (by, instead) = match user.by {
        ForcedBy::Annotation => (
            "`arc-hook/run-as` of the hook template",
            ", or have the template say `arc-hook/run-as: image`",
        ),
        ForcedBy::Specification => (
            "`runAsUser` of the hook template or `--user` of the workflow",
            "",
        ),
    };
    let instead = if matches!(want, Want::Name) {
        ""
    } else {
        instead
    };
    Some(format!(
        "Hint: this step ran as user {} by {by}, not as the user of its image, {}{instead}",
        user.uid,
        want.remedy()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const USER: ForcedUser = ForcedUser {
        uid: 1001,
        by: ForcedBy::Annotation,
        named: false,
    };

    fn of(tail: &str) -> String {
        hint(USER, 1, tail).unwrap_or_default()
    }

    #[test]
    fn a_package_manager_that_wants_root_is_answered_with_the_image() {
        for tail in [
            "E: Could not open lock file /var/lib/dpkg/lock-frontend - open (13: Permission denied)\n\
             E: Unable to acquire the dpkg frontend lock (/var/lib/dpkg/lock-frontend), are you root?\n",
            "E: List directory /var/lib/apt/lists/partial is missing. - Acquire (13: Permission denied)\n",
            "dpkg: error: requested operation requires superuser privilege\n",
            "ERROR: Unable to lock database: Permission denied\n\
             ERROR: Failed to open apk database: Permission denied\n",
            "Error: This command has to be run with superuser privileges (under the root user on \
             most systems).\n",
            "error: you cannot perform this operation unless you are root.\n",
        ] {
            assert_eq!(
                of(tail),
                "Hint: this step ran as user 1001 by `arc-hook/run-as` of the hook template, not as \
                 the user of its image, and only root installs packages: put them into the image, or \
                 have the template say `arc-hook/run-as: image`",
                "{tail}"
            );
        }
    }

    #[test]
    fn a_global_npm_install_is_answered_with_a_prefix() {
        for tail in [
            "npm ERR! code EACCES\nnpm ERR! syscall mkdir\n",
            "npm error Error: EACCES: permission denied, mkdir '/usr/local/lib/node_modules/x'\n",
        ] {
            assert!(of(tail).contains("`NPM_CONFIG_PREFIX`"), "{tail}");
        }
    }

    #[test]
    fn any_other_denial_is_answered_with_the_places_that_can_be_written() {
        for tail in [
            "mkdir: cannot create directory '/opt/x': Permission denied\nmore\n",
            "PermissionError: [Errno 13] Permission denied: '/usr/local/bin/x'\n",
            "chown: changing ownership of 'x': Operation not permitted",
            "this script must be run as root",
        ] {
            assert!(of(tail).contains("write below `$HOME`"), "{tail}");
        }
    }

    #[test]
    fn a_user_without_a_name_is_answered_with_one_unless_it_has_one() {
        for tail in [
            "No user exists for uid 1001\n",
            "whoami: cannot find name for user ID 1001\n",
            "KeyError: 'getpwuid(): uid not found: 1001'\n",
            "sudo: you do not exist in the passwd database\n",
        ] {
            assert!(of(tail).contains("`arc-hook/passwd: \"true\"`"), "{tail}");
            let named = ForcedUser {
                named: true,
                ..USER
            };
            assert_eq!(hint(named, 1, tail), None, "{tail}");
        }
    }

    #[test]
    fn what_has_another_cause_gets_no_hint() {
        for tail in [
            "",
            "make: *** [all] Error 2\n",
            "git@github.com: Permission denied (publickey).\n",
            "Permission denied, please try again.\n",
        ] {
            assert_eq!(of(tail), "", "{tail}");
        }
        let denied = "sh: 1: ./build.sh: Permission denied\n";
        assert_eq!(hint(USER, 126, denied), None, "a script without an x");
        let root = ForcedUser { uid: 0, ..USER };
        assert_eq!(hint(root, 1, denied), None, "root lacks no permission");
    }

    #[test]
    fn the_hint_names_what_chose_the_user() {
        let user = ForcedUser {
            by: ForcedBy::Specification,
            ..USER
        };
        let words = hint(user, 1, "Permission denied").unwrap();
        assert!(words.contains("`runAsUser`") && words.contains("`--user`"));
        assert!(!words.contains("run-as"), "{words}");
    }

    proptest! {
        #[test]
        fn the_end_of_any_log_is_kept_in_bounded_memory(
            sizes in proptest::collection::vec(0_usize..3 * KEPT, 0..12)
        ) {
            let mut all = Vec::new();
            let mut tail = Tail::new(io::sink());
            for (index, size) in sizes.into_iter().enumerate() {
                let part: Vec<u8> = (0..=u8::MAX).cycle().skip(index).take(size).collect();
                tail.write_all(&part).unwrap();
                all.extend(part);
                prop_assert!(tail.kept.len() <= 2 * KEPT);
            }
            prop_assert!(all.ends_with(&tail.kept));
            prop_assert!(tail.kept.len() >= KEPT.min(all.len()));
        }
    }
}
