//! Changes of objects on the fake API server: replaced, patched, the claims that a driver would
//! bind, and the pods that a Job would have.

use serde_json::{Value, json};

use crate::fake_api::{Answer, State, object, status};

/// By it the Job's controller marks the Job's pods.
pub const JOB_LABEL: &str = "batch.kubernetes.io/job-name";

fn conflict(name: &str) -> Answer {
    status(
        409,
        "Conflict",
        &format!(
            "Operation cannot be fulfilled on \"{name}\": the object has been modified; please \
             apply your changes to the latest version and try again"
        ),
    )
}

impl State {
    /// Replaces an object if it still has the version of the new one.
    pub(crate) fn replace(&mut self, resource: &str, name: &str, body: &[u8]) -> Answer {
        let mut new: Value = serde_json::from_slice(body).unwrap();
        let key = (resource.to_owned(), name.to_owned());
        let Some(found) = self.objects.get(&key) else {
            return status(404, "NotFound", "not found");
        };
        let wanted = &new["metadata"]["resourceVersion"];
        if wanted.is_string() && *wanted != found["metadata"]["resourceVersion"] {
            return conflict(name);
        }
        new["metadata"]["uid"] = found["metadata"]["uid"].clone();
        self.serial += 1;
        new["metadata"]["resourceVersion"] = json!(self.serial.to_string());
        let answer = object(200, &new);
        self.objects.insert(key, new);
        answer
    }

    /// Lays a merge patch over an object.
    pub(crate) fn patch(&mut self, resource: &str, name: &str, body: &[u8]) -> Answer {
        let patch: Value = serde_json::from_slice(body).unwrap();
        self.serial += 1;
        let version = json!(self.serial.to_string());
        let Some(found) = self
            .objects
            .get_mut(&(resource.to_owned(), name.to_owned()))
        else {
            return status(404, "NotFound", "not found");
        };
        let uid = &patch["metadata"]["uid"];
        if uid.is_string() && *uid != found["metadata"]["uid"] {
            return conflict(name);
        }
        merge(found, &patch);
        found["metadata"]["resourceVersion"] = version;
        object(200, found)
    }

    /// What the driver makes of a new claim: it is bound, unless what it is cloned from is missing.
    pub(crate) fn provision(&self, claim: &mut Value) {
        let source = &claim["spec"]["dataSource"];
        let resource = match source["kind"].as_str() {
            Some("VolumeSnapshot") => "volumesnapshots",
            _ => "persistentvolumeclaims",
        };
        let is_there = source["name"].as_str().is_none_or(|name| {
            let key = (resource.to_owned(), name.to_owned());
            self.objects.contains_key(&key)
        });
        claim["status"] = if is_there && !self.claims_wait {
            let storage = claim["spec"]["resources"]["requests"]["storage"].clone();
            json!({"phase": "Bound", "capacity": {"storage": storage}})
        } else {
            json!({"phase": "Pending"})
        };
        claim["spec"]["volumeName"] = json!("pv-1");
    }

    /// A Job's pod, which has ended already.
    pub(crate) fn run_job(&mut self, job: &str, object: &Value) {
        let name = format!("{job}-0");
        let (phase, reason) = match self.job_exit {
            0 => ("Succeeded", "Completed"),
            _ => ("Failed", "Error"),
        };
        let mut pod = object["spec"]["template"].clone();
        pod["metadata"] = json!({"name": name, "uid": format!("uid-of-{name}"),
            "labels": {JOB_LABEL: job}});
        pod["spec"]["nodeName"] = json!("node-1");
        let container = &pod["spec"]["containers"][0];
        let ended = json!({"name": container["name"], "image": container["image"], "imageID": "",
            "ready": false, "restartCount": 0,
            "state": {"terminated": {"exitCode": self.job_exit, "reason": reason}}});
        pod["status"] = json!({"phase": phase, "containerStatuses": [ended]});
        self.objects.insert(("pods".to_owned(), name), pod);
    }
}

/// RFC 7386.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in patch {
        if value.is_null() {
            target.as_object_mut().unwrap().remove(key);
        } else {
            merge(&mut target[key], value);
        }
    }
}
