//! The question before running containers are restarted: asked on standard error, answered on
//! standard input, and only where both are a terminal.

use std::fmt::Write as _;
use std::io::{self, BufRead, IsTerminal};
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{Form, Printer};
use crate::cmd::{Answer, Confirm, ForeseenRestart};
use crate::error::{Error, Result};
use crate::host::cancel::Cancel;
use crate::runtime::STATE_LIMIT;

impl Confirm for Printer {
    fn can_ask(&self) -> bool {
        io::stdin().is_terminal() && io::stderr().is_terminal()
    }

    fn ask(&self, restarts: &[ForeseenRestart], cancel: &Cancel) -> Result<Answer> {
        self.close();
        let question = match self.form {
            Form::Text => text(restarts),
            Form::Json => {
                let asked = serde_json::json!({ "question": "restart", "restarts": restarts });
                format!("{asked}\n")
            }
        };
        self.talk().ask(&question);
        answer(cancel)
    }
}

/// The question as text; the cursor stays behind it.
fn text(restarts: &[ForeseenRestart]) -> String {
    let mut text = match restarts.len() {
        1 => "This running container is going to be restarted:\n".to_owned(),
        count => format!("These {count} running containers are going to be restarted:\n"),
    };
    for restart in restarts {
        let _ = writeln!(text, "  {}  {}", restart.container, restart.why);
        for change in &restart.applies {
            let _ = writeln!(text, "       pending change that the restart applies: {change}");
        }
    }
    let (seconds, one) = (STATE_LIMIT.as_secs(), if restarts.len() == 1 { "it" } else { "them" });
    let _ = write!(
        text,
        "What does not shut down within {seconds} s is stopped hard. Restart {one}? [y/N] "
    );
    text
}

/// Waits for a line, or until the work is asked to stop.
fn answer(cancel: &Cancel) -> Result<Answer> {
    let stdin = io::stdin();
    loop {
        let mut ready = [
            PollFd::new(cancel.as_fd(), PollFlags::POLLIN),
            PollFd::new(stdin.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut ready, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            Err(error) => return Err(Error::general("wait for an answer").because(error)),
            Ok(_) => {}
        }
        if cancel.is_asked() {
            return Err(Error::interrupted());
        }
        let mut line = String::new();
        // A terminal gives whole lines; at its end there is none.
        return match stdin.lock().read_line(&mut line) {
            Ok(_) => Ok(read(&line)),
            Err(error) => Err(Error::general("read an answer").because(error)),
        };
    }
}

fn read(line: &str) -> Answer {
    match line.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Answer::Yes,
        _ => Answer::No,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctid::Ctid;

    #[test]
    fn one_question_names_every_container_and_what_else_is_applied() {
        let restart = |ctid: &str, applies: &[&str]| ForeseenRestart {
            container: Ctid::parse(ctid).unwrap(),
            why: "the configuration changes".to_owned(),
            applies: applies.iter().map(|change| (*change).to_owned()).collect(),
        };
        let asked = text(&[restart("201", &[]), restart("202", &["`memory: 1024` is added"])]);
        assert_eq!(
            asked,
            "These 2 running containers are going to be restarted:\n  \
             201  the configuration changes\n  \
             202  the configuration changes\n       \
             pending change that the restart applies: `memory: 1024` is added\n\
             What does not shut down within 60 s is stopped hard. Restart them? [y/N] "
        );
    }

    #[test]
    fn nothing_but_a_yes_is_one() {
        for line in ["y\n", "Y\n", " yes \r\n"] {
            assert_eq!(read(line), Answer::Yes);
        }
        for line in ["", "\n", "n\n", "yy\n", "no\n"] {
            assert_eq!(read(line), Answer::No);
        }
    }
}
