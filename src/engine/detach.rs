//! The way back: device lines taken out, what they replaced put back; and with it, if asked for, the
//! driver's userland and the packages.
//!
//! Order of events: purge and uninstall inside while the container still runs as it is; edit the
//! configuration; restart. Lines that somebody has edited since are theirs and stay.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::answer::Answer;
use crate::apt;
use crate::apt::diagnosis;
use crate::container::passthrough::{self, DeviceNode, Edit, OwnLine};
use crate::container::shared;
use crate::engine::before::{self, Before};
use crate::engine::configure::{self, Applied, Change};
use crate::engine::dpkg;
use crate::engine::existing_sources::{self, Back};
use crate::engine::journal;
use crate::engine::pending::{self, OnRestart};
use crate::engine::steps::Steps;
use crate::engine::survey::{self, Configuration, Look, OwnFiles};
use crate::engine::tenant::{self, Images};
use crate::engine::unfinished;
use crate::error::{Error, ExitCode, Result};
use crate::event::Events;
use crate::host::paths::Paths;
use crate::host::rootfs::ContainerRoot;
use crate::host::{devices, files};
use crate::journal::{Journal, Power, State, Unfinished, UnfinishedWork};
use crate::remedy;
use crate::report::{ContainerReport, Outcome, Step};
use crate::runfile::options;
use crate::runtime::{Inside, Session};

const UNINSTALL: &str = concat!(include_str!("../prelude.sh"), include_str!("uninstall.sh"));
const PURGE: &str = concat!(include_str!("../prelude.sh"), include_str!("purge.sh"));

/// The uninstaller's log lies beside it.
const LOG: &str = "/var/log/nvstage-nvidia-installer.log";
/// Removing takes seconds, purging packages minutes.
const LIMIT: Duration = Duration::from_secs(1800);

/// What is taken out beside the device lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Removal {
    /// Nothing.
    Devices,
    /// The driver's userland.
    Driver,
    /// That, the packages that were installed for it, and apt's key, source and pins.
    Everything,
}

impl Removal {
    fn work(self) -> UnfinishedWork {
        match self {
            Self::Devices => UnfinishedWork::Detach,
            Self::Driver => UnfinishedWork::Uninstall,
            Self::Everything => UnfinishedWork::Purge,
        }
    }

    /// What is not finished after all of this is done: a driver that was half-written stays so where
    /// it is not taken out.
    fn leaves(self, before: Option<&Unfinished>) -> Option<Unfinished> {
        let half_written = before.filter(|_| self == Self::Devices);
        let half_written = half_written.filter(|unfinished| unfinished.driver.is_some());
        half_written.map(|before| Unfinished::new(UnfinishedWork::Uninstall).after(Some(before)))
    }
}

/// How it is to be done.
#[derive(Debug, Clone, Copy)]
pub struct Manner {
    /// What is taken out beside the device lines.
    pub removal: Removal,
    /// What becomes of a running container that needs a restart.
    pub on_restart: OnRestart,
}

/// Works on one container. The report holds the error, if there was one; of a container whose restart
/// is left pending it says [`ExitCode::Differs`].
pub fn run<'a>(
    session: &'a Session<'a>,
    events: &'a dyn Events,
    manner: Manner,
) -> ContainerReport {
    let steps = Steps::new(session, events);
    let mut work = Work { session, steps, on_restart: manner.on_restart, is_pending: false };
    let result = work.carry_out(manner.removal).map_err(|error| {
        // The first error counts.
        let _ = before::put_back(session, &mut work.steps);
        unfinished::explain(session, error)
    });
    let is_pending = result.is_ok() && work.is_pending;
    let mut report = work.steps.into_report(result);
    if is_pending {
        report.exit = ExitCode::Differs;
    }
    report
}

/// Why a running container is going to be restarted; `None` for one that is not.
///
/// # Errors
/// As [`Configuration::read`], or when LXC or the journal cannot be asked.
pub fn foreseen_restart(session: &Session<'_>, removal: Removal) -> Result<Option<String>> {
    let Some(pid) = session.init_process()? else { return Ok(None) };
    let read = Configuration::read(session)?;
    let paths = &session.host.paths;
    let known = journal::of(paths, session.ctid, &read.config)?;
    let own = own_lines(paths, (known.as_ref(), &read), removal)?;
    let edit = passthrough::withdraw(&read.config, &own);
    let is_pending = known.as_ref().is_some_and(|known| pending::of(paths, pid, known).is_some());
    let has_devices = edit.changed() || is_pending || {
        let owed = known.as_ref().map_or(&[][..], owed);
        still_has(pid, owed, &edit)
    };
    Ok(has_devices.then(|| HAS_DEVICES.to_owned()))
}

/// Why a container is restarted.
const HAS_DEVICES: &str = "it was started with its devices";

struct Work<'a> {
    session: &'a Session<'a>,
    steps: Steps<'a>,
    on_restart: OnRestart,
    /// It needs a restart that is left pending.
    is_pending: bool,
}

impl Work<'_> {
    fn carry_out(&mut self, removal: Removal) -> Result<()> {
        let session = self.session;
        let (journal, pid) = self.steps.step(Step::Facts, || {
            let read = Configuration::read(session)?;
            survey::refuse_locked(&read.config)?;
            if removal > Removal::Devices {
                survey::refuse(&read.config)?;
            }
            let journal = journal::of(&session.host.paths, session.ctid, &read.config)?;
            let pid = session.init_process()?;
            let state = if pid.is_some() { "running" } else { "stopped" };
            Ok((Outcome::Unchanged(state.to_owned()), (journal, pid)))
        })?;
        let before = Before::of(&session.host.paths, pid, journal.as_ref());
        if removal > Removal::Devices {
            journal::update_managed(&session.host.paths, session.ctid, |journal| {
                let work = Unfinished::new(removal.work());
                journal.unfinished = Some(work.after(journal.unfinished.as_ref()));
            })?;
        }
        let mut result = Ok(());
        let mut is_to_stop = before == Before::StartedByUs;
        if removal > Removal::Devices {
            is_to_stop |= before == Before::Stopped;
            let pid = pid.map_or_else(|| self.start(before), Ok);
            result = pid.and_then(|pid| self.inside(removal, journal.as_ref(), pid));
        }
        if is_to_stop {
            // Whatever happened, it goes back to what it was; the first error counts.
            result = result.and(self.stop_again());
        }
        result?;
        let taken = self.lines(removal)?;
        self.power(before, &taken)
    }

    /// Starts a stopped container.
    fn start(&mut self, before: Before) -> Result<u32> {
        let session = self.session;
        self.steps.step(Step::Power, || {
            if before == Before::Stopped {
                before::note(session, Power::Stopped)?;
            }
            let pid = session.start()?;
            if before == Before::StoppedByUs {
                before::forget(session)?;
            }
            Ok((Outcome::Changed("started".to_owned()), pid))
        })
    }

    /// Stops a container that was stopped, also when this run was asked to stop.
    fn stop_again(&mut self) -> Result<()> {
        let session = self.session;
        if session.init_process()?.is_some() {
            let began = self.steps.begin(Step::Restore);
            let stopped = session.stop_regardless();
            let outcome = stopped.map(|()| (Outcome::Changed("stopped again".to_owned()), ()));
            self.steps.finish(Step::Restore, outcome, began)?;
        }
        before::forget(session)
    }

    /// Removes what was installed inside.
    fn inside(&mut self, removal: Removal, journal: Option<&Journal>, pid: u32) -> Result<()> {
        let session = self.session;
        // Packages first: those that something else needs are a reason to leave everything as it is.
        for path in unfinished::clear(session, journal)? {
            self.steps.detail(format!("removed `{path}`: a run that was cut short left it"));
        }
        let root = survey::root(session, pid)?;
        if tenant::remains(&root) {
            // What is shown may lie over what is to be removed.
            let own = self.steps.step(Step::Share, || unshare(session, (pid, &root)))?;
            own.remarks().iter().for_each(|remark| self.steps.warn(remark));
        }
        if removal == Removal::Everything {
            let packages = journal.map(Journal::all_packages).unwrap_or_default();
            self.steps.step(Step::Packages, || Ok((purge(session, &packages, &[])?, ())))?;
        }
        self.steps.step(Step::Driver, || Ok((uninstall(session, pid)?, ())))
    }

    fn lines(&mut self, removal: Removal) -> Result<Taken> {
        let session = self.session;
        session.host.cancel.check()?;
        let began = self.steps.begin(Step::Passthrough);
        let result = take_out(session, removal);
        if let Ok((_, Taken { edit, .. })) = &result {
            for line in &edit.foreign {
                self.steps.warn(&format!("kept `{}`: {}", line.text, line.why));
            }
            for line in &edit.lines_removed {
                self.steps.detail(format!("configuration: took out `{line}`"));
            }
            for (old, new) in &edit.lines_corrected {
                self.steps.detail(format!("configuration: put `{new}` back for `{old}`"));
            }
            for line in &edit.lines_added {
                self.steps.detail(format!("configuration: put `{line}` back"));
            }
        }
        self.steps.finish(Step::Passthrough, result, began)
    }

    fn power(&mut self, before: Before, taken: &Taken) -> Result<()> {
        let (session, on_restart) = (self.session, self.on_restart);
        let mut left = None;
        let ended = self.steps.step(Step::Power, || {
            let changed = taken.edit.changed();
            let pid = session.init_process()?;
            let has_devices = changed || taken.is_pending || {
                pid.is_some_and(|pid| still_has(pid, &taken.nodes, &taken.edit))
            };
            let outcome = match (before, pid.is_some(), has_devices) {
                (Before::StoppedByUs, false, _) => {
                    session.start_regardless()?;
                    Outcome::Changed("started: a run that was cut short has stopped it".to_owned())
                }
                (Before::Running, true, true) if on_restart == OnRestart::LeavePending => {
                    left = pid.and_then(|pid| pending::left(&session.host.paths, pid, HAS_DEVICES));
                    pending::outcome(session.runtime.dialect(), session.ctid, HAS_DEVICES)
                }
                (Before::Running | Before::StoppedByUs, _, true) => {
                    let applied = pending::applies(session)?;
                    before::restart(session)?;
                    Outcome::Changed(format!("restarted: {HAS_DEVICES}{applied}"))
                }
                (_, _, false) => Outcome::Unchanged("no restart needed".to_owned()),
                (Before::Stopped | Before::StartedByUs, _, true) => {
                    Outcome::Unchanged("stopped".to_owned())
                }
            };
            if changed && came_back(session, taken)? {
                take_out(session, taken.removal)?;
                if let (Outcome::Changed(_), Some(_)) = (&outcome, session.settled()?) {
                    before::restart(session)?;
                }
                if came_back(session, taken)? {
                    return Err(configure::lost(session));
                }
            }
            // Only now the journal forgets the lines.
            if let Some(after) = &taken.after {
                let mut after = after.clone();
                after.pending_restart.clone_from(&left);
                journal::save(&session.host.paths, &after)?;
            }
            Ok((outcome, ()))
        });
        self.is_pending = left.is_some();
        ended
    }
}

/// Whether somebody has put lines back that were taken out.
fn came_back(session: &Session<'_>, taken: &Taken) -> Result<bool> {
    let read = Configuration::read(session)?;
    Ok(passthrough::withdraw(&read.config, &taken.own).changed())
}

/// What was taken out of a configuration.
struct Taken {
    removal: Removal,
    edit: Edit,
    /// The lines that were ours.
    own: Vec<OwnLine>,
    /// The nodes that they passed, as long as the container has not been restarted without them.
    nodes: Vec<DeviceNode>,
    /// An earlier run has left its restart pending.
    is_pending: bool,
    /// The journal as it is to be when it is done; `None` for a container that has none.
    after: Option<Journal>,
}

/// The edit of the configuration; where somebody else changed the file meanwhile, once more.
fn take_out(session: &Session<'_>, removal: Removal) -> Result<(Outcome, Taken)> {
    for _ in 0..2 {
        let read = Configuration::read(session)?;
        let paths = &session.host.paths;
        let known = journal::of(paths, session.ctid, &read.config)?;
        let own = own_lines(paths, (known.as_ref(), &read), removal)?;
        let pid = session.init_process()?;
        let is_pending = pid.is_some_and(|pid| {
            known.as_ref().is_some_and(|known| pending::of(paths, pid, known).is_some())
        });
        let edit = passthrough::withdraw(&read.config, &own);
        let before = known.clone().unwrap_or_else(|| Journal::new(session.ctid));
        let mut after = before.clone();
        after.state = State::Detached;
        after.unfinished = Some(Unfinished::new(removal.work()).after(before.unfinished.as_ref()));
        // What was put in stays known: a rollback to a snapshot brings it back.
        after.lines.retain(|line| line.text.is_some());
        let nodes = owed(&before).to_vec();
        let changed = edit.changed();
        let taken = |edit| {
            // What it was is known until it is that again.
            let mut after = after.clone();
            after.was = None;
            after.unfinished = removal.leaves(before.unfinished.as_ref());
            let after = (known.is_some() || changed).then_some(after);
            Taken { removal, edit, own: own.clone(), nodes: nodes.clone(), is_pending, after }
        };
        if !changed {
            files::clear_away(&read.path);
            let why = match known.is_some() {
                true => "no line of nvstage's is there",
                false => "nvstage has put nothing in on this host",
            };
            return Ok((Outcome::Unchanged(why.to_owned()), taken(edit)));
        }
        let change = Change { read: &read, edit: &edit, own: &own, journal: &after };
        if configure::write(session, change)? == Applied::Written {
            return Ok((Outcome::Changed(describe(&edit)), taken(edit)));
        }
    }
    Err(configure::changed(session))
}

/// The majors of NVIDIA's drivers.
fn own_majors(paths: &Paths) -> Result<BTreeSet<u64>> {
    let all = devices::majors(paths)?.into_iter();
    Ok(all.filter(|(name, _)| name.starts_with("nvidia")).map(|(_, major)| major).collect())
}

/// The lines that are taken out.
fn own_lines(
    paths: &Paths,
    (known, read): (Option<&Journal>, &Configuration),
    removal: Removal,
) -> Result<Vec<OwnLine>> {
    let mut own = match known {
        Some(journal) => journal.lines.clone(),
        None => passthrough::in_our_form(&read.config, &own_majors(paths)?),
    };
    if removal == Removal::Devices {
        // A shared driver is the container's userland, and stays like an installed one.
        own.retain(|line| !line.text.as_deref().is_some_and(shared::is_in));
    }
    Ok(own)
}

/// The nodes that a container has until it is restarted without them.
fn owed(journal: &Journal) -> &[DeviceNode] {
    match journal.state {
        State::Attached => &journal.nodes,
        State::Detached => &[],
    }
}

/// Whether the container still runs with nodes that no line passes any more, after a run that was
/// killed before the restart.
fn still_has(pid: u32, nodes: &[DeviceNode], edit: &Edit) -> bool {
    let mounts = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
    let is_mounted = |node: &&DeviceNode| {
        let target = |line: &str| line.split(' ').nth(4) == Some(node.path.as_str());
        mounts.lines().any(target)
    };
    let is_passed =
        |node: &DeviceNode| edit.foreign.iter().any(|line| line.text.contains(&node.path));
    nodes.iter().filter(is_mounted).any(|node| !is_passed(node))
}

fn describe(edit: &Edit) -> String {
    let taken = edit.lines_removed.len() + edit.lines_corrected.len();
    let back = edit.lines_added.len() + edit.lines_corrected.len();
    let lines =
        |count: usize| if count == 1 { "1 line".to_owned() } else { format!("{count} lines") };
    match back {
        0 => format!("took out {}", lines(taken)),
        _ => format!("took out {}, put back {}", lines(taken), lines(back)),
    }
}

/// Takes away what was set up inside for what it shares.
fn unshare(
    session: &Session<'_>,
    (pid, root): (u32, &ContainerRoot),
) -> Result<(Outcome, OwnFiles)> {
    let nothing = Images::default();
    nothing.align(pid, root).map_err(|error| error.on(session.ctid))?;
    let look = Look { wait: 0, nodes: &[], packages: &[], checks: &[] };
    let (_, own) = survey::set_up(session, look, &nothing, "")?;
    journal::update_managed(&session.host.paths, session.ctid, |journal| {
        (journal.userland, journal.cuda) = Default::default();
        journal.cuda_image = None;
    })?;
    Ok((Outcome::Changed("nothing of the host is set up any more".to_owned()), own))
}

/// Has NVIDIA's uninstaller remove the driver that it has a record of.
///
/// # Errors
/// Install error with what it said.
pub fn uninstall(session: &Session<'_>, pid: u32) -> Result<Outcome> {
    let root = survey::root(session, pid)?;
    let Some(record) = survey::record(&root) else {
        return forget_driver(session, "no driver of NVIDIA's installer is there");
    };
    let Some(version) = record.version else {
        return Err(Error::install(
            "uninstall the driver: the installer's record names no version",
        ));
    };
    let mut arguments = vec![LOG.to_owned()];
    arguments.extend(options::uninstaller_flags(&version, LOG));
    let ran = session.run_inside(&Inside { script: UNINSTALL, arguments, limit: LIMIT })?;
    let failed = || Error::install(format!("uninstall driver {version}"));
    dpkg::refuse_busy(&ran.answer, failed)?;
    if ran.answer.has("missing") {
        return Err(failed().because("`nvidia-uninstall` is not in the container").hint(format!(
            "`{}` repairs the installation; then run the command again",
            remedy::reinstall(session.ctid)
        )));
    }
    let status: Option<i32> = ran.answer.number("status");
    let left: Vec<String> =
        record.files.into_iter().filter(|file| root.size(file).is_ok()).collect();
    if status != Some(0) || survey::record(&root).is_some() {
        let status = status.map_or(ran.ended.to_string(), |status| format!("status {status}"));
        return Err(failed()
            .because(format!("its uninstaller ended with {status}"))
            .because(ran.answer.text("log")));
    }
    let put_back: Vec<&String> =
        left.iter().filter(|file| !record.put_away.contains(file)).collect();
    if let Some(file) = put_back.first() {
        return Err(failed().because(format!("`{file}` is still there")));
    }
    forget_driver(session, "").map(|_| Outcome::Changed(format!("driver {version} uninstalled")))
}

fn forget_driver(session: &Session<'_>, why: &str) -> Result<Outcome> {
    journal::update_managed(&session.host.paths, session.ctid, |journal| {
        journal.driver = None;
        if let Some(unfinished) = &mut journal.unfinished {
            *unfinished = Unfinished::new(unfinished.work);
        }
    })?;
    Ok(Outcome::Unchanged(why.to_owned()))
}

/// Removes packages that were installed for it. The whole set is known and written down before the first
/// package goes: a run that is cut short is finished by the next one. `others` were installed for it too,
/// and stay.
///
/// # Errors
/// Install error when something else needs them, or apt fails.
pub fn purge(session: &Session<'_>, packages: &[String], others: &[String]) -> Result<Outcome> {
    let (paths, ctid) = (&session.host.paths, session.ctid);
    let set = removable(session, packages)?;
    journal::update_managed(paths, ctid, |journal| journal.begin(&set))?;
    session.host.cancel.check()?;
    purge_phase(session, "purge", &set)?;
    // Ours is gone now; the journal forgets the packages last.
    let back = existing_sources::put_back(session)?;
    journal::update_managed(paths, ctid, |journal| {
        journal.packages = others.to_vec();
        journal.unfinished_packages.retain(|name| !packages.contains(name) && !set.contains(name));
    })?;
    Ok(with_sources(removed(&set, packages), &back))
}

fn removed(set: &[String], packages: &[String]) -> Outcome {
    match (set.len(), packages.len()) {
        (0, 0) => {
            Outcome::Unchanged("no packages were installed for it; apt's files removed".to_owned())
        }
        (0, _) => Outcome::Changed("removed apt's files; the packages were gone".to_owned()),
        // Many are known after a run that was cut short: a whole set.
        (gone, 9..) => Outcome::Changed(format!("removed {gone} packages, and apt's files")),
        _ => Outcome::Changed(format!("removed {}, and apt's files", packages.join(" "))),
    }
}

/// The same with what became of the container's own sources.
fn with_sources(removed: Outcome, back: &Back) -> Outcome {
    let mut parts = vec![removed.parts().1.to_owned()];
    let list = |verb: &str, paths: &[String], end: &str| {
        (!paths.is_empty()).then(|| format!("{verb} the source of `{}`{end}", paths.join("`, `")))
    };
    parts.extend(list("put back", &back.restored, ""));
    parts.extend(list("kept", &back.kept, ", which somebody has changed since"));
    match parts.len() {
        1 => removed,
        _ => Outcome::Changed(parts.join("; ")),
    }
}

/// What goes with these packages, themselves included: asked of the container's apt. While a removal or
/// an installation is unfinished, and apt can tell nothing, it is these packages.
///
/// # Errors
/// Install error when something else needs them, or apt fails.
pub fn removable(session: &Session<'_>, packages: &[String]) -> Result<Vec<String>> {
    let journal = journal::load(&session.host.paths, session.ctid)?;
    let phase = match journal.is_some_and(|journal| !journal.unfinished_packages.is_empty()) {
        true => "resume",
        false => "ask",
    };
    let asked = purge_phase(session, phase, packages)?;
    Ok(asked.all("package").map(str::to_owned).collect())
}

/// One phase of the script: `ask`, `resume` or `purge`.
fn purge_phase(session: &Session<'_>, phase: &str, packages: &[String]) -> Result<Answer> {
    let files = [apt::PINS_PATH, apt::SOURCES_PATH, apt::KEY_PATH].join(" ");
    let arguments = [&[phase.to_owned(), files][..], packages].concat();
    let ran = session.run_inside(&Inside { script: PURGE, arguments, limit: LIMIT })?;
    if ran.answer.has("end") {
        return Ok(ran.answer);
    }
    let failed = || Error::install(format!("remove {}", packages.join(" ")));
    dpkg::refuse_busy(&ran.answer, failed)?;
    if ran.answer.has("needed-by") {
        let others = ran.answer.text("needed-by").replace('\n', " ");
        return Err(failed()
            .because(format!("something else needs them: {others}"))
            .hint("remove that first, or leave the packages: `--uninstall` without `--purge`"));
    }
    let what = ran.answer.get("failed").unwrap_or("apt");
    Err(failed()
        .because(format!("`{what}` failed, {}", ran.ended))
        .because(diagnosis::decisive(&ran.output))
        .hint(session.log.whole_output("apt")))
}
