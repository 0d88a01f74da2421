//! The repository and the packages, installed by the container's own apt.

use std::time::Duration;

use crate::apt::{self, AptFile};
use crate::error::{Error, Result};
use crate::recipe::Recipe;
use crate::runtime::{Inside, Session};

/// The whole toolkit is some gigabytes over a network of unknown speed.
const LIMIT: Duration = Duration::from_secs(3 * 3600);

/// Writes pins, key and source, and installs the recipe's packages. `files` holds the pins first,
/// then key and source where the recipe has a repository.
///
/// # Errors
/// Install error with apt's own last words and what they mean.
pub fn install(session: &Session<'_>, recipe: &Recipe, files: &[AptFile]) -> Result<()> {
    let file = |path: &str| files.iter().find(|file| file.path == path);
    let mut arguments = Vec::new();
    for path in [apt::KEY_PATH, apt::SOURCES_PATH, apt::PINS_PATH] {
        let found = file(path);
        arguments.push(found.map_or(String::new(), |file| file.path.to_owned()));
        arguments.push(found.map_or(String::new(), |file| file.text.clone()));
    }
    arguments.push(recipe.denied_packages().join(" "));
    arguments.push(recipe.allowed_packages().join(" "));
    arguments.extend(recipe.packages().iter().cloned());
    let ran = session.run_inside(&Inside { script: apt::SCRIPT, arguments, limit: LIMIT })?;
    if ran.answer.has("end") {
        return Ok(());
    }
    let error = Error::install(format!("install {}", recipe.packages().join(" ")));
    let is_refused = ran.answer.has("refused") || ran.answer.has("failed");
    if !is_refused && session.is_gone_within(Duration::from_secs(3))? {
        return Err(error
            .because("the container stopped while apt was running")
            .hint("start it, and run the command again: dpkg is finished first"));
    }
    if ran.answer.has("refused") {
        return Err(error
            .because(format!("apt would do what must not be: it {}", ran.answer.text("refused")))
            .hint("these packages carry a driver of their own, or are needed by something else"));
    }
    let what = ran.answer.get("failed").unwrap_or("apt");
    let error =
        error.because(format!("`{what}` failed, {}", ran.ended)).because(apts_words(&ran.output));
    Err(match apt::diagnose(&ran.output) {
        Some((meaning, hint)) => error.because(meaning).hint(hint),
        None => error.hint("the log of this run has apt's whole output"),
    })
}

/// The lines of apt's output that say why, or else its last ones.
fn apts_words(output: &str) -> String {
    let lines: Vec<&str> = output.lines().filter(|line| !line.trim().is_empty()).collect();
    let telling = |line: &&&str| {
        ["E: ", "Err:", "dpkg: error", "W: "].iter().any(|start| line.starts_with(start))
    };
    let said: Vec<&str> = lines.iter().filter(telling).copied().collect();
    let chosen = if said.is_empty() { lines } else { said };
    chosen[chosen.len().saturating_sub(6)..].join("\n")
}
