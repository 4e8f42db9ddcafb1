//! Logs of containers that run without the supervisor.
//!
//! The API server ends a log stream when it likes: on its own restart, at an idle load balancer.
//! Each line is therefore asked for with its timestamp, and a new stream begins where the last one
//! broke off, with nothing twice and nothing left out.

use std::io::{self, Write};
use std::pin::pin;

use futures_util::io::{AsyncBufRead, AsyncBufReadExt};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::api::LogParams;

use super::{Act, Cluster, ClusterError};

/// Longest tail that is read for a message.
const TAIL_BYTES: i64 = 16 * 1024;

/// Whose log.
#[derive(Debug, Clone, Copy)]
pub struct LogSource<'a> {
    /// The pod.
    pub pod: &'a str,
    /// The container.
    pub container: &'a str,
}

/// How far a log has been copied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogPosition {
    /// Timestamp of the last line that was copied whole.
    line: Option<Timestamp>,
    /// How many lines with just that timestamp were copied.
    same: u64,
    /// Bytes already copied of the line after it.
    partial: u64,
    /// Bytes copied in all.
    total: u64,
}

impl LogPosition {
    /// Bytes copied so far.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }
}

/// Why copying ended.
#[derive(Debug)]
pub enum LogEnd {
    /// The stream was closed in good order.
    Closed,
    /// The stream broke.
    Broken,
}

impl Cluster {
    /// The last lines of a container's log, for a message. Empty when there is none: it only ever
    /// adds to an explanation.
    pub async fn log_tail(&self, source: LogSource<'_>, lines: u32) -> String {
        let quick = self.patient(std::time::Duration::from_secs(5));
        let api = quick.api::<Pod>();
        let parameters = LogParams {
            container: Some(source.container.to_owned()),
            tail_lines: Some(lines.into()),
            limit_bytes: Some(TAIL_BYTES),
            ..LogParams::default()
        };
        let act = quick.log_act(source);
        quick
            .attempt(act, || api.logs(source.pod, &parameters))
            .await
            .unwrap_or_default()
    }

    fn log_act(&self, source: LogSource<'_>) -> Act {
        self.act("get", "pods/log", source.pod)
    }

    /// Copies a container's log from `position` on, until the stream ends; with `follow` that is
    /// when the container ends, or when the connection does. `position` is kept up to date, so the
    /// next call goes on where this one stopped.
    pub async fn copy_log(
        &self,
        source: LogSource<'_>,
        follow: bool,
        position: &mut LogPosition,
        out: &mut dyn Write,
    ) -> Result<LogEnd, CopyError> {
        let api = self.api::<Pod>();
        let parameters = LogParams {
            container: Some(source.container.to_owned()),
            follow,
            timestamps: true,
            // The kubelet counts in whole seconds: what comes twice is skipped below.
            since_time: position.line,
            ..LogParams::default()
        };
        let stream = self
            .attempt(self.log_act(source), || {
                api.log_stream(source.pod, &parameters)
            })
            .await?;
        copy(pin!(stream), position, out)
            .await
            .map_err(CopyError::Write)
    }
}

/// Why a log could not be copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The API server did not give it.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// It could not be written on.
    #[error("write the log: {0}")]
    Write(#[source] io::Error),
}

/// What to do with the rest of the current line.
enum Line {
    /// The timestamp is not complete yet.
    Stamp(Vec<u8>),
    /// Known already.
    Skip,
    /// To be written, but for the first bytes.
    Write { known: u64 },
}

async fn copy(
    mut stream: impl AsyncBufRead + Unpin,
    position: &mut LogPosition,
    out: &mut dyn Write,
) -> io::Result<LogEnd> {
    let resumed = position.line;
    let mut skip_same = position.same;
    let mut line = Line::Stamp(Vec::new());
    let mut stamp = None;
    loop {
        let Ok(available) = stream.fill_buf().await else {
            return Ok(LogEnd::Broken);
        };
        if available.is_empty() {
            return Ok(LogEnd::Closed);
        }
        let used = available.len();
        let mut rest = available;
        while !rest.is_empty() {
            match &mut line {
                Line::Stamp(bytes) => {
                    let end = memchr::memchr2(b' ', b'\n', rest);
                    bytes.extend_from_slice(&rest[..end.unwrap_or(rest.len())]);
                    let Some(end) = end else { break };
                    stamp = std::str::from_utf8(bytes)
                        .ok()
                        .and_then(|text| text.parse::<Timestamp>().ok());
                    let known = match (stamp, resumed) {
                        (Some(stamp), Some(resumed)) if stamp < resumed => true,
                        (Some(stamp), Some(resumed)) if stamp == resumed && skip_same > 0 => {
                            skip_same -= 1;
                            true
                        }
                        _ => false,
                    };
                    if known {
                        line = Line::Skip;
                    } else if stamp.is_none() {
                        // The kubelet's own words stand without a timestamp; they are a line too.
                        let words = std::mem::take(bytes);
                        out.write_all(&words)?;
                        line = Line::Write { known: 0 };
                    } else {
                        line = Line::Write {
                            known: position.partial,
                        };
                    }
                    // A line break in place of the blank belongs to the line: an empty one.
                    let blank = usize::from(rest[end] == b' ' && stamp.is_some());
                    rest = &rest[end + blank..];
                }
                Line::Skip => match memchr::memchr(b'\n', rest) {
                    Some(end) => {
                        rest = &rest[end + 1..];
                        line = Line::Stamp(Vec::new());
                    }
                    None => rest = &[],
                },
                Line::Write { known } => {
                    let end = memchr::memchr(b'\n', rest);
                    let part = &rest[..end.map_or(rest.len(), |end| end + 1)];
                    let skipped = usize::try_from(*known)
                        .unwrap_or(usize::MAX)
                        .min(part.len());
                    *known -= skipped as u64;
                    out.write_all(&part[skipped..])?;
                    position.partial += (part.len() - skipped) as u64;
                    position.total += (part.len() - skipped) as u64;
                    rest = &rest[part.len()..];
                    if end.is_some() {
                        position.partial = 0;
                        if stamp.is_some() {
                            position.same = if stamp == position.line {
                                position.same + 1
                            } else {
                                1
                            };
                            position.line = stamp;
                        }
                        line = Line::Stamp(Vec::new());
                    }
                }
            }
        }
        stream.consume_unpin(used);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::io::Cursor;

    const LOG: &str = "2026-11-21T06:00:00.1Z one\n\
                       2026-11-21T06:00:00.2Z \n\
                       2026-11-21T06:00:00.2Z two  words\n\
                       2026-11-21T06:00:00.3Z three\n";

    fn run(log: &[u8], position: &mut LogPosition) -> String {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let mut out = Vec::new();
        runtime
            .block_on(copy(Cursor::new(log), position, &mut out))
            .unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn timestamps_are_taken_off() {
        let text = run(LOG.as_bytes(), &mut LogPosition::default());
        assert_eq!(text, "one\n\ntwo  words\nthree\n");
    }

    #[test]
    fn a_log_cut_anywhere_and_asked_for_again_arrives_once() {
        let whole = "one\n\ntwo  words\nthree\n";
        for cut in 0..=LOG.len() {
            let mut position = LogPosition::default();
            let mut text = run(&LOG.as_bytes()[..cut], &mut position);
            // The kubelet starts again at the beginning of the second.
            text += &run(LOG.as_bytes(), &mut position);
            assert_eq!(text, whole, "cut at {cut}");
            assert_eq!(run(LOG.as_bytes(), &mut position), "", "cut at {cut}");
        }
    }

    #[test]
    fn lines_of_the_kubelet_without_a_timestamp_are_passed_on() {
        let log = "failed to watch logs\n2026-11-21T06:00:00.1Z one\n";
        let text = run(log.as_bytes(), &mut LogPosition::default());
        assert_eq!(text, "failed to watch logs\none\n");
    }

    #[test]
    fn a_last_line_without_line_break_is_passed_on() {
        let log = "2026-11-21T06:00:00.1Z no end";
        assert_eq!(run(log.as_bytes(), &mut LogPosition::default()), "no end");
    }
}
