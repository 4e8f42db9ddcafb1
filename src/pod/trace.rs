//! From a field of the built pod back to the template's file.

use serde_json::Value;

use super::yaml::escape;

/// The JSON pointer of a pod's field in the template, if it came from there.
pub fn trace(pod: &Value, template: &Value, path: &str) -> Option<String> {
    follow(pod, template, &steps(path)?, String::new())
}

/// The fields that a message of the API server names, each once: `spec.containers[1].foo` between
/// whatever else it says.
pub fn fields(message: &str) -> Vec<&str> {
    let mut fields = Vec::new();
    let of_path = |c: char| c.is_ascii_alphanumeric() || "._-[]/".contains(c);
    for word in message.split(|c| !of_path(c)) {
        let word = word.trim_end_matches(['.', '-', '/']);
        let named = word.starts_with("spec.") || word.starts_with("metadata.");
        if named && !fields.contains(&word) {
            fields.push(word);
        }
    }
    fields
}

enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

/// Splits `spec.containers[1].foo`.
fn steps(path: &str) -> Option<Vec<Step<'_>>> {
    let mut steps = Vec::new();
    for part in path.split('.') {
        let (key, indices) = part.split_at(part.find('[').unwrap_or(part.len()));
        if !key.is_empty() {
            steps.push(Step::Key(key));
        }
        for index in indices.split('[').skip(1) {
            steps.push(Step::Index(index.strip_suffix(']')?.parse().ok()?));
        }
    }
    Some(steps)
}

/// Follows a path of the pod through the template: elements of lists are found by what they are
/// merged by, since their positions differ.
fn follow(pod: &Value, template: &Value, steps: &[Step<'_>], pointer: String) -> Option<String> {
    let Some((step, rest)) = steps.split_first() else {
        return Some(pointer);
    };
    match step {
        Step::Key(key) => {
            let template = template.get(key)?;
            let pod = pod.get(key).unwrap_or(&Value::Null);
            follow(pod, template, rest, format!("{pointer}/{}", escape(key)))
        }
        Step::Index(index) => {
            let wanted = pod.get(index)?;
            template
                .as_array()?
                .iter()
                .enumerate()
                .filter(|(_, candidate)| same(wanted, candidate))
                .find_map(|(at, candidate)| {
                    follow(wanted, candidate, rest, format!("{pointer}/{at}"))
                })
        }
    }
}

fn same(pod: &Value, template: &Value) -> bool {
    if let (Some(pod), Some(template)) = (
        pod.get("name").and_then(Value::as_str),
        template.get("name").and_then(Value::as_str),
    ) {
        return match template.strip_prefix('$') {
            // `$redis` is merged into `redis-0` too.
            Some(target) => {
                target == "default" || pod == target || pod.starts_with(&format!("{target}-"))
            }
            None => pod == template,
        };
    }
    for key in ["mountPath", "devicePath", "containerPort", "ip"] {
        if let (Some(pod), Some(template)) = (pod.get(key), template.get(key)) {
            return pod == template;
        }
    }
    pod == template
}
