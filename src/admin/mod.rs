//! Verbs for people, one file each.

pub mod access;
pub mod cache;
pub mod completions;
pub mod doctor;
pub mod gc;
pub mod man;
pub mod rbac;
pub mod render;
pub mod retained;
pub mod rights;

use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::ValueEnum;

use crate::pod::{self, Template};

/// How a verb prints what it found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// For scripts.
    Json,
}

/// What a check, or all of them, came to; worse is greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Worst {
    /// Nothing to do.
    #[default]
    Pass,
    /// It works, but not as well or as safely as it could.
    Warn,
    /// Jobs fail, or will.
    Fail,
}

impl Worst {
    /// In one word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }

    /// For scripts: 0, 1 or 2.
    #[must_use]
    pub fn exit_code(self) -> ExitCode {
        ExitCode::from(self as u8)
    }
}

/// The hook template in a file, or in the `ConfigMap` in it; `-` is standard input.
fn template(path: &Path) -> anyhow::Result<Template> {
    let used = || format!("use the hook template `{}`", path.display());
    let file = read(path).with_context(used)?;
    let found = pod::template_text(&file).with_context(used)?;
    Template::parse(&found.text).with_context(|| match &found.counted_from {
        None => used(),
        Some(key) => format!("{}, lines counted within its key `{key}`", used()),
    })
}

fn read(path: &Path) -> io::Result<String> {
    if path == Path::new("-") {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text)?;
        return Ok(text);
    }
    std::fs::read_to_string(path)
}

fn print(text: &str) -> anyhow::Result<()> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        // Whoever reads it, `head` for one, has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => done.context("write to standard output"),
    }
}
