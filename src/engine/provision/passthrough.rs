//! The container's configuration, and the start or restart that it takes.

use super::goods::Goods;
use super::{Inside, Job};
use crate::engine::configure::{self, Applied, ReadBack};
use crate::engine::pending::{self, OnRestart};
use crate::engine::survey::{self, Outside};
use crate::error::Result;
use crate::plan::{Action, Plan, Power, Reach};
use crate::report::{Outcome, Step};
use crate::runtime::Starter;

impl Job<'_> {
    /// Edits the configuration. Where somebody else changed it since it was read, it is read and
    /// planned once more; returns what holds then.
    pub(super) fn passthrough(
        &mut self,
        planned: (Outside, Plan),
        seen: Option<&Inside>,
        goods: Option<&Goods>,
    ) -> Result<(Outside, Plan)> {
        let (mut outside, mut plan) = planned;
        self.begin(&mut outside, &plan);
        self.step(Step::Passthrough, |job| {
            for line in &outside.edit.foreign {
                job.warn(&format!("kept `{}`: {}", line.text, line.why));
            }
            let mut outcome = job.edit(&outside, &plan)?;
            if outcome.is_none() {
                job.warn("its configuration was changed meanwhile: planned again");
                let cuda = job.images.cuda.as_ref();
                outside = survey::outside(job.session, job.means.wish, cuda)?;
                plan = job.plan(&outside, seen, goods)?;
                job.begin(&mut outside, &plan);
                outcome = job.edit(&outside, &plan)?;
            }
            let outcome = outcome.ok_or_else(|| configure::changed(job.session))?;
            Ok((outcome, (outside, plan)))
        })
    }

    /// Makes the edit; `None` where somebody else changed the file since it was read.
    fn edit(&self, outside: &Outside, plan: &Plan) -> Result<Option<Outcome>> {
        let Action::Do(what) = &plan.passthrough else {
            configure::record(self.session, outside)?;
            return Ok(Some(Outcome::Unchanged("device lines are there".to_owned())));
        };
        let wish = self.means.wish;
        if configure::apply(self.session, outside, wish)? == Applied::ChangedMeanwhile {
            return Ok(None);
        }
        for line in &outside.edit.lines_added {
            self.detail(format!("configuration: added `{line}`"));
        }
        for (old, new) in &outside.edit.lines_corrected {
            self.detail(format!("configuration: corrected `{old}` to `{new}`"));
        }
        for line in &outside.edit.lines_removed {
            self.detail(format!("configuration: took out `{line}`"));
        }
        let gpus: Vec<String> = wish.gpus.iter().map(ToString::to_string).collect();
        Ok(Some(Outcome::Changed(format!("{what} ({})", gpus.join(", ")))))
    }

    /// The plan, without a restart that is not permitted.
    pub(super) fn permitted(&mut self, plan: Plan) -> Plan {
        match (plan.power, self.means.manner.on_restart) {
            (Power::Restart(why), OnRestart::LeavePending) => {
                self.pending = Some(why.clone());
                Plan { power: Power::Pending(why), ..plan }
            }
            (power, _) => Plan { power, ..plan },
        }
    }

    /// Starts or restarts; returns the new first process.
    pub(super) fn power(&mut self, outside: &mut Outside, plan: &Plan) -> Result<Option<u32>> {
        let power = plan.power.clone();
        let was = outside.journal.was;
        let paths = &self.session.host.paths;
        outside.journal.pending_restart = match (&power, outside.pid) {
            (Power::Pending(why), Some(pid)) => pending::left(paths, pid, why),
            _ => None,
        };
        let pending = outside.journal.pending_restart.clone();
        self.step(Step::Power, |job| {
            if power != Power::Keep {
                job.note(|journal| (journal.was, journal.pending_restart) = (was, pending))?;
            }
            let (pid, outcome) = match power {
                Power::Keep => (None, Outcome::Unchanged("no restart needed".to_owned())),
                Power::Start => {
                    // Also where it fails: it may come up later.
                    job.has_started = true;
                    let started = job.session.start_or_find()?;
                    job.has_started = started.by == Starter::Us;
                    let how = match started.by {
                        Starter::Us => Outcome::Changed("started".to_owned()),
                        Starter::SomebodyElse => {
                            Outcome::Unchanged("somebody else has started it".to_owned())
                        }
                    };
                    (Some(started.pid), how)
                }
                Power::Restart(why) => {
                    let applied = pending::applies(job.session)?;
                    let pid = job.session.restart()?;
                    (Some(pid), Outcome::Changed(format!("restarted: {why}{applied}")))
                }
                Power::Pending(why) => {
                    let dialect = job.session.runtime.dialect();
                    (None, pending::outcome(dialect, job.session.ctid, &why))
                }
            };
            let pid = match pid.is_some() || plan.passthrough.changes() {
                true => job.read_back(outside, pid)?,
                false => pid,
            };
            Ok((outcome, pid))
        })
    }

    /// Reads the configuration back, and writes once more what somebody has undone; a container that
    /// this run has started or restarted is then restarted with it. Returns its first process.
    fn read_back(&self, outside: &Outside, pid: Option<u32>) -> Result<Option<u32>> {
        let (session, wish) = (self.session, self.means.wish);
        if configure::read_back(session, outside, wish)? == ReadBack::Kept {
            return Ok(pid);
        }
        self.warn("somebody has undone the edit of its configuration: written once more");
        let again = survey::outside(session, wish, self.images.cuda.as_ref())?;
        if configure::apply(session, &again, wish)? != Applied::Written {
            return Err(configure::changed(session));
        }
        let pid = match (pid, again.reach) {
            (Some(_), Reach::AtStart) => Some(session.restart()?),
            _ => pid,
        };
        match configure::read_back(session, &again, wish)? {
            ReadBack::Kept => Ok(pid),
            ReadBack::Lost => Err(configure::lost(session)),
        }
    }
}
