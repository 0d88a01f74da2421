//! `nvstage cache`: where the cache is, what is in it and why; whether it is intact; and room made
//! in it. The images that containers share lie elsewhere, and are looked after together with it.

use std::time::Instant;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::Context;
use crate::cache::{Cache, Contents, Prune, Pruned, Verified};
use crate::engine::shared;
use crate::error::{Error, ExitCode, Result};
use crate::event::Event;
use crate::version::DriverVersion;

/// Look at the cache, verify it, make room in it
#[derive(Debug, Clone, Args)]
pub struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Clone, Subcommand)]
enum Action {
    /// Print the directory of the cache
    Dir,
    /// Show what is in the cache and which images containers share, what keeps each, when it was used last
    List,
    /// Hash every file and shared image again; remove what is damaged, so that it is fetched or made again
    Verify,
    /// Remove what no lock keeps, and shared images that nobody needs
    Prune {
        /// Say what would be removed, and remove nothing
        #[arg(long)]
        dry_run: bool,
        /// Remove the shared image of this driver's version alone; refused while it is needed
        #[arg(long, value_name = "VERSION")]
        driver: Option<String>,
    },
}

/// What was asked for.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub enum Answer {
    /// Where the cache is.
    Directory(Directory),
    /// What is in it.
    Contents(Contents),
    /// Whether it is intact.
    Verified(Verified),
    /// What was removed.
    Pruned(Pruned),
}

/// Where the cache is.
#[derive(Debug, Clone, Serialize)]
pub struct Directory {
    schema: u32,
    /// The absolute path.
    pub directory: String,
}

impl Answer {
    /// How the program ends.
    pub fn exit(&self) -> ExitCode {
        match self {
            Self::Verified(verified) => verified.exit(),
            _ => ExitCode::Done,
        }
    }

    /// What is to be said after the result.
    pub fn error(&self) -> Option<Error> {
        match self {
            Self::Verified(verified) => verified.error(),
            _ => None,
        }
    }
}

/// Does what was asked for.
///
/// # Errors
/// As the cache's own: a host error when it cannot be opened, read or written; an installation
/// error when a lock that cannot be read forbids to prune; the interruption.
pub fn run(context: &Context<'_>, arguments: &Arguments) -> Result<Answer> {
    let (host, events) = (context.host, context.events);
    let path = std::path::absolute(host.paths.cache())
        .map_err(|error| Error::host("find the directory of the cache").because(error))?;
    Ok(match &arguments.action {
        Action::Dir => {
            let directory = path.to_string_lossy().into_owned();
            Answer::Directory(Directory { schema: 1, directory })
        }
        Action::List => {
            let used = shared::used_drivers(&host.paths)?;
            let mut contents = Cache::open(&path, &host.cancel)?.contents(&used)?;
            for image in shared::list(host, events)? {
                match image.kept_by.is_empty() {
                    true => contents.prunable_bytes += image.bytes,
                    false => contents.kept_bytes += image.bytes,
                }
                contents.things.push(image);
            }
            for text in &contents.unreadable_locks {
                events.emit(Event::Warning { text: format!("{text}: nobody knows what it keeps") });
            }
            Answer::Contents(contents)
        }
        Action::Verify => {
            let began = Instant::now();
            let mut verified = Cache::open(&path, &host.cancel)?.verify(events)?;
            let images = shared::verify(host, events)?;
            verified.files += images.files;
            verified.bytes += images.bytes;
            verified.damaged.extend(images.damaged);
            verified.seconds = (began.elapsed().as_secs_f64() * 1000.0).round() / 1000.0;
            Answer::Verified(verified)
        }
        Action::Prune { dry_run, driver } => {
            let mode = if *dry_run { Prune::Rehearse } else { Prune::Remove };
            let version = driver.as_deref().map(DriverVersion::parse).transpose()?;
            let cache = Cache::open_alone(&path, &host.cancel, events)?;
            let (mut pruned, images) = match version {
                Some(version) => {
                    let directory = path.to_string_lossy().into_owned();
                    let images = shared::prune_driver(host, &version, mode)?;
                    (Pruned::nothing(directory, mode), images)
                }
                None => {
                    let pruned = cache.prune(mode, &shared::used_drivers(&host.paths)?)?;
                    let images = shared::prune(host, mode).map_err(|error| pruned.told(error))?;
                    (pruned, images)
                }
            };
            pruned.add(images);
            Answer::Pruned(pruned)
        }
    })
}
