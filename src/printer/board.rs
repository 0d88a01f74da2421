//! What is at work now, as lines for a terminal: a line for each container, for each other step, for
//! each thing whose bytes are moving, and for a batch one in total.
//!
//! A [`Board`] hears of every event. Lines keep the order in which their work began; the line in
//! total is the last. Nothing here knows a terminal: size and time are given.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use indicatif::HumanBytes;

use super::layout::{Size, bar, clock, cut, padded, width};
use super::pace::{Pace, Speed};
use crate::ctid::Ctid;
use crate::event::Event;

/// After that, bytes of which nothing is heard are taken for given up.
const SILENCE: Duration = Duration::from_secs(40);
/// The columns that a name keeps where there is not enough for everything.
const NAME: usize = 12;
/// The columns of the smallest and the largest bar.
const BAR: (usize, usize) = (8, 30);

/// What is at work.
#[derive(Debug, Default)]
pub(super) struct Board {
    batch: Option<Batch>,
    work: Vec<Work>,
    moving: Vec<Moving>,
}

/// The containers of a batch, counted.
#[derive(Debug)]
struct Batch {
    containers: usize,
    began: Instant,
    done: usize,
    failed: usize,
    differ: usize,
    skipped: usize,
    /// The containers whose failure was told.
    told: BTreeSet<String>,
}

/// One container, or a step that is about none.
#[derive(Debug)]
struct Work {
    container: Option<Ctid>,
    /// `None` between two steps.
    step: Option<String>,
    since: Instant,
}

/// Something whose bytes are moving.
#[derive(Debug)]
struct Moving {
    name: String,
    bytes: (u64, Option<u64>),
    pace: Pace,
    heard: Instant,
}

impl Board {
    /// Whether many containers are worked on.
    pub(super) fn has_batch(&self) -> bool {
        self.batch.is_some()
    }

    /// Takes note of an event.
    pub(super) fn hear(&mut self, event: &Event, now: Instant) {
        match event {
            Event::StepStarted { container, step } => self.begin(container.as_ref(), step, now),
            Event::StepEnded { container, step, .. } => self.end(container.as_ref(), step, now),
            Event::Progress { name, done, total } => self.moved(name, (*done, *total), now),
            Event::BatchStarted { containers, .. } => {
                *self = Self { batch: Some(Batch::new(*containers, now)), ..Self::default() };
            }
            Event::ContainerStarted { container } => {
                self.work.retain(|work| work.container.as_ref() != Some(container));
                self.work.push(Work::new(Some(container), None, now));
            }
            Event::ContainerEnded { container, outcome, .. } => {
                self.work.retain(|work| work.container.as_ref() != Some(container));
                self.count(outcome);
            }
            // A step that failed may not have said that it ended.
            Event::Failed { .. } if self.batch.is_none() => *self = Self::default(),
            Event::Failed { .. } => self.work.retain(|work| work.container.is_some()),
            Event::Detail { .. } | Event::Note { .. } | Event::Warning { .. } => {}
        }
    }

    /// Notes that the failure of a container of the batch was told; `false` without a batch.
    pub(super) fn failure_is_told(&mut self, container: &str) -> bool {
        let told = self.batch.as_mut().map(|batch| batch.told.insert(container.to_owned()));
        told.is_some()
    }

    /// Whether that was noted.
    pub(super) fn was_failure_told(&self, container: &Ctid) -> bool {
        self.batch.as_ref().is_some_and(|batch| batch.told.contains(container.as_str()))
    }

    fn begin(&mut self, container: Option<&Ctid>, step: &str, now: Instant) {
        if container.is_some() && self.batch.is_none() {
            // One after the other: whoever begins a step has left the one before.
            self.work
                .retain(|work| work.container.is_none() || work.container.as_ref() == container);
        }
        let is_it = |work: &&mut Work| match container {
            Some(_) => work.container.as_ref() == container,
            None => work.container.is_none() && work.step.as_deref() == Some(step),
        };
        match self.work.iter_mut().find(is_it) {
            Some(work) => (work.step, work.since) = (Some(step.to_owned()), now),
            None => self.work.push(Work::new(container, Some(step), now)),
        }
    }

    fn end(&mut self, container: Option<&Ctid>, step: &str, now: Instant) {
        let is_over = |work: &Work| {
            work.container.as_ref() == container && work.step.as_deref() == Some(step)
        };
        if container.is_none() || self.batch.is_none() {
            self.work.retain(|work| !is_over(work));
        } else if let Some(work) = self.work.iter_mut().find(|work| is_over(work)) {
            (work.step, work.since) = (None, now);
        }
    }

    fn moved(&mut self, name: &str, bytes: (u64, Option<u64>), now: Instant) {
        if bytes.1.is_some_and(|total| bytes.0 >= total) {
            self.moving.retain(|moving| moving.name != name);
            return;
        }
        let position = self.moving.iter().position(|moving| moving.name == name);
        let position = position.unwrap_or_else(|| {
            if self.batch.is_none() {
                // One after the other: what had no end to be seen has ended.
                self.moving.retain(|moving| moving.bytes.1.is_some());
            }
            let pace = Pace::default();
            self.moving.push(Moving { name: name.to_owned(), bytes, pace, heard: now });
            self.moving.len() - 1
        });
        let moving = &mut self.moving[position];
        (moving.bytes, moving.heard) = (bytes, now);
        moving.pace.told(bytes.0, now);
    }

    fn count(&mut self, outcome: &str) {
        let Some(batch) = &mut self.batch else { return };
        match outcome {
            "failed" | "interrupted" => batch.failed += 1,
            "differs" => batch.differ += 1,
            "skipped" => batch.skipped += 1,
            _ => batch.done += 1,
        }
    }

    /// The lines for a terminal of that size: one fewer than it has, so that there is room for what
    /// stays, and none wider.
    pub(super) fn lines(&self, size: Size, now: Instant) -> Vec<String> {
        let total = self.batch.as_ref().map(|batch| batch.line(self.at_work(), size.columns, now));
        let room = size.rows.saturating_sub(1).max(1) - usize::from(total.is_some());
        let moving = self.moving.iter().filter(|moving| now.duration_since(moving.heard) < SILENCE);
        let moving: Vec<&Moving> = moving.collect();
        let count = self.work.len() + moving.len();
        // Where there is room for one line, the last of them is not spent on a number.
        let shown = if count > room && room > 1 { room - 1 } else { room.min(count) };
        let columns = self.columns(size.columns);
        let work = self.work.iter().map(|work| work.line(columns, size.columns, now));
        let moving = moving.iter().map(|moving| moving.line(size.columns, now));
        let mut lines: Vec<String> = work.chain(moving).take(shown).collect();
        if count > shown && room > 1 {
            lines.push(cut(&format!("and {} more", count - shown), size.columns));
        }
        lines.extend(total);
        lines
    }

    /// In words: how far the batch is, or the last thing whose bytes moved.
    pub(super) fn summary(&self, now: Instant) -> Option<String> {
        let moving = self.moving.iter().max_by_key(|moving| moving.heard);
        let moving = moving.filter(|moving| now.duration_since(moving.heard) < SILENCE);
        match (moving, &self.batch) {
            (Some(moving), _) => Some(moving.text(now)),
            (None, Some(batch)) => Some(batch.line(self.at_work(), usize::MAX, now)),
            (None, None) => None,
        }
    }

    fn at_work(&self) -> usize {
        self.work.iter().filter(|work| work.container.is_some()).count()
    }

    /// The columns of the containers' names and of their steps.
    fn columns(&self, columns: usize) -> (usize, usize) {
        let of_containers = self.work.iter().filter_map(|work| work.container.as_ref());
        let names = of_containers.map(|ctid| width(ctid.as_str())).max().unwrap_or_default();
        let names = names.min(columns / 3);
        let with_container = self.work.iter().filter(|work| work.container.is_some());
        let steps = with_container.map(|work| width(work.words())).max().unwrap_or_default();
        (names, steps.min(columns.saturating_sub(names + 10)))
    }
}

impl Batch {
    fn new(containers: usize, began: Instant) -> Self {
        let (done, failed, differ, skipped) = (0, 0, 0, 0);
        Self { containers, began, done, failed, differ, skipped, told: BTreeSet::new() }
    }

    /// `5 of 12 done, 1 failed, 3 at work, 1:42`; in few columns what is less wanted goes first.
    fn line(&self, at_work: usize, columns: usize, now: Instant) -> String {
        let done = format!("{} of {} done", self.done, self.containers);
        let counted = |count: usize, word: &str| match count {
            0 => String::new(),
            _ => format!(", {count} {word}"),
        };
        let failed = counted(self.failed, "failed") + &counted(self.differ, "differ");
        let skipped = counted(self.skipped, "skipped");
        let at_work = counted(at_work, "at work");
        let time = format!(", {}", clock(now.duration_since(self.began)));
        let mut shorter = [
            [&failed, &skipped, &at_work, &time].map(String::as_str).concat(),
            [&failed, &at_work, &time].map(String::as_str).concat(),
            [&failed, &time].map(String::as_str).concat(),
            failed,
        ]
        .into_iter();
        let room = columns.saturating_sub(width(&done));
        let rest = shorter.find(|rest| width(rest) <= room).unwrap_or_default();
        cut(&(done + &rest), columns)
    }
}

impl Work {
    fn new(container: Option<&Ctid>, step: Option<&str>, since: Instant) -> Self {
        let (container, step) = (container.cloned(), step.map(str::to_owned));
        Self { container, step, since }
    }

    fn words(&self) -> &str {
        self.step.as_deref().unwrap_or("at work")
    }

    /// `201  driver  0:12`.
    fn line(&self, (names, steps): (usize, usize), columns: usize, now: Instant) -> String {
        let time = clock(now.duration_since(self.since));
        let line = match &self.container {
            Some(ctid) => {
                format!("{}  {}  {time}", padded(ctid.as_str(), names), padded(self.words(), steps))
            }
            None => {
                let room = columns.saturating_sub(width(&time) + 2);
                format!("{}  {time}", cut(self.words(), room))
            }
        };
        cut(&line, columns)
    }
}

impl Moving {
    /// `NVIDIA-Linux-x86_64-580.76.05.run: 161 MiB of 394 MiB, 12.03 MiB/s, 19 seconds left`.
    fn text(&self, now: Instant) -> String {
        let (done, total) = self.bytes;
        let of = total.map_or(String::new(), |total| format!(" of {}", HumanBytes(total)));
        let speed = self.pace.speed(self.bytes, now);
        let speed = speed.map_or(String::new(), |speed| speed.to_string());
        format!("{}: {}{of}{speed}", self.name, HumanBytes(done))
    }

    /// The same with a bar, and with as much of the rest as there is room for.
    fn line(&self, columns: usize, now: Instant) -> String {
        let speed = self.pace.speed(self.bytes, now);
        let Some(total) = self.bytes.1 else { return cut(&self.text(now), columns) };
        let tails = tails((self.bytes.0, total), speed);
        let name = width(&self.name);
        let fits =
            |name: usize| tails.iter().find(|tail| name + 1 + BAR.0 + 1 + width(tail) <= columns);
        let Some(tail) = fits(name).or_else(|| fits(name.min(NAME))) else {
            return cut(&self.text(now), columns);
        };
        let room = columns - width(tail) - 2;
        let name = cut(&self.name, room - BAR.0);
        let bar = bar((self.bytes.0, total), (room - width(&name)).min(BAR.1));
        format!("{name} {bar} {tail}")
    }
}

/// What may stand behind a bar, the longest first.
fn tails((done, total): (u64, u64), speed: Option<Speed>) -> Vec<String> {
    let percent = format!("{} %", (done as f64 / total as f64 * 100.0) as u64);
    let bytes = format!("{} of {}", HumanBytes(done), HumanBytes(total));
    let left = speed.and_then(|speed| speed.left);
    let left = left.map_or(String::new(), |left| format!(", {} left", clock(left)));
    let rate = speed.map(|speed| format!(", {}/s", HumanBytes(speed.rate as u64)));
    let rate = rate.unwrap_or_default();
    vec![
        format!("{bytes}{rate}{left}"),
        format!("{percent}{rate}{left}"),
        format!("{percent}{left}"),
        percent,
    ]
}
