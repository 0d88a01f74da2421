//! How fast bytes move, and how long the rest will take: of the last seconds, so that neither a
//! cache at the beginning nor a pause long ago counts.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, HumanDuration};

/// What is looked back on.
const WINDOW: Duration = Duration::from_secs(15);
/// Between two points that are kept.
const STEP: Duration = Duration::from_millis(250);
/// Before that, nothing is known.
const LEAST: Duration = Duration::from_millis(500);

/// The pace of what is being moved.
#[derive(Debug, Default)]
pub(super) struct Pace {
    name: String,
    points: VecDeque<(Instant, u64)>,
}

impl Pace {
    /// Takes note of progress; returns rate and time left in words, with a comma before them, or
    /// nothing while they are not known.
    pub(super) fn told(
        &mut self,
        name: &str,
        (done, total): (u64, Option<u64>),
        now: Instant,
    ) -> String {
        if self.name != name || self.points.back().is_some_and(|(_, last)| *last > done) {
            name.clone_into(&mut self.name);
            self.points.clear();
        }
        if self.points.back().is_none_or(|(time, _)| now.duration_since(*time) >= STEP) {
            self.points.push_back((now, done));
        }
        // One point before the window stays: a pause longer than it must not look like speed.
        while self.points.get(1).is_some_and(|(time, _)| now.duration_since(*time) > WINDOW) {
            self.points.pop_front();
        }
        let Some((since, from)) = self.points.front() else { return String::new() };
        let elapsed = now.duration_since(*since);
        if elapsed < LEAST {
            return String::new();
        }
        let rate = (done - from) as f64 / elapsed.as_secs_f64();
        let mut text = format!(", {}/s", HumanBytes(rate as u64));
        if let Some(left) = total.and_then(|total| total.checked_sub(done)).filter(|left| *left > 0)
            && rate >= 1.0
        {
            let seconds = Duration::from_secs((left as f64 / rate).ceil() as u64);
            text += &format!(", {} left", HumanDuration(seconds));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    #[test]
    fn rate_and_time_left_are_those_of_the_last_seconds() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let mut told = |second: u64, done: u64| {
            pace.told("file", (done, Some(1000 * MIB)), start + Duration::from_secs(second))
        };
        // What was there already is no speed.
        assert_eq!(told(0, 500 * MIB), "");
        assert_eq!(told(1, 510 * MIB), ", 10.00 MiB/s, 49 seconds left");
        for second in 2..=10 {
            told(second, (500 + 10 * second) * MIB);
        }
        for second in 11..=40 {
            told(second, (600 + second - 10) * MIB);
        }
        assert_eq!(told(41, 631 * MIB), ", 1.00 MiB/s, 6 minutes left");
        // It stands still, and says so.
        assert_eq!(told(60, 631 * MIB), ", 0 B/s");
        assert_eq!(told(61, 1000 * MIB).matches("left").count(), 0);
    }

    #[test]
    fn another_file_and_a_new_beginning_start_over() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let later = start + Duration::from_secs(2);
        pace.told("one", (5 * MIB, None), start);
        assert_eq!(pace.told("one", (7 * MIB, None), later), ", 1.00 MiB/s");
        assert_eq!(pace.told("other", (7 * MIB, None), later), "");
        assert_eq!(pace.told("other", (MIB, None), later + LEAST), "");
    }
}
