//! The hook's response, read the way the runner reads it: what would throw
//! there is an error here.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use thiserror::Error;

/// What the runner takes from a response.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Response {
    /// Replaces the saved state when present.
    pub state: Option<Value>,
    /// Which kind of node the job container runs.
    pub is_alpine: bool,
    /// `job.container`: id, network.
    pub container: BTreeMap<String, String>,
    /// `job.services`, in the order of the request.
    pub services: Vec<Service>,
}

/// One service of a response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// `id`, `network`.
    pub fields: BTreeMap<String, String>,
    /// Container port to host port.
    pub ports: BTreeMap<String, String>,
}

/// Why the runner would throw.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ResponseError {
    /// The file is missing or empty, and needed.
    #[error("response file could not be read")]
    Missing,
    /// No JSON object.
    #[error("response file is not valid JSON: {0}")]
    Malformed(String),
    /// A value of the wrong type.
    #[error("response field `{0}` has the wrong type")]
    WrongType(&'static str),
    /// The runner needs to know which node to use.
    #[error("response has no `isAlpine`, which a job container needs")]
    NoAlpine,
    /// `context.services: null`.
    #[error("response has `context.services: null`")]
    NullServices,
    /// More services than were asked for.
    #[error("response has {found} services, the request had {asked}")]
    TooManyServices {
        /// In the response.
        found: usize,
        /// In the request.
        asked: usize,
    },
    /// A service without ports.
    #[error("response has no `ports` for service {0}")]
    NoPorts(usize),
    /// `context.container` for a job without a container.
    #[error("response has a `context.container` although the job has no container")]
    NoContainer,
}

/// What was asked for in `prepare_job`.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// The job has a container.
    pub container: bool,
    /// Number of services.
    pub services: usize,
}

/// Reads the response of `prepare_job` (with what was `asked`) or of any
/// other command (`None`). `bytes` is `None` when there is no file.
pub fn read(asked: Option<Asked>, bytes: Option<&[u8]>) -> Result<Response, ResponseError> {
    let text = bytes.unwrap_or_default();
    if text.iter().all(u8::is_ascii_whitespace) {
        return match asked {
            Some(_) => Err(ResponseError::Missing),
            None => Ok(Response::default()),
        };
    }
    let value: Value = serde_json::from_slice(text)
        .map_err(|error| ResponseError::Malformed(error.to_string()))?;
    let object = match &value {
        Value::Object(object) => object,
        Value::Null if asked.is_none() => return Ok(Response::default()),
        Value::Null => return Err(ResponseError::Missing),
        _ => return Err(ResponseError::Malformed("not an object".to_owned())),
    };
    let mut response = Response {
        state: match field(object, "state") {
            None | Some(Value::Null) => None,
            Some(state @ Value::Object(_)) => Some(state.clone()),
            Some(_) => return Err(ResponseError::WrongType("state")),
        },
        ..Response::default()
    };
    let Some(asked) = asked else {
        return Ok(response);
    };
    response.is_alpine = match field(object, "isAlpine") {
        Some(Value::Bool(value)) => *value,
        None | Some(Value::Null) if asked.container => return Err(ResponseError::NoAlpine),
        None | Some(Value::Null) => false,
        Some(_) => return Err(ResponseError::WrongType("isAlpine")),
    };
    if let Some(context) = optional_object(object, "context")? {
        read_context(context, asked, &mut response)?;
    }
    Ok(response)
}

fn read_context(
    context: &Map<String, Value>,
    asked: Asked,
    response: &mut Response,
) -> Result<(), ResponseError> {
    if let Some(container) = optional_object(context, "container")? {
        response.container = identity(container)?;
        if !asked.container && !response.container.is_empty() {
            return Err(ResponseError::NoContainer);
        }
    }
    let services = match field(context, "services") {
        None => return Ok(()),
        Some(Value::Null) => return Err(ResponseError::NullServices),
        Some(Value::Array(services)) => services,
        Some(_) => return Err(ResponseError::WrongType("context.services")),
    };
    if services.len() > asked.services {
        return Err(ResponseError::TooManyServices {
            found: services.len(),
            asked: asked.services,
        });
    }
    for (index, service) in services.iter().enumerate() {
        let Value::Object(service) = service else {
            return Err(ResponseError::NoPorts(index));
        };
        let Some(ports) = optional_object(service, "ports")? else {
            return Err(ResponseError::NoPorts(index));
        };
        response.services.push(Service {
            fields: identity(service)?,
            ports: ports
                .iter()
                .map(|(container, host)| match host {
                    Value::String(host) => Ok((container.clone(), host.clone())),
                    _ => Err(ResponseError::WrongType("ports")),
                })
                .collect::<Result<_, _>>()?,
        });
    }
    Ok(())
}

fn identity(object: &Map<String, Value>) -> Result<BTreeMap<String, String>, ResponseError> {
    let mut fields = BTreeMap::new();
    for name in ["id", "network"] {
        match field(object, name) {
            None | Some(Value::Null) => {}
            Some(Value::String(value)) => {
                fields.insert(name.to_owned(), value.clone());
            }
            Some(_) => return Err(ResponseError::WrongType(name)),
        }
    }
    Ok(fields)
}

fn optional_object<'a>(
    object: &'a Map<String, Value>,
    name: &'static str,
) -> Result<Option<&'a Map<String, Value>>, ResponseError> {
    match field(object, name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(found)) => Ok(Some(found)),
        Some(_) => Err(ResponseError::WrongType(name)),
    }
}

/// The runner's JSON reader ignores case in names.
fn field<'a>(object: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    object
        .iter()
        .find(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const JOB: Asked = Asked {
        container: true,
        services: 1,
    };

    fn prepare(text: &str) -> Result<Response, ResponseError> {
        read(Some(JOB), Some(text.as_bytes()))
    }

    #[test]
    fn a_whole_response_is_read() {
        let response = prepare(
            r#"{"State": {"a": 1}, "ISALPINE": true, "other": 1, "context": {
                "container": {"id": "pod", "network": null, "ports": {}},
                "services": [{"id": "redis", "ports": {"6379": "6379"}}]}}"#,
        )
        .unwrap();
        assert_eq!(response.state.unwrap()["a"], 1);
        assert!(response.is_alpine);
        assert_eq!(response.container["id"], "pod");
        assert_eq!(response.services[0].ports["6379"], "6379");
    }

    #[test]
    fn prepare_job_must_answer() {
        assert_eq!(read(Some(JOB), None), Err(ResponseError::Missing));
        assert_eq!(prepare(" \n"), Err(ResponseError::Missing));
        assert_eq!(prepare("null"), Err(ResponseError::Missing));
        assert_eq!(prepare("{}"), Err(ResponseError::NoAlpine));
        let services_only = Asked {
            container: false,
            services: 1,
        };
        assert!(read(Some(services_only), Some(b"{}")).is_ok());
    }

    #[test]
    fn other_commands_need_not() {
        assert_eq!(read(None, None), Ok(Response::default()));
        assert_eq!(read(None, Some(b"")), Ok(Response::default()));
        assert!(matches!(
            read(None, Some(b"{")),
            Err(ResponseError::Malformed(_))
        ));
        assert_eq!(
            read(None, Some(br#"{"state": 1}"#)),
            Err(ResponseError::WrongType("state"))
        );
    }

    #[test]
    fn what_would_throw_is_an_error() {
        for (context, error) in [
            (r#"{"services": null}"#, ResponseError::NullServices),
            (r#"{"services": [{}]}"#, ResponseError::NoPorts(0)),
            (r#"{"services": [null]}"#, ResponseError::NoPorts(0)),
            (
                r#"{"services": [{"ports": {}}, {"ports": {}}]}"#,
                ResponseError::TooManyServices { found: 2, asked: 1 },
            ),
            (
                r#"{"services": [{"ports": {"1": 1}}]}"#,
                ResponseError::WrongType("ports"),
            ),
        ] {
            let text = format!(r#"{{"isAlpine": false, "context": {context}}}"#);
            assert_eq!(prepare(&text), Err(error), "{text}");
        }
        let services_only = Asked {
            container: false,
            services: 1,
        };
        assert_eq!(
            read(
                Some(services_only),
                Some(br#"{"context": {"container": {"id": "x"}}}"#)
            ),
            Err(ResponseError::NoContainer)
        );
    }
}
