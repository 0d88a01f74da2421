//! How fast bytes move, and how long the rest will take: of the last seconds, so that neither a
//! cache at the beginning nor a pause long ago counts.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, HumanDuration};

/// What is looked back on.
const WINDOW: Duration = Duration::from_secs(15);
/// Between two points that are kept.
const STEP: Duration = Duration::from_millis(250);
/// Before that, nothing is known.
const LEAST: Duration = Duration::from_millis(500);

/// The pace of one thing that is being moved.
#[derive(Debug, Default)]
pub(super) struct Pace {
    points: VecDeque<(Instant, u64)>,
}

/// What is known of it at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Speed {
    /// Bytes in a second.
    pub rate: f64,
    /// How long the rest takes, where it is known how much that is.
    pub left: Option<Duration>,
}

/// With a comma before it, as it follows bytes: `, 10.00 MiB/s, 49 seconds left`.
impl fmt::Display for Speed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, ", {}/s", HumanBytes(self.rate as u64))?;
        match self.left {
            Some(left) => write!(f, ", {} left", HumanDuration(left)),
            None => Ok(()),
        }
    }
}

impl Pace {
    /// Takes note of bytes done in all; fewer than before are a new beginning.
    pub(super) fn told(&mut self, done: u64, now: Instant) {
        if self.points.back().is_some_and(|(_, last)| *last > done) {
            self.points.clear();
        }
        if self.points.back().is_none_or(|(time, _)| now.duration_since(*time) >= STEP) {
            self.points.push_back((now, done));
        }
        // One point before the window stays: a pause longer than it must not look like speed.
        while self.points.get(1).is_some_and(|(time, _)| now.duration_since(*time) > WINDOW) {
            self.points.pop_front();
        }
    }

    /// The speed now, with so many bytes done; `None` while it is not known.
    pub(super) fn speed(&self, (done, total): (u64, Option<u64>), now: Instant) -> Option<Speed> {
        let (since, from) = self.points.front()?;
        let elapsed = now.duration_since(*since);
        if elapsed < LEAST {
            return None;
        }
        let rate = done.saturating_sub(*from) as f64 / elapsed.as_secs_f64();
        let rest = total.and_then(|total| total.checked_sub(done)).filter(|rest| *rest > 0);
        let left = rest
            .filter(|_| rate >= 1.0)
            .map(|rest| Duration::from_secs((rest as f64 / rate).ceil() as u64));
        Some(Speed { rate, left })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    fn told(pace: &mut Pace, bytes: (u64, Option<u64>), now: Instant) -> String {
        pace.told(bytes.0, now);
        pace.speed(bytes, now).map_or(String::new(), |speed| speed.to_string())
    }

    #[test]
    fn rate_and_time_left_are_those_of_the_last_seconds() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let mut told = |second: u64, done: u64| {
            told(&mut pace, (done, Some(1000 * MIB)), start + Duration::from_secs(second))
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
    fn it_slows_down_although_nothing_is_told() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        told(&mut pace, (0, None), start);
        assert_eq!(told(&mut pace, (10 * MIB, None), after(1)), ", 10.00 MiB/s");
        let speed = pace.speed((10 * MIB, None), after(10)).unwrap();
        assert_eq!(speed.to_string(), ", 1.00 MiB/s");
    }

    #[test]
    fn a_new_beginning_starts_over() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let later = start + Duration::from_secs(2);
        told(&mut pace, (5 * MIB, None), start);
        assert_eq!(told(&mut pace, (7 * MIB, None), later), ", 1.00 MiB/s");
        assert_eq!(told(&mut pace, (MIB, None), later + LEAST), "");
    }
}
