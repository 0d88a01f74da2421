//! What a terminal and a file show of events, looked at in a terminal in memory.

use std::sync::PoisonError;
use std::time::Duration;

use indicatif::{InMemoryTerm, ProgressDrawTarget};

use super::board::Board;
use super::layout::{Size, width};
use super::*;
use crate::ctid::Ctid;

const MIB: u64 = 1024 * 1024;

/// A file that the test can look into.
#[derive(Debug, Clone, Default)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl Memory {
    fn text(&self) -> String {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        String::from_utf8(bytes).unwrap()
    }
}

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A terminal as the file that a program writes to.
#[derive(Debug, Clone)]
struct Typed(InMemoryTerm);

impl Write for Typed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes).replace('\n', "\r\n");
        indicatif::TermLike::write_str(&self.0, &text)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Talk on a terminal whose clock the test turns.
struct Scene {
    talk: Talk,
    terminal: InMemoryTerm,
    now: Instant,
    columns: u16,
}

impl Scene {
    fn new(rows: u16, columns: u16) -> Self {
        let terminal = InMemoryTerm::new(rows, columns);
        let target = ProgressDrawTarget::term_like(Box::new(terminal.clone()));
        let size = Size { columns: columns.into(), rows: rows.into() };
        let output = Box::new(Typed(terminal.clone()));
        let screen = Screen::new(target, output, Box::new(move || size));
        Self { talk: Talk::new(screen), terminal, now: Instant::now(), columns }
    }

    fn hear(&mut self, event: Event) -> &mut Self {
        self.talk.hear(&event, self.now);
        self
    }

    /// Time passes, and the terminal is brought up to date.
    fn after(&mut self, seconds: f64) -> &mut Self {
        self.now += Duration::from_secs_f64(seconds);
        self.talk.tick(self.now);
        self
    }

    #[track_caller]
    fn shows(&mut self, lines: &[&str]) -> &mut Self {
        assert_eq!(self.terminal.contents(), lines.join("\n"));
        let columns = usize::from(self.columns);
        assert!(lines.iter().all(|line| width(line) <= columns), "{lines:#?}");
        self
    }

    /// What was written to the terminal since the last time: one entry a write or movement.
    fn written(&self) -> String {
        self.terminal.moves_since_last_check()
    }
}

/// Talk in a file.
fn in_file() -> (Talk, Memory) {
    let memory = Memory::default();
    let size = Size { columns: 80, rows: 24 };
    let screen =
        Screen::new(ProgressDrawTarget::hidden(), Box::new(memory.clone()), Box::new(move || size));
    (Talk::new(screen), memory)
}

fn ctid(name: &str) -> Ctid {
    Ctid::parse(name).unwrap()
}

fn batch(containers: usize) -> Event {
    Event::BatchStarted { containers, jobs: 4 }
}

fn began(container: &str) -> Event {
    Event::ContainerStarted { container: ctid(container) }
}

fn ended(container: &str, outcome: &'static str) -> Event {
    let (container, took) = (ctid(container), Duration::from_millis(12_300));
    Event::ContainerEnded { container, outcome, exit: u8::from(outcome == "failed") * 5, took }
}

fn step(container: &str, step: &str) -> Event {
    Event::StepStarted { container: Some(ctid(container)), step: step.to_owned() }
}

fn step_ended(container: &str, step: &str, outcome: &str) -> Event {
    Event::StepEnded {
        container: Some(ctid(container)),
        step: step.to_owned(),
        outcome: outcome.to_owned(),
        took: Duration::from_millis(1200),
    }
}

fn moved(name: &str, done: u64, total: Option<u64>) -> Event {
    Event::Progress { name: name.to_owned(), done, total }
}

#[test]
fn control_characters_do_not_reach_the_terminal() {
    assert_eq!(harmless("a\u{1b}[2Jb\r\n\tc"), "a\u{fffd}[2Jb\u{fffd}\n\tc");
}

#[test]
fn a_line_for_each_container_at_work_and_one_in_total() {
    let mut scene = Scene::new(24, 80);
    scene.hear(batch(12)).hear(began("201")).hear(began("1203")).hear(step("201", "driver"));
    scene.after(62.0).hear(step("1203", "passthrough")).after(3.0).shows(&[
        "201   driver       1:05",
        "1203  passthrough  0:03",
        "0 of 12 done, 2 at work, 1:05",
    ]);
    // Another container's events change nothing about this one.
    scene.hear(step_ended("1203", "passthrough", "changed: added 4 lines"));
    scene.hear(step("1203", "power")).hear(began("204")).after(1.0).shows(&[
        "201   driver   1:06",
        "1203  power    0:01",
        "204   at work  0:01",
        "0 of 12 done, 3 at work, 1:06",
    ]);
}

#[test]
fn a_container_that_ends_leaves_one_line_above() {
    let mut scene = Scene::new(24, 80);
    scene.hear(batch(4)).hear(began("201")).hear(began("202")).hear(began("203"));
    scene.hear(step("202", "driver")).after(0.2);
    scene.hear(step_ended("201", "driver", "changed: driver 580.76.05 installed"));
    scene.hear(ended("201", "done")).shows(&[
        "201 done, 12.3 s",
        "202  driver   0:00",
        "203  at work  0:00",
        "1 of 4 done, 2 at work, 0:00",
    ]);
    let text = "container 203: failed to install the driver: no space left\n  caused by: `/usr` has 0 B free\n  hint: enlarge it";
    scene.hear(step_ended("203", "driver", "failed: install the driver: no space left"));
    scene.hear(Event::Failed { text: text.to_owned() }).hear(ended("203", "failed"));
    scene.after(1.0).shows(&[
        "201 done, 12.3 s",
        "203 failed: install the driver: no space left",
        "  caused by: `/usr` has 0 B free",
        "  hint: enlarge it",
        "202  driver  0:01",
        "1 of 4 done, 1 failed, 1 at work, 0:01",
    ]);
    scene.hear(ended("202", "unchanged")).hear(ended("204", "skipped"));
    scene.talk.close();
    scene.shows(&[
        "201 done, 12.3 s",
        "203 failed: install the driver: no space left",
        "  caused by: `/usr` has 0 B free",
        "  hint: enlarge it",
        "202 unchanged, 12.3 s",
        "204 skipped",
    ]);
}

#[test]
fn a_failure_is_told_once_whatever_comes_first() {
    let mut scene = Scene::new(24, 80);
    scene.hear(batch(2)).hear(began("201"));
    scene.hear(ended("201", "failed"));
    scene.hear(Event::Failed { text: "container 201: failed to start it".to_owned() });
    scene.shows(&["201 failed, 12.3 s", "201 failed: start it", "0 of 2 done, 1 failed, 0:00"]);
}

#[test]
fn a_container_that_fails_before_it_begins_has_one_line() {
    let mut scene = Scene::new(24, 80);
    scene.hear(batch(3));
    scene.hear(Event::Failed { text: "container 201: failed to find it".to_owned() });
    scene.hear(ended("201", "failed"));
    scene.hear(Event::Failed { text: "container 202: failed to pass checks".to_owned() });
    scene.hear(ended("202", "differs")).hear(ended("203", "differs"));
    scene.shows(&[
        "201 failed: find it",
        "202 failed: pass checks",
        "203 differs, 12.3 s",
        "0 of 3 done, 1 failed, 2 differ, 0:00",
    ]);
}

#[test]
fn a_container_that_ends_without_having_begun_is_counted() {
    let mut scene = Scene::new(24, 80);
    scene.hear(batch(3)).hear(ended("201", "failed")).hear(ended("202", "skipped"));
    scene.hear(step_ended("203", "driver", "unchanged"));
    scene.shows(&["201 failed, 12.3 s", "202 skipped", "0 of 3 done, 1 failed, 1 skipped, 0:00"]);
}

#[test]
fn forty_columns_hold_every_line() {
    let mut scene = Scene::new(24, 40);
    scene.hear(batch(12)).hear(began("a-container-with-a-very-long-name"));
    scene.hear(step("a-container-with-a-very-long-name", "passthrough"));
    scene.hear(ended("202", "done")).hear(ended("203", "failed"));
    scene.hear(Event::Warning { text: "container 204: the packages are 40 days old".to_owned() });
    scene.hear(moved("NVIDIA-Linux-x86_64-580.76.05.run", 100 * MIB, Some(400 * MIB)));
    scene.after(1.0);
    scene.hear(moved("NVIDIA-Linux-x86_64-580.76.05.run", 120 * MIB, Some(400 * MIB)));
    scene.after(0.1).shows(&[
        "202 done, 12.3 s",
        "203 failed, 12.3 s",
        "warning: container 204: the packages are",
        "  40 days old",
        "a-containe...  passthrough  0:01",
        "NVIDIA-Linux... [#-----] 30 %, 0:16 left",
        "1 of 12 done, 1 failed, 1 at work, 0:01",
    ]);
}

#[test]
fn a_bar_has_rate_and_time_left_where_there_is_room() {
    let mut scene = Scene::new(24, 80);
    let name = "cuda-nvcc-12-8.deb";
    scene.hear(moved(name, 0, Some(100 * MIB))).after(2.0);
    scene.hear(moved(name, 25 * MIB, Some(100 * MIB))).after(0.1);
    scene.shows(&[
        "cuda-nvcc-12-8.deb [##---------] 25.00 MiB of 100.00 MiB, 11.90 MiB/s, 0:07 left",
    ]);
    // A file whose size is not known has no bar, and what is there in whole has no line.
    scene.hear(moved(name, 100 * MIB, Some(100 * MIB)));
    scene.hear(moved("InRelease", 4096, None)).after(0.1).shows(&["InRelease: 4.00 KiB"]);
    scene.hear(moved("Packages", 4096, None)).after(0.1).shows(&["Packages: 4.00 KiB"]);
    scene.after(41.0).shows(&[]);
}

#[test]
fn there_are_never_more_lines_than_the_terminal_has() {
    let mut scene = Scene::new(6, 80);
    scene.hear(batch(100));
    for number in 201..211 {
        scene.hear(began(&number.to_string()));
    }
    scene.hear(ended("300", "done"));
    scene.after(1.0).shows(&[
        "300 done, 12.3 s",
        "201  at work  0:01",
        "202  at work  0:01",
        "203  at work  0:01",
        "and 7 more",
        "1 of 100 done, 10 at work, 0:01",
    ]);
}

#[test]
fn three_rows_one_row_and_a_word_of_columns() {
    let fill = |scene: &mut Scene| {
        scene.hear(batch(5)).hear(began("201")).hear(began("202")).hear(ended("203", "done"));
        scene.after(1.0);
    };
    let mut scene = Scene::new(3, 80);
    fill(&mut scene);
    scene.shows(&["203 done, 12.3 s", "201  at work  0:01", "1 of 5 done, 2 at work, 0:01"]);
    // The terminal in memory cannot have one row.
    let mut board = Board::default();
    let now = Instant::now();
    for event in [batch(5), began("201"), began("202")] {
        board.hear(&event, now);
    }
    for rows in 0..3 {
        let lines = board.lines(Size { columns: 80, rows }, now);
        assert_eq!(lines, ["0 of 5 done, 2 at work, 0:00"], "{rows} rows");
    }
    let mut scene = Scene::new(24, 12);
    fill(&mut scene);
    scene.shows(&["203 done,", "  12.3 s", "201    0:01", "202    0:01", "1 of 5 done"]);
}

#[test]
fn steps_of_a_batch_stay_on_the_terminal_when_they_warn() {
    let mut scene = Scene::new(24, 80);
    scene.hear(batch(2)).hear(began("201")).hear(step("201", "checks"));
    scene.hear(step_ended("201", "checks", "warning: no driver answers"));
    scene.hear(Event::Note { text: "container 201: GPU 0 also with 202".to_owned() }).shows(&[
        "201 checks: warning: no driver answers (1.2 s)",
        "container 201: GPU 0 also with 202",
        "201  at work  0:00",
        "0 of 2 done, 1 at work, 0:00",
    ]);
}

#[test]
fn one_container_has_its_steps_and_no_total() {
    let mut scene = Scene::new(24, 80);
    scene.hear(step("201", "driver")).after(12.0).shows(&["201  driver  0:12"]);
    let unpack = "unpack NVIDIA-Linux-x86_64-580.76.05.run".to_owned();
    scene.hear(Event::StepStarted { container: None, step: unpack.clone() }).after(3.0);
    scene.shows(&["201  driver  0:15", "unpack NVIDIA-Linux-x86_64-580.76.05.run  0:03"]);
    let outcome = "204 files".to_owned();
    let took = Duration::from_secs(3);
    scene.hear(Event::StepEnded { container: None, step: unpack, outcome, took });
    scene.hear(step_ended("201", "driver", "changed: driver 580.76.05 installed")).shows(&[
        "unpack NVIDIA-Linux-x86_64-580.76.05.run: 204 files (3.0 s)",
        "201 driver: changed: driver 580.76.05 installed (1.2 s)",
    ]);
    // A verb that tells of no step's end looks at one container after the other.
    scene.hear(step("202", "look at it")).hear(step("203", "look at it")).after(0.1);
    let terminal = scene.terminal.contents();
    assert!(terminal.ends_with("\n203  look at it  0:00") && !terminal.contains("202"));
    scene.hear(Event::Failed { text: "container 203: failed to look at it".to_owned() });
    let terminal = scene.terminal.contents();
    assert!(terminal.ends_with("\nerror: container 203: failed to look at it"), "{terminal}");
}

#[test]
fn words_of_a_container_do_not_steer_the_terminal() {
    let mut scene = Scene::new(24, 80);
    scene.hear(batch(2)).hear(began("201")).hear(step("201", "a\u{1b}[2J\nb\r\tc"));
    scene.hear(Event::Warning { text: "x\u{1b}[31my\tz".to_owned() });
    // (The terminal in memory leaves U+FFFD out.)
    let written = scene.written();
    for line in ["\"warning: x\u{fffd}[31my    z\"", "\"201  a\u{fffd}[2J b\u{fffd} c  0:00\""] {
        assert!(written.contains(line), "{written}");
    }
    assert!(!written.contains("\\u{1b}") && !written.contains("\\r"), "{written}");
}

#[test]
fn nothing_is_written_where_nothing_changed_and_every_change_is_one_write() {
    let mut scene = Scene::new(24, 80);
    scene.hear(batch(2)).hear(began("201")).hear(step("201", "driver")).after(0.5);
    scene.written();
    for _ in 0..4 {
        scene.after(0.1);
    }
    assert_eq!(scene.written(), "");
    scene.after(0.2);
    assert_eq!(scene.written().matches("Flush").count(), 1);
    scene.hear(ended("201", "done"));
    let written = scene.written();
    assert_eq!(written.matches("Flush").count(), 1, "{written}");
    // No colour, and nothing else but text and movements.
    assert!(!written.contains("\\u{1b}"), "{written}");
}

#[test]
fn a_file_gets_sparse_lines_of_a_batch() {
    let (mut talk, file) = in_file();
    let start = Instant::now();
    let at = |seconds: u64| start + Duration::from_secs(seconds);
    talk.hear(&batch(3), at(0));
    for (second, event) in [
        (0, began("201")),
        (0, began("202")),
        (1, step("201", "facts")),
        (1, step_ended("201", "facts", "unchanged: running")),
        (2, step("202", "driver")),
        (2, step_ended("201", "passthrough", "changed: added 4 lines")),
        (3, step_ended("202", "packages", "skipped: none")),
        (4, step_ended("202", "checks", "failed: open a node")),
        (4, Event::Failed { text: "container 202: failed to open a node\n  hint: x".to_owned() }),
        (4, ended("202", "failed")),
        (5, Event::StepStarted { container: None, step: "unpack it".to_owned() }),
        (11, moved("x.run", 10 * MIB, Some(100 * MIB))),
        (12, moved("x.run", 20 * MIB, Some(100 * MIB))),
        (13, moved("x.run", 100 * MIB, Some(100 * MIB))),
        (14, ended("201", "done")),
    ] {
        talk.hear(&event, at(second));
    }
    for second in 15..40 {
        talk.tick(at(second));
    }
    talk.close();
    let expected = "\
201 passthrough: changed: added 4 lines (1.2 s)
202 checks: failed: open a node (1.2 s)
error: container 202: failed to open a node
  hint: x
202 failed, 12.3 s
x.run: 10.00 MiB of 100.00 MiB
201 done, 12.3 s
1 of 3 done, 1 failed, 0:21
1 of 3 done, 1 failed, 0:31
";
    assert_eq!(file.text(), expected);
    assert!(!file.text().contains(['\u{1b}', '\r']));
}

#[test]
fn a_file_gets_every_step_of_one_container() {
    let (mut talk, file) = in_file();
    let now = Instant::now();
    for event in [
        step("201", "facts"),
        step_ended("201", "facts", "unchanged: running"),
        step("201", "driver"),
        step_ended("201", "driver", "changed: driver 580.76.05 installed"),
        Event::Detail { text: "a line of the configuration".to_owned() },
    ] {
        talk.hear(&event, now);
        talk.tick(now);
    }
    talk.tick(now + Duration::from_secs(60));
    talk.close();
    let expected = "201 facts: unchanged: running (1.2 s)\n201 driver: changed: driver 580.76.05 installed (1.2 s)\n";
    assert_eq!(file.text(), expected);
}
