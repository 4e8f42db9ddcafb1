//! The client against failures of API server and network.

use std::time::{Duration, Instant};

use arc_hook::cluster::{Cluster, ClusterError, Deletion, LogEnd, LogPosition, LogSource};
use arc_hook::explain::Evidence;
use k8s_openapi::api::core::v1::{Pod, Secret};
use serde_json::{Value, json};

use crate::fake_api::{FakeApi, Kind, Kubelet};
use crate::fake_cluster::lines;

struct Bench {
    api: FakeApi,
    cluster: Cluster,
    runtime: tokio::runtime::Runtime,
}

impl Bench {
    fn new() -> Self {
        let api = FakeApi::start(std::path::Path::new("/nonexistent"));
        api.state().kubelet = Kubelet::Idle;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let mut config = kube::Config::new(api.url.parse().unwrap());
        "ci".clone_into(&mut config.default_namespace);
        let cluster = runtime
            .block_on(async { Cluster::from_config(config, None) })
            .unwrap();
        Self {
            api,
            cluster,
            runtime,
        }
    }

    fn create(&self, nonce: &str) -> Result<Pod, ClusterError> {
        self.runtime.block_on(self.cluster.create(&pod(), nonce))
    }
}

fn pod() -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "runner-workflow"},
           "spec": {"containers": [{"name": "job", "image": "alpine"}]}})
}

#[test]
fn a_creation_asks_for_strict_validation_and_carries_its_nonce() {
    let bench = Bench::new();
    bench.create("n1").unwrap();
    let state = bench.api.state();
    assert!(state.queries[0].contains("fieldValidation=Strict"));
    let annotations = &state.created[0]["metadata"]["annotations"];
    assert_eq!(annotations["arc-hook/nonce"], "n1");
}

#[test]
fn a_creation_whose_answer_was_lost_finds_its_own_object() {
    let bench = Bench::new();
    bench.api.fail("POST", "pods", 1, Kind::LostAnswer);
    let pod = bench.create("n1").unwrap();
    assert_eq!(pod.metadata.uid.as_deref(), Some("uid-1"));
    assert_eq!(bench.api.names("pods"), ["runner-workflow"]);
    assert_eq!(bench.api.count("POST pods"), 2);
}

#[test]
fn a_name_that_another_call_took_is_an_error() {
    let bench = Bench::new();
    bench.create("n1").unwrap();
    let error = bench.create("n2").unwrap_err();
    assert!(matches!(error, ClusterError::Taken { .. }), "{error}");
    assert!(
        error.to_string().contains("create pod `runner-workflow`"),
        "{error}"
    );
}

#[test]
fn overload_errors_and_resets_are_tried_again() {
    let bench = Bench::new();
    bench.api.fail("POST", "pods", 1, Kind::RetryAfter(1));
    bench.api.fail("POST", "pods", 1, Kind::Reset);
    let trouble = Kind::Status(
        500,
        "InternalError",
        "etcdserver: leader changed".to_owned(),
    );
    bench.api.fail("POST", "pods", 1, trouble);
    let conflict = "Operation cannot be fulfilled on resourcequotas \"q\"".to_owned();
    let conflict = Kind::Status(409, "Conflict", conflict);
    bench.api.fail("POST", "pods", 1, conflict);
    let start = Instant::now();
    bench.create("n1").unwrap();
    assert_eq!(bench.api.count("POST pods"), 5);
    assert!(
        start.elapsed() >= Duration::from_secs(1),
        "the server's wish was ignored"
    );
}

#[test]
fn trying_again_ends_when_patience_does() {
    let bench = Bench::new();
    bench.api.fail("GET", "pods", 1000, Kind::Reset);
    let cluster = bench.cluster.patient(Duration::from_secs(1));
    let start = Instant::now();
    let error = bench.runtime.block_on(cluster.get::<Pod>("x")).unwrap_err();
    assert!(error.is_unreachable(), "{error}");
    assert!(start.elapsed() < Duration::from_secs(20));
    assert!(
        error.to_string().starts_with("get pod `x`: no answer"),
        "{error}"
    );
}

#[test]
fn a_server_that_is_away_is_named_with_the_innermost_cause() {
    let bench = Bench::new();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", closed.local_addr().unwrap());
    drop(closed);
    let error = bench.runtime.block_on(async {
        let cluster = Cluster::from_config(kube::Config::new(url.parse().unwrap()), Some("ci"));
        let cluster = cluster.unwrap().patient(Duration::from_millis(300));
        cluster.get::<Pod>("x").await.unwrap_err()
    });
    assert!(error.to_string().contains("refused"), "{error}");
    assert_eq!(error.to_string().matches("refused").count(), 1, "{error}");
}

#[test]
fn a_refusal_stands_and_names_verb_resource_and_role() {
    let bench = Bench::new();
    let message = "secrets is forbidden: User \"system:serviceaccount:ci:runner\" cannot create \
                   resource \"secrets\" in API group \"\" in the namespace \"ci\"";
    let fault = Kind::Status(403, "Forbidden", message.to_owned());
    bench.api.fail("POST", "secrets", 9, fault);
    let secret = json!({"metadata": {"name": "s"}});
    let created = bench.cluster.create::<Secret>(&secret, "n");
    let error = bench.runtime.block_on(created).unwrap_err();
    assert!(error.is_forbidden());
    assert_eq!(bench.api.count("POST secrets"), 1);
    insta::assert_snapshot!(error);
}

#[test]
fn a_refusal_that_contradicts_an_earlier_answer_is_tried_again() {
    let message = "pods \"x\" is forbidden: User \"system:serviceaccount:ci:runner\" cannot get \
                   resource \"pods\" in API group \"\" in the namespace \"ci\"";
    let forbidden = || Kind::Status(403, "Forbidden", message.to_owned());
    let bench = Bench::new();
    let get = |name: &str| bench.runtime.block_on(bench.cluster.get::<Pod>(name));
    assert!(get("x").unwrap().is_none());
    bench.api.fail("GET", "pods", 2, forbidden());
    assert!(get("x").unwrap().is_none());

    // One that was away a moment ago has not read the Roles yet.
    let bench = Bench::new();
    let get = |name: &str| bench.runtime.block_on(bench.cluster.get::<Pod>(name));
    bench.api.fail("GET", "pods", 1, Kind::Reset);
    bench.api.fail("GET", "pods", 2, forbidden());
    assert!(get("x").unwrap().is_none());
    assert_eq!(bench.api.count("GET pods"), 4);
    bench.api.fail("GET", "exec", 1, forbidden());
    let command = ["true".to_owned()];
    let exec = bench.cluster.exec("x", "job", &command);
    let error = bench.runtime.block_on(exec).map(drop).unwrap_err();
    assert!(!error.is_forbidden(), "{error}");
}

#[test]
fn deleting_what_is_gone_or_replaced_is_no_error() {
    let bench = Bench::new();
    let delete = |uid: Option<&str>| {
        let deleted = bench.cluster.delete::<Pod>("runner-workflow", uid, Some(1));
        bench.runtime.block_on(deleted).unwrap()
    };
    assert_eq!(delete(None), Deletion::Absent);
    bench.create("n1").unwrap();
    assert_eq!(delete(Some("uid-of-another")), Deletion::Absent);
    assert_eq!(bench.api.names("pods"), ["runner-workflow"]);
    assert_eq!(delete(Some("uid-1")), Deletion::Begun);
    assert_eq!(bench.api.names("pods"), Vec::<String>::new());
}

#[test]
fn a_deletion_whose_answer_was_lost_is_done() {
    let bench = Bench::new();
    bench.create("n1").unwrap();
    bench.api.fail("DELETE", "pods", 1, Kind::LostAnswer);
    let deleted = bench.cluster.delete::<Pod>("runner-workflow", None, None);
    assert_eq!(bench.runtime.block_on(deleted).unwrap(), Deletion::Absent);
}

#[test]
fn events_are_withheld_by_the_role_and_not_by_an_api_server_that_is_away() {
    let bench = Bench::new();
    let pod = bench.create("n1").unwrap();
    let evidence = bench.runtime.block_on(bench.cluster.evidence(&pod));
    assert!(matches!(evidence, Evidence::Withheld), "{evidence:?}");
    assert_eq!(bench.api.count("GET events"), 1);
    bench.api.fail("GET", "events", 1000, Kind::Reset);
    let evidence = bench.runtime.block_on(bench.cluster.evidence(&pod));
    assert!(matches!(evidence, Evidence::Unknown), "{evidence:?}");
}

#[test]
fn a_log_whose_stream_breaks_again_and_again_arrives_whole_and_once() {
    let bench = Bench::new();
    let log: Vec<String> = (0..200)
        .map(|n| {
            format!(
                "2026-11-21T06:{:02}:{:02}.{:09}Z line {n}",
                n / 120,
                (n / 2) % 60,
                n
            )
        })
        .collect();
    bench.api.state().kubelet = Kubelet::Program {
        log,
        exit: None,
        cut: Some(777),
    };
    let source = LogSource {
        pod: "p",
        container: "job",
    };
    let mut position = LogPosition::default();
    let mut out = Vec::new();
    let mut streams = 0;
    loop {
        let copied = bench
            .cluster
            .copy_log(source, true, &mut position, &mut out);
        streams += 1;
        match bench.runtime.block_on(copied).unwrap() {
            LogEnd::Broken => {}
            LogEnd::Closed => break,
        }
    }
    let whole = lines((0..200).map(|n| format!("line {n}")));
    assert_eq!(String::from_utf8(out).unwrap(), whole);
    assert!(streams > 5, "{streams}");
}
