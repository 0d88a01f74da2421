//! Many artifacts into the cache, several at once.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::artifact::Artifact;
use crate::cache::CachedArtifact;
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
    pub fn obtain_all(&self, label: &str, artifacts: &[Artifact]) -> Result<Vec<CachedArtifact>> {
        let progress = Together::new(self.events, label, artifacts);
        let (next, failure) = (AtomicUsize::new(0), Mutex::new(None::<Error>));
        let done: Mutex<Vec<(usize, CachedArtifact)>> = Mutex::new(Vec::new());
        let work = || {
            while failure.lock().is_ok_and(|failure| failure.is_none()) {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(artifact) = artifacts.get(index) else { return };
                match self.cache.obtain(artifact, self.fetcher, &progress) {
                    Ok(file) => {
                        progress.finished(&artifact.name, file.size());
                        done.lock()
                            .unwrap_or_else(|poison| poison.into_inner())
                            .push((index, file));
                    }
                    Err(error) => {
                        let mut slot = failure.lock().unwrap_or_else(|poison| poison.into_inner());
                        slot.get_or_insert(error);
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
        if let Some(error) = failure.into_inner().unwrap_or_else(|poison| poison.into_inner()) {
            return Err(error);
        }
        let mut done = done.into_inner().unwrap_or_else(|poison| poison.into_inner());
        done.sort_by_key(|(index, _)| *index);
        Ok(done.into_iter().map(|(_, file)| file).collect())
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

    fn finished(&self, name: &str, bytes: u64) {
        self.tell(name.to_owned(), bytes);
    }

    fn tell(&self, name: String, bytes: u64) {
        let mut done = self.done.lock().unwrap_or_else(|poison| poison.into_inner());
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
