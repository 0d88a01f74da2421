//! Children: a clean environment, a process group of their own, no standard input, a time limit.
//!
//! A command inside a container ends with its caller's process group, not with its caller, and
//! `timeout` inside makes yet another group. So ending a child means: its group, and every
//! descendant found in `/proc`, first SIGTERM, then SIGKILL to those that are left, also where the
//! child itself has ended by then.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::cancel::Cancel;
use super::runlog::RunLog;
use super::sys::{pidfd_open, pidfd_send_signal};
use crate::error::{Error, Result};
use crate::shell::quoted;

/// Output kept of one stream; what comes before it is dropped.
const KEPT: usize = 4 << 20;
/// Output read of one stream before the time limit is looked at again: more than a pipe holds.
const PORTION: usize = 2 << 20;
/// Between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(5);

/// What to run. Nothing of the caller's environment reaches it.
#[derive(Debug)]
pub struct Command {
    /// The program: a path, or a name looked up in [`SEARCH_PATH`].
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// A file as its standard input; empty otherwise.
    pub input: Option<File>,
    /// After this long it is ended.
    pub limit: Duration,
}

/// PATH of every child on the host.
pub const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

impl Command {
    /// A command with a time limit.
    pub fn new(program: impl Into<PathBuf>, limit: Duration) -> Self {
        Self { program: program.into(), arguments: Vec::new(), input: None, limit }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<T: Into<String>>(mut self, arguments: impl IntoIterator<Item = T>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }
}

impl fmt::Display for Command {
    /// The command line as a shell would take it; long arguments (scripts) are shortened.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shown(&self.program.to_string_lossy()))?;
        self.arguments.iter().try_for_each(|argument| write!(f, " {}", shown(argument)))
    }
}

fn shown(text: &str) -> String {
    if text.contains('\n') {
        let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
        return format!("'{} …'", first.trim_start_matches(['#', ' ']).replace('\'', ""));
    }
    quoted(text)
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with this status.
    Exited(i32),
    /// By a signal that was not ours.
    Signalled(i32),
    /// It took too long and was ended.
    TimedOut,
    /// The work was to stop at once, and it was ended.
    Cancelled,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(status) => write!(f, "exited with status {status}"),
            Self::Signalled(signal) => write!(f, "killed by signal {signal}"),
            Self::TimedOut => f.write_str("ended because it took too long"),
            Self::Cancelled => f.write_str("ended because the work was interrupted"),
        }
    }
}

/// A command that ended.
#[derive(Debug)]
pub struct Finished {
    /// How.
    pub ended: Ended,
    /// The end of its standard output, at most 4 MiB.
    pub stdout: Vec<u8>,
    /// The end of its standard error, at most 4 MiB.
    pub stderr: Vec<u8>,
    /// How long it ran.
    pub took: Duration,
}

impl Finished {
    /// Whether it exited with status 0.
    pub fn succeeded(&self) -> bool {
        self.ended == Ended::Exited(0)
    }

    /// The last lines of what it said, for an error message: standard error, or where that is
    /// empty standard output (worker tasks of `pct` report there).
    pub fn tail(&self) -> String {
        let last = |bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes);
            let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
            lines[lines.len().saturating_sub(5)..].join("\n")
        };
        let stderr = last(&self.stderr);
        if stderr.is_empty() { last(&self.stdout) } else { stderr }
    }
}

/// The way processes are run; replaced in unit tests.
pub trait Processes: Sync {
    /// Runs a command to its end, whatever that is, and writes it to the log.
    ///
    /// # Errors
    /// Host error when it cannot be started at all, the interruption error when the work is to
    /// stop at once. Asked merely to finish, it runs to its end.
    fn run(&self, command: Command, log: &RunLog) -> Result<Finished>;

    /// The same for clean-up: it runs although the work was asked to stop.
    ///
    /// # Errors
    /// Host error when it cannot be started at all.
    fn run_regardless(&self, command: Command, log: &RunLog) -> Result<Finished>;
}

/// Real processes.
#[derive(Debug)]
pub struct Live {
    cancel: Cancel,
    never: Cancel,
}

impl Live {
    /// Processes that end when `cancel` is to stop at once.
    ///
    /// # Errors
    /// When no pipe can be made.
    pub fn new(cancel: Cancel) -> io::Result<Self> {
        Ok(Self { cancel, never: Cancel::never()? })
    }
}

impl Processes for Live {
    fn run(&self, command: Command, log: &RunLog) -> Result<Finished> {
        if self.cancel.is_at_once() {
            return Err(Error::interrupted());
        }
        let finished = run(command, log, &self.cancel)?;
        if finished.ended == Ended::Cancelled { Err(Error::interrupted()) } else { Ok(finished) }
    }

    fn run_regardless(&self, command: Command, log: &RunLog) -> Result<Finished> {
        run(command, log, &self.never)
    }
}

fn run(mut command: Command, log: &RunLog, cancel: &Cancel) -> Result<Finished> {
    let started = Instant::now();
    let stdin = command.input.take().map_or_else(Stdio::null, Stdio::from);
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    let child = std::process::Command::new(&command.program)
        .args(&command.arguments)
        .env_clear()
        .env("PATH", SEARCH_PATH)
        // pct decodes its arguments by the locale and mangles what is not ASCII under C.
        .env("LC_ALL", "C.UTF-8")
        .env("HOME", "/root")
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn();
    let finished = child.and_then(|child| watch(child, command.limit, cancel));
    let (ended, stdout, stderr) = finished.map_err(|error| {
        Error::host(format!("run `{}`", command.program.display())).because(error)
    })?;
    let finished = Finished { ended, stdout, stderr, took: started.elapsed() };
    log.command(&command, &finished);
    Ok(finished)
}

type Watched = (Ended, Vec<u8>, Vec<u8>);

/// A child that cannot be watched is not left behind.
fn watch(mut child: Child, limit: Duration, cancel: &Cancel) -> io::Result<Watched> {
    let watched = watch_to_the_end(&mut child, limit, cancel);
    if watched.is_err() {
        Ending::begin(group_of(&child), Ended::Cancelled).kill();
        // Reaping an ended child does nothing to one that was reaped before.
        let _ = child.wait();
    }
    watched
}

fn group_of(child: &Child) -> Pid {
    Pid::from_raw(child.id() as i32)
}

fn watch_to_the_end(child: &mut Child, limit: Duration, cancel: &Cancel) -> io::Result<Watched> {
    let ended = pidfd_open(child.id())?;
    let mut stdout = Stream::of(child.stdout.take().map(OwnedFd::from))?;
    let mut stderr = Stream::of(child.stderr.take().map(OwnedFd::from))?;
    let mut deadline = Instant::now() + limit;
    let mut ending: Option<Ending> = None;
    loop {
        let mut descriptors = vec![PollFd::new(ended.as_fd(), PollFlags::POLLIN)];
        if ending.is_none() {
            descriptors.push(PollFd::new(cancel.at_once_fd(), PollFlags::POLLIN));
        }
        for pipe in [&stdout, &stderr].into_iter().filter_map(|stream| stream.pipe.as_ref()) {
            descriptors.push(PollFd::new(pipe.as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut descriptors, until(deadline)) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let is_over = descriptors[0].any().unwrap_or(false);
        let is_cancelled = ending.is_none() && cancel.is_at_once();
        drop(descriptors);
        stdout.take_what_is_there();
        stderr.take_what_is_there();
        if is_over {
            // Not reaped yet: until then its number, which is its group's too, is nobody else's.
            if let Some(ending) = &mut ending {
                ending.finish(deadline);
            }
            let status = child.wait()?;
            let ended = ending.map_or_else(|| how(status), |ending| ending.why);
            return Ok((ended, stdout.bytes(), stderr.bytes()));
        }
        let is_late = Instant::now() >= deadline;
        if let Some(ending) = ending.as_mut().filter(|_| is_late) {
            ending.kill();
            deadline = Instant::now() + GRACE;
        } else if is_cancelled || (is_late && ending.is_none()) {
            let why = if is_cancelled { Ended::Cancelled } else { Ended::TimedOut };
            ending = Some(Ending::begin(group_of(child), why));
            deadline = Instant::now() + GRACE;
        }
    }
}

/// What is left until then, rounded up: a remainder below a millisecond must not spin.
fn until(deadline: Instant) -> PollTimeout {
    let left = deadline.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
    PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
}

fn how(status: ExitStatus) -> Ended {
    match (status.code(), status.signal()) {
        (Some(code), _) => Ended::Exited(code),
        (None, signal) => Ended::Signalled(signal.unwrap_or_default()),
    }
}

/// A child that is being ended, with all that was below it when it got its SIGTERM.
struct Ending {
    why: Ended,
    group: Pid,
    below: Vec<Descendant>,
}

impl Ending {
    /// Asks all of them to end. The descendants come first: once their parent is gone they can no
    /// longer be found.
    fn begin(group: Pid, why: Ended) -> Self {
        let mut ending = Self { why, group, below: Vec::new() };
        ending.signal(Signal::SIGTERM);
        ending
    }

    /// Kills those that are left.
    fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
    }

    /// After the child's end: waits for the others until `deadline`, and kills those that are left.
    fn finish(&mut self, deadline: Instant) {
        self.wait(deadline);
        self.kill();
        self.wait(Instant::now() + GRACE);
    }

    fn signal(&mut self, signal: Signal) {
        self.look();
        for descendant in &self.below {
            // A process that is gone already is what we want.
            let _ = pidfd_send_signal(&descendant.handle, signal as i32);
        }
        let _ = killpg(self.group, signal);
    }

    /// Adds what has come to be below any of them.
    fn look(&mut self) {
        let mut roots = vec![self.group.as_raw()];
        roots.extend(self.below.iter().filter(|known| !known.is_gone()).map(|known| known.pid));
        for pid in descendants(&roots) {
            if self.below.iter().all(|known| known.pid != pid || known.is_gone())
                && let Some(descendant) = Descendant::of(pid)
            {
                self.below.push(descendant);
            }
        }
    }

    fn wait(&self, deadline: Instant) {
        loop {
            let left: Vec<&Descendant> =
                self.below.iter().filter(|descendant| !descendant.is_gone()).collect();
            let Some(first) = left.first() else { return };
            if Instant::now() >= deadline {
                return;
            }
            let mut watched = [PollFd::new(first.handle.as_fd(), PollFlags::POLLIN)];
            let _ = poll(&mut watched, until(deadline));
        }
    }
}

/// A process held by a descriptor: its number may become another one's, the descriptor does not.
struct Descendant {
    pid: i32,
    handle: OwnedFd,
}

impl Descendant {
    fn of(pid: i32) -> Option<Self> {
        let handle = pidfd_open(u32::try_from(pid).ok()?).ok()?;
        Some(Self { pid, handle })
    }

    fn is_gone(&self) -> bool {
        let mut watched = [PollFd::new(self.handle.as_fd(), PollFlags::POLLIN)];
        matches!(poll(&mut watched, PollTimeout::ZERO), Ok(1..))
    }
}

/// Every process below `ancestors` in the tree, by the parent in `/proc/<pid>/stat`.
fn descendants(ancestors: &[i32]) -> Vec<i32> {
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok());
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // "pid (name) state ppid …"; the name may hold blanks and parentheses.
        let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1));
        if let (Some(pid), Some(parent)) = (pid, parent.and_then(|text| text.parse().ok())) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = Vec::new();
    let mut open = ancestors.to_vec();
    while let Some(pid) = open.pop() {
        for child in children.remove(&pid).unwrap_or_default() {
            found.push(child);
            open.push(child);
        }
    }
    found
}

/// One output pipe, read without waiting: a child left behind in the container may hold it open
/// long after the command has ended.
struct Stream {
    pipe: Option<File>,
    kept: VecDeque<u8>,
}

impl Stream {
    fn of(pipe: Option<OwnedFd>) -> io::Result<Self> {
        if let Some(pipe) = &pipe {
            fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        }
        Ok(Self { pipe: pipe.map(File::from), kept: VecDeque::new() })
    }

    /// Takes what is there, up to [`PORTION`]: somebody who writes faster than this reads must not
    /// keep the time limit from being looked at.
    fn take_what_is_there(&mut self) {
        let mut buffer = vec![0; 64 << 10];
        let mut taken = 0;
        while let Some(pipe) = self.pipe.as_mut().filter(|_| taken < PORTION) {
            match pipe.read(&mut buffer) {
                Ok(0) => self.pipe = None,
                Ok(count) => {
                    self.kept.extend(&buffer[..count]);
                    taken += count;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => self.pipe = None,
            }
            let surplus = self.kept.len().saturating_sub(KEPT);
            self.kept.drain(..surplus);
        }
    }

    fn bytes(self) -> Vec<u8> {
        self.kept.into()
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::kill;

    use super::*;
    use crate::host::cancel::Urgency;

    fn shell(script: &str, limit: Duration) -> Command {
        Command::new("/bin/sh", limit).args(["-c", script])
    }

    fn live() -> Live {
        Live::new(Cancel::never().unwrap()).unwrap()
    }

    #[test]
    fn output_and_status_are_kept_apart() {
        let script = "echo out; echo err >&2; exit 3";
        let finished = live().run(shell(script, GRACE), &RunLog::none()).unwrap();
        assert_eq!(finished.ended, Ended::Exited(3));
        assert_eq!((&*finished.stdout, &*finished.stderr), (&b"out\n"[..], &b"err\n"[..]));
    }

    #[test]
    fn the_callers_environment_stays_outside() {
        let finished = live().run(shell("env", GRACE), &RunLog::none()).unwrap();
        let text = String::from_utf8(finished.stdout).unwrap();
        assert!(text.contains("LC_ALL=C.UTF-8") && !text.contains("CARGO"), "{text}");
    }

    #[test]
    fn a_time_limit_reaches_a_grandchild_in_another_group() {
        // `timeout` makes a group of its own, as it does inside a container.
        let script = "timeout 60 sh -c 'echo $$; sleep 60; true'; true";
        let limit = Duration::from_millis(300);
        let finished = live().run(shell(script, limit), &RunLog::none()).unwrap();
        assert_eq!(finished.ended, Ended::TimedOut);
        is_gone(&finished);
    }

    /// The process that the output names ends soon. (A zombie that nobody reaps is as good.)
    #[track_caller]
    fn is_gone(finished: &Finished) {
        let text = String::from_utf8_lossy(&finished.stdout);
        let pid: i32 = text.trim().parse().unwrap();
        let gone = (0..50).any(|_| {
            let _ = poll(&mut [], 20u16);
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            kill(Pid::from_raw(pid), None).is_err() || stat.contains(") Z ")
        });
        assert!(gone, "process {pid} is still there");
    }

    #[test]
    fn a_grandchild_that_ignores_sigterm_does_not_outlive_the_child() {
        // In a group of its own, too, and below nobody once the child is gone.
        let script = "setsid sh -c 'trap \"\" TERM; echo $$; while :; do sleep 1; done' & wait";
        let limit = Duration::from_millis(300);
        let began = Instant::now();
        let finished = live().run(shell(script, limit), &RunLog::none()).unwrap();
        assert_eq!(finished.ended, Ended::TimedOut);
        assert!(began.elapsed() >= GRACE, "it had no time to end by itself");
        is_gone(&finished);
    }

    #[test]
    fn a_child_that_ends_at_sigterm_with_all_below_it_is_not_waited_for() {
        let began = Instant::now();
        let script = "sleep 60 & sleep 60";
        live().run(shell(script, Duration::from_millis(100)), &RunLog::none()).unwrap();
        assert!(began.elapsed() < Duration::from_secs(3));
    }

    #[test]
    fn a_child_that_floods_its_output_is_ended_in_time() {
        let began = Instant::now();
        let script = "cat /dev/zero & cat /dev/zero >&2";
        let limit = Duration::from_millis(300);
        let finished = live().run(shell(script, limit), &RunLog::none()).unwrap();
        assert_eq!(finished.ended, Ended::TimedOut);
        assert_eq!(finished.stdout.len(), KEPT);
        assert!(began.elapsed() < GRACE, "{:?}", began.elapsed());
    }

    #[test]
    fn no_more_than_a_portion_is_read_at_once() {
        let mut stream = Stream { pipe: File::open("/dev/zero").ok(), kept: VecDeque::new() };
        stream.take_what_is_there();
        assert_eq!(stream.kept.len(), PORTION);
    }

    #[test]
    fn a_child_left_behind_with_the_pipe_does_not_hold_us() {
        let started = Instant::now();
        let finished = live().run(shell("sleep 20 & echo done", GRACE), &RunLog::none()).unwrap();
        assert_eq!(finished.stdout, b"done\n");
        assert!(started.elapsed() < Duration::from_secs(4));
    }

    #[test]
    fn a_command_is_finished_when_the_work_is_asked_to_stop_and_ended_when_at_once() {
        let cancel = Cancel::never().unwrap();
        cancel.ask(Urgency::Finish);
        let live = Live::new(cancel.clone()).unwrap();
        let finished = live.run(shell("echo done", GRACE), &RunLog::none()).unwrap();
        assert_eq!(finished.stdout, b"done\n");
        cancel.ask(Urgency::AtOnce);
        let error = live.run(shell("echo done", GRACE), &RunLog::none()).unwrap_err();
        assert!(error.is_interrupted(), "{error}");
        let finished = live.run_regardless(shell("echo done", GRACE), &RunLog::none()).unwrap();
        assert_eq!(finished.stdout, b"done\n");
    }

    #[test]
    fn a_command_line_is_shown_as_a_shell_takes_it() {
        let command = Command::new("pct", GRACE).args(["exec", "201", "a b", "it's"]);
        assert_eq!(command.to_string(), r"pct exec 201 'a b' 'it'\''s'");
    }

    #[test]
    fn a_program_that_is_not_there_is_a_host_error() {
        let error = live().run(Command::new("/nosuch", GRACE), &RunLog::none()).unwrap_err();
        assert_eq!(error.code(), crate::error::ExitCode::Host);
    }
}
