//! How far an export or import is, told now and then.

use std::time::{Duration, Instant};

use crate::event::{Event, Events};

/// Progress is told at most this often.
const INTERVAL: Duration = Duration::from_millis(100);

/// Bytes done of a whole.
#[derive(Debug)]
pub struct Progress<'a> {
    events: &'a dyn Events,
    name: String,
    total: u64,
    done: u64,
    told: Option<Instant>,
}

impl<'a> Progress<'a> {
    /// Nothing done yet.
    pub fn new(events: &'a dyn Events, name: &str, total: u64) -> Self {
        Self { events, name: name.to_owned(), total, done: 0, told: None }
    }

    /// So many bytes more are done.
    pub fn add(&mut self, bytes: u64) {
        self.done += bytes;
        let is_time = self.told.is_none_or(|told| told.elapsed() >= INTERVAL);
        if is_time || self.done == self.total {
            self.told = Some(Instant::now());
            let (name, total) = (self.name.clone(), Some(self.total));
            self.events.emit(Event::Progress { name, done: self.done, total });
        }
    }
}
