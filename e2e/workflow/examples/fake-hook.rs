//! A hook for the driver's own tests: it runs steps on this machine, with
//! container paths turned back into the runner's.
//!
//! A container step whose image is `fail-N` exits with N.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test's helper")]

use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use serde_json::{Value, json};

fn main() -> ExitCode {
    let mut input = String::new();
    std::io::stdin().read_to_string(&mut input).unwrap();
    assert!(input.ends_with('\n') && input.matches('\n').count() == 1);
    let input: Value = serde_json::from_str(&input).unwrap();
    let temp = std::env::var("RUNNER_TEMP").unwrap();
    let work = temp.trim_end_matches("/_temp").to_owned();
    // What it was called with, for the test to look at.
    let mut calls = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(format!("{work}/calls.jsonl"))
        .unwrap();
    let variables: std::collections::BTreeMap<String, String> = std::env::vars().collect();
    // One write, because background steps append to it at the same time.
    let call = format!("{}\n", json!({"input": input, "env": variables}));
    calls.write_all(call.as_bytes()).unwrap();

    let respond = |value: Value| {
        std::fs::write(input["responseFile"].as_str().unwrap(), value.to_string()).unwrap();
    };
    let host = |text: &str| {
        text.replace("/__w", &work)
            .replace(
                "/github/file_commands",
                &format!("{temp}/_runner_file_commands"),
            )
            .replace("/github/home", &format!("{temp}/_github_home"))
            .replace("/__e/node20/bin/node", "sh")
    };
    let args = &input["args"];
    match input["command"].as_str().unwrap() {
        "prepare_job" => {
            let services = args["services"].as_array().unwrap().iter();
            let services: Vec<Value> = services
                .map(|_| json!({"id": "redis", "ports": {"6379": "6379"}}))
                .collect();
            let context = json!({"container": {"id": "the-pod"}, "services": services});
            respond(json!({"isAlpine": false, "state": {"calls": 1}, "context": context}));
            ExitCode::SUCCESS
        }
        "run_script_step" => {
            let mut command = Command::new(host(args["entryPoint"].as_str().unwrap()));
            for argument in args["entryPointArgs"].as_array().unwrap() {
                command.arg(host(argument.as_str().unwrap()));
            }
            for (name, value) in args["environmentVariables"].as_object().unwrap() {
                command.env(name, host(value.as_str().unwrap()));
            }
            command.current_dir(host(args["workingDirectory"].as_str().unwrap()));
            panic!("exec failed: {}", command.exec());
        }
        "run_container_step" => {
            let image = args["image"].as_str().unwrap();
            println!("container {image}");
            let code = image
                .strip_prefix("fail-")
                .map_or(0, |code| code.parse().unwrap());
            ExitCode::from(code)
        }
        _ => ExitCode::SUCCESS,
    }
}
