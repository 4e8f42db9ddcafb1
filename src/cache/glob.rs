//! Patterns as in a workflow's `branches:`: `*` is any text without `/`, `**` any text, `?` one
//! character but `/`. Everything else stands for itself.

use std::fmt;

/// A pattern of the platform engineer's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob(String);

impl Glob {
    /// Every text is a pattern.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// Whether the whole text is one that the pattern means. Takes time in proportion to both
    /// lengths, whatever they hold.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        let text: Vec<char> = text.chars().collect();
        // `reached[n]`: the pattern so far matches the first n characters.
        let mut reached = vec![false; text.len() + 1];
        reached[0] = true;
        let mut pattern = self.0.chars().peekable();
        while let Some(wanted) = pattern.next() {
            if wanted == '*' {
                let crosses = pattern.next_if_eq(&'*').is_some();
                for end in 0..text.len() {
                    reached[end + 1] |= reached[end] && (crosses || text[end] != '/');
                }
                continue;
            }
            let mut next = vec![false; text.len() + 1];
            for end in 0..text.len() {
                let fits = text[end] == wanted || (wanted == '?' && text[end] != '/');
                next[end + 1] = reached[end] && fits;
            }
            reached = next;
        }
        reached[text.len()]
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn stars_mean_what_they_mean_in_a_workflow() {
        for (pattern, text, expected) in [
            ("octo/*", "octo/demo", true),
            ("octo/*", "octo/demo/x", false),
            ("octo/*", "octocat/demo", false),
            ("refs/heads/**", "refs/heads/a/b", true),
            ("refs/heads/release-?", "refs/heads/release-1", true),
            ("refs/heads/release-?", "refs/heads/release-12", false),
            ("**/main", "octo/demo/main", true),
            ("main", "main2", false),
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("a*b*c", "a--b--b--c", true),
        ] {
            assert_eq!(
                Glob::new(pattern).matches(text),
                expected,
                "{pattern} {text}"
            );
        }
    }

    proptest! {
        #[test]
        fn a_text_without_signs_matches_itself_alone(one in "[a-z/.-]{0,12}", other in "[a-z/.-]{0,12}") {
            prop_assert!(Glob::new(&one).matches(&one));
            prop_assert_eq!(Glob::new(&one).matches(&other), one == other);
        }

        #[test]
        fn two_stars_match_anything_after_a_beginning(begin in "[a-z/]{0,8}", rest in ".{0,20}") {
            let glob = Glob::new(&format!("{begin}**"));
            let whole = format!("{begin}{rest}");
            prop_assert!(glob.matches(&whole));
        }
    }
}
