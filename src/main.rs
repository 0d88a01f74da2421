//! The `nvstage` program: hands its arguments to [`nvstage::cli`] and ends with the exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> =
        std::env::args_os().map(|argument| argument.to_string_lossy().into_owned()).collect();
    ExitCode::from(nvstage::cli::run(&arguments).code())
}
