//! What `nvstage refresh` and `nvstage host-setup` did, for people.

use std::fmt::Write as _;

use super::Printer;
use crate::cmd::host_setup::HostSetup;
use crate::cmd::refresh::Refreshed;
use crate::report::Outcome;

impl Printer {
    /// Prints what `nvstage refresh` did.
    pub fn refreshed(&self, refreshed: &Refreshed) {
        self.result(refreshed, || text(refreshed));
    }

    /// Prints what `nvstage host-setup` did.
    pub fn host_setup(&self, done: &HostSetup) {
        self.result(done, || format!("{}\n", done.outcome));
    }
}

/// What is as it should be is not told, unless everything is.
fn text(refreshed: &Refreshed) -> String {
    let mut text = String::new();
    for line in &refreshed.host {
        match &line.outcome {
            Outcome::Unchanged(_) => {}
            Outcome::Changed(what) => {
                let _ = writeln!(text, "{what}");
            }
            outcome => {
                let _ = writeln!(text, "{}: {outcome}", line.subject);
            }
        }
    }
    for container in &refreshed.containers {
        for step in &container.steps {
            if !matches!(step.outcome, Outcome::Unchanged(_)) {
                let _ = writeln!(text, "container {}: {}", container.container, step.outcome);
            }
        }
    }
    if text.is_empty() {
        text.push_str("nothing to do: modules, nodes and containers are as they should be\n");
    }
    text
}
