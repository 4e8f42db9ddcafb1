//! What the fake API server keeps, and the part of the kubelet that it plays.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::fake_api::{Answer, BINARY, Kubelet, State, object, status, text};
use crate::fake_changes::JOB_LABEL;

impl State {
    pub(crate) fn act(
        &mut self,
        method: &str,
        resource: &str,
        name: &str,
        query: &str,
        body: &[u8],
    ) -> Answer {
        match (method, resource, name) {
            ("GET", "log", _) => self.log(name, query),
            ("GET", "", "version") => object(
                200,
                &json!({"major": "1", "minor": "36",
                "gitVersion": "v1.36.3", "gitCommit": "", "gitTreeState": "", "buildDate": "",
                "goVersion": "", "compiler": "", "platform": ""}),
            ),
            ("POST", "selfsubjectrulesreviews", _) => {
                let rules = json!({"resourceRules": self.rules, "nonResourceRules": [],
                    "incomplete": false});
                object(201, &json!({"spec": {}, "status": rules}))
            }
            ("GET", _, "") => self.list(resource, query),
            ("GET", ..) => self.get(resource, name),
            ("POST", ..) if query.contains("dryRun=All") => self.judge(resource, body),
            ("POST", ..) => self.create(resource, body),
            ("DELETE", ..) => self.delete(resource, name, body),
            ("PUT", ..) => self.replace(resource, name, body),
            // A strategic patch, which this server does not lay over anything.
            ("PATCH", "resize", _) => self.get("pods", name),
            ("PATCH", ..) if query.contains("dryRun=All") => self.get(resource, name),
            ("PATCH", ..) => self.patch(resource, name, body),
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
            .map(|selector| selector.replace("%3D", "=").replace("%2F", "/"))
            .unwrap_or_default();
        let matches = |labels: &Value| match wanted.split_once('=') {
            Some((key, value)) => labels[key] == value,
            None => wanted.is_empty() || labels[&wanted].is_string(),
        };
        let items: Vec<&Value> = self
            .objects
            .iter()
            .filter(|((kind, _), _)| kind == resource)
            .map(|(_, object)| object)
            .filter(|object| matches(&object["metadata"]["labels"]))
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
        if resource == "persistentvolumeclaims" {
            self.provision(&mut new);
        }
        if resource == "volumesnapshots" {
            new["status"] = json!({"readyToUse": !self.claims_wait});
        }
        if resource == "jobs" {
            self.run_job(&name, &new);
        }
        if resource == "pods" {
            new["status"] = json!({"phase": "Pending"});
            match self.kubelet.clone() {
                Kubelet::Idle => {}
                Kubelet::Run => self.start(&name, &mut new),
                Kubelet::RunUntold => {
                    self.start(&name, &mut new);
                    new["status"] = json!({"phase": "Pending"});
                }
                Kubelet::RunButNotReady(container) => {
                    self.start(&name, &mut new);
                    let statuses = new["status"]["containerStatuses"].as_array_mut();
                    for status in statuses.into_iter().flatten() {
                        status["ready"] = json!(status["name"] != container);
                    }
                }
                Kubelet::Status(state) => new["status"] = state,
                Kubelet::Program { .. } => {
                    new["status"] = running(&new);
                    self.start_gate(&name, &mut new);
                }
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
        let flags = words
            .iter()
            .position(|word| *word == "--nonce")
            .map(|at| &words[at..]);
        let own = self.volume_of(name, pod);
        if pod["spec"].to_string().contains("\"init\",\"volume\"") {
            Self::fill(&own, pod);
        }
        if words.get(1..3) == Some(&["init", "kept"]) {
            std::fs::create_dir_all(&own).unwrap();
            let own = own.to_str().unwrap();
            let words = words[1..].iter().map(|word| word.replace("/__work", own));
            let child = Command::new(BINARY)
                .args(words)
                .env_clear()
                .spawn()
                .unwrap();
            self.supervisors.insert(name.to_owned(), child);
        }
        if let Some(flags @ [_, nonce, ..]) = flags {
            let spool = |work: &PathBuf| work.join(".arc-hook").join(nonce).join("spool");
            let own = Some(own.join("spool"));
            let spools: Vec<PathBuf> = own
                .into_iter()
                .chain(self.works.iter().map(spool))
                .collect();
            let spool = spools.iter().find(|spool| spool.is_dir()).unwrap();
            let child = supervise(spool, flags);
            self.supervisors.insert(name.to_owned(), child);
        }
        pod["status"] = running(pod);
    }

    /// Plays the kubelet for the init container that waits for a program's files.
    fn start_gate(&mut self, name: &str, pod: &mut Value) {
        let gate = &pod["spec"]["initContainers"][1];
        if gate["name"] != "arc-hook-gate" {
            return;
        }
        let words = gate["command"].as_array().unwrap();
        let words: Vec<&str> = words.iter().filter_map(Value::as_str).collect();
        let own = self.own_volume(name);
        Self::fill(&own, pod);
        let child = supervise(&own.join("spool"), &words[3..]);
        self.supervisors.insert(name.to_owned(), child);
        pod["status"]["initContainerStatuses"] = json!([
            {"name": "arc-hook-gate", "image": "runner", "imageID": "", "ready": false,
             "restartCount": 0, "state": {"running": {}}}
        ]);
    }

    /// Where a pod's own volume is.
    pub(crate) fn own_volume(&self, pod: &str) -> PathBuf {
        let key = ("pods".to_owned(), pod.to_owned());
        let object = self.objects.get(&key).unwrap_or(&Value::Null);
        self.volume_of(pod, object)
    }

    /// The same of one that is being created. It may be a claim of its own.
    fn volume_of(&self, name: &str, pod: &Value) -> PathBuf {
        let mut volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
        let claim =
            volumes.find_map(|volume| volume["persistentVolumeClaim"]["claimName"].as_str());
        match claim.filter(|claim| claim.starts_with("arc-hook-retained-")) {
            Some(claim) => self.beside("claims").join(claim),
            None => self.beside("pods").join(name),
        }
    }

    /// A directory beside the runner's work volume.
    fn beside(&self, name: &str) -> PathBuf {
        let work = self.works.first().unwrap();
        work.parent().unwrap_or(work).join(name)
    }

    /// Where the relay of a pod finds what its container sees. A process has no mounts of its own: of a
    /// pod that shares the work volume, what lies in the runner's workspace stands for all of `/__w`.
    pub(crate) fn seen_by(&self, pod: &str) -> [(&'static str, PathBuf); 4] {
        let own = self.own_volume(pod);
        let key = ("pods".to_owned(), pod.to_owned());
        let nonce = &self.objects[&key]["metadata"]["annotations"]["arc-hook/nonce"];
        let nonce = nonce.as_str().unwrap_or_default();
        let mut trees = self
            .works
            .iter()
            .map(|work| work.join(".arc-hook").join(nonce));
        match trees.find(|tree| !own.exists() && tree.is_dir()) {
            Some(tree) => [
                ("/__hook/spool", tree.join("spool")),
                ("/__hook", tree.join("hook")),
                ("/__w", tree.join("runner_workspace")),
                ("/github", tree),
            ],
            None => [
                ("/__hook/spool", own.join("spool")),
                ("/__hook", own.join("hook")),
                ("/__w", own.join("w")),
                ("/github", own.join("github")),
            ],
        }
    }

    /// Plays the kubelet for the containers that fill a pod's own volume.
    fn fill(own: &Path, pod: &Value) {
        std::fs::create_dir_all(own).unwrap();
        for list in ["initContainers", "containers"] {
            for container in pod["spec"][list].as_array().into_iter().flatten() {
                let name = container["name"].as_str().unwrap();
                if !name.starts_with("arc-hook-") {
                    continue;
                }
                if container["command"][1] == "supervise" {
                    continue;
                }
                let program = |command: &Value| {
                    let words = command.as_array().unwrap().iter().skip(1);
                    let words = words.map(|word| word.as_str().unwrap());
                    let mut program = Command::new(BINARY);
                    program.args(words.map(|word| word.replace("/__work", own.to_str().unwrap())));
                    program
                };
                let mut main = program(&container["command"]).spawn().unwrap();
                let hook = &container["lifecycle"]["postStart"]["exec"]["command"];
                if hook.is_array() {
                    assert!(program(hook).status().unwrap().success(), "{hook}");
                }
                let status = main.wait().unwrap();
                assert!(status.success(), "{container}");
            }
        }
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

    pub(crate) fn delete(&mut self, resource: &str, name: &str, body: &[u8]) -> Answer {
        let key = (resource.to_owned(), name.to_owned());
        let Some(found) = self.objects.get(&key) else {
            return status(404, "NotFound", &format!("{resource} \"{name}\" not found"));
        };
        let options: Value = serde_json::from_slice(body).unwrap_or_default();
        let differs = |key: &str| {
            let wanted = &options["preconditions"][key];
            wanted.is_string() && *wanted != found["metadata"][key]
        };
        if differs("uid") || differs("resourceVersion") {
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
        let _ = match resource {
            "pods" => std::fs::remove_dir_all(self.beside("pods").join(name)),
            _ => std::fs::remove_dir_all(self.beside("claims").join(name)),
        };
        self.objects.remove(&key);
        if resource == "jobs" {
            let of_job = |one: &Value| one["metadata"]["labels"][JOB_LABEL] == name;
            self.objects.retain(|_, one| !of_job(one));
        }
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

/// Plays the runtime for a container of the supervisor.
fn supervise(spool: &Path, flags: &[&str]) -> Child {
    Command::new(BINARY)
        .arg("supervise")
        .arg(spool)
        .args(flags)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}
