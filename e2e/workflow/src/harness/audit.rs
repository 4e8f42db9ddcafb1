//! Requests to the API server, from its audit log.

use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// A place in the audit log, from which on requests are read.
#[derive(Debug)]
pub struct Mark {
    path: PathBuf,
    offset: u64,
}

/// One request.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// `get`, `create`...
    pub verb: String,
    /// Path and query.
    #[serde(rename = "requestURI")]
    pub uri: String,
    /// Who.
    pub user: User,
    /// The answer.
    #[serde(default, rename = "responseStatus")]
    pub status: Status,
    /// Where in its life the request was.
    #[serde(default)]
    pub stage: String,
}

/// The status of an answer.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Status {
    /// The HTTP status.
    #[serde(default)]
    pub code: u16,
}

/// The user of a request.
#[derive(Clone, Debug, Deserialize)]
pub struct User {
    /// Name.
    pub username: String,
}

impl Mark {
    /// The present end of the log; `None` when there is no log.
    #[must_use]
    pub fn here(path: &Path) -> Option<Self> {
        let offset = path.metadata().ok()?.len();
        Some(Self {
            path: path.to_owned(),
            offset,
        })
    }

    /// Requests that the user of this name has finished since.
    pub fn requests_of(&self, user: &str) -> std::io::Result<Vec<Request>> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.offset))?;
        let mut requests = Vec::new();
        for line in BufReader::new(file).lines() {
            // The last line may not be whole yet.
            let Ok(request) = serde_json::from_str::<Request>(&line?) else {
                continue;
            };
            let ended = matches!(request.stage.as_str(), "" | "ResponseComplete");
            if ended && request.user.username == user {
                requests.push(request);
            }
        }
        Ok(requests)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_later_requests_of_the_user_count() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("audit.log");
        let line = |user: &str| {
            format!(
                r#"{{"verb":"get","requestURI":"/x","stage":"ResponseComplete","user":{{"username":"{user}"}}}}"#
            )
        };
        assert!(Mark::here(&path).is_none());
        let early = format!("{}\n", line("it"));
        std::fs::write(&path, &early).unwrap();
        let mark = Mark::here(&path).unwrap();
        let later = format!("{early}{}\n{}\n{{\"cut", line("admin"), line("it"));
        std::fs::write(&path, later).unwrap();
        assert_eq!(mark.requests_of("it").unwrap().len(), 1);
    }
}
