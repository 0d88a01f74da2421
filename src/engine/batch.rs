//! Many containers at once: a queue, threads that take from it, and a report in the order asked for.
//!
//! A container that somebody else works on is put aside: the others come first, then it is waited
//! for. What fails on one container stops no other, unless [`OnFailure::BeginNoMore`] is asked for.
//! After a request to stop nothing more is begun; what is at work decides for itself.
//!
//! Key types: [`Batch`], [`Entry`] for what there is to do, [`Ended`] for what it came to.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::ctid::Ctid;
use crate::error::{Error, ExitCode, Result};
use crate::event::{Event, Events};
use crate::host::Host;
use crate::host::cancel::Urgency;
use crate::host::capacity;
use crate::report::{ContainerReport, Outcome, Step};

/// How soon a container that somebody else works on is tried again, at first.
const INTERVAL: Duration = Duration::from_millis(100);
/// The same after many tries.
const LONGEST_INTERVAL: Duration = Duration::from_secs(2);
/// How long somebody who is not known may work on a container when nothing else is left to do: longer
/// than installer and packages together take. Somebody who is known is waited for as long as he runs.
const PATIENCE: Duration = Duration::from_secs(4 * 3600);
/// Files that the work on one container has open at most: its log, locks, pipes, what it has mounted,
/// and the processes that it ends.
const FILES_EACH: u64 = 32;
/// Files that the program has open besides.
const FILES_OF_ALL: u64 = 64;
/// What the work on one container takes of the host's memory: `pct` 110 MiB, beside it an
/// installer's or dpkg's decompression and the pages that they write.
const MEMORY_EACH: u64 = 512 << 20;

/// What the first failure means for the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnFailure {
    /// Nothing.
    #[default]
    GoOn,
    /// No further container is begun; those at work are finished.
    BeginNoMore,
}

/// A run over containers.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    /// The machine.
    pub host: &'a Host,
    /// Who hears of what happens.
    pub events: &'a dyn Events,
    /// How many containers are worked on at once; [`jobs`] says how many the host bears.
    pub jobs: usize,
    /// What the first failure means for the others.
    pub on_failure: OnFailure,
}

/// One container of a run: what is to be done, or what it has come to before.
#[derive(Debug)]
pub enum Entry<W, R> {
    /// To be done.
    Ready(W),
    /// A request to stop came before it was known what to do.
    NotReached,
    /// Over before it began.
    Ended(R),
}

/// Whether a container can be had.
#[derive(Debug)]
pub enum Taken<L> {
    /// It is ours, as long as this is held.
    Ours(L),
    /// Somebody else works on it: which process, where that is known.
    Busy(Option<u32>),
}

/// Why a container was not begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotBegun {
    /// This one failed before, and [`OnFailure::BeginNoMore`] was asked for.
    Failed(Ctid),
    /// The whole was asked to stop.
    Interrupted,
}

/// What the work on one container came to.
pub trait Ended: Send {
    /// It failed before it could begin.
    fn failed(ctid: &Ctid, error: Error) -> Self;
    /// It was not begun.
    fn not_begun(ctid: &Ctid, why: &NotBegun) -> Self;
    /// The exit code for it alone.
    fn exit(&self) -> ExitCode;
    /// What it came to, in the words of [`Event::ContainerEnded`].
    fn outcome(&self) -> &'static str;
    /// The error to be told at once, before other containers push it off the screen.
    fn error(&self) -> Option<&Error>;
}

impl Ended for ContainerReport {
    fn failed(ctid: &Ctid, error: Error) -> Self {
        let mut report = Self::new(ctid);
        report.add(Step::Facts, Outcome::Failed(error.what().to_owned()), Duration::ZERO);
        report.fail(error);
        report
    }

    fn not_begun(ctid: &Ctid, why: &NotBegun) -> Self {
        let mut report = Self::new(ctid);
        report.not_begun = true;
        let text = match why {
            NotBegun::Failed(other) => format!("not begun: container {other} failed"),
            NotBegun::Interrupted => {
                // Unlike a failure elsewhere this is one of the whole run.
                report.fail(Error::interrupted());
                "not begun: interrupted by a signal".to_owned()
            }
        };
        report.add(Step::Facts, Outcome::Skipped(text), Duration::ZERO);
        report
    }

    fn exit(&self) -> ExitCode {
        self.exit
    }

    fn outcome(&self) -> &'static str {
        Self::outcome(self)
    }

    fn error(&self) -> Option<&Error> {
        self.error.as_ref()
    }
}

/// How many containers this host bears to be worked on at once: two for each core, because half the
/// time goes into waiting for containers to stop, start and answer; and as many as there are 512 MiB
/// of available memory. At least one, at most `containers`.
pub fn jobs(host: &Host, containers: usize) -> usize {
    let memory = capacity::available_memory(&host.paths);
    borne(containers, capacity::cores(), memory)
}

fn borne(containers: usize, cores: usize, memory: Option<u64>) -> usize {
    let by_memory = memory
        .map_or(usize::MAX, |bytes| usize::try_from(bytes / MEMORY_EACH).unwrap_or(usize::MAX));
    containers.min(cores.saturating_mul(2).max(2)).min(by_memory).max(1)
}

/// How many of these jobs the limit of open files bears (`RLIMIT_NOFILE`, raised as far as needed).
fn borne_by_files(jobs: usize) -> usize {
    let wanted = FILES_OF_ALL + FILES_EACH * jobs as u64;
    let each = capacity::open_files(wanted).saturating_sub(FILES_OF_ALL) / FILES_EACH;
    jobs.min(usize::try_from(each).unwrap_or(usize::MAX)).max(1)
}

impl Batch<'_> {
    /// Does `work` on every container that is ready, several at once, after `take` has got hold of
    /// it. Returns what each came to, in the order of `entries`.
    ///
    /// With more than one container [`Event::BatchStarted`] comes first, then
    /// [`Event::ContainerStarted`] and [`Event::ContainerEnded`] for each; for one that is not begun
    /// the latter alone.
    pub fn run<W: Sync, R: Ended, L>(
        &self,
        entries: Vec<(Ctid, Entry<W, R>)>,
        take: impl Fn(&Ctid) -> Result<Taken<L>> + Sync,
        work: impl Fn(&Ctid, &W, L) -> R + Sync,
    ) -> Vec<R> {
        let run = Run::new(*self, entries, take, work);
        let threads = borne_by_files(self.jobs.clamp(1, run.items.len().max(1)));
        run.tell(|| Event::BatchStarted { containers: run.items.len(), jobs: threads });
        run.end_those_that_are_over();
        let tell = |urgency| self.events.emit(Event::Note { text: interrupted(urgency) });
        self.host.cancel.watched(tell, || {
            // This thread is one of them.
            thread::scope(|scope| {
                // Where the system gives no more threads, those that are there do the work.
                let begin = |_: &usize| {
                    let thread = thread::Builder::new().name("container".to_owned());
                    thread.spawn_scoped(scope, || run.worker()).is_ok()
                };
                let _ = (1..threads).take_while(begin).count();
                run.worker();
            });
        });
        run.into_results()
    }
}

fn interrupted(urgency: Urgency) -> String {
    match urgency {
        Urgency::Finish => {
            "interrupted: nothing new begins, what runs is finished; again to end it at once"
        }
        Urgency::AtOnce => {
            "interrupted: what runs is ended; a container that is not done stays incomplete"
        }
    }
    .to_owned()
}

/// One container of a run: its work, until it is over.
struct Item<W> {
    ctid: Ctid,
    work: Option<W>,
}

struct Run<'a, W, R, T, D> {
    batch: Batch<'a>,
    items: Vec<Item<W>>,
    state: Mutex<State<R>>,
    /// There may be something to do for a thread that has nothing.
    changed: Condvar,
    take: T,
    work: D,
}

/// What has happened so far; containers by their positions.
struct State<R> {
    fresh: VecDeque<usize>,
    /// Those that somebody else works on.
    busy: VecDeque<Busy>,
    /// Until they are tried again.
    interval: Duration,
    /// Whether a thread waits to try them; one is enough.
    is_watched: bool,
    results: Vec<Option<R>>,
    /// The first that failed.
    failed: Option<Ctid>,
    interrupted: usize,
}

/// A container that somebody else works on.
struct Busy {
    position: usize,
    /// Who it was when that was told last.
    told: Option<u32>,
    /// Since when nothing is left to do but to wait for somebody who is not known.
    since: Option<Instant>,
}

/// What a thread does next.
enum Next<L> {
    Begin(usize, L),
    /// Waits until it is time to try the busy ones again.
    Watch,
    /// Waits until another thread has seen a change.
    Idle,
    Nothing,
}

impl<'a, W, R, T, D, L> Run<'a, W, R, T, D>
where
    W: Sync,
    R: Ended,
    T: Fn(&Ctid) -> Result<Taken<L>> + Sync,
    D: Fn(&Ctid, &W, L) -> R + Sync,
{
    fn new(batch: Batch<'a>, entries: Vec<(Ctid, Entry<W, R>)>, take: T, work: D) -> Self {
        let (mut items, mut results, mut fresh) = (Vec::new(), Vec::new(), VecDeque::new());
        for (position, (ctid, entry)) in entries.into_iter().enumerate() {
            let (work, result) = match entry {
                Entry::Ready(work) => (Some(work), None),
                Entry::NotReached => (None, None),
                Entry::Ended(result) => (None, Some(result)),
            };
            if result.is_none() {
                fresh.push_back(position);
            }
            items.push(Item { ctid, work });
            results.push(result);
        }
        let state = State {
            fresh,
            busy: VecDeque::new(),
            interval: INTERVAL,
            is_watched: false,
            results,
            failed: None,
            interrupted: 0,
        };
        Self { batch, items, state: Mutex::new(state), changed: Condvar::new(), take, work }
    }

    /// Tells what only a run over several containers tells.
    fn tell(&self, event: impl FnOnce() -> Event) {
        if self.items.len() > 1 {
            self.batch.events.emit(event());
        }
    }

    fn state(&self) -> MutexGuard<'_, State<R>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end_those_that_are_over(&self) {
        let mut state = self.state();
        for position in 0..self.items.len() {
            if let Some(result) = state.results[position].take() {
                self.end(&mut state, position, (result, Duration::ZERO));
            }
        }
    }

    fn worker(&self) {
        let mut state = self.state();
        loop {
            match self.next(&mut state) {
                Next::Begin(position, lock) => {
                    drop(state);
                    // Whoever has nothing to do may try the others that are busy.
                    self.changed.notify_one();
                    self.one(position, lock);
                    state = self.state();
                }
                Next::Watch => {
                    let interval = state.interval;
                    state.interval = (2 * interval).min(LONGEST_INTERVAL);
                    state.is_watched = true;
                    drop(state);
                    // A request to stop ends the wait; the next look sees it.
                    let _ = self.batch.host.wait(interval);
                    state = self.state();
                    state.is_watched = false;
                }
                Next::Idle => {
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                Next::Nothing => {
                    self.changed.notify_all();
                    return;
                }
            }
        }
    }

    fn next(&self, state: &mut State<R>) -> Next<L> {
        loop {
            if let Some(why) = self.reason_to_stop(state) {
                self.begin_no_more(state, &why);
                return Next::Nothing;
            }
            let Some(position) = state.fresh.pop_front() else { break };
            if let Some(lock) = self.try_it(state, position, None) {
                return Next::Begin(position, lock);
            }
        }
        if state.is_watched {
            return Next::Idle;
        }
        // All others are done or at work. Of several that are free again one is begun.
        for _ in 0..state.busy.len() {
            let Some(busy) = state.busy.pop_front() else { break };
            let position = busy.position;
            if let Some(lock) = self.try_it(state, position, Some(busy)) {
                state.interval = INTERVAL;
                return Next::Begin(position, lock);
            }
        }
        if state.busy.is_empty() { Next::Nothing } else { Next::Watch }
    }

    fn reason_to_stop(&self, state: &State<R>) -> Option<NotBegun> {
        if self.batch.host.cancel.is_asked() {
            return Some(NotBegun::Interrupted);
        }
        let failed = state.failed.clone();
        failed.filter(|_| self.batch.on_failure == OnFailure::BeginNoMore).map(NotBegun::Failed)
    }

    fn begin_no_more(&self, state: &mut State<R>, why: &NotBegun) {
        let fresh = std::mem::take(&mut state.fresh).into_iter();
        let busy = std::mem::take(&mut state.busy).into_iter().map(|busy| busy.position);
        for position in fresh.chain(busy).collect::<Vec<_>>() {
            let result = R::not_begun(&self.items[position].ctid, why);
            if *why == NotBegun::Interrupted {
                state.interrupted += 1;
            }
            self.ended(position, (&result, Duration::ZERO));
            state.results[position] = Some(result);
        }
    }

    /// Tries to get hold of a container; `known` when it was found to be somebody else's.
    fn try_it(&self, state: &mut State<R>, position: usize, known: Option<Busy>) -> Option<L> {
        let ctid = &self.items[position].ctid;
        let error = match (self.take)(ctid) {
            Ok(Taken::Ours(lock)) => return Some(lock),
            Ok(Taken::Busy(holder)) => {
                if known.as_ref().is_none_or(|busy| holder.is_some() && busy.told != holder) {
                    let text = format!("waiting: {} works on container {ctid}", named(holder));
                    self.batch.events.emit(Event::Note { text });
                }
                match still_busy(position, holder, known) {
                    Some(busy) => {
                        state.busy.push_back(busy);
                        return None;
                    }
                    None => somebody_elses(),
                }
            }
            Err(error) => error,
        };
        let result = R::failed(ctid, error.on(ctid));
        self.end(state, position, (result, Duration::ZERO));
        None
    }

    fn one(&self, position: usize, lock: L) {
        let Item { ctid, work } = &self.items[position];
        let Some(work) = work else {
            let result = R::not_begun(ctid, &NotBegun::Interrupted);
            return self.end(&mut self.state(), position, (result, Duration::ZERO));
        };
        self.tell(|| Event::ContainerStarted { container: ctid.clone() });
        let began = Instant::now();
        let result = (self.work)(ctid, work, lock);
        self.end(&mut self.state(), position, (result, began.elapsed()));
    }

    /// Takes down and tells what a container came to.
    fn end(&self, state: &mut State<R>, position: usize, (result, took): (R, Duration)) {
        if let Some(error) = result.error() {
            self.batch.events.emit(Event::Failed { text: error.to_string() });
        }
        if !matches!(result.exit(), ExitCode::Done | ExitCode::Differs) {
            state.failed.get_or_insert_with(|| self.items[position].ctid.clone());
        }
        self.ended(position, (&result, took));
        state.results[position] = Some(result);
    }

    fn ended(&self, position: usize, (result, took): (&R, Duration)) {
        self.tell(|| Event::ContainerEnded {
            container: self.items[position].ctid.clone(),
            outcome: result.outcome(),
            exit: result.exit().code(),
            took,
        });
    }

    fn into_results(self) -> Vec<R> {
        let state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        if state.interrupted > 0 {
            let text = not_begun(state.interrupted).to_string();
            self.batch.events.emit(Event::Failed { text });
        }
        state.results.into_iter().flatten().collect()
    }
}

/// A process that holds a container's lock.
pub fn named(holder: Option<u32>) -> String {
    match holder {
        Some(pid) => format!("another nvstage (process {pid})"),
        None => "another nvstage".to_owned(),
    }
}

/// The container after one more try; `None` when it was waited for long enough.
fn still_busy(position: usize, holder: Option<u32>, known: Option<Busy>) -> Option<Busy> {
    let told = holder.or(known.as_ref().and_then(|busy| busy.told));
    let since = match (holder, known) {
        (None, Some(busy)) => Some(busy.since.unwrap_or_else(Instant::now)),
        _ => None,
    };
    let is_too_long = since.is_some_and(|since| since.elapsed() >= PATIENCE);
    (!is_too_long).then_some(Busy { position, told, since })
}

/// The error for a container that somebody who is not known does not let go of.
fn somebody_elses() -> Error {
    let hours = PATIENCE.as_secs() / 3600;
    Error::host(format!("work on it: {} does, for {hours} hours now", named(None)))
        .hint("wait for its end: `fuser -v /run/nvstage/*.lock` shows it")
}

/// What is told once of all containers that a request to stop came before.
fn not_begun(count: usize) -> Error {
    let what = match count {
        1 => "begin with 1 container: interrupted by a signal".to_owned(),
        _ => format!("begin with {count} containers: interrupted by a signal"),
    };
    let hints = Error::interrupted().hints().to_vec();
    hints.into_iter().fold(Error::new(ExitCode::Interrupted, what), Error::hint)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::host::cancel::Cancel;
    use crate::host::paths::Paths;
    use crate::host::process::Live;
    use crate::host::wait::pause;

    #[derive(Debug, Default)]
    struct Heard(Mutex<Vec<Event>>);

    impl Events for Heard {
        fn emit(&self, event: Event) {
            self.0.lock().unwrap().push(event);
        }
    }

    impl Heard {
        fn names(&self) -> Vec<String> {
            let name = |event: &Event| match event {
                Event::BatchStarted { containers, jobs } => format!("{containers} by {jobs}"),
                Event::ContainerStarted { container } => format!("+{container}"),
                Event::ContainerEnded { container, outcome, .. } => {
                    format!("{container} {outcome}")
                }
                Event::Failed { text } => text.lines().next().unwrap_or_default().to_owned(),
                Event::Note { text } => text.clone(),
                other => format!("{other:?}"),
            };
            self.0.lock().unwrap().iter().map(name).collect()
        }
    }

    struct Scene {
        host: Host,
        heard: Heard,
    }

    type Entries = Vec<(Ctid, Entry<u8, ContainerReport>)>;

    impl Scene {
        fn new() -> Self {
            let cancel = Cancel::never().unwrap();
            let processes = Box::new(Live::new(cancel.clone()).unwrap());
            let host = Host { paths: Paths::live(), processes, cancel };
            Self { host, heard: Heard::default() }
        }

        fn batch(&self, jobs: usize, on_failure: OnFailure) -> Batch<'_> {
            Batch { host: &self.host, events: &self.heard, jobs, on_failure }
        }
    }

    fn ctid(text: &str) -> Ctid {
        Ctid::parse(text).unwrap()
    }

    /// Containers and the exit codes that the work on them ends with.
    fn entries(codes: &[(&str, u8)]) -> Entries {
        codes.iter().map(|(name, code)| (ctid(name), Entry::Ready(*code))).collect()
    }

    fn free(_: &Ctid) -> Result<Taken<()>> {
        Ok(Taken::Ours(()))
    }

    fn report(ctid: &Ctid, code: u8) -> ContainerReport {
        let mut report = ContainerReport::new(ctid);
        match code {
            0 => report.add(Step::Driver, Outcome::Changed(String::new()), Duration::ZERO),
            4 => report.fail(Error::host("do it")),
            _ => report.fail(Error::install("do it")),
        }
        report
    }

    fn work(ctid: &Ctid, code: &u8, _: ()) -> ContainerReport {
        report(ctid, *code)
    }

    fn outcomes(reports: &[ContainerReport]) -> Vec<String> {
        reports.iter().map(|one| format!("{} {}", one.container, one.outcome())).collect()
    }

    #[test]
    fn the_report_has_the_order_that_was_asked_for_and_a_failure_stops_nobody() {
        let scene = Scene::new();
        let mut entries = entries(&[("109", 0), ("103", 5), ("107", 0), ("101", 4)]);
        entries.insert(1, (ctid("105"), Entry::Ended(report(&ctid("105"), 5))));
        let reports = scene.batch(3, OnFailure::GoOn).run(entries, free, work);
        let wanted = ["109 done", "105 failed", "103 failed", "107 done", "101 failed"];
        assert_eq!(outcomes(&reports), wanted);
        let heard = scene.heard.names();
        assert_eq!(heard[0], "5 by 3");
        // What was over before is told first, with its error.
        assert_eq!(heard[1..3], ["container 105: failed to do it", "105 failed"]);
        assert!(heard.contains(&"+101".to_owned()) && !heard.contains(&"+105".to_owned()));
    }

    #[test]
    fn one_container_alone_is_no_batch() {
        let scene = Scene::new();
        scene.batch(4, OnFailure::GoOn).run(entries(&[("101", 4)]), free, work);
        assert_eq!(scene.heard.names(), ["container 101: failed to do it"]);
    }

    #[test]
    fn after_the_first_failure_nothing_more_is_begun_if_so_asked() {
        let scene = Scene::new();
        let entries = entries(&[("101", 0), ("102", 5), ("103", 0), ("104", 0)]);
        let reports = scene.batch(1, OnFailure::BeginNoMore).run(entries, free, work);
        let wanted = ["101 done", "102 failed", "103 skipped", "104 skipped"];
        assert_eq!(outcomes(&reports), wanted);
        assert_eq!(reports[3].exit, ExitCode::Done);
        let why = &reports[3].steps[0].outcome;
        assert_eq!(why, &Outcome::Skipped("not begun: container 102 failed".to_owned()));
    }

    #[test]
    fn a_container_that_failed_before_the_batch_counts_as_the_first_failure() {
        let scene = Scene::new();
        let mut entries = entries(&[("101", 0)]);
        entries.push((ctid("102"), Entry::Ended(report(&ctid("102"), 4))));
        let reports = scene.batch(1, OnFailure::BeginNoMore).run(entries, free, work);
        assert_eq!(outcomes(&reports), ["101 skipped", "102 failed"]);
    }

    #[test]
    fn no_more_than_the_jobs_run_at_once_and_not_fewer() {
        let scene = Scene::new();
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let work = |ctid: &Ctid, code: &u8, (): ()| {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            pause(Duration::from_millis(40));
            now.fetch_sub(1, Ordering::SeqCst);
            report(ctid, *code)
        };
        let names: Vec<String> = (101..113).map(|number| number.to_string()).collect();
        let entries: Entries = names.iter().map(|name| (ctid(name), Entry::Ready(0))).collect();
        let reports = scene.batch(3, OnFailure::GoOn).run(entries, free, work);
        assert_eq!(reports.len(), 12);
        assert_eq!(most.load(Ordering::SeqCst), 3);
    }

    #[test]
    fn a_busy_container_is_told_of_once_and_comes_when_the_others_are_done() {
        let scene = Scene::new();
        let tries = Mutex::new(BTreeMap::<String, u32>::new());
        let take = |ctid: &Ctid| {
            let mut tries = tries.lock().unwrap();
            let count = tries.entry(ctid.to_string()).or_default();
            *count += 1;
            Ok(match (ctid.as_str(), *count) {
                ("101", 1..4) => Taken::Busy(Some(4711)),
                _ => Taken::Ours(()),
            })
        };
        let reports = scene.batch(1, OnFailure::GoOn).run(
            entries(&[("101", 0), ("102", 0), ("103", 0)]),
            take,
            work,
        );
        assert_eq!(outcomes(&reports), ["101 done", "102 done", "103 done"]);
        let heard = scene.heard.names();
        let waiting = "waiting: another nvstage (process 4711) works on container 101";
        let wanted = [waiting, "+102", "102 done", "+103", "103 done", "+101", "101 done"];
        assert_eq!(heard[1..], wanted);
    }

    #[test]
    fn somebody_who_is_known_is_waited_for_without_end_and_somebody_unknown_is_not() {
        let long_ago = Instant::now().checked_sub(PATIENCE);
        assert!(long_ago.is_some(), "this machine runs too short a time");
        let busy = |told| Some(Busy { position: 7, told, since: long_ago });
        assert!(still_busy(7, Some(4711), busy(Some(4711))).unwrap().since.is_none());
        assert!(still_busy(7, None, busy(Some(4711))).is_none());
        assert!(still_busy(7, None, busy(None)).is_none());
        // The time begins with the first try again, not with the first one.
        let first = still_busy(7, None, None).unwrap();
        assert!(first.since.is_none());
        assert!(still_busy(7, None, Some(first)).unwrap().since.is_some());
    }

    #[test]
    fn busy_containers_that_become_free_are_begun_side_by_side() {
        let scene = Scene::new();
        let tries = AtomicUsize::new(0);
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let take = |_: &Ctid| {
            // Three first tries, then those of one thread alone.
            let is_free = tries.fetch_add(1, Ordering::SeqCst) >= 6;
            Ok(if is_free { Taken::Ours(()) } else { Taken::Busy(None) })
        };
        let work = |ctid: &Ctid, code: &u8, (): ()| {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            pause(Duration::from_millis(200));
            now.fetch_sub(1, Ordering::SeqCst);
            report(ctid, *code)
        };
        let entries = entries(&[("101", 0), ("102", 0), ("103", 0)]);
        let reports = scene.batch(3, OnFailure::GoOn).run(entries, take, work);
        assert_eq!(outcomes(&reports), ["101 done", "102 done", "103 done"]);
        assert_eq!(most.load(Ordering::SeqCst), 3);
        // Each was taken once after the six that failed.
        assert_eq!(tries.load(Ordering::SeqCst), 9);
    }

    #[test]
    fn a_container_that_was_not_reached_is_not_begun() {
        let scene = Scene::new();
        scene.host.cancel.ask(Urgency::Finish);
        let entries = vec![(ctid("101"), Entry::Ready(0)), (ctid("102"), Entry::NotReached)];
        let reports = scene.batch(2, OnFailure::GoOn).run(entries, free, work);
        assert_eq!(outcomes(&reports), ["101 skipped", "102 skipped"]);
        assert_eq!(reports[1].exit, ExitCode::Interrupted);
    }

    #[test]
    fn a_container_that_cannot_be_had_fails_alone() {
        let scene = Scene::new();
        let take = |ctid: &Ctid| match ctid.as_str() {
            "101" => Err(Error::host("open the lock")),
            _ => Ok(Taken::Ours(())),
        };
        let entries = entries(&[("101", 0), ("102", 0)]);
        let reports = scene.batch(2, OnFailure::GoOn).run(entries, take, work);
        assert_eq!(outcomes(&reports), ["101 failed", "102 done"]);
        assert_eq!(reports[0].exit, ExitCode::Host);
    }

    #[test]
    fn a_request_to_stop_lets_finish_what_is_at_work_and_begins_nothing() {
        let scene = Scene::new();
        let work = |ctid: &Ctid, code: &u8, (): ()| {
            scene.host.cancel.ask(Urgency::Finish);
            report(ctid, *code)
        };
        let entries = entries(&[("101", 0), ("102", 0), ("103", 0)]);
        let reports = scene.batch(1, OnFailure::GoOn).run(entries, free, work);
        assert_eq!(outcomes(&reports), ["101 done", "102 skipped", "103 skipped"]);
        let codes: Vec<u8> = reports.iter().map(|report| report.exit.code()).collect();
        assert_eq!(codes, [0, 130, 130]);
        let heard = scene.heard.names();
        let told = "failed to begin with 2 containers: interrupted by a signal";
        assert_eq!(heard.last().unwrap(), told);
    }

    #[test]
    fn a_request_to_stop_ends_the_wait_for_somebody_else() {
        let scene = Scene::new();
        let take = |_: &Ctid| {
            scene.host.cancel.ask(Urgency::Finish);
            Ok::<Taken<()>, Error>(Taken::Busy(None))
        };
        let reports = scene.batch(1, OnFailure::GoOn).run(entries(&[("101", 0)]), take, work);
        assert_eq!(outcomes(&reports), ["101 skipped"]);
    }

    #[test]
    fn what_a_host_bears_goes_by_containers_cores_and_memory() {
        const GIB: u64 = 1 << 30;
        assert_eq!(borne(100, 8, Some(64 * GIB)), 16);
        assert_eq!(borne(3, 8, Some(64 * GIB)), 3);
        assert_eq!(borne(100, 8, Some(2 * GIB)), 4);
        assert_eq!(borne(100, 1, None), 2);
        assert_eq!(borne(100, 8, Some(0)), 1);
        assert_eq!(borne(0, 8, None), 1);
    }
}
