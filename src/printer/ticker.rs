//! The thread that lets time pass on the screen while nothing happens.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::talk::Talk;

/// Between two looks at what has changed.
const INTERVAL: Duration = Duration::from_millis(100);

/// The thread; dropping it ends it.
#[derive(Debug)]
pub(super) struct Ticker {
    /// Nothing is ever sent: that it is gone wakes the thread.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Ticker {
    /// Starts it. Where the system has no thread to give, lines move with events alone.
    pub(super) fn start(talk: &Arc<Mutex<Talk>>) -> Self {
        let (stop, stopped) = channel();
        let talk = Arc::downgrade(talk);
        let thread = std::thread::Builder::new().name("progress".to_owned());
        let thread = thread.spawn(move || run(&talk, &stopped)).ok();
        Self { stop: Some(stop), thread }
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It can only have ended by a panic, which was printed.
            let _ = thread.join();
        }
    }
}

fn run(talk: &Weak<Mutex<Talk>>, stopped: &Receiver<()>) {
    while stopped.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
        let Some(talk) = talk.upgrade() else { return };
        talk.lock().unwrap_or_else(PoisonError::into_inner).tick(Instant::now());
    }
}
