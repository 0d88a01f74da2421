//! How a container is driven: `pct` on Proxmox VE, the `lxc-*` tools elsewhere.
//!
//! Key types: [`Runtime`] and what it finds, [`Inside`] for a script run in a container.

mod lxc;
mod pct;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::answer::Answer;
use crate::container::config::{Dialect, LxcConfig};
use crate::ctid::Ctid;
use crate::error::{Error, Result};
use crate::host::Host;
use crate::host::files::Lock;
use crate::host::process::{Command, Ended, Finished};
use crate::host::runlog::RunLog;
use crate::host::running::{self, Running};
use crate::host::wait;

pub use lxc::PlainLxc;
pub use pct::Pct;

/// How long a container may take to stop, and again to start.
pub const STATE_LIMIT: Duration = Duration::from_secs(60);

/// How long the end of a stop may take, the post-stop hook's unmounting included
/// (`TimeoutStopSec` of `pve-container@.service`).
const SETTLE_LIMIT: Duration = Duration::from_secs(120);

/// Which runtime the user asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Choice {
    /// `pct` where it is installed, the `lxc-*` tools otherwise.
    #[default]
    Auto,
    /// Proxmox VE.
    Pct,
    /// Plain LXC.
    Lxc,
}

/// What can be done with `dev[n]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceEntries {
    /// There is no such thing: why.
    Unknown(String),
    /// They take effect when the container starts (Proxmox VE 8.1).
    AtStart,
    /// New ones also reach a running container (Proxmox VE 9).
    Running,
}

/// A way to drive containers, several of them at once.
pub trait Runtime: Sync {
    /// `pct` or `lxc`.
    fn name(&self) -> &'static str;

    /// How its configuration files are written.
    fn dialect(&self) -> Dialect;

    /// Every container of this node, in order.
    ///
    /// # Errors
    /// Host error when the directory of their configurations cannot be read.
    fn containers(&self) -> Result<Vec<Ctid>>;

    /// The configuration file of a container of this node.
    ///
    /// # Errors
    /// Not found, saying where it is instead; invalid input for a name it cannot have.
    fn locate(&self, ctid: &Ctid) -> Result<PathBuf>;

    /// Whether configurations can have `dev[n]`, and what becomes of a new one.
    fn device_entries(&self) -> DeviceEntries;

    /// The command that adds `dev[n]` entries, each a key and a value, to a running container;
    /// `digest` is the SHA-1 of the configuration that it is meant for.
    fn attach_command(&self, ctid: &Ctid, entries: &[(&str, &str)], digest: &str) -> Command;

    /// The lock that everybody who edits the configuration takes; `None` where there is none.
    ///
    /// # Errors
    /// Host error when it cannot be had within ten seconds.
    fn lock_configuration(&self, ctid: &Ctid) -> Result<Option<Lock>>;

    /// The command that starts the container.
    fn start_command(&self, ctid: &Ctid) -> Command;

    /// The command that shuts the container down, and kills it after [`STATE_LIMIT`].
    fn stop_command(&self, ctid: &Ctid) -> Command;

    /// The beginning of a command line that runs something inside.
    fn exec_prefix(&self, ctid: &Ctid) -> Command;

    /// The command that copies `file` to the path `to` inside, readable by root alone.
    ///
    /// # Errors
    /// When the file cannot be opened.
    fn push_command(&self, ctid: &Ctid, file: &Path, to: &str) -> Result<Command>;
}

/// The names that `ctid_of` takes for those of containers, in a directory; numbers by their size.
fn containers_in(
    directory: &Path,
    ctid_of: impl Fn(&std::fs::DirEntry) -> Option<Ctid>,
) -> Result<Vec<Ctid>> {
    let entries = std::fs::read_dir(directory).map_err(|error| {
        Error::host(format!("list the containers in `{}`", directory.display())).because(error)
    })?;
    let mut found: Vec<Ctid> = entries.flatten().filter_map(|entry| ctid_of(&entry)).collect();
    found.sort_by_key(|ctid| (ctid.as_str().parse().unwrap_or(u32::MAX), ctid.clone()));
    Ok(found)
}

/// The runtime that was asked for, or the one that is there.
///
/// # Errors
/// Host error when neither is installed.
pub fn choose<'a>(host: &'a Host, choice: Choice) -> Result<Box<dyn Runtime + 'a>> {
    let has_pct = host.paths.pct().exists();
    let has_lxc = host.paths.host_path("/usr/bin/lxc-start").exists();
    match choice {
        Choice::Pct if !has_pct => Err(Error::host("find `pct` on this machine")
            .hint("`--runtime lxc` drives plain LXC containers")),
        Choice::Lxc if !has_lxc => Err(Error::host("find `lxc-start` on this machine")),
        Choice::Auto if !has_pct && !has_lxc => {
            Err(Error::host("find Proxmox VE's `pct` or plain LXC's `lxc-start` on this machine"))
        }
        Choice::Pct => Ok(Box::new(Pct::new(host))),
        Choice::Auto if has_pct => Ok(Box::new(Pct::new(host))),
        Choice::Lxc | Choice::Auto => Ok(Box::new(PlainLxc::new(host))),
    }
}

/// One container, its runtime and its log: what most functions of the engine need.
pub struct Session<'a> {
    /// The machine.
    pub host: &'a Host,
    /// How the container is driven.
    pub runtime: &'a dyn Runtime,
    /// Which container.
    pub ctid: &'a Ctid,
    /// Where every command is written down.
    pub log: &'a RunLog,
}

impl fmt::Debug for Session<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("ctid", self.ctid).finish_non_exhaustive()
    }
}

/// Runs `timeout` with its arguments. It ends with the one process that it has begun, and what that
/// has begun in turn goes on where it ignores SIGTERM (coreutils `src/timeout.c`). All of them are in
/// the group that `timeout` makes: ten seconds later they are killed.
const WITHIN_TIME: &str = r#"
timeout "$@" &
group=$!
wait "$group"
status=$?
if [ "$status" -eq 124 ]; then
    for second in 1 2 3 4 5 6 7 8 9 10; do
        kill -s 0 -- "-$group" 2>/dev/null || break
        sleep 1
    done
    kill -s KILL -- "-$group" 2>/dev/null
fi
exit "$status"
"#;

/// A container that runs after it was to be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Started {
    /// Its first process, as this host numbers it.
    pub pid: u32,
    /// Who has started it.
    pub by: Starter,
}

/// Who has started a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Starter {
    /// The command that was run for it.
    Us,
    /// It ran already by then.
    SomebodyElse,
}

/// Whether a container's configuration can be written, and the container be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerState {
    /// Its first process, as this host numbers it.
    Running(u32),
    /// It starts, or the hook of its stop has not ended, which writes the configuration that it has
    /// read before.
    Changing,
    /// Nothing of it is left.
    Stopped,
}

/// After this long LXC is asked again, whatever the kernel's files show.
const ASK_AGAIN: Duration = Duration::from_secs(2);

/// Short waits that grow.
struct Rhythm {
    began: Instant,
    next: Duration,
}

impl Rhythm {
    fn new() -> Self {
        Self { began: Instant::now(), next: Duration::from_millis(10) }
    }

    /// From 10 ms to 200 ms; nothing interrupts it.
    fn pause(&mut self) {
        wait::pause(self.next);
        self.next = (self.next * 2).min(Duration::from_millis(200));
    }
}

/// A script to run inside a container, and its arguments.
#[derive(Debug)]
pub struct Inside {
    /// The text of the script, for `sh`.
    pub script: &'static str,
    /// `$1` and so on.
    pub arguments: Vec<String>,
    /// It is ended inside after this long.
    pub limit: Duration,
}

/// What a script inside a container did.
#[derive(Debug)]
pub struct Ran {
    /// How it ended.
    pub ended: Ended,
    /// What it answered.
    pub answer: Answer,
    /// Everything else it printed, standard error last.
    pub output: String,
}

impl Session<'_> {
    /// The first process of the container as this host numbers it; `None` when it is stopped.
    ///
    /// # Errors
    /// Host error when LXC does not tell.
    pub fn init_process(&self) -> Result<Option<u32>> {
        let command = Command::new("lxc-info", Duration::from_secs(10)).args([
            "-n",
            self.ctid.as_str(),
            "-p",
            "-H",
        ]);
        // Not in the log: it is asked many times while waiting.
        let finished = self.host.processes.run_regardless(command, &RunLog::none())?;
        let told = String::from_utf8_lossy(&finished.stdout).trim().to_owned();
        match (finished.ended, told.parse()) {
            (Ended::Exited(0), Ok(pid)) => Ok(Some(pid)),
            (Ended::Exited(0), Err(_)) if told.is_empty() => Ok(None),
            // Proxmox writes LXC's configuration at the first start.
            (Ended::Exited(1), _) if !self.is_known_to_lxc() => Ok(None),
            _ => Err(Error::host("ask LXC for the container's state")
                .because(finished.ended)
                .because(if told.is_empty() { finished.tail() } else { told })
                .on(self.ctid)),
        }
    }

    fn is_known_to_lxc(&self) -> bool {
        self.host.paths.lxc().join(self.ctid.as_str()).join("config").exists()
    }

    /// What the container does at this moment.
    ///
    /// # Errors
    /// Host error when that cannot be told.
    pub fn power_state(&self) -> Result<PowerState> {
        // In this order: what ends or begins in between is changing.
        if let Some(pid) = self.init_process()? {
            return Ok(PowerState::Running(pid));
        }
        Ok(match self.works_at()? {
            Some(_) => PowerState::Changing,
            None => PowerState::Stopped,
        })
    }

    fn works_at(&self) -> Result<Option<String>> {
        running::works_at(&self.host.paths, self.ctid).map_err(|error| {
            Error::host("look for the container's monitor").because(error).on(self.ctid)
        })
    }

    /// The first process of the container when it neither starts nor stops any more; `None` when it
    /// is stopped and the hook of its stop has ended.
    ///
    /// # Errors
    /// Restart error when that takes too long; host error when it cannot be told; the interruption.
    pub fn settled(&self) -> Result<Option<u32>> {
        self.settle(|| self.host.cancel.check())
    }

    fn settle(&self, may_go_on: impl Fn() -> Result<()>) -> Result<Option<u32>> {
        let mut rhythm = Rhythm::new();
        loop {
            match self.power_state()? {
                PowerState::Running(pid) => return Ok(Some(pid)),
                PowerState::Stopped => return Ok(None),
                PowerState::Changing if rhythm.began.elapsed() >= SETTLE_LIMIT => break,
                PowerState::Changing => {
                    may_go_on()?;
                    rhythm.pause();
                }
            }
        }
        let seconds = SETTLE_LIMIT.as_secs();
        let who = self.works_at()?.unwrap_or_else(|| "something".to_owned());
        Err(Error::restart(format!("see it started or stopped within {seconds} s"))
            .because(format!("{who} still works at it"))
            .hint("an unmount that hangs is the usual reason: is its storage reachable?")
            .on(self.ctid))
    }

    /// Runs a script inside, as root, with a clean environment and a time limit on both sides.
    ///
    /// # Errors
    /// Install error when the script did not even begin; the interruption error.
    pub fn run_inside(&self, inside: &Inside) -> Result<Ran> {
        let finished = self.host.processes.run(self.exec_command(inside), self.log)?;
        self.ran(finished)
    }

    /// The same for clean-up: it runs although the work was asked to stop.
    ///
    /// # Errors
    /// As [`Session::run_inside`].
    pub fn run_inside_regardless(&self, inside: &Inside) -> Result<Ran> {
        let finished = self.host.processes.run_regardless(self.exec_command(inside), self.log)?;
        self.ran(finished)
    }

    fn exec_command(&self, inside: &Inside) -> Command {
        let mut command = self
            .runtime
            .exec_prefix(self.ctid)
            .args([
                "env",
                "-i",
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            ])
            .args(["HOME=/root", "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive"])
            // The last one tells our processes from those of others, as long as they last.
            .args(["NEEDRESTART_SUSPEND=1", "TERM=dumb", "NVSTAGE_INSIDE=1"])
            .args(["sh", "-c", WITHIN_TIME, "nvstage", "-k", "10"])
            .args([&inside.limit.as_secs().to_string(), "sh", "-c", inside.script, "nvstage"])
            .args(inside.arguments.iter());
        // The inner limit does the work; the outer one is for a container that hangs.
        command.limit = inside.limit + Duration::from_secs(30);
        command
    }

    fn ran(&self, finished: Finished) -> Result<Ran> {
        let stdout = String::from_utf8_lossy(&finished.stdout);
        let answer = Answer::parse(&stdout);
        if !answer.has("begin") {
            return Err(Error::install("run a command inside the container")
                .because(finished.ended)
                .because(finished.tail())
                .hint(self.why_not_run(finished.ended))
                .on(self.ctid));
        }
        let is_talk = |line: &&str| !line.starts_with("@nvstage ");
        let mut output = stdout.lines().filter(is_talk).collect::<Vec<_>>().join("\n");
        output.push('\n');
        output.push_str(&String::from_utf8_lossy(&finished.stderr));
        Ok(Ran { ended: finished.ended, output, answer })
    }

    /// What to do where a script inside did not even begin.
    fn why_not_run(&self, ended: Ended) -> String {
        let tool = self.runtime.name();
        match (ended, self.init_process()) {
            (Ended::Signalled(_) | Ended::Cancelled, _) => {
                format!("`{tool}` was ended from outside: run the command again")
            }
            (Ended::TimedOut, _) => "it does not answer: is its storage reachable?".to_owned(),
            (Ended::Exited(_), Ok(None)) => {
                "the container is stopped: start it, and run the command again".to_owned()
            }
            (Ended::Exited(126 | 127), _) => {
                "it needs the programs `sh`, `env` and `timeout` inside".to_owned()
            }
            (Ended::Exited(_), _) => format!("`{tool}` itself failed, with the words above"),
        }
    }

    /// The command that enlarges the root file system, where the runtime has one.
    pub fn resize_command(&self, by: &str) -> Option<String> {
        let is_proxmox = self.runtime.dialect() == Dialect::Proxmox;
        is_proxmox.then(|| format!("pct resize {} rootfs {by}", self.ctid))
    }

    /// Starts the container and waits until its first process is there; returns its number.
    ///
    /// # Errors
    /// Restart error.
    pub fn start(&self) -> Result<u32> {
        self.start_or_find().map(|started| started.pid)
    }

    /// The same, telling whether somebody else came first.
    ///
    /// # Errors
    /// Restart error.
    pub fn start_or_find(&self) -> Result<Started> {
        self.host.cancel.check()?;
        self.started()
    }

    /// The same, although the work was asked to stop: a container that we have stopped is not
    /// left behind like that.
    ///
    /// # Errors
    /// Restart error.
    pub fn start_regardless(&self) -> Result<u32> {
        self.started().map(|started| started.pid)
    }

    fn started(&self) -> Result<Started> {
        let began = Instant::now();
        loop {
            // A start fails while the hook of a stop is at work. Where nobody can tell, it is tried.
            if let Ok(Some(pid)) = self.settle(|| Ok(())) {
                return Ok(Started { pid, by: Starter::SomebodyElse });
            }
            let command = self.runtime.start_command(self.ctid);
            let finished = self.host.processes.run_regardless(command, self.log)?;
            let by = match &finished.ended {
                Ended::Exited(0) => Starter::Us,
                // What a run that was killed has begun comes to its end by itself.
                Ended::Exited(_) if finished.tail().contains("already running") => {
                    Starter::SomebodyElse
                }
                _ if self.init_process()?.is_none() => {
                    return Err(self.state_error("start", &finished));
                }
                // The command was ended, or complains of something else than the start.
                _ => Starter::Us,
            };
            match self.seen_running(by)? {
                Some(pid) => return Ok(Started { pid, by }),
                None if began.elapsed() >= STATE_LIMIT => {
                    return Err(self.state_error("start", &finished));
                }
                None => {}
            }
        }
    }

    /// The first process of a container that was started; `None` when the one that was said to run
    /// already has come to its end instead. Proxmox VE calls one "running" as long as its monitor
    /// listens (`PVE::LXC::check_running`).
    fn seen_running(&self, by: Starter) -> Result<Option<u32>> {
        let mut rhythm = Rhythm::new();
        // A container under high availability is started by somebody else, later.
        while rhythm.began.elapsed() < STATE_LIMIT {
            // In this order: what ends in between is seen to have ended.
            let listens = Running::read(&self.host.paths).map_or(true, |all| all.has(self.ctid));
            if let Some(pid) = self.init_process()? {
                return Ok(Some(pid));
            }
            match by {
                Starter::SomebodyElse if !listens => return Ok(None),
                Starter::SomebodyElse => rhythm.pause(),
                Starter::Us => self.wait_for_its_socket(&mut rhythm),
            }
        }
        Err(Error::restart(format!("see it running within {} s", STATE_LIMIT.as_secs()))
            .on(self.ctid))
    }

    /// Waits until the container's monitor listens, which costs no process to see, or until it is
    /// time to ask LXC all the same. Nothing interrupts it.
    fn wait_for_its_socket(&self, rhythm: &mut Rhythm) {
        let asked = Instant::now();
        loop {
            rhythm.pause();
            // Where it cannot be seen, LXC is asked.
            let is_up = Running::read(&self.host.paths).map_or(true, |all| all.has(self.ctid));
            if is_up || asked.elapsed() >= ASK_AGAIN {
                return;
            }
        }
    }

    /// Shuts the container down and waits until it is gone.
    ///
    /// # Errors
    /// Restart error.
    pub fn stop(&self) -> Result<()> {
        let command = self.runtime.stop_command(self.ctid);
        let finished = self.host.processes.run(command, self.log)?;
        self.stopped(&finished)
    }

    /// The same for clean-up, although the work was asked to stop. A container that does not run
    /// is left alone.
    ///
    /// # Errors
    /// Restart error.
    pub fn stop_regardless(&self) -> Result<()> {
        if self.init_process()?.is_none() {
            return Ok(());
        }
        let command = self.runtime.stop_command(self.ctid);
        let finished = self.host.processes.run_regardless(command, self.log)?;
        self.stopped(&finished)
    }

    fn stopped(&self, finished: &Finished) -> Result<()> {
        // Somebody else may have stopped it at the same time.
        if !finished.succeeded() && self.init_process()?.is_some() {
            return Err(self.state_error("stop", finished));
        }
        if self.is_gone_within(STATE_LIMIT)? {
            return Ok(());
        }
        let what = format!("see it stopped within {} s", STATE_LIMIT.as_secs());
        Err(Error::restart(what).on(self.ctid))
    }

    /// Stops and starts a running container; returns its new first process. Where the stopping is
    /// interrupted or fails, a container that goes down all the same is started again: it is
    /// somebody's.
    ///
    /// # Errors
    /// Restart error, or the interruption.
    pub fn restart(&self) -> Result<u32> {
        if self.host.cancel.is_at_once() {
            return Err(Error::interrupted());
        }
        if let Err(error) = self.stop() {
            self.start_if_it_goes_down(&error)?;
            return Err(error);
        }
        self.start_regardless()
    }

    /// Waits as long as a shutdown takes that was begun, whatever became of the one who asked for it.
    fn start_if_it_goes_down(&self, why: &Error) -> Result<()> {
        // Where LXC does not answer, starting what runs does no harm.
        if self.is_gone_within(STATE_LIMIT).unwrap_or(true) {
            self.start_regardless().map_err(|error| error.because(why.what()))?;
        }
        Ok(())
    }

    /// Whether the container is stopped, or will be within this time; nothing interrupts it.
    ///
    /// # Errors
    /// Host error when LXC does not answer.
    pub fn is_gone_within(&self, limit: Duration) -> Result<bool> {
        let mut rhythm = Rhythm::new();
        while let Some(pid) = self.init_process()? {
            let left = limit.saturating_sub(rhythm.began.elapsed());
            if left.is_zero() {
                return Ok(false);
            }
            // Its first process is gone a little before LXC has cleaned up.
            if wait::process_ends(pid, left.min(ASK_AGAIN)) != wait::Process::Runs {
                rhythm.pause();
            }
        }
        Ok(true)
    }

    fn state_error(&self, verb: &str, finished: &Finished) -> Error {
        let ctid = self.ctid;
        if let Some(task) = self.task_at_work(finished.ended) {
            return Error::host(format!("{verb} the container: {task}"))
                .because(finished.ended)
                .because(finished.tail())
                .hint("wait until that task has ended, and run the command again")
                .on(ctid);
        }
        Error::restart(format!("{verb} the container"))
            .because(finished.ended)
            .because(finished.tail())
            .hint(match (self.runtime.dialect(), verb) {
                (Dialect::Proxmox, "start") => {
                    format!("`pct start {ctid} --debug 1` shows the reason")
                }
                (Dialect::Lxc, "start") => format!("`lxc-start -F -n {ctid}` shows the reason"),
                _ => "stop it by hand, and run the command again".to_owned(),
            })
            .on(ctid)
    }

    /// What keeps Proxmox from starting or stopping the container: a backup, a snapshot.
    fn task_at_work(&self, ended: Ended) -> Option<String> {
        if self.runtime.dialect() != Dialect::Proxmox {
            return None;
        }
        let text = std::fs::read(self.runtime.locate(self.ctid).ok()?).ok()?;
        match LxcConfig::parse(&text, Dialect::Proxmox).lock() {
            Some(lock) => Some(format!("Proxmox has locked it ({lock})")),
            // `pct` has waited for the lock on the file (PVE::Tools, `lock_file`: EINTR, but 255 where
            // a task of its own has waited).
            None if ended == Ended::Exited(4) || self.is_lock_held() => {
                Some("another task holds its lock".to_owned())
            }
            None => None,
        }
    }

    fn is_lock_held(&self) -> bool {
        let path = self.host.paths.pve_config_lock(self.ctid.as_str());
        path.exists() && Lock::try_exclusive(&path).is_ok_and(|lock| lock.is_none())
    }

    /// Copies a file into the container. Its success proves nothing: `pct push` exits 0 when it
    /// failed; the caller checks size and digest inside.
    ///
    /// # Errors
    /// Install error when the copy did not even start.
    pub fn push(&self, file: &Path, to: &str) -> Result<()> {
        let command = self.runtime.push_command(self.ctid, file, to)?;
        let finished = self.host.processes.run(command, self.log)?;
        if finished.succeeded() {
            return Ok(());
        }
        Err(Error::install(format!("copy `{}` into the container", file.display()))
            .because(finished.ended)
            .because(finished.tail())
            .on(self.ctid))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::host::cancel::Cancel;
    use crate::host::paths::Paths;
    use crate::host::process::Processes;

    /// A container that is seen running so many times more once it was asked to stop.
    struct Guest {
        stop: Option<Ended>,
        state: Mutex<State>,
    }

    #[derive(Default)]
    struct State {
        looks: u32,
        calls: Vec<String>,
    }

    impl Processes for &'static Guest {
        fn run(&self, command: Command, log: &RunLog) -> Result<Finished> {
            if self.stop.is_none() {
                self.state.lock().unwrap().calls.push("stop".to_owned());
                return Err(Error::interrupted());
            }
            self.run_regardless(command, log)
        }

        fn run_regardless(&self, command: Command, _: &RunLog) -> Result<Finished> {
            let mut state = self.state.lock().unwrap();
            let (mut ended, mut stdout) = (Ended::Exited(0), Vec::new());
            match command.program.to_str().unwrap() {
                "lxc-info" if state.calls.len() > 1 => stdout = b"4194305".to_vec(),
                "lxc-info" if state.looks > 0 => {
                    state.looks -= 1;
                    stdout = b"4194304".to_vec();
                }
                "lxc-info" => {}
                "lxc-stop" => {
                    state.calls.push("stop".to_owned());
                    ended = self.stop.unwrap();
                }
                other => state.calls.push(other.to_owned()),
            }
            Ok(Finished { ended, stdout, stderr: Vec::new(), took: Duration::ZERO })
        }
    }

    /// What a restart comes to, and the calls it has made.
    fn restart(stop: Option<Ended>, cancel: &Cancel) -> (Result<u32>, Vec<String>) {
        let state = Mutex::new(State { looks: 4, calls: Vec::new() });
        let guest: &Guest = Box::leak(Box::new(Guest { stop, state }));
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("proc")).unwrap();
        let host = Host {
            paths: Paths::below(root.path()),
            processes: Box::new(guest),
            cancel: cancel.clone(),
        };
        let (runtime, ctid) = (PlainLxc::new(&host), Ctid::parse("guest").unwrap());
        let log = RunLog::none();
        let session = Session { host: &host, runtime: &runtime, ctid: &ctid, log: &log };
        let result = session.restart();
        let calls = guest.state.lock().unwrap().calls.clone();
        (result, calls)
    }

    #[test]
    fn a_container_that_goes_down_although_the_stopping_failed_is_started_again() {
        let never = Cancel::never().unwrap();
        for stop in [Ended::Signalled(9), Ended::TimedOut, Ended::Exited(255)] {
            let (result, calls) = restart(Some(stop), &never);
            let error = result.unwrap_err();
            assert_eq!(error.code(), crate::error::ExitCode::Restart);
            assert_eq!(calls, ["stop", "lxc-start"], "{stop}");
        }
        let (result, calls) = restart(None, &never);
        assert!(result.unwrap_err().is_interrupted());
        assert_eq!(calls, ["stop", "lxc-start"]);
    }

    #[test]
    fn a_container_is_not_stopped_after_a_request_to_end_at_once() {
        let cancel = Cancel::never().unwrap();
        cancel.ask(crate::host::cancel::Urgency::AtOnce);
        let (result, calls) = restart(Some(Ended::Exited(0)), &cancel);
        assert!(result.unwrap_err().is_interrupted());
        assert!(calls.is_empty(), "{calls:?}");
    }

    #[test]
    fn a_container_is_stopped_and_started() {
        let (result, calls) = restart(Some(Ended::Exited(0)), &Cancel::never().unwrap());
        assert_eq!(result.unwrap(), 4_194_305);
        assert_eq!(calls, ["stop", "lxc-start"]);
    }
}
