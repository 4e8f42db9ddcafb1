//! The head of the Worker's diagnostic log: the job message, as far as a hook reads it.

use serde_json::{Map, Value, json};

use super::environment;
use super::layout::Layout;
use crate::job::Job;

/// What the Worker writes before it begins with the job.
#[must_use]
pub fn head(job: &Job, layout: &Layout) -> String {
    let mut github: Map<String, Value> = environment::github(job, layout)
        .into_iter()
        .filter_map(|(name, value)| {
            let name = name.strip_prefix("GITHUB_")?.to_ascii_lowercase();
            Some((name, json!(value)))
        })
        .collect();
    github.insert("event".to_owned(), job.event.clone());
    let message = json!({
        "messageType": "PipelineAgentJobRequest",
        "jobDisplayName": job.name,
        "contextData": {"github": wire(&Value::Object(github))},
    });
    let message = serde_json::to_string_pretty(&message).unwrap_or_default();
    format!(
        "[2026-01-01 00:00:00Z INFO HostContext] Well known directory 'Root': '{}'\n\
         [2026-01-01 00:00:00Z INFO Worker] Message received.\n\
         [2026-01-01 00:00:00Z INFO Worker] Job message:\n {message}\n\
         [2026-01-01 00:00:00Z INFO Worker] Listening for cancel message from the channel.\n",
        layout.root.display()
    )
}

/// A value as the server sends it (actions/runner, `PipelineContextDataJsonConverter.cs`).
fn wire(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let pairs: Vec<Value> = map
                .iter()
                .map(|(key, value)| json!({"k": key, "v": wire(value)}))
                .collect();
            json!({"t": 2, "d": pairs})
        }
        Value::Array(list) => json!({"t": 1, "a": list.iter().map(wire).collect::<Vec<_>>()}),
        Value::Bool(truth) => json!({"t": 3, "b": truth}),
        Value::Number(number) => json!({"t": 4, "n": number}),
        Value::String(_) | Value::Null => value.clone(),
    }
}
