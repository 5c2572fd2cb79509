//! The command line. Everything is in the library's room `cli`.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    ExitCode::from(vapor::cli::run(vapor::cli::Cli::parse()))
}
