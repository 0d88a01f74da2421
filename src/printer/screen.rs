//! The lines at the bottom of a terminal that change, and what stays above them.
//!
//! It is one bar of indicatif's whose text has many lines, and not one bar a line in a
//! `MultiProgress`: that draws after each of its bars, so that a glance sees old and new lines mixed.
//! Here every change is one write, and nothing is written where nothing changed.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use super::harmless;
use super::layout::{Size, wrapped};

/// Where talk goes: standard error, or a test's memory.
pub(super) type Output = Box<dyn Write + Send>;

/// What tells how large the terminal is now.
pub(super) type Measure = Box<dyn Fn() -> Size + Send>;

/// The terminal, or whatever else stands for it.
pub(super) struct Screen {
    bar: ProgressBar,
    /// What the bar shows; it asks for it at the moment it draws.
    shown: Arc<Mutex<String>>,
    output: Output,
    measure: Measure,
}

impl Screen {
    /// One that draws on `target`, and writes to `output` while nothing is drawn.
    pub(super) fn new(target: ProgressDrawTarget, output: Output, measure: Measure) -> Self {
        let shown = Arc::new(Mutex::new(String::new()));
        let bar = ProgressBar::with_draw_target(None, target);
        let text = Arc::clone(&shown);
        let write = move |_: &ProgressState, to: &mut dyn std::fmt::Write| {
            let _ = to.write_str(&text.lock().unwrap_or_else(PoisonError::into_inner));
        };
        let style = ProgressStyle::with_template("{lines}");
        bar.set_style(
            style.unwrap_or_else(|_| ProgressStyle::default_bar()).with_key("lines", write),
        );
        Self { bar, shown, output, measure }
    }

    /// One on standard error; without a terminal, or on one that cannot move its cursor
    /// (`TERM=dumb`), nothing is ever drawn.
    pub(super) fn on_stderr() -> Self {
        let measure = || {
            let size = terminal_size::terminal_size_of(io::stderr());
            let (width, height) = size.map_or((80, 24), |(width, height)| (width.0, height.0));
            Size { columns: width.max(1).into(), rows: height.max(1).into() }
        };
        let (target, output) = (ProgressDrawTarget::stderr(), Box::new(io::stderr()));
        Self::new(target, output, Box::new(measure))
    }

    /// One on standard error on which nothing is ever drawn, nor any line wrapped.
    pub(super) fn plain() -> Self {
        let measure = || Size { columns: usize::MAX, rows: 1 };
        Self::new(ProgressDrawTarget::hidden(), Box::new(io::stderr()), Box::new(measure))
    }

    /// Whether lines are drawn at all.
    pub(super) fn is_drawn(&self) -> bool {
        !self.bar.is_hidden()
    }

    /// How large it is now.
    pub(super) fn size(&self) -> Size {
        (self.measure)()
    }

    /// Shows these lines in the place of those before.
    pub(super) fn show(&mut self, lines: &[String]) {
        if self.is_drawn() && self.put(lines) {
            self.bar.tick();
        }
    }

    /// Writes text that stays, and shows these lines below it.
    pub(super) fn say(&mut self, text: &str, lines: &[String]) {
        let text = harmless(text);
        if !self.is_drawn() {
            self.write(&text);
            return;
        }
        let text = wrapped(&text.replace('\t', "    "), self.size().columns);
        if lines.is_empty() {
            // Written plainly, so that the cursor is left at the beginning of a line.
            self.show(lines);
            self.write(&text);
        } else {
            self.put(lines);
            self.bar.println(text);
        }
    }

    /// Writes text that stays, below which nothing is shown; the cursor stays behind it.
    pub(super) fn ask(&mut self, text: &str) {
        let _ = self.output.write_all(harmless(text).as_bytes());
        let _ = self.output.flush();
    }

    /// Takes note of what is to be shown; whether that is something else than before.
    fn put(&self, lines: &[String]) -> bool {
        let lines: Vec<String> = lines.iter().map(|line| line.replace(['\n', '\t'], " ")).collect();
        let text = harmless(&lines.join("\n"));
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = *shown != text;
        *shown = text;
        is_new
    }

    /// In one piece, so that no other program's line gets between.
    fn write(&mut self, text: &str) {
        // A reader that went away is no error of ours.
        let _ = self.output.write_all(format!("{text}\n").as_bytes());
        let _ = self.output.flush();
    }
}

impl std::fmt::Debug for Screen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Screen").field("bar", &self.bar).finish_non_exhaustive()
    }
}
