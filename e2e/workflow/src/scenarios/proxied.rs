//! Jobs whose hook reaches the API server through a proxy that does harm.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, ensure};
use serde_json::json;

use super::{Acting, Stage};
use crate::harness::runner::{Options, Outcome};
use crate::proxy::http::{Proxy, Upstream};
use crate::proxy::plan::{KINDS, Mixture, Numbers};
use crate::proxy::raw::{self, Harm, Wire};
use crate::proxy::{NODE, tls};

/// Where the API server listens.
const API_SERVER: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 6443);
/// So many connections are cut at most; a job makes a dozen. If all of them hit one request, its
/// attempts take 16 s.
const CUTS: u32 = 8;

/// A dozen failures cost a call less; one that is not noticed costs more.
const LONGEST_MS: f64 = 60_000.0;

/// A job that needs every kind of request: services with a Secret, an action under the supervisor
/// and one that runs as its image says.
fn job() -> String {
    json!({
        "name": "Through a proxy",
        "container": {"image": "alpine:latest"},
        "services": {"cache": {
            "image": "redis:latest", "env": {"SERVICE_SECRET": "x"},
            "options": "--health-cmd \"redis-cli ping\" --health-interval 1s",
        }},
        "steps": [
            {"name": "writes", "run": "echo one > file; echo written"},
            {"name": "a supervised action", "uses": "docker://alpine:latest",
             "with": {"entrypoint": "/bin/sh", "args": "-c \"cat file; echo two >> file\""},
             "driver": {"expect": ["one"], "forbid": ["##[warning]"]}},
            {"name": "an action as its image says", "uses": "docker://scratch-step:latest",
             "env": {"PLAIN": "three"},
             "with": {"args": "--cat file --env PLAIN --append file three"},
             "driver": {"expect": ["two", "PLAIN=three"], "forbid": ["##[warning]"]}},
            {"name": "reads", "run": "test \"$(cat file | tr '\\n' ' ')\" = 'one two three '"},
        ],
        "driver": {
            "prepare-job": {"forbid": ["##[warning]", "##[error]"]},
            "cleanup-job": {"forbid": ["##[warning]", "##[error]"]},
        },
    })
    .to_string()
}

fn options(proxy: SocketAddr) -> Options {
    let set = |name: &str, value: String| (name.to_owned(), value);
    Options {
        variables: vec![
            set("KUBERNETES_SERVICE_HOST", proxy.ip().to_string()),
            set("KUBERNETES_SERVICE_PORT", proxy.port().to_string()),
        ],
        ..Options::default()
    }
}

/// Requests fail with 429, 5xx and resets, before and after they were carried out.
pub fn failing_requests(stage: Arc<Stage>) -> Acting {
    Box::pin(async move {
        let paths = &stage.cluster.paths;
        let upstream = Upstream {
            address: API_SERVER,
            connector: tls::to_api_server(paths)?,
        };
        let acceptor = tls::as_api_server(paths)?;
        let proxy = Proxy::start(NODE, acceptor, upstream, Mixture::new(stage.seed)).await?;
        let result = stage.run_job(&job(), &options(proxy.address)).await;
        let done = proxy.done();
        let mut log = stage.log();
        for (method, path, fault) in &done {
            writeln!(log, "proxy: {method} {path}: {fault}")?;
        }
        stage.keep(log);
        let outcome = result?;
        let missing: Vec<String> = KINDS
            .iter()
            .filter(|kind| !done.iter().any(|(_, _, fault)| fault == *kind))
            .map(ToString::to_string)
            .collect();
        ensure!(missing.is_empty(), "never done: {}", missing.join(", "));
        came_through(&outcome)
    })
}

/// Connections are reset at any byte, in either direction.
pub fn cut_connections(stage: Arc<Stage>) -> Acting {
    Box::pin(async move {
        let mut numbers = Numbers::new(stage.seed);
        let mut left = CUTS;
        let plan = move || {
            // A handshake is about 2,000 bytes down and 1,000 up; then come answers and requests.
            let (up, down) = match numbers.below(3) {
                0 => (Harm::Cut(numbers.below(5000)), Harm::None),
                1 => (Harm::None, Harm::Cut(numbers.below(10_000))),
                _ => (Harm::None, Harm::None),
            };
            left = left.saturating_sub(u32::from(up != down));
            if left == 0 {
                return Wire::default();
            }
            Wire { up, down }
        };
        let proxy = raw::Proxy::start(NODE, API_SERVER, plan).await?;
        let result = stage.run_job(&job(), &options(proxy.address)).await;
        let cut = proxy.struck();
        stage.keep(format!("{}proxy: {cut} connections cut\n", stage.log()));
        let outcome = result?;
        ensure!(cut > 1, "{cut} connections were cut");
        came_through(&outcome)
    })
}

/// Every object was made once: of all its creations one succeeded. And no call waited for an
/// answer that could not come any more.
fn came_through(outcome: &Outcome) -> anyhow::Result<()> {
    for call in &outcome.report.calls {
        let (step, ms) = (&call.step, call.wall_ms);
        ensure!(
            ms < LONGEST_MS,
            "{} of `{step}` took {ms:.0} ms",
            call.command
        );
    }
    let requests = outcome.requests.as_deref();
    let requests = requests.context("the API server keeps no audit log")?;
    let mut made: BTreeMap<&str, u32> = BTreeMap::new();
    for request in requests {
        if request.verb == "create" && request.status.code == 201 {
            let kind = request.uri.split(['/', '?']).nth(5).unwrap_or_default();
            *made.entry(kind).or_insert(0) += 1;
        }
    }
    // The job's pod and one for each action; Secrets of the service and of the plain action.
    let expected = BTreeMap::from([("pods", 3), ("secrets", 2)]);
    ensure!(made == expected, "made {made:?}, expected {expected:?}");
    Ok(())
}
