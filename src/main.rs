//! The binary; see the library.

fn main() -> std::process::ExitCode {
    arc_hook::cli::main()
}
