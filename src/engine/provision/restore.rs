//! A container goes back to what it was: stopped, where this run or one that was killed has started
//! it; running, where it has been stopped.

use super::Job;
use crate::engine::before::{self, Before};
use crate::engine::wish::AtTheEnd;
use crate::error::Result;
use crate::journal::{Power, Was};
use crate::plan;
use crate::report::{Outcome, Step};

impl Job<'_> {
    /// What is to be written down before the container is started or stopped.
    pub(super) fn was(&self, before: Before, power: &plan::Power) -> Option<Was> {
        let restores = self.means.manner.at_the_end == AtTheEnd::StopAgain;
        let power = match (before, power) {
            (Before::StartedByUs | Before::Stopped, _) if !restores => return None,
            (Before::StartedByUs, _) | (Before::Stopped, plan::Power::Start) => Power::Stopped,
            (Before::StoppedByUs, _) | (_, plan::Power::Restart(_)) => Power::Running,
            _ => return None,
        };
        Some(Was::now(power))
    }

    /// Whatever happened, the container goes back to what it was.
    pub(super) fn restore(&mut self, before: Before) -> Result<()> {
        let restores = self.means.manner.at_the_end == AtTheEnd::StopAgain;
        let is_to_stop = match before {
            Before::Stopped => restores && self.has_started,
            Before::StartedByUs => restores,
            Before::Running | Before::StoppedByUs => false,
        };
        if is_to_stop {
            self.step(Step::Restore, |job| {
                job.session.stop_regardless()?;
                Ok((Outcome::Changed("stopped again".to_owned()), ()))
            })?;
        } else if before == Before::StoppedByUs && self.session.init_process()?.is_none() {
            self.step(Step::Restore, |job| {
                job.session.start_regardless()?;
                Ok((Outcome::Changed("started again".to_owned()), ()))
            })?;
        } else if before == Before::Running && self.session.init_process()?.is_none() {
            // Its start has failed: the next run is to know that it was running.
            return Ok(());
        }
        before::forget(self.session)
    }
}
