//! Calls of the hook and their parts as spans for OpenTelemetry (cargo feature `opentelemetry`),
//! sent as JSON over HTTP when the call has ended.
//!
//! Every call is a process of its own. What joins them is the trace: its id comes of repository,
//! run and attempt, so that all jobs of a run stand in one.

use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use opentelemetry::trace::{
    SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::{Protocol, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks};
use sha2::{Digest as _, Sha256};

use super::metrics::{Call, Outcome};
use crate::github::Github;

/// A collector that is slow must not slow the job.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Sends the spans of a call that has just ended to `endpoint`.
///
/// # Errors
/// Nobody took them within two seconds.
pub fn send(endpoint: &str, pod: &str, github: &Github, call: &Call<'_>) -> anyhow::Result<()> {
    let spans = spans(github, pod, call, SystemTime::now(), random_span)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start a runtime for the spans")?;
    let sent = async {
        let mut exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpJson)
            .with_endpoint(endpoint)
            .with_timeout(TIMEOUT)
            .build()?;
        let resource = Resource::builder_empty().with_attributes([
            KeyValue::new("service.name", "arc-hook"),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        ]);
        exporter.set_resource(&resource.build());
        exporter.export(spans).await?;
        anyhow::Ok(())
    };
    runtime
        .block_on(async { tokio::time::timeout(TIMEOUT, sent).await })
        .map_err(anyhow::Error::from)
        .flatten()
        .with_context(|| {
            format!(
                "send spans to `{endpoint}`, of `OTEL_EXPORTER_OTLP_ENDPOINT`: \
                 it must be a collector's OTLP port for HTTP, as `http://HOST:4318`"
            )
        })
}

/// The call, and below it its parts, one after another.
fn spans(
    github: &Github,
    pod: &str,
    call: &Call<'_>,
    end: SystemTime,
    next: impl Fn() -> anyhow::Result<SpanId>,
) -> anyhow::Result<Vec<SpanData>> {
    let trace = trace(github);
    let begin = end - call.took;
    let root = next()?;
    let mut attributes = vec![
        KeyValue::new("arc_hook.outcome", call.outcome.name()),
        KeyValue::new("k8s.pod.name", pod.to_owned()),
    ];
    for (name, value) in [
        ("github.repository", &github.repository),
        ("github.run_id", &github.run),
        ("github.run_attempt", &github.attempt),
        ("github.workflow", &github.workflow),
        ("github.job", &github.job),
    ] {
        if !value.is_empty() {
            attributes.push(KeyValue::new(name, value.clone()));
        }
    }
    let status = match call.outcome {
        Outcome::Success => Status::Ok,
        Outcome::Failure | Outcome::Cancelled => Status::Unset,
        Outcome::Error => Status::error("the hook itself failed"),
    };
    let mut all = vec![SpanData {
        attributes,
        status,
        ..span(trace, root, call.command, (begin, end))
    }];
    let mut at = begin;
    for (phase, took) in call.phases {
        let until = at + *took;
        all.push(SpanData {
            parent_span_id: root,
            ..span(trace, next()?, phase, (at, until))
        });
        at = until;
    }
    Ok(all)
}

fn span(
    trace: TraceId,
    id: SpanId,
    name: &'static str,
    (start_time, end_time): (SystemTime, SystemTime),
) -> SpanData {
    SpanData {
        span_context: SpanContext::new(
            trace,
            id,
            TraceFlags::SAMPLED,
            false,
            TraceState::default(),
        ),
        parent_span_id: SpanId::INVALID,
        parent_span_is_remote: false,
        span_kind: SpanKind::Internal,
        name: name.into(),
        start_time,
        end_time,
        attributes: Vec::new(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: Status::Unset,
        instrumentation_scope: InstrumentationScope::builder("arc-hook").build(),
    }
}

fn trace(github: &Github) -> TraceId {
    let run = [&github.repository, &github.run, &github.attempt];
    let hash = Sha256::digest(serde_json::json!(run).to_string());
    let mut id = [0; 16];
    id.copy_from_slice(&hash[..16]);
    TraceId::from_bytes(id)
}

fn random_span() -> anyhow::Result<SpanId> {
    let mut id = [0; 8];
    getrandom::fill(&mut id).context("make an id for a span")?;
    Ok(SpanId::from_bytes(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_of_one_run_share_a_trace_and_those_of_another_attempt_do_not() {
        let run = |repository: &str, run: &str, attempt: &str| {
            trace(&Github {
                repository: repository.to_owned(),
                run: run.to_owned(),
                attempt: attempt.to_owned(),
                job: format!("{run}{attempt}"),
                ..Github::default()
            })
        };
        assert_eq!(run("o/r", "7", "1"), run("o/r", "7", "1"));
        assert_ne!(run("o/r", "7", "1"), run("o/r", "7", "2"));
        assert_ne!(run("o/r", "7", "11"), run("o/r", "71", "1"));
    }
}
