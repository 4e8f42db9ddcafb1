//! Changes of objects on the fake API server: replaced, patched, and the claims that a driver
//! would bind.

use serde_json::{Value, json};

use crate::fake_api::{Answer, State, object, status};

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
        let source = claim["spec"]["dataSource"]["name"].as_str();
        let is_there = source.is_none_or(|source| {
            let key = ("persistentvolumeclaims".to_owned(), source.to_owned());
            self.objects.contains_key(&key)
        });
        claim["status"] = if is_there && !self.claims_wait {
            let storage = claim["spec"]["resources"]["requests"]["storage"].clone();
            json!({"phase": "Bound", "capacity": {"storage": storage}})
        } else {
            json!({"phase": "Pending"})
        };
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
