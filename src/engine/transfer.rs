//! Many artifacts into the cache, several at once.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::artifact::Artifact;
use crate::engine::supplies::Supplies;
use crate::error::{Error, Result};
use crate::event::{Event, Events};

/// Downloads at once. One stream fills a fast line already; more of them hide the pauses between
/// small files.
const STREAMS: usize = 4;

impl Supplies<'_> {
    /// Obtains every artifact; their progress is told as one, under `label`. The first failure
    /// ends it; what has arrived stays in the cache.
    ///
    /// # Errors
    /// As [`crate::cache::Cache::obtain`].
    pub fn obtain_all(&self, label: &str, artifacts: &[Artifact]) -> Result<()> {
        let progress = Together::new(self.events, label, artifacts);
        let (next, failure) = (AtomicUsize::new(0), Mutex::new(None::<Error>));
        let work = || {
            while failure.lock().is_ok_and(|failure| failure.is_none()) {
                let Some(artifact) = artifacts.get(next.fetch_add(1, Ordering::Relaxed)) else {
                    return;
                };
                match self.cache.obtain(artifact, self.fetcher, &progress) {
                    Ok(file) => progress.tell(artifact.name.clone(), file.size()),
                    Err(error) => {
                        let slot = failure.lock();
                        slot.unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                        return;
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..STREAMS.min(artifacts.len()) {
                scope.spawn(work);
            }
        });
        let failure = failure.into_inner().unwrap_or_else(PoisonError::into_inner);
        failure.map_or(Ok(()), Err)
    }
}

/// The progress of several downloads as that of one.
#[derive(Debug)]
struct Together<'a> {
    events: &'a dyn Events,
    label: String,
    total: u64,
    done: Mutex<HashMap<String, u64>>,
}

impl<'a> Together<'a> {
    fn new(events: &'a dyn Events, label: &str, artifacts: &[Artifact]) -> Self {
        let total = artifacts.iter().filter_map(|artifact| artifact.size).sum();
        Self { events, label: label.to_owned(), total, done: Mutex::default() }
    }

    fn tell(&self, name: String, bytes: u64) {
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        done.insert(name, bytes);
        let event = Event::Progress {
            name: self.label.clone(),
            done: done.values().sum(),
            total: Some(self.total),
        };
        drop(done);
        self.events.emit(event);
    }
}

impl Events for Together<'_> {
    fn emit(&self, event: Event) {
        match event {
            Event::Progress { name, done, .. } => self.tell(name, done),
            other => self.events.emit(other),
        }
    }
}
