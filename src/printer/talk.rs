//! What is told of events to people: what stays, and the lines that change.
//!
//! On a terminal the lines of the [`Board`] are drawn ten times a second at most. A batch leaves one
//! line for each container there, and what needs attention; elsewhere a line for each step that was
//! not without effect, and every ten seconds how far everything is.

use std::time::{Duration, Instant};

use super::board::Board;
use super::screen::Screen;
use crate::ctid::Ctid;
use crate::event::Event;

/// Between two lines on how far everything is, where there is no terminal.
const SPARSE: Duration = Duration::from_secs(10);

/// The talk of one run.
#[derive(Debug)]
pub(super) struct Talk {
    board: Board,
    screen: Screen,
    /// When it was told last how far everything is.
    told: Instant,
}

impl Talk {
    /// Nothing said yet.
    pub(super) fn new(screen: Screen) -> Self {
        Self { board: Board::default(), screen, told: Instant::now() }
    }

    /// Takes an event.
    pub(super) fn hear(&mut self, event: &Event, now: Instant) {
        let text = self.words(event);
        self.board.hear(event, now);
        match text {
            Some(text) => self.say(&text, now),
            None => self.tell_how_far(now),
        }
    }

    /// Brings the lines up to date: time passes although nothing happens.
    pub(super) fn tick(&mut self, now: Instant) {
        if self.screen.is_drawn() {
            let lines = self.board.lines(self.screen.size(), now);
            self.screen.show(&lines);
        } else if self.board.has_batch() {
            self.tell_how_far(now);
        }
    }

    /// Writes text that stays.
    pub(super) fn say(&mut self, text: &str, now: Instant) {
        let lines = match self.screen.is_drawn() {
            true => self.board.lines(self.screen.size(), now),
            false => Vec::new(),
        };
        self.screen.say(text, &lines);
    }

    /// Writes a question; the cursor stays behind it.
    pub(super) fn ask(&mut self, text: &str) {
        self.screen.ask(text);
    }

    /// Takes the lines away: whatever was at work is over.
    pub(super) fn close(&mut self) {
        self.board = Board::default();
        self.screen.show(&[]);
    }

    fn tell_how_far(&mut self, now: Instant) {
        if self.screen.is_drawn() || now.duration_since(self.told) < SPARSE {
            return;
        }
        if let Some(text) = self.board.summary(now) {
            self.told = now;
            self.screen.say(&text, &[]);
        }
    }

    /// What stays of an event.
    fn words(&mut self, event: &Event) -> Option<String> {
        match event {
            Event::StepEnded { container, step, outcome, took } => {
                let is_told = container.is_none() || self.is_worth_a_line(outcome);
                let name = container.as_ref().map_or(String::new(), |ctid| format!("{ctid} "));
                let seconds = took.as_secs_f64();
                is_told.then(|| format!("{name}{step}: {outcome} ({seconds:.1} s)"))
            }
            Event::ContainerEnded { container, outcome, took, .. } => {
                self.ended(container, outcome, *took)
            }
            Event::Note { text } => Some(text.clone()),
            Event::Warning { text } => Some(format!("warning: {text}")),
            Event::Failed { text } => Some(self.failed(text)),
            Event::StepStarted { .. }
            | Event::Progress { .. }
            | Event::Detail { .. }
            | Event::BatchStarted { .. }
            | Event::ContainerStarted { .. } => None,
        }
    }

    /// Whether a container's step gets a line when it has ended.
    fn is_worth_a_line(&self, outcome: &str) -> bool {
        let words: &[&str] = match (self.board.has_batch(), self.screen.is_drawn()) {
            (false, _) => return true,
            // A failed step ends its container, which is told.
            (true, true) => &["warning"],
            (true, false) => &["changed", "warning", "failed"],
        };
        words.iter().any(|word| outcome.starts_with(word))
    }

    /// `201 done, 12.3 s`; nothing where the failure was its line.
    fn ended(&self, container: &Ctid, outcome: &str, took: Duration) -> Option<String> {
        let is_told = self.board.was_failure_told(container);
        let seconds = took.as_secs_f64();
        match outcome {
            "failed" | "differs" | "interrupted" if is_told => None,
            "skipped" => Some(format!("{container} skipped")),
            _ => Some(format!("{container} {outcome}, {seconds:.1} s")),
        }
    }

    /// A failure with its causes and hints. In a batch on a terminal it is the line of its container,
    /// as the others have theirs.
    fn failed(&mut self, text: &str) -> String {
        let of_container = text.strip_prefix("container ").and_then(|rest| rest.split_once(": "));
        match of_container {
            Some((container, what))
                if self.screen.is_drawn() && self.board.failure_is_told(container) =>
            {
                format!("{container} failed: {}", what.strip_prefix("failed to ").unwrap_or(what))
            }
            _ => format!("error: {text}"),
        }
    }
}
