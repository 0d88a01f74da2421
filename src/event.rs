//! What the library tells while it works. It never prints; a printer on the top floor does.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::ctid::Ctid;

/// One thing that happened.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// A step began.
    StepStarted {
        /// The container, if the step is about one.
        container: Option<Ctid>,
        /// The step in words: `install driver 580.76.05`.
        step: String,
    },
    /// A step ended.
    StepEnded {
        /// The container, if the step is about one.
        container: Option<Ctid>,
        /// The step in the words it began with.
        step: String,
        /// Its outcome in words: `changed: …`, `unchanged`, `failed: …`.
        outcome: String,
        /// How long it took.
        #[serde(serialize_with = "as_seconds")]
        took: Duration,
    },
    /// Bytes moved.
    Progress {
        /// What is being moved: a file name.
        name: String,
        /// Bytes done.
        done: u64,
        /// Bytes in all, where known.
        total: Option<u64>,
    },
    /// A line of detail that only a full log wants: a line of the configuration, what a program
    /// inside printed.
    Detail {
        /// One or more lines.
        text: String,
    },
    /// Something worth knowing that is not a problem.
    Note {
        /// A sentence fragment.
        text: String,
    },
    /// The work on many containers began.
    BatchStarted {
        /// How many there are.
        containers: usize,
        /// How many of them are worked on at a time.
        jobs: usize,
    },
    /// The work on one container of a batch began.
    ContainerStarted {
        /// Which one.
        container: Ctid,
    },
    /// The work on one container of a batch ended.
    ContainerEnded {
        /// Which one.
        container: Ctid,
        /// What it came to, in a word: `done`, `unchanged`, `differs`, `failed`, `skipped`. One
        /// that is skipped was never begun.
        outcome: &'static str,
        /// The exit code for this container alone.
        exit: u8,
        /// How long it took.
        #[serde(serialize_with = "as_seconds")]
        took: Duration,
    },
    /// A container's work ended with an error; the others go on.
    Failed {
        /// The whole error, as [`crate::error::Error`] prints it.
        text: String,
    },
    /// Something that deserves attention although the work goes on.
    Warning {
        /// A sentence fragment.
        text: String,
    },
}

fn as_seconds<S: serde::Serializer>(took: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((took.as_secs_f64() * 1000.0).round() / 1000.0)
}

/// Where events go.
pub trait Events: fmt::Debug + Sync {
    /// Takes one event; must be quick, it is called from the middle of the work.
    fn emit(&self, event: Event);
}

/// Drops every event.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Events for Silent {
    fn emit(&self, _event: Event) {}
}
