//! Children: a clean environment, a process group of their own, no standard input, a time limit.
//!
//! A command inside a container ends with its caller's process group, not with its caller, and
//! `timeout` inside makes yet another group. So ending a child means: its group, and every
//! descendant found in `/proc`, first SIGTERM, then SIGKILL.

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
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use super::cancel::Cancel;
use super::runlog::RunLog;
use super::sys::pidfd_open;
use crate::error::{Error, Result};
use crate::shell::quoted;

/// Output kept of one stream; what comes before it is dropped.
const KEPT: usize = 4 << 20;
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

fn watch(mut child: Child, limit: Duration, cancel: &Cancel) -> io::Result<Watched> {
    let group = Pid::from_raw(child.id() as i32);
    let ended = pidfd_open(child.id())?;
    let mut stdout = Stream::of(child.stdout.take().map(OwnedFd::from))?;
    let mut stderr = Stream::of(child.stderr.take().map(OwnedFd::from))?;
    let mut deadline = Instant::now() + limit;
    let mut ending: Option<Ended> = None;
    loop {
        let mut descriptors = vec![PollFd::new(ended.as_fd(), PollFlags::POLLIN)];
        if ending.is_none() {
            descriptors.push(PollFd::new(cancel.at_once_fd(), PollFlags::POLLIN));
        }
        for pipe in [&stdout, &stderr].into_iter().filter_map(|stream| stream.pipe.as_ref()) {
            descriptors.push(PollFd::new(pipe.as_fd(), PollFlags::POLLIN));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        // Rounded up: a remainder below a millisecond must not spin.
        let left = left + Duration::from_millis(1);
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut descriptors, timeout) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let is_over = descriptors[0].any().unwrap_or(false);
        let is_cancelled = ending.is_none() && cancel.is_at_once();
        drop(descriptors);
        stdout.take_what_is_there();
        stderr.take_what_is_there();
        if is_over {
            let status = child.wait()?;
            if ending.is_some() {
                end(group, &[], Signal::SIGKILL);
            }
            return Ok((ending.unwrap_or_else(|| how(status)), stdout.bytes(), stderr.bytes()));
        }
        let is_late = Instant::now() >= deadline;
        if is_cancelled || (is_late && ending.is_none()) {
            ending = Some(if is_cancelled { Ended::Cancelled } else { Ended::TimedOut });
            end(group, &descendants(group), Signal::SIGTERM);
            deadline = Instant::now() + GRACE;
        } else if is_late {
            end(group, &descendants(group), Signal::SIGKILL);
            deadline = Instant::now() + GRACE;
        }
    }
}

fn how(status: ExitStatus) -> Ended {
    match (status.code(), status.signal()) {
        (Some(code), _) => Ended::Exited(code),
        (None, signal) => Ended::Signalled(signal.unwrap_or_default()),
    }
}

/// Signals the descendants first: once their parent is gone they can no longer be found.
fn end(group: Pid, descendants: &[Pid], signal: Signal) {
    for &pid in descendants {
        // A process that is gone already is what we want.
        let _ = kill(pid, signal);
    }
    let _ = killpg(group, signal);
}

/// Every process below `ancestor` in the tree, by the parent in `/proc/<pid>/stat`.
fn descendants(ancestor: Pid) -> Vec<Pid> {
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
    let mut open = vec![ancestor.as_raw()];
    while let Some(pid) = open.pop() {
        for &child in children.get(&pid).into_iter().flatten() {
            found.push(Pid::from_raw(child));
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

    fn take_what_is_there(&mut self) {
        let mut buffer = vec![0; 64 << 10];
        while let Some(pipe) = &mut self.pipe {
            match pipe.read(&mut buffer) {
                Ok(0) => self.pipe = None,
                Ok(count) => self.kept.extend(&buffer[..count]),
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
        let pid: i32 = String::from_utf8(finished.stdout).unwrap().trim().parse().unwrap();
        let gone = (0..50).any(|_| {
            let _ = poll(&mut [], 20u16);
            kill(Pid::from_raw(pid), None).is_err()
        });
        assert!(gone, "process {pid} is still there");
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
