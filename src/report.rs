//! What was done: per container and step an outcome, and the exit code that follows.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::ctid::Ctid;
use crate::error::{Error, ExitCode};

/// The steps of the main job, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Looking at the container and its host.
    Facts,
    /// Device lines in the configuration.
    Passthrough,
    /// Starting or restarting the container.
    Power,
    /// Showing what the host shares.
    Share,
    /// Showing or copying the installer into the container.
    Stage,
    /// Installing the driver's userland.
    Driver,
    /// Repository and packages.
    Packages,
    /// Checking the result.
    Checks,
    /// Stopping a container that was stopped before.
    Restore,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Facts => "facts",
            Self::Passthrough => "passthrough",
            Self::Power => "power",
            Self::Share => "share",
            Self::Stage => "stage",
            Self::Driver => "driver",
            Self::Packages => "packages",
            Self::Checks => "checks",
            Self::Restore => "restore",
        })
    }
}

/// What a step came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", content = "detail", rename_all = "snake_case")]
pub enum Outcome {
    /// Something was changed: what.
    Changed(String),
    /// Everything was as it should be.
    Unchanged(String),
    /// Not done: why.
    Skipped(String),
    /// Done or found, with something to look at.
    Warned(String),
    /// Failed: how.
    Failed(String),
}

impl Outcome {
    /// The outcome's name and its detail.
    pub fn parts(&self) -> (&'static str, &str) {
        match self {
            Self::Changed(detail) => ("changed", detail),
            Self::Unchanged(detail) => ("unchanged", detail),
            Self::Skipped(detail) => ("skipped", detail),
            Self::Warned(detail) => ("warning", detail),
            Self::Failed(detail) => ("failed", detail),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.parts() {
            (name, "") => f.write_str(name),
            (name, detail) => write!(f, "{name}: {detail}"),
        }
    }
}

/// One line of the report.
#[derive(Debug, Clone, Serialize)]
pub struct StepReport {
    /// Which step.
    pub step: Step,
    /// What it came to.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// How long it took, in seconds.
    pub seconds: f64,
}

/// Everything about one container.
#[derive(Debug, Serialize)]
pub struct ContainerReport {
    /// Which container.
    pub container: Ctid,
    /// Its steps, in order.
    pub steps: Vec<StepReport>,
    /// Why it ended early, if it did.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_text")]
    pub error: Option<Error>,
    /// Where the log of its commands lies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<String>,
    /// The exit code for this container alone.
    #[serde(serialize_with = "as_number")]
    pub exit: ExitCode,
    /// Whether the run ended before anything was done with it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub not_begun: bool,
}

impl ContainerReport {
    /// Nothing done yet.
    pub fn new(container: &Ctid) -> Self {
        Self {
            container: container.clone(),
            steps: Vec::new(),
            error: None,
            log: None,
            exit: ExitCode::Done,
            not_begun: false,
        }
    }

    /// What it came to, in a word: `done` (something was changed), `unchanged`, `differs`,
    /// `interrupted`, `failed`, `skipped` (it was not begun).
    pub fn outcome(&self) -> &'static str {
        let has_changed = |step: &StepReport| matches!(step.outcome, Outcome::Changed(_));
        match (self.not_begun, self.exit) {
            (true, _) => "skipped",
            (false, ExitCode::Differs) => "differs",
            (false, ExitCode::Interrupted) => "interrupted",
            (false, ExitCode::Done) if self.steps.iter().any(has_changed) => "done",
            (false, ExitCode::Done) => "unchanged",
            (false, _) => "failed",
        }
    }

    /// Adds a step.
    pub fn add(&mut self, step: Step, outcome: Outcome, took: Duration) {
        let seconds = (took.as_secs_f64() * 1000.0).round() / 1000.0;
        self.steps.push(StepReport { step, outcome, seconds });
    }

    /// Ends it with an error.
    pub fn fail(&mut self, error: Error) {
        self.exit = error.code();
        self.error = Some(error.on(&self.container));
    }
}

/// Everything about one run.
#[derive(Debug, Serialize)]
pub struct Report {
    schema: u32,
    /// The verb.
    pub command: &'static str,
    /// One entry a container, in the order asked for.
    pub containers: Vec<ContainerReport>,
    /// The exit code of the whole run.
    #[serde(serialize_with = "as_number")]
    pub exit: ExitCode,
}

impl Report {
    /// The report of a verb over containers.
    pub fn new(command: &'static str, containers: Vec<ContainerReport>) -> Self {
        let exit = ExitCode::combine(containers.iter().map(|container| container.exit));
        Self { schema: 1, command, containers, exit }
    }
}

/// An exit code in a document: its number.
pub(crate) fn as_number<S: serde::Serializer>(
    exit: &ExitCode,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_u8(exit.code())
}

fn as_text<S: serde::Serializer>(error: &Option<Error>, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Told<'a> {
        message: String,
        causes: &'a [String],
        hints: &'a [String],
    }
    error
        .as_ref()
        .map(|error| Told {
            message: error.headline(),
            causes: error.causes(),
            hints: error.hints(),
        })
        .serialize(serializer)
}
