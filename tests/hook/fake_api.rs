//! A small API server of our own: it keeps objects, records requests, fails as it is told to, and
//! plays the kubelet by starting the real supervisor as a local process.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future as _;
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
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
    /// What is to go wrong.
    pub faults: Vec<Fault>,
    /// What becomes of pods.
    pub kubelet: Kubelet,
    supervisors: BTreeMap<String, Child>,
    work: std::path::PathBuf,
    serial: u64,
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
            work: work.to_owned(),
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
                .serve_connection(TokioIo::new(stream), service);
            // A fault breaks the connection; that is no error of the server.
            let _ = connection.await;
        });
    }
}

/// The connection breaks.
#[derive(Debug)]
struct Broken;

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("told to break")
    }
}

impl std::error::Error for Broken {}

/// An answer's body: pieces, then the end, or a break.
struct Pieces {
    left: VecDeque<Bytes>,
    /// Breaks once this time has passed, so that the pieces are on their way by then.
    breaks: Option<Pin<Box<tokio::time::Sleep>>>,
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

type Answer = Response<Pieces>;

fn text(code: u16, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Pieces {
        left: VecDeque::from([body.into()]),
        breaks: None,
    });
    *answer.status_mut() = code.try_into().unwrap();
    answer
}

fn object(code: u16, value: &Value) -> Answer {
    text(code, value.to_string())
}

fn status(code: u16, reason: &str, message: &str) -> Answer {
    let body = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "code": code, "reason": reason, "message": message});
    object(code, &body)
}

async fn answer(state: Arc<Mutex<State>>, request: Request<Incoming>) -> Result<Answer, Broken> {
    let method = request.method().to_string();
    let path = request.uri().path().to_owned();
    let query = request.uri().query().unwrap_or_default().to_owned();
    let body = request
        .into_body()
        .collect()
        .await
        .map_err(|_| Broken)?
        .to_bytes();
    let mut parts = path
        .trim_start_matches("/api/v1/namespaces/")
        .splitn(4, '/')
        .skip(1);
    let resource = parts.next().unwrap_or_default().to_owned();
    let name = parts.next().unwrap_or_default().to_owned();
    let resource = parts.next().map_or(resource, str::to_owned);
    let fault = {
        let mut state = state.lock().unwrap();
        state.requests.push(format!("{method} {resource}"));
        state.queries.push(query.clone());
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
    if query.contains("watch=true") {
        return Ok(watch(&state, &query).await);
    }
    Ok(state
        .lock()
        .unwrap()
        .act(&method, &resource, &name, &query, &body))
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

impl State {
    fn act(
        &mut self,
        method: &str,
        resource: &str,
        name: &str,
        query: &str,
        body: &[u8],
    ) -> Answer {
        match (method, resource, name) {
            ("GET", "log", _) => self.log(name, query),
            ("GET", _, "") => self.list(resource, query),
            ("GET", ..) => self.get(resource, name),
            ("POST", ..) if query.contains("dryRun=All") => self.judge(resource, body),
            ("POST", ..) => self.create(resource, body),
            ("DELETE", ..) => self.delete(resource, name, body),
            _ => status(405, "MethodNotAllowed", "not here"),
        }
    }

    fn get(&mut self, resource: &str, name: &str) -> Answer {
        self.tend(name);
        match self.objects.get(&(resource.to_owned(), name.to_owned())) {
            Some(found) => object(200, found),
            None => status(404, "NotFound", &format!("{resource} \"{name}\" not found")),
        }
    }

    fn list(&self, resource: &str, query: &str) -> Answer {
        if resource == "events" && !self.generous {
            return status(
                403,
                "Forbidden",
                "events is forbidden: User \"system:serviceaccount:ci:runner\" cannot list resource \
                 \"events\" in API group \"\" in the namespace \"ci\"",
            );
        }
        let wanted = query
            .split('&')
            .find_map(|part| part.strip_prefix("labelSelector="))
            .map(|selector| selector.replace("%3D", "="))
            .unwrap_or_default();
        let items: Vec<&Value> = self
            .objects
            .iter()
            .filter(|((kind, _), _)| kind == resource)
            .map(|(_, object)| object)
            .filter(|object| {
                let (key, value) = wanted.split_once('=').unwrap_or_default();
                object["metadata"]["labels"][key] == value
            })
            .collect();
        let list = json!({"kind": "List", "apiVersion": "v1", "metadata": {}, "items": items});
        object(200, &list)
    }

    /// A creation that comes to nothing.
    fn judge(&self, resource: &str, body: &[u8]) -> Answer {
        let new: Value = serde_json::from_slice(body).unwrap();
        let name = new["metadata"]["name"].as_str().unwrap();
        self.taken(resource, name)
            .unwrap_or_else(|| object(201, &new))
    }

    fn taken(&self, resource: &str, name: &str) -> Option<Answer> {
        let key = (resource.to_owned(), name.to_owned());
        let message = format!("{resource} \"{name}\" already exists");
        self.objects
            .contains_key(&key)
            .then(|| status(409, "AlreadyExists", &message))
    }

    fn create(&mut self, resource: &str, body: &[u8]) -> Answer {
        let mut new: Value = serde_json::from_slice(body).unwrap();
        self.created.push(new.clone());
        let name = new["metadata"]["name"].as_str().unwrap().to_owned();
        if let Some(taken) = self.taken(resource, &name) {
            return taken;
        }
        let key = (resource.to_owned(), name.clone());
        self.serial += 1;
        new["metadata"]["uid"] = json!(format!("uid-{}", self.serial));
        new["metadata"]["resourceVersion"] = json!(self.serial.to_string());
        if resource == "pods" {
            new["status"] = json!({"phase": "Pending"});
            match self.kubelet.clone() {
                Kubelet::Idle => {}
                Kubelet::Run => self.start(&name, &mut new),
                Kubelet::RunButNotReady(container) => {
                    self.start(&name, &mut new);
                    let statuses = new["status"]["containerStatuses"].as_array_mut();
                    for status in statuses.into_iter().flatten() {
                        status["ready"] = json!(status["name"] != container);
                    }
                }
                Kubelet::Status(state) => new["status"] = state,
                Kubelet::Program { .. } => new["status"] = running(&new),
            }
        }
        let answer = object(201, &new);
        self.objects.insert(key, new);
        answer
    }

    /// Plays the kubelet for the container that runs the supervisor.
    fn start(&mut self, name: &str, pod: &mut Value) {
        let containers = pod["spec"]["containers"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let job = containers
            .iter()
            .find(|container| container["name"] == "job");
        let words: Vec<&str> = job
            .into_iter()
            .flat_map(|job| [&job["command"], &job["args"]])
            .filter_map(Value::as_array)
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let nonce = words
            .iter()
            .position(|word| *word == "--nonce")
            .and_then(|at| words.get(at + 1));
        if let Some(nonce) = nonce {
            let child = Command::new(BINARY)
                .arg("supervise")
                .arg(self.work.join(".arc-hook").join(nonce).join("spool"))
                .args(["--nonce", nonce])
                .env_clear()
                .env("PATH", "/usr/bin:/bin")
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            self.supervisors.insert(name.to_owned(), child);
        }
        pod["status"] = running(pod);
    }

    /// A program that has said all ends.
    fn tend(&mut self, name: &str) {
        let Kubelet::Program {
            exit: Some(code), ..
        } = &self.kubelet
        else {
            return;
        };
        let code = *code;
        let logged = self.requests.iter().any(|request| request == "GET log");
        if let (true, Some(pod)) = (
            logged,
            self.objects.get_mut(&("pods".to_owned(), name.to_owned())),
        ) && pod["metadata"]["labels"]["runner-pod"].is_string()
        {
            pod["status"]["containerStatuses"][0]["state"] = json!({"terminated": {
                "exitCode": code, "reason": if code == 0 { "Completed" } else { "Error" }
            }});
        }
    }

    fn log(&self, _pod: &str, query: &str) -> Answer {
        let Kubelet::Program { log, cut, .. } = &self.kubelet else {
            return text(200, "");
        };
        let since = query
            .split('&')
            .find_map(|part| part.strip_prefix("sinceTime="))
            .map(|time| time.replace("%3A", ":"));
        // The kubelet counts whole seconds.
        let since = since.map(|time| time[..19].to_owned()).unwrap_or_default();
        let lines = lines(log.iter().filter(|line| line[..19] >= *since));
        let breaks = cut.filter(|cut| query.contains("follow=true") && *cut < lines.len());
        let mut answer = text(200, lines[..breaks.unwrap_or(lines.len())].to_owned());
        answer.body_mut().breaks =
            breaks.map(|_| Box::pin(tokio::time::sleep(Duration::from_millis(20))));
        answer
    }

    fn delete(&mut self, resource: &str, name: &str, body: &[u8]) -> Answer {
        let key = (resource.to_owned(), name.to_owned());
        let Some(found) = self.objects.get(&key) else {
            return status(404, "NotFound", &format!("{resource} \"{name}\" not found"));
        };
        let options: Value = serde_json::from_slice(body).unwrap_or_default();
        let wanted = &options["preconditions"]["uid"];
        if wanted.is_string() && *wanted != found["metadata"]["uid"] {
            return status(
                409,
                "Conflict",
                "Operation cannot be fulfilled: Precondition failed: UID in precondition",
            );
        }
        if let Some(mut child) = self.supervisors.remove(name) {
            let pid = child.id().to_string();
            let _ = Command::new("kill").args(["-TERM", &pid]).status();
            let _ = child.wait();
        }
        let answer = object(200, found);
        self.objects.remove(&key);
        answer
    }
}

/// The status of a pod all of whose containers run.
pub fn running(pod: &Value) -> Value {
    let containers = pod["spec"]["containers"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let statuses: Vec<Value> = containers
        .iter()
        .map(|container| {
            json!({"name": container["name"], "image": container["image"], "imageID": "",
                   "ready": true, "restartCount": 0, "state": {"running": {}}})
        })
        .collect();
    json!({"phase": "Running", "podIP": "10.0.0.9", "containerStatuses": statuses,
           "conditions": [{"type": "PodScheduled", "status": "True"}]})
}

/// Lines as a log holds them.
pub fn lines(lines: impl IntoIterator<Item = impl std::fmt::Display>) -> String {
    use std::fmt::Write as _;
    lines.into_iter().fold(String::new(), |mut log, line| {
        let _ = writeln!(log, "{line}");
        log
    })
}
