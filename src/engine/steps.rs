//! Steps of the work on one container: announced, timed, written into its log and its report.

use std::time::Instant;

use crate::error::Result;
use crate::event::{Event, Events};
use crate::report::{ContainerReport, Outcome, Step};
use crate::runtime::Session;

/// The steps so far.
#[derive(Debug)]
pub struct Steps<'a> {
    /// The container.
    pub session: &'a Session<'a>,
    /// Who hears of them.
    pub events: &'a dyn Events,
    /// What they came to.
    pub report: ContainerReport,
}

impl<'a> Steps<'a> {
    /// None yet.
    pub fn new(session: &'a Session<'a>, events: &'a dyn Events) -> Self {
        let mut report = ContainerReport::new(session.ctid);
        report.log = session.log.path().map(|path| path.display().to_string());
        Self { session, events, report }
    }

    /// Announces a step.
    pub fn begin(&self, step: Step) -> Instant {
        let container = Some(self.session.ctid.clone());
        self.events.emit(Event::StepStarted { container, step: step.to_string() });
        Instant::now()
    }

    /// Ends a step that came to an outcome.
    pub fn end(&mut self, step: Step, outcome: Outcome, began: Instant) {
        let took = began.elapsed();
        self.session.log.note(&format!("{step}: {outcome}"));
        self.events.emit(Event::StepEnded {
            container: Some(self.session.ctid.clone()),
            step: step.to_string(),
            outcome: outcome.to_string(),
            took,
        });
        self.report.add(step, outcome, took);
    }

    /// Ends a step with what its work returned, and passes a failure on.
    ///
    /// # Errors
    /// The work's.
    pub fn finish<T>(
        &mut self,
        step: Step,
        result: Result<(Outcome, T)>,
        began: Instant,
    ) -> Result<T> {
        match result {
            Ok((outcome, value)) => {
                self.end(step, outcome, began);
                Ok(value)
            }
            Err(error) => {
                let error = error.on(self.session.ctid);
                self.end(step, Outcome::Failed(error.what().to_owned()), began);
                Err(error)
            }
        }
    }

    /// Does `work` as a step, unless the whole was asked to stop.
    ///
    /// # Errors
    /// The work's, or the interruption.
    pub fn step<T>(
        &mut self,
        step: Step,
        work: impl FnOnce() -> Result<(Outcome, T)>,
    ) -> Result<T> {
        self.session.host.cancel.check()?;
        let began = self.begin(step);
        let result = work();
        self.finish(step, result, began)
    }

    /// Something for the log of this run, and for whoever wants every detail.
    pub fn detail(&self, text: String) {
        self.session.log.note(&text);
        self.events.emit(Event::Detail { text });
    }

    /// Something that deserves attention although the work goes on.
    pub fn warn(&self, text: &str) {
        let text = format!("container {}: {text}", self.session.ctid);
        self.session.log.note(&text);
        self.events.emit(Event::Warning { text });
    }

    /// The report of work that ended so.
    pub fn into_report(mut self, result: Result<()>) -> ContainerReport {
        if let Err(error) = result {
            self.session.log.note(&format!("failed: {error}"));
            self.report.fail(error);
        }
        self.report
    }
}
