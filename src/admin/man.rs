//! `arc-hook man`: the manual pages, from the same words as `--help`.

use std::path::PathBuf;

use anyhow::{Context as _, anyhow};
use clap::{Args, Command};
use clap_mangen::Man;

use super::print;

const EXAMPLES: &str = "\
Examples:
  arc-hook man
  arc-hook man doctor
  arc-hook man --to target/man";

/// Prints a manual page
///
/// To read it, `arc-hook man doctor | man -l -`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Manual {
    /// The verb; otherwise the page of the whole
    verb: Option<String>,

    /// Writes all pages into this directory instead
    #[arg(long, value_name = "DIR", conflicts_with = "verb")]
    to: Option<PathBuf>,
}

impl Manual {
    /// Prints or writes the pages of this command.
    ///
    /// # Errors
    /// There is no such verb, or the pages cannot be written.
    pub fn run(&self, mut command: Command) -> anyhow::Result<()> {
        // Names of subcommands are whole only then: `arc-hook-doctor`.
        command.build();
        if let Some(directory) = &self.to {
            return write_all(&command, directory);
        }
        let page = match &self.verb {
            None => command,
            Some(verb) => command
                .find_subcommand(verb)
                .ok_or_else(|| anyhow!("there is no verb `{verb}`; see `arc-hook --help`"))?
                .clone(),
        };
        print(&render(page)?)
    }
}

fn render(command: Command) -> anyhow::Result<String> {
    let mut page = Vec::new();
    Man::new(command)
        .render(&mut page)
        .context("write a manual page")?;
    Ok(String::from_utf8_lossy(&page).into_owned())
}

fn write_all(command: &Command, directory: &std::path::Path) -> anyhow::Result<()> {
    let wrote = || format!("write the manual pages to `{}`", directory.display());
    std::fs::create_dir_all(directory).with_context(wrote)?;
    let mut pages = vec![command];
    while let Some(page) = pages.pop() {
        pages.extend(
            page.get_subcommands()
                .filter(|one| one.get_name() != "help"),
        );
        let name = page.get_display_name().unwrap_or(page.get_name());
        let text = render(page.clone())?;
        std::fs::write(directory.join(format!("{name}.1")), text).with_context(wrote)?;
    }
    Ok(())
}
