//! The `quorate` program.

fn main() -> std::process::ExitCode {
    quorate::cli::main()
}
