//! `arc-hook completions`: what a shell needs to complete the verbs and options.

use clap::{Args, Command};
use clap_complete::Shell;

use super::print;

const EXAMPLES: &str = "\
Examples:
  arc-hook completions bash
  arc-hook completions zsh";

/// Prints completions for a shell
///
/// For bash, `source <(arc-hook completions bash)`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Completions {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

impl Completions {
    /// Prints them for this command.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub fn run(&self, mut command: Command) -> anyhow::Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, "arc-hook", &mut script);
        print(&String::from_utf8_lossy(&script))
    }
}
