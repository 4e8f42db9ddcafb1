//! A small API server of our own: it keeps objects, records requests, fails as it is told to, and
//! plays the kubelet by starting the real supervisor as a local process.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future as _;
use std::pin::Pin;
use std::process::Child;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::fake_exec;

/// The binary under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_arc-hook");

/// What goes wrong, and how often.
#[derive(Debug, Clone)]
pub struct Fault {
    /// `GET`, `POST` or `DELETE`.
    pub method: &'static str,
    /// `pods`, `secrets`, `events`, `log`.
    pub resource: &'static str,
    /// How many requests it hits.
    pub times: u32,
    /// What happens to them.
    pub kind: Kind,
}

/// The ways to fail.
#[derive(Debug, Clone)]
pub enum Kind {
    /// An answer with that code, reason and message.
    Status(u16, &'static str, String),
    /// An overloaded server that says when to come again.
    RetryAfter(u32),
    /// The connection breaks before anything is done.
    Reset,
    /// It is done, and then the connection breaks.
    LostAnswer,
    /// No answer for that long.
    Slow(Duration),
}

/// What happens to a pod that is created.
#[derive(Debug, Clone, Default)]
pub enum Kubelet {
    /// The supervisor starts as a local process, and all containers are ready.
    #[default]
    Run,
    /// The same, but this container is not ready.
    RunButNotReady(&'static str),
    /// The supervisor starts, and the API server does not learn of it.
    RunUntold,
    /// Nothing.
    Idle,
    /// It stays in this state.
    Status(Value),
    /// An image's own program: its log lines come one by one, then it exits with the code.
    Program {
        /// Lines, with the timestamps that the kubelet gives them.
        log: Vec<String>,
        /// Exit code; `None` while it runs on.
        exit: Option<i32>,
        /// After how many bytes of a followed log the stream breaks, each time.
        cut: Option<usize>,
    },
}

/// What the server holds.
#[derive(Default)]
pub struct State {
    /// Objects by resource and name.
    pub objects: BTreeMap<(String, String), Value>,
    /// Requests, as `POST pods`.
    pub requests: Vec<String>,
    /// Bodies of creations.
    pub created: Vec<Value>,
    /// Queries of the requests.
    pub queries: Vec<String>,
    /// The Role grants `watch` on `pods` and `list` on `events`, which ARC's does not.
    pub generous: bool,
    /// Users that requests were made in the place of.
    pub impersonated: Vec<String>,
    /// What the Role grants, as rules of a review.
    pub rules: Vec<Value>,
    /// What is to go wrong.
    pub faults: Vec<Fault>,
    /// What becomes of pods.
    pub kubelet: Kubelet,
    /// Exit code of the programs of Jobs, which end at once.
    pub job_exit: i32,
    /// No claim is ever bound.
    pub claims_wait: bool,
    /// What befalls connections to programs in containers, one after the other.
    pub cuts: VecDeque<Cut>,
    /// The program that is run in containers in place of the relay: one of another version.
    pub relay: Option<std::path::PathBuf>,
    pub(crate) supervisors: BTreeMap<String, Child>,
    /// Work volumes of the runners.
    pub(crate) works: Vec<std::path::PathBuf>,
    pub(crate) serial: u64,
}

/// What befalls a connection to a program in a container.
#[derive(Debug, Clone, Copy)]
pub enum Cut {
    /// Nothing.
    None,
    /// It breaks after so many bytes of the program's output.
    Output(usize),
    /// It breaks after so many bytes of the program's input.
    Input(usize),
    /// It stands, and after so many bytes of the program's output nothing comes any more.
    Mute(usize),
    /// The program's input passes in small pieces, with a pause after each.
    Trickle,
}

/// The running server.
pub struct FakeApi {
    state: Arc<Mutex<State>>,
    /// Where it listens.
    pub url: String,
}

impl FakeApi {
    /// Starts a server whose pods mount `work`.
    pub fn start(work: &std::path::Path) -> Self {
        let state = Arc::new(Mutex::new(State {
            works: vec![work.to_owned()],
            ..State::default()
        }));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(serve(listener, shared));
        });
        Self { state, url }
    }

    /// What it holds now.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Something is to go wrong.
    pub fn fail(&self, method: &'static str, resource: &'static str, times: u32, kind: Kind) {
        self.state().faults.push(Fault {
            method,
            resource,
            times,
            kind,
        });
    }

    /// Names of the objects of a resource.
    pub fn names(&self, resource: &str) -> Vec<String> {
        let state = self.state();
        let of_resource = state.objects.keys().filter(|(kind, _)| kind == resource);
        of_resource.map(|(_, name)| name.clone()).collect()
    }

    /// How often that was asked, as `POST pods`.
    pub fn count(&self, request: &str) -> usize {
        let state = self.state();
        state.requests.iter().filter(|one| *one == request).count()
    }

    /// Pods mount this work volume too.
    pub fn share(&self, work: &std::path::Path) {
        self.state().works.push(work.to_owned());
    }

    /// An object as it is now.
    pub fn object(&self, resource: &str, name: &str) -> Option<Value> {
        let key = (resource.to_owned(), name.to_owned());
        self.state().objects.get(&key).cloned()
    }

    /// A pod changes.
    pub fn change_pod(&self, name: &str, change: impl FnOnce(&mut Value)) {
        let mut state = self.state();
        state.serial += 1;
        let version = json!(state.serial.to_string());
        let key = ("pods".to_owned(), name.to_owned());
        let pod = state.objects.get_mut(&key).unwrap();
        change(pod);
        pod["metadata"]["resourceVersion"] = version;
    }

    /// The kernel kills everything in a pod's container.
    pub fn kill_container(&self, name: &str) {
        if let Some(mut child) = self.state().supervisors.remove(name) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Someone else deletes a pod.
    pub fn delete_pod(&self, name: &str) {
        let _ = self.state().delete("pods", name, b"");
    }

    /// Puts an object there that nobody created.
    pub fn put(&self, resource: &str, object: Value) {
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let mut state = self.state();
        state.objects.insert((resource.to_owned(), name), object);
    }
}

impl Drop for FakeApi {
    fn drop(&mut self) {
        for child in self.state().supervisors.values_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

async fn serve(listener: std::net::TcpListener, state: Arc<Mutex<State>>) {
    let listener = TcpListener::from_std(listener).unwrap();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(Arc::clone(&state), request));
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades();
            // A fault breaks the connection; that is no error of the server.
            let _ = connection.await;
        });
    }
}

/// The connection breaks.
#[derive(Debug)]
pub(crate) struct Broken;

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("told to break")
    }
}

impl std::error::Error for Broken {}

/// An answer's body: pieces, then the end, or a break.
pub(crate) struct Pieces {
    left: VecDeque<Bytes>,
    /// Breaks once this time has passed, so that the pieces are on their way by then.
    pub(crate) breaks: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        if let Some(piece) = self.left.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        match &mut self.breaks {
            Some(time) => time.as_mut().poll(context).map(|()| Some(Err(Broken))),
            None => Poll::Ready(None),
        }
    }
}

/// An answer.
pub(crate) type Answer = Response<Pieces>;

pub(crate) fn text(code: u16, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Pieces {
        left: VecDeque::from([body.into()]),
        breaks: None,
    });
    *answer.status_mut() = code.try_into().unwrap();
    answer
}

pub(crate) fn object(code: u16, value: &Value) -> Answer {
    text(code, value.to_string())
}

pub(crate) fn status(code: u16, reason: &str, message: &str) -> Answer {
    let body = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "code": code, "reason": reason, "message": message});
    object(code, &body)
}

async fn answer(
    state: Arc<Mutex<State>>,
    mut request: Request<Incoming>,
) -> Result<Answer, Broken> {
    let method = request.method().to_string();
    let path = request.uri().path().to_owned();
    let query = request.uri().query().unwrap_or_default().to_owned();
    let user = request.headers().get("impersonate-user").cloned();
    let upgrade = hyper::upgrade::on(&mut request);
    let key = request.headers().get("sec-websocket-key").cloned();
    let body = request
        .into_body()
        .collect()
        .await
        .map_err(|_| Broken)?
        .to_bytes();
    let (resource, name) = addressed(&path);
    let fault = {
        let mut state = state.lock().unwrap();
        state.requests.push(format!("{method} {resource}"));
        state.queries.push(query.clone());
        let user = user.and_then(|user| user.to_str().map(str::to_owned).ok());
        state.impersonated.extend(user);
        let fault = state
            .faults
            .iter_mut()
            .find(|fault| fault.times > 0 && fault.method == method && fault.resource == resource);
        fault.map(|fault| {
            fault.times -= 1;
            fault.kind.clone()
        })
    };
    match fault {
        Some(Kind::Status(code, reason, message)) => return Ok(status(code, reason, &message)),
        Some(Kind::RetryAfter(seconds)) => {
            let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
                "code": 429, "reason": "TooManyRequests", "message": "overloaded",
                "details": {"retryAfterSeconds": seconds}});
            return Ok(object(429, &body));
        }
        Some(Kind::Reset) => return Err(Broken),
        Some(Kind::Slow(time)) => tokio::time::sleep(time).await,
        Some(Kind::LostAnswer) => {
            let _ = state
                .lock()
                .unwrap()
                .act(&method, &resource, &name, &query, &body);
            return Err(Broken);
        }
        None => {}
    }
    if let ("exec", Some(key)) = (resource.as_str(), key) {
        return Ok(fake_exec::start(
            &state,
            upgrade,
            key.as_bytes(),
            &name,
            &query,
        ));
    }
    if query.contains("watch=true") {
        return Ok(watch(&state, &query).await);
    }
    Ok(state
        .lock()
        .unwrap()
        .act(&method, &resource, &name, &query, &body))
}

/// Resource and name in a path: `/api/v1/namespaces/NAMESPACE/RESOURCE/NAME`, the same with a
/// subresource, which then stands for the resource, or without a namespace and of any group.
fn addressed(path: &str) -> (String, String) {
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let (resource, name) = match parts[..] {
        ["api", _, "namespaces", _, resource]
        | ["apis", _, _, "namespaces", _, resource]
        | ["apis", _, _, resource] => (resource, ""),
        ["api", _, "namespaces", _, resource, name]
        | ["apis", _, _, "namespaces", _, resource, name]
        | ["api", _, resource, name]
        | ["apis", _, _, resource, name] => (resource, name),
        ["api", _, "namespaces", _, _, name, subresource] => (subresource, name),
        [name] => ("", name),
        _ => ("", ""),
    };
    (resource.to_owned(), name.to_owned())
}

/// Answers with the pod's next change.
async fn watch(state: &Mutex<State>, query: &str) -> Answer {
    if !state.lock().unwrap().generous {
        return status(
            403,
            "Forbidden",
            "pods is forbidden: User \"system:serviceaccount:ci:runner\" cannot watch resource \
             \"pods\" in API group \"\" in the namespace \"ci\"",
        );
    }
    let of = |key: &str| {
        let value = query.split('&').find_map(|part| part.strip_prefix(key));
        value.unwrap_or_default().to_owned()
    };
    let version = of("resourceVersion=");
    let key = ("pods".to_owned(), of("fieldSelector=metadata.name%3D"));
    loop {
        let pod = state.lock().unwrap().objects.get(&key).cloned();
        let event = match pod {
            None => json!({"type": "DELETED", "object": {"metadata": {"name": key.1}}}),
            Some(pod) if pod["metadata"]["resourceVersion"] != version.as_str() => {
                json!({"type": "MODIFIED", "object": pod})
            }
            Some(_) => {
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            }
        };
        return text(200, format!("{event}\n"));
    }
}
