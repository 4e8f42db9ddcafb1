//! Workflow commands in a log line: `::name key=value,...::data` at its
//! start, `##[name key=value;...]data` anywhere.

/// The commands that the runner knows.
pub const KNOWN: [&str; 15] = [
    "set-env",
    "set-output",
    "save-state",
    "add-mask",
    "add-path",
    "add-matcher",
    "remove-matcher",
    "debug",
    "warning",
    "error",
    "notice",
    "group",
    "endgroup",
    "echo",
    "stop-commands",
];

/// A command found in a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Its name, in lower case.
    pub name: String,
    /// Its properties.
    pub properties: Vec<(String, String)>,
    /// What follows it.
    pub data: String,
}

impl Command {
    /// A property; names are compared without case.
    #[must_use]
    pub fn property(&self, name: &str) -> Option<&str> {
        self.properties
            .iter()
            .rfind(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }
}

/// Finds a command in `line`; `token` is the name that ends `stop-commands`.
#[must_use]
pub fn parse(line: &str, token: Option<&str>) -> Option<Command> {
    second_form(line, token).or_else(|| first_form(line, token))
}

fn known(name: &str, token: Option<&str>) -> bool {
    KNOWN
        .iter()
        .copied()
        .chain(token)
        .any(|known| known.eq_ignore_ascii_case(name))
}

fn second_form(line: &str, token: Option<&str>) -> Option<Command> {
    let (information, data) = line.trim_start().strip_prefix("::")?.split_once("::")?;
    let escapes = [
        ("%0D", "\r"),
        ("%0A", "\n"),
        ("%3A", ":"),
        ("%2C", ","),
        ("%25", "%"),
    ];
    let (name, properties) = name_and_properties(information, ',', &escapes, token)?;
    Some(Command {
        name,
        properties,
        data: unescape(data, &[("%0D", "\r"), ("%0A", "\n"), ("%25", "%")]),
    })
}

fn first_form(line: &str, token: Option<&str>) -> Option<Command> {
    let (_, after) = line.split_once("##[")?;
    let (information, data) = after.split_once(']')?;
    let escapes = [
        ("%3B", ";"),
        ("%0D", "\r"),
        ("%0A", "\n"),
        ("%5D", "]"),
        ("%25", "%"),
    ];
    let (name, properties) = name_and_properties(information, ';', &escapes, token)?;
    Some(Command {
        name,
        properties,
        data: unescape(data, &escapes),
    })
}

fn name_and_properties(
    information: &str,
    separator: char,
    escapes: &[(&str, &str)],
    token: Option<&str>,
) -> Option<(String, Vec<(String, String)>)> {
    let (name, properties) = information.split_once(' ').unwrap_or((information, ""));
    if !known(name, token) {
        return None;
    }
    let properties = properties
        .trim()
        .split(separator)
        .filter_map(|pair| pair.split_once('='))
        .filter(|(key, value)| !key.is_empty() && !value.is_empty())
        .map(|(key, value)| (key.to_owned(), unescape(value, escapes)))
        .collect();
    Some((name.to_ascii_lowercase(), properties))
}

fn unescape(text: &str, escapes: &[(&str, &str)]) -> String {
    escapes
        .iter()
        .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_found_where_the_runner_finds_them() {
        let command = parse("  ::error file=a%2Cb,line=3::one%0Atwo%25", None).unwrap();
        assert_eq!(command.name, "error");
        assert_eq!(command.property("FILE"), Some("a,b"));
        assert_eq!(command.property("line"), Some("3"));
        assert_eq!(command.data, "one\ntwo%");

        let command = parse("text ##[Warning a=b;c=d%3B]here", None).unwrap();
        assert_eq!(
            (command.name.as_str(), command.property("c")),
            ("warning", Some("d;"))
        );
        assert_eq!(command.data, "here");
    }

    #[test]
    fn what_is_no_command_stays_text() {
        for line in [
            "",
            "a::error::b",
            "::nothing::x",
            "::error",
            "std::vec::Vec",
            "##[nope]x",
        ] {
            assert_eq!(parse(line, None), None, "{line}");
        }
    }

    #[test]
    fn the_token_that_ends_stop_commands_is_a_command() {
        assert_eq!(parse("::resume::", None), None);
        assert_eq!(parse("::Resume::", Some("resume")).unwrap().name, "resume");
    }
}
