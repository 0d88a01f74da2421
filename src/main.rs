//! The `nvstage` program: hands its arguments to [`nvstage::cli`] and ends with the exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    // What is made in containers, by us or by the programs we run, is for all of their users.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    let arguments: Vec<String> =
        std::env::args_os().map(|argument| argument.to_string_lossy().into_owned()).collect();
    ExitCode::from(nvstage::cli::run(&arguments).code())
}
