//! The relay as the hook meets it: frames over two pipes, and what becomes of a step whose hook is
//! slow, mute or gone.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use arc_hook::spool::{Exit, Nonce, Outcome, PROTOCOL, StepRequest};
use arc_hook::transport::entry::{Entry, Kind as What};
use arc_hook::transport::frame::{self, Decoder, Fetch, Frame, Kind, Root, Selection};
use serde_json::{Value, json};

use crate::job::{BINARY, Job, is_alive, wait_until};

/// How long a frame is awaited.
const PATIENCE: Duration = Duration::from_mins(1);

/// A relay, and this test as its hook.
struct Relay {
    process: Child,
    stdin: Option<ChildStdin>,
    frames: Receiver<Frame>,
}

impl Relay {
    fn start(job: &Job, arguments: &[&str]) -> Self {
        let mut process = Command::new(BINARY)
            .arg("relay")
            .arg(job.tree.join("spool"))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut stdout = process.stdout.take().unwrap();
        // No frame waits here: what is not asked for stays in the pipe, as with a slow hook.
        let (sender, frames) = sync_channel(0);
        std::thread::spawn(move || {
            let mut decoder = Decoder::default();
            let mut buffer = vec![0; 32 << 10];
            while let Ok(count @ 1..) = stdout.read(&mut buffer) {
                decoder.push(&buffer[..count]);
                while let Some(frame) = decoder.take().unwrap() {
                    if sender.send(frame).is_err() {
                        return;
                    }
                }
            }
        });
        Self {
            stdin: process.stdin.take(),
            process,
            frames,
        }
    }

    /// The same with a step begun: it is to be handed over, or taken up at `offset`.
    fn of_step(job: &Job, id: &Nonce, offset: u64) -> (Self, Value) {
        let mut relay = Self::start(job, &[]);
        relay.say(Kind::Begin, &begin(job, Some(id), offset));
        let hello = relay.json(Kind::Hello);
        (relay, hello)
    }

    fn send(&mut self, kind: Kind, bytes: &[u8]) {
        let stdin = self.stdin.as_mut().unwrap();
        frame::write(stdin, kind, bytes).unwrap();
        stdin.flush().unwrap();
    }

    fn say(&mut self, kind: Kind, value: &impl serde::Serialize) {
        self.send(kind, &serde_json::to_vec(value).unwrap());
    }

    fn hand_over(&mut self, request: &StepRequest) {
        self.send(Kind::Archive, &nothing());
        self.say(Kind::Request, request);
        self.expect(Kind::Accepted);
    }

    /// The next frame but for beats.
    fn next(&self) -> Option<Frame> {
        loop {
            match self.frames.recv_timeout(PATIENCE) {
                Ok(frame) if frame.kind == Kind::Beat => {}
                Ok(frame) => return Some(frame),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => panic!("the relay says nothing"),
            }
        }
    }

    fn expect(&self, kind: Kind) -> Vec<u8> {
        let frame = self.next().unwrap();
        assert_eq!(
            frame.kind,
            kind,
            "{}",
            String::from_utf8_lossy(&frame.bytes)
        );
        frame.bytes
    }

    fn json(&self, kind: Kind) -> Value {
        serde_json::from_slice(&self.expect(kind)).unwrap()
    }

    /// Reads the log to the step's end. It is acknowledged piece by piece.
    fn follow(&mut self, mut offset: u64) -> (Vec<u8>, Exit) {
        let mut log = Vec::new();
        loop {
            let frame = self.next().unwrap();
            match frame.kind {
                Kind::Log => {
                    log.extend_from_slice(&frame.bytes);
                    offset += frame.bytes.len() as u64;
                    self.send(Kind::Got, &offset.to_le_bytes());
                }
                Kind::Exit => return (log, serde_json::from_slice(&frame.bytes).unwrap()),
                kind => panic!("{kind:?} came with the log"),
            }
        }
    }

    /// A figure of `/proc/PID/status`, in KiB.
    fn status(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(field)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    fn has_ended(&mut self) -> bool {
        self.process.try_wait().unwrap().is_some()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn begin(job: &Job, step: Option<&Nonce>, offset: u64) -> Value {
    let spool = job.tree.join("spool");
    json!({
        "protocol": PROTOCOL, "version": env!("CARGO_PKG_VERSION"),
        "nonce": job.tree.file_name().unwrap().to_str().unwrap(),
        "roots": [Root {name: "spool".to_owned(), path: spool.display().to_string()}],
        "step": step, "offset": offset, "orphans": [], "externals": false, "kept": [],
        "manifest": null,
    })
}

/// An archive without files.
fn nothing() -> Vec<u8> {
    let mut bytes = Vec::new();
    Entry::bare(What::End, Vec::new()).encode(&mut bytes);
    bytes
}

fn request(script: &str, alone: u32) -> StepRequest {
    StepRequest {
        argv: ["sh", "-c", script].map(str::to_owned).to_vec(),
        environment: BTreeMap::new(),
        path: Vec::new(),
        directory: None,
        alone,
    }
}

/// A script that tells its process and then waits.
fn lasting(job: &Job) -> (String, std::path::PathBuf) {
    let pid = job.root.path().join("pid");
    (format!("echo $$ > {}; sleep 1000", pid.display()), pid)
}

#[test]
fn a_step_goes_on_without_a_relay_and_the_next_one_takes_it_up_where_the_log_broke_off() {
    let job = Job::start();
    let id = Nonce::random().unwrap();
    let gate = job.root.path().join("gate");
    let script = format!(
        "echo one; while [ ! -e {} ]; do sleep 0.02; done; echo two; exit 3",
        gate.display()
    );
    let (mut relay, hello) = Relay::of_step(&job, &id, 0);
    assert_eq!(hello["known"], json!(false));
    relay.hand_over(&request(&script, 60));
    assert_eq!(relay.expect(Kind::Log), b"one\n");
    drop(relay);
    fs::write(gate, "").unwrap();

    let (mut relay, hello) = Relay::of_step(&job, &id, 4);
    assert_eq!(hello["known"], json!(true));
    relay.expect(Kind::Accepted);
    let (log, exit) = relay.follow(4);
    assert_eq!(log, b"two\n");
    assert_eq!((exit.outcome, exit.log_bytes), (Outcome::Code(3), 8));
}

#[test]
fn a_step_ends_when_no_relay_has_spoken_for_it_for_its_time() {
    let job = Job::start();
    let (script, pid) = lasting(&job);
    let (mut relay, _) = Relay::of_step(&job, &Nonce::random().unwrap(), 0);
    relay.hand_over(&request(&script, 1));
    wait_until("it runs", || is_alive(&pid));
    drop(relay);
    wait_until("it has ended", || !is_alive(&pid));
}

#[test]
fn the_relay_of_a_hook_that_says_nothing_ends_whatever_it_waits_for() {
    let job = Job::start();
    let (script, pid) = lasting(&job);
    let mut mute = Vec::new();
    // It waits for its first frame,
    mute.push(Relay::start(&job, &["--silence", "1"]));
    // for a step's files,
    let mut relay = Relay::start(&job, &["--silence", "1"]);
    relay.say(
        Kind::Begin,
        &begin(&job, Some(&Nonce::random().unwrap()), 0),
    );
    relay.expect(Kind::Hello);
    mute.push(relay);
    // and for a step's end.
    let id = Nonce::random().unwrap();
    let mut relay = Relay::start(&job, &["--silence", "1"]);
    relay.say(Kind::Begin, &begin(&job, Some(&id), 0));
    relay.expect(Kind::Hello);
    relay.hand_over(&request(&script, 60));
    mute.push(relay);
    for (number, relay) in mute.iter_mut().enumerate() {
        wait_until("it has ended", || relay.has_ended());
        assert!(relay.stdin.is_some(), "relay {number} was not cut off");
    }
    assert!(is_alive(&pid), "its step goes on");
}

#[test]
fn a_hook_that_reads_nothing_holds_up_the_step_and_fills_no_memory() {
    const BYTES: u64 = 200 << 20;
    let job = Job::start();
    let id = Nonce::random().unwrap();
    let counted = job.root.path().join("counted");
    let script = format!(
        "head -c {BYTES} /dev/zero | tr '\\0' 'x'; echo; : > {}",
        counted.display()
    );
    let (mut relay, _) = Relay::of_step(&job, &id, 0);
    relay.hand_over(&request(&script, 60));
    let before = relay.status("VmHWM");
    let spool = job.tree.join("spool");
    // Nothing is read until nothing moves any more.
    let mut on_disk = u64::MAX;
    wait_until("the step is held up", || {
        relay.send(Kind::Ping, &[]);
        let now = crate::disk_use(&spool);
        std::thread::sleep(Duration::from_millis(300));
        std::mem::replace(&mut on_disk, now) == now && now > 16 << 20
    });
    assert!(on_disk <= 66 << 20, "{on_disk} bytes in the spool");
    assert!(!counted.exists(), "the step waits");
    let (log, exit) = relay.follow(0);
    assert_eq!(exit.outcome, Outcome::Code(0));
    assert_eq!(log.len() as u64, BYTES + 1);
    assert!(log[..log.len() - 1].iter().all(|byte| *byte == b'x'));
    let peak = relay.status("VmHWM");
    assert!(
        peak - before < 4 << 10,
        "{before} KiB before, at most {peak} KiB"
    );
}

#[test]
fn a_hook_of_another_version_works_and_one_of_another_protocol_is_told_what_to_do() {
    let job = Job::start();
    let mut relay = Relay::start(&job, &[]);
    let mut newer = begin(&job, None, 0);
    newer["version"] = json!("99.0.0");
    newer["unheard of"] = json!({"a": 1});
    relay.say(Kind::Begin, &newer);
    assert_eq!(relay.json(Kind::Hello)["protocol"], json!(PROTOCOL));
    relay.send(Kind::Archive, &nothing());
    relay.expect(Kind::Accepted);
    relay.send(Kind::Done, &[]);
    wait_until("it has ended", || relay.has_ended());

    let mut relay = Relay::start(&job, &[]);
    // No other field is certain to be there.
    let stranger = json!({"protocol": PROTOCOL + 1, "version": "99.0.0"});
    relay.say(Kind::Begin, &stranger);
    let told = String::from_utf8(relay.expect(Kind::Failed)).unwrap();
    insta::assert_snapshot!(
        told.replace(env!("CARGO_PKG_VERSION"), "OURS"),
        @"talk to the job's pod: it was made by version OURS of arc-hook, and this hook is version 99.0.0; the runner image changed while the job ran, run the job again"
    );
}

#[test]
fn what_is_no_frame_of_a_hook_ends_the_relay_and_starts_nothing() {
    let job = Job::start();
    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[b'B', 255, 255, 255, 255],
        b"",
    ] {
        let mut relay = Relay::start(&job, &[]);
        let mut stdin = relay.stdin.take().unwrap();
        stdin.write_all(bytes).unwrap();
        drop(stdin);
        wait_until("it has ended", || relay.has_ended());
    }
    let mut relay = Relay::start(&job, &[]);
    relay.say(Kind::Request, &request("true", 0));
    let told = String::from_utf8(relay.expect(Kind::Failed)).unwrap();
    assert!(told.contains("it begins with something else"), "{told}");
    assert_eq!(job.steps_left(), 0);
}

#[test]
fn a_file_command_beyond_its_bound_is_named_and_not_cut() {
    let job = Job::start();
    let commands = job.root.path().join("commands");
    fs::create_dir(&commands).unwrap();
    fs::write(commands.join("small"), "k=v\n").unwrap();
    fs::File::create(commands.join("large"))
        .unwrap()
        .set_len((100 << 20) + 1)
        .unwrap();
    let mut relay = Relay::start(&job, &[]);
    let mut with_commands = begin(&job, None, 0);
    with_commands["roots"] = json!([{"name": "commands", "path": commands}]);
    relay.say(Kind::Begin, &with_commands);
    relay.expect(Kind::Hello);
    relay.send(Kind::Archive, &nothing());
    relay.expect(Kind::Accepted);
    let fetch = Fetch {
        commands: vec!["small".to_owned(), "large".to_owned()],
        roots: Vec::new(),
        selection: Selection::None,
        since: None,
        next: Nonce::random().unwrap(),
        bounded: true,
        discard: Vec::new(),
    };
    relay.say(Kind::Fetch, &fetch);
    let archive = relay.expect(Kind::Archive);
    let holds = |text: &[u8]| archive.windows(text.len()).any(|part| part == text);
    assert!(holds(b"commands/large") && holds(b"k=v\n"));
    assert!(archive.len() < 1000, "{} bytes", archive.len());
}
