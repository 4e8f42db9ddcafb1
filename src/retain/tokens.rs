//! Lines of configuration files that hold a token, taken out of a text. Pure.

/// A git configuration without what `actions/checkout` and its like put into it: `extraheader` of any
/// host, and a user or token in an address. `None` when nothing was taken out.
#[must_use]
pub fn git(text: &str) -> Option<String> {
    let mut clean = String::with_capacity(text.len());
    let mut dropping = false;
    for line in text.split_inclusive('\n') {
        let continues = line.trim_end_matches(['\r', '\n']).ends_with('\\');
        if dropping {
            dropping = continues;
            continue;
        }
        let lower = line.to_ascii_lowercase();
        if lower.contains("extraheader") {
            dropping = continues;
            // A key may stand behind the header of its section.
            if let (true, Some(end)) = (line.trim_start().starts_with('['), line.rfind(']')) {
                let header = &line[..=end];
                if !header.to_ascii_lowercase().contains("extraheader") {
                    clean.push_str(&anonymous(header));
                    clean.push('\n');
                }
            }
            continue;
        }
        clean.push_str(&anonymous(line));
    }
    (clean != text).then_some(clean)
}

/// Addresses without user and password.
fn anonymous(line: &str) -> String {
    let mut clean = String::new();
    let mut rest = line;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        clean.push_str(before);
        let end = after
            .find(|c: char| c == '/' || c == '"' || c.is_whitespace())
            .unwrap_or(after.len());
        let host = after[..end].rfind('@').map_or(0, |at| at + 1);
        clean.push_str(&after[host..end]);
        rest = &after[end..];
    }
    clean + rest
}

/// An npm configuration without passwords and tokens. `None` when there were none.
#[must_use]
pub fn npm(text: &str) -> Option<String> {
    let is_secret = |line: &&str| {
        let key = line.split('=').next().unwrap_or_default().to_lowercase();
        ["_authtoken", "_auth", "_password"]
            .iter()
            .any(|secret| key.trim().ends_with(secret))
    };
    let clean: String = text
        .split_inclusive('\n')
        .filter(|line| !is_secret(line))
        .collect();
    (clean != text).then_some(clean)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_header_of_checkout_goes_and_all_else_stays() {
        let before = "[core]\n\tbare = false\n[http \"https://github.com/\"]\n\
            \textraheader = AUTHORIZATION: basic czNjcmV0\n[gc]\n\tauto = 0\n";
        let after = "[core]\n\tbare = false\n[http \"https://github.com/\"]\n[gc]\n\tauto = 0\n";
        assert_eq!(git(before).as_deref(), Some(after));
        assert_eq!(git(after), None);
    }

    #[test]
    fn other_ways_to_write_it_are_known_too() {
        for (before, after) in [
            ("[http] extraHeader = s3cret\n", "[http]\n"),
            ("\tExtraHeader=\"a \\\n  s3cret\"\n[x]\n", "[x]\n"),
            (
                "url = https://x-access-token:s3cret@github.com/o/r\n",
                "url = https://github.com/o/r\n",
            ),
            (
                "[url \"https://s3cret@github.com/\"]\n\tinsteadOf = https://github.com/\n",
                "[url \"https://github.com/\"]\n\tinsteadOf = https://github.com/\n",
            ),
            ("url = https://a:s3cret@b:c@host/x", "url = https://host/x"),
        ] {
            assert_eq!(git(before).as_deref(), Some(after), "{before}");
        }
        assert_eq!(git("url = git@github.com:o/r\n"), None);
    }

    #[test]
    fn tokens_of_npm_go() {
        let before = "registry=https://r/\n//r/:_authToken=s3cret\n//r/:_password = s3cret\n";
        assert_eq!(npm(before).as_deref(), Some("registry=https://r/\n"));
        assert_eq!(npm("registry=https://r/\n"), None);
    }

    proptest! {
        #[test]
        fn what_is_clean_stays_as_it_is(text in "(?s).{0,200}") {
            if let Some(clean) = git(&text) {
                prop_assert_eq!(git(&clean), None);
            }
        }

        #[test]
        fn no_header_survives(
            before in "[a-z\\[\\]\" =\n\\\\]{0,40}", key in "(?i)extraheader", after in "[a-z \n\\\\]{0,40}"
        ) {
            let text = format!("{before}\n{key} = s3cret{after}");
            let clean = git(&text).unwrap_or(text);
            prop_assert!(!clean.contains("s3cret"), "{}", clean);
        }
    }
}
