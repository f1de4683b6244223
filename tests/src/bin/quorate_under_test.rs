//! The `quorate` program under test: the same entry point, in a package that cargo builds before its tests.

fn main() -> std::process::ExitCode {
    quorate::cli::main()
}
