//! The container's configuration, and the start or restart that it takes.

use super::goods::Goods;
use super::{Inside, Job};
use crate::engine::configure::{self, Applied};
use crate::engine::survey::{self, Outside};
use crate::error::Result;
use crate::plan::{Action, Plan, Power};
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

    /// Starts or restarts; returns the new first process.
    pub(super) fn power(&mut self, outside: &Outside, plan: &Plan) -> Result<Option<u32>> {
        let power = plan.power.clone();
        let was = outside.journal.was;
        self.step(Step::Power, |job| {
            if power != Power::Keep {
                job.note(|journal| journal.was = was)?;
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
                    (Some(job.session.restart()?), Outcome::Changed(format!("restarted: {why}")))
                }
            };
            if pid.is_some() || plan.passthrough.changes() {
                configure::confirm(job.session, outside, job.means.wish)?;
            }
            Ok((outcome, pid))
        })
    }
}
