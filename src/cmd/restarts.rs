//! The one question of a run: whether the running containers that need it may be restarted.

use std::collections::BTreeSet;
use std::fmt;

use clap::Args;
use serde::Serialize;

use super::Context;
use crate::ctid::Ctid;
use crate::engine::pending::OnRestart;
use crate::error::{Error, Result};
use crate::host::cancel::Cancel;

/// Whether running containers may be restarted.
#[derive(Debug, Clone, Default, Args)]
pub struct RestartArguments {
    /// Restart running containers without asking; nothing is asked without a terminal
    #[arg(long)]
    pub yes: bool,
    /// Restart no running container: what needs one is left as pending restart, exit code 10
    #[arg(long, conflicts_with = "yes")]
    pub no_restart: bool,
}

/// A running container that a run would restart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ForeseenRestart {
    /// Which one.
    pub container: Ctid,
    /// Why.
    pub why: String,
    /// The pending changes of somebody else's that the restart would apply.
    pub applies: Vec<String>,
}

/// An answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// They may be restarted.
    Yes,
    /// They may not.
    No,
}

/// Who is asked before containers are restarted.
pub trait Confirm: fmt::Debug + Sync {
    /// Whether there is somebody to ask: without a terminal nothing is asked.
    fn can_ask(&self) -> bool;

    /// Asks once for all of them.
    ///
    /// # Errors
    /// The interruption error.
    fn ask(&self, restarts: &[ForeseenRestart], cancel: &Cancel) -> Result<Answer>;
}

/// Asks nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unasked;

impl Confirm for Unasked {
    fn can_ask(&self) -> bool {
        false
    }

    fn ask(&self, _: &[ForeseenRestart], _: &Cancel) -> Result<Answer> {
        Ok(Answer::Yes)
    }
}

/// The running containers that a run may restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Restarts {
    /// Each that needs it.
    All,
    /// Those that were named in the question.
    Named(BTreeSet<Ctid>),
}

impl Restarts {
    /// What becomes of a container that needs a restart.
    pub(super) fn of(&self, ctid: &Ctid) -> OnRestart {
        match self {
            Self::All => OnRestart::Restart,
            Self::Named(named) if named.contains(ctid) => OnRestart::Restart,
            Self::Named(_) => OnRestart::LeavePending,
        }
    }
}

impl RestartArguments {
    /// Which containers may be restarted; asks where there is somebody to ask. Nothing has been
    /// changed by then, and a restart that turns out to be needed later is none of the named.
    ///
    /// # Errors
    /// General error where the answer is no, or the interruption.
    pub(super) fn decide(
        &self,
        context: &Context<'_>,
        foreseen: impl FnOnce() -> Vec<ForeseenRestart>,
    ) -> Result<Restarts> {
        if self.no_restart {
            return Ok(Restarts::Named(BTreeSet::new()));
        }
        if self.yes || !context.confirm.can_ask() {
            return Ok(Restarts::All);
        }
        let foreseen = foreseen();
        if !foreseen.is_empty()
            && context.confirm.ask(&foreseen, &context.host.cancel)? == Answer::No
        {
            return Err(Error::general("begin: a restart was declined, nothing was changed")
                .hint("`--no-restart` does everything else, and leaves restarts pending"));
        }
        Ok(Restarts::Named(foreseen.into_iter().map(|restart| restart.container).collect()))
    }
}
