mod caches;
mod config_map;
mod conformance;
mod job;
mod merge;
mod names;
mod options;
mod ports;
mod ready_templates;
mod runner;
mod step;
mod template;
mod user;
mod volumes;

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Identity, Inputs, Plan, RunnerPod, Template, WorkClaim};
use crate::config::Config;
use crate::protocol::{Command, Container, Environment, PrepareJob, Request};

pub const FOUNDING: &str = include_str!("templates/founding.yaml");

/// Everything that a pod is built from, to be changed by a test and then borrowed.
pub struct World {
    pub config: Config,
    pub runner: Option<RunnerPod>,
    pub template: Template,
    pub nonce: &'static str,
}

impl World {
    pub fn new(template: &str) -> Self {
        let variables = BTreeMap::from([
            ("ACTIONS_RUNNER_POD_NAME", "linux-x64-9k2rw-runner-b7xqd"),
            ("RUNNER_TEMP", "/home/runner/_work/_temp"),
            ("GITHUB_WORKSPACE", "/home/runner/_work/demo/demo"),
        ]);
        let template = match template {
            "" => Template::none(),
            text => Template::parse(text).expect("a template"),
        };
        Self {
            config: Config::read(|name| variables.get(name).map(ToString::to_string))
                .expect("a configuration"),
            runner: Some(RunnerPod {
                scale_set: None,
                mounts_images: false,
                name: "linux-x64-9k2rw-runner-b7xqd".to_owned(),
                uid: "6f1c9e5a-4a8e-4c7b-9a51-0d8f6c0b2a11".to_owned(),
                node: Some("node-1".to_owned()),
                image: Some("ghcr.io/arc-hook/runner:latest".to_owned()),
                image_digest: None,
                pull_secrets: Vec::new(),
                work_claim: Some(WorkClaim {
                    claim: "linux-x64-9k2rw-runner-b7xqd-work".to_owned(),
                    sub_path: String::new(),
                }),
            }),
            template,
            nonce: "0123456789abcdef0123456789abcdef",
        }
    }

    pub fn inputs(&self) -> Inputs<'_> {
        Inputs {
            config: &self.config,
            runner: self.runner.as_ref(),
            template: &self.template,
            nonce: self.nonce,
            identity: Identity {
                uid: 1001,
                gid: 1001,
            },
            program: std::path::Path::new("/home/runner/arc-hook/arc-hook"),
        }
    }

    pub fn job(&self, request: &PrepareJob) -> Plan {
        super::job(&self.inputs(), request).expect("a pod")
    }
}

/// A request as the runner writes it.
pub fn prepare_job(text: &str) -> PrepareJob {
    let line =
        format!(r#"{{"command":"prepare_job","responseFile":null,"state":null,"args":{text}}}"#);
    match Request::parse(&line).expect("a request").command {
        Command::PrepareJob(request) => request,
        other => panic!("{other:?}"),
    }
}

/// A job in `image` and its services.
pub fn request(image: &str, services: Vec<Container>) -> PrepareJob {
    PrepareJob {
        container: Some(Container {
            image: Some(image.to_owned()),
            working_directory: Some("/__w/demo/demo".to_owned()),
            environment_variables: environment(&[("HOME", "/github/home")]),
            ..Default::default()
        }),
        services,
    }
}

pub fn service(image: &str) -> Container {
    Container {
        image: Some(image.to_owned()),
        ..Default::default()
    }
}

pub fn environment(variables: &[(&str, &str)]) -> Environment {
    variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

/// A container of a pod by its name.
pub fn container<'a>(pod: &'a Value, name: &str) -> &'a Value {
    pod["spec"]["containers"]
        .as_array()
        .and_then(|all| all.iter().find(|one| one["name"] == name))
        .unwrap_or_else(|| panic!("no container {name} in {pod}"))
}

/// An entry of a list by one of its keys.
pub fn entry<'a>(list: &'a Value, key: &str, value: &str) -> &'a Value {
    list.as_array()
        .and_then(|all| all.iter().find(|one| one[key] == value))
        .unwrap_or_else(|| panic!("no {key} {value} in {list}"))
}

/// What goes to the API server, as YAML.
pub fn manifests(plan: &Plan) -> Value {
    serde_json::json!({"pod": plan.pod, "secrets": plan.secrets})
}
