//! What nvstage has applied to a container, so that it can be undone and kept up to date.
//!
//! A [`Journal`] is one JSON file a container, `/var/lib/nvstage/containers/<CTID>.json`. It is
//! written before what it tells of is done: a line that it names may not have arrived, a line of
//! ours that it does not name cannot be there.

use serde::{Deserialize, Serialize};

use crate::container::passthrough::{DeviceNode, Method, OwnLine};
use crate::ctid::Ctid;
use crate::error::{Error, Result};
use crate::version::DriverVersion;

/// The version of the format that is written.
const SCHEMA: u32 = 1;

/// What nvstage has applied to one container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Journal {
    schema: u32,
    /// Which container.
    pub container: Ctid,
    /// Whether its GPUs are passed through now, or were taken out again.
    pub state: State,
    /// The GPUs it was given, as the user named them.
    pub gpus: String,
    /// How they are passed through.
    pub method: Method,
    /// The nodes it was given, with the numbers that they had then.
    pub nodes: Vec<DeviceNode>,
    /// The lines of its configuration that are nvstage's; of a detached one those that were, which
    /// a rollback brings back.
    pub lines: Vec<OwnLine>,
    /// The driver that was installed last; `None` before the first one, and after it was removed.
    pub driver: Option<DriverVersion>,
    /// The packages that were installed for it and had not been there before.
    pub packages: Vec<String>,
}

/// Whether a container has its GPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It has them.
    Attached,
    /// `detach` has taken them out.
    Detached,
}

impl Journal {
    /// A container that nothing was applied to yet.
    pub fn new(container: &Ctid) -> Self {
        Self {
            schema: SCHEMA,
            container: container.clone(),
            state: State::Detached,
            gpus: String::new(),
            method: Method::Mount,
            nodes: Vec::new(),
            lines: Vec::new(),
            driver: None,
            packages: Vec::new(),
        }
    }

    /// Reads a file; `origin` is its path, for the message.
    ///
    /// # Errors
    /// Host error for a file that is damaged or written by a newer nvstage.
    pub fn parse(text: &str, origin: &str) -> Result<Self> {
        let fail = |why: String| {
            Error::host(format!("read `{origin}`, what nvstage has applied to a container"))
                .because(why)
                .hint("move it away: its lines are then taken for somebody else's")
        };
        let journal: Self = serde_json::from_str(text).map_err(|error| fail(error.to_string()))?;
        match journal.schema {
            SCHEMA => Ok(journal),
            other => Err(fail(format!("its schema is {other}; this nvstage reads {SCHEMA}"))),
        }
    }

    /// The file's text.
    pub fn to_text(&self) -> String {
        // Strings, numbers and lists alone: there is nothing that JSON could refuse.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERSION_1: &str = include_str!("../tests/journals/schema-1.json");

    #[test]
    fn a_journal_of_schema_1_is_read_and_written_again_as_it_was() {
        let journal = Journal::parse(VERSION_1, "x").unwrap();
        assert_eq!(journal.container.as_str(), "201");
        assert_eq!(journal.to_text(), VERSION_1);
    }

    #[test]
    fn a_damaged_or_newer_journal_is_an_error_that_names_the_file() {
        for text in ["", "{}", &VERSION_1.replace("\"schema\": 1", "\"schema\": 2")] {
            let error = Journal::parse(text, "/x/201.json").unwrap_err();
            assert!(error.what().contains("/x/201.json"), "{error}");
        }
    }
}
