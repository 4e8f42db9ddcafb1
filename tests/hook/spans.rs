//! Calls as spans, received by a collector.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::sync::mpsc::{Receiver, channel};

use serde_json::{Value, json};

use crate::runner::{Runner, job};

/// A collector that takes whatever comes; returns its address and what came.
fn collector() -> (String, Receiver<(String, Value)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (sender, received) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut reader = BufReader::new(stream.unwrap());
            let mut path = String::new();
            reader.read_line(&mut path).unwrap();
            let mut length = 0;
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                let header = line.to_ascii_lowercase();
                if let Some(value) = header.strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                if line.trim().is_empty() {
                    break;
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            let answer = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\
                          content-length: 2\r\nconnection: close\r\n\r\n{}";
            reader.get_mut().write_all(answer.as_bytes()).unwrap();
            let path = path.split(' ').nth(1).unwrap_or_default().to_owned();
            let spans = serde_json::from_slice(&body).unwrap();
            if sender.send((path, spans)).is_err() {
                return;
            }
        }
    });
    (address, received)
}

fn attribute<'v>(of: &'v Value, name: &str) -> Option<&'v str> {
    let attributes = of["attributes"].as_array().into_iter().flatten();
    attributes
        .filter(|attribute| attribute["key"] == name)
        .find_map(|attribute| attribute["value"]["stringValue"].as_str())
}

#[test]
fn every_call_of_a_run_sends_its_parts_as_spans_of_one_trace() {
    let (address, received) = collector();
    let runner = Runner::new();
    let with = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", address.as_str()),
        ("GITHUB_REPOSITORY", "octo/demo"),
        ("GITHUB_RUN_ID", "4711"),
        ("GITHUB_RUN_ATTEMPT", "2"),
    ];
    let prepared = runner.call_with("prepare_job", &job(&[]), &with);
    assert_eq!(prepared.code, 0, "{prepared:?}");
    let request = runner.script_request("exit 3");
    assert_eq!(runner.finish(runner.start(&request, &with)).code, 3);

    let mut traces = Vec::new();
    for (command, outcome, part) in [
        ("prepare_job", "success", "pod created"),
        ("run_script_step", "failure", "step ended"),
    ] {
        let (path, sent) = received.recv().unwrap();
        assert_eq!(path, "/v1/traces");
        let from = &sent["resourceSpans"][0];
        let service = attribute(&from["resource"], "service.name");
        assert_eq!(service, Some("arc-hook"), "{sent:#}");
        let spans = from["scopeSpans"][0]["spans"].as_array().unwrap();
        let call = &spans[0];
        assert_eq!(call["name"], command);
        assert_eq!(attribute(call, "arc_hook.outcome"), Some(outcome));
        assert_eq!(attribute(call, "github.run_id"), Some("4711"));
        let parts = &spans[1..];
        assert!(parts.iter().any(|one| one["name"] == part), "{sent:#}");
        for one in parts {
            assert_eq!(one["parentSpanId"], call["spanId"], "{sent:#}");
            assert_eq!(one["traceId"], call["traceId"], "{sent:#}");
        }
        traces.push(call["traceId"].clone());
    }
    assert_eq!(traces[0], traces[1]);
}

#[test]
fn a_collector_that_is_not_there_is_told_and_fails_no_step() {
    let runner = Runner::new();
    let nobody = "http://127.0.0.1:1";
    let with = [("OTEL_EXPORTER_OTLP_ENDPOINT", nobody)];
    let prepared = runner.call_with("prepare_job", &job(&[]), &with);
    assert_eq!(prepared.code, 0, "{prepared:?}");
    let told = format!("::warning::send spans to `{nobody}/v1/traces`");
    assert!(prepared.log.contains(&told), "{prepared:?}");
    assert_eq!(runner.call("cleanup_job", &json!({})).code, 0);
}
