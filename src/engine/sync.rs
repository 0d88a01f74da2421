//! One container after the host's driver has changed: from what it has to the version of the loaded
//! kernel module.
//!
//! A container that shares the host's driver needs a restart and nothing else: the image of that
//! version is mounted by then, and its start shows it. One that has its own gets the other version by
//! the job that provisions it. Both are left alone while a process of theirs holds a GPU, unless the
//! restart is asked for.

use std::time::{Duration, Instant};

use crate::engine::before;
use crate::engine::journal;
use crate::engine::pending::{self, OnRestart};
use crate::engine::shared::DriverImage;
use crate::engine::steps::Steps;
use crate::engine::survey::{self, Look};
use crate::engine::tenant::{self, Images};
use crate::engine::wish::Wish;
use crate::error::{Error, ExitCode, Result};
use crate::event::Events;
use crate::host::holders::holders;
use crate::host::rootfs::ContainerRoot;
use crate::journal::Power;
use crate::report::{ContainerReport, Outcome, Step};
use crate::runtime::Session;

/// What becomes of a container whose processes hold a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InUse {
    /// It is left alone.
    Skip,
    /// It is restarted.
    Restart,
}

/// What is the same for every container.
#[derive(Debug, Clone, Copy)]
pub struct Manner<'a> {
    /// Who hears of it.
    pub events: &'a dyn Events,
    /// What becomes of those in use.
    pub in_use: InUse,
    /// What becomes of those that run and need a restart.
    pub on_restart: OnRestart,
}

/// Brings one container to the version that is wished. `image` is that version's, for a container
/// that shares it; `provision` does the whole job. The report holds the error, if there was one; of
/// a container that is left alone it says [`ExitCode::Differs`].
pub fn run(
    session: &Session<'_>,
    manner: Manner<'_>,
    (wish, image): (&Wish, Option<&DriverImage>),
    provision: impl FnOnce() -> ContainerReport,
) -> ContainerReport {
    let (steps, on_restart) = (Steps::new(session, manner.events), manner.on_restart);
    let mut work = Work { session, steps, wish, on_restart };
    let next = match image {
        Some(image) => work.shared(image, manner.in_use),
        None => work.own(manner.in_use),
    };
    if next.is_err() {
        // The first error counts.
        let _ = before::put_back(session, &mut work.steps);
    }
    let went_on = matches!(next, Ok(Next::Provision));
    let is_left = matches!(next, Ok(Next::Left));
    let mut report = work.steps.into_report(next.map(drop));
    if is_left {
        report.exit = ExitCode::Differs;
    }
    if !went_on {
        return report;
    }
    let mut whole = provision();
    whole.steps.splice(0..0, report.steps);
    whole
}

/// How it goes on.
enum Next {
    /// It is done.
    Done,
    /// It is left as it is.
    Left,
    /// By the whole job.
    Provision,
}

/// When the container has begun to see the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Since {
    /// A moment ago: the unit inside may not have found every library yet.
    Restart,
    /// Before this run.
    NoRestart,
}

/// How long the container's unit may take after a start to tell the dynamic linker of the driver.
const LINKING: Duration = Duration::from_secs(10);

/// True if everything is there, or is as soon as the unit of the container that has just started has run.
fn is_linked(
    session: &Session<'_>,
    images: &Images,
    root: &ContainerRoot,
    triplet: &str,
) -> Result<bool> {
    let began = Instant::now();
    while images.is_set_up(root, triplet) && began.elapsed() < LINKING {
        if images.problems(root, triplet).is_empty() {
            return Ok(true);
        }
        session.host.wait(Duration::from_millis(50))?;
    }
    Ok(false)
}

struct Work<'a> {
    session: &'a Session<'a>,
    steps: Steps<'a>,
    wish: &'a Wish,
    on_restart: OnRestart,
}

impl Work<'_> {
    /// A container with a driver of its own.
    fn own(&mut self, in_use: InUse) -> Result<Next> {
        let Some(pid) = self.session.init_process()? else { return Ok(Next::Provision) };
        let record = survey::record(&survey::root(self.session, pid)?);
        if record.and_then(|record| record.version).as_ref() == Some(&self.wish.version) {
            // Somebody else was faster.
            return Ok(Next::Provision);
        }
        match (self.in_use(pid), in_use) {
            (None, _) => Ok(Next::Provision),
            (Some(why), InUse::Skip) => self.leave(why),
            (Some(why), InUse::Restart) if self.on_restart == OnRestart::LeavePending => {
                self.leave_pending(&why)
            }
            (Some(why), InUse::Restart) => {
                self.restart(why)?;
                Ok(Next::Provision)
            }
        }
    }

    /// A container that shares the host's.
    fn shared(&mut self, image: &DriverImage, in_use: InUse) -> Result<Next> {
        let (session, version) = (self.session, &image.version);
        let outside = survey::outside(session, self.wish, None)?;
        let Some(pid) = outside.pid else {
            let was = outside.before.as_ref().and_then(|journal| journal.was);
            let was_running = was.is_some_and(|was| was.power == Power::Running);
            if outside.edit.changed() || was_running {
                return Ok(Next::Provision);
            }
            let began = self.steps.begin(Step::Share);
            let why = format!("stopped: it gets driver {version} when it starts");
            self.steps.end(Step::Share, Outcome::Unchanged(why), began);
            return Ok(Next::Done);
        };
        if outside.before.as_ref().is_some_and(|journal| journal.unfinished.is_some()) {
            return Ok(Next::Provision);
        }
        let root = survey::root(session, pid)?;
        let images = Images { driver: Some(image.clone()), cuda: outside.cuda.clone() };
        let is_there = images.problems(&root, self.wish.architecture.triplet()).is_empty();
        if is_there && !outside.edit.changed() {
            let began = self.steps.begin(Step::Share);
            let what = format!("driver {version} of the host");
            self.steps.end(Step::Share, Outcome::Unchanged(what), began);
            return Ok(Next::Done);
        }
        let sees_it = tenant::version_inside(&root).as_ref() == Some(version);
        if sees_it && !outside.edit.changed() {
            // What a driver has more than the one before it.
            self.look(pid, &images, Since::NoRestart)?;
            return Ok(Next::Done);
        }
        if let (Some(why), InUse::Skip) = (self.in_use(pid), in_use) {
            return self.leave(why);
        }
        // One of its own is in the way where a run was cut short.
        let has_own = survey::record(&root).and_then(|record| record.version).is_some();
        if outside.edit.changed() || has_own {
            return Ok(Next::Provision);
        }
        let why = format!("to get driver {version}");
        if self.on_restart == OnRestart::LeavePending {
            return self.leave_pending(&why);
        }
        let pid = self.restart(why)?;
        self.look(pid, &images, Since::Restart)?;
        Ok(Next::Done)
    }

    /// Whether the container sees the image, and finds everything in it; what is not so is put right.
    fn look(&mut self, pid: u32, images: &Images, since: Since) -> Result<()> {
        let (session, version) = (self.session, &self.wish.version);
        let triplet = self.wish.architecture.triplet();
        self.steps.step(Step::Share, || {
            let root = survey::root(session, pid)?;
            let is_there = match since {
                Since::Restart => is_linked(session, images, &root, triplet)?,
                Since::NoRestart => images.problems(&root, triplet).is_empty(),
            };
            let outcome = match is_there {
                true => Outcome::Changed(format!("driver {version} of the host")),
                false => {
                    images.align(pid, &root)?;
                    let look = Look { wait: 0, nodes: &[], packages: &[], checks: &[] };
                    survey::set_up(session, look, images, triplet)?;
                    Outcome::Changed(format!("driver {version} of the host, set up anew"))
                }
            };
            if let Some(problem) = images.problems_but_names(&root, triplet).first() {
                return Err(Error::install("share the host's driver").because(problem));
            }
            journal::update(&session.host.paths, session.ctid, |journal| {
                journal.driver = Some(version.clone());
            })?;
            Ok((outcome, ()))
        })
    }

    /// Which processes hold a GPU, in words.
    fn in_use(&self, pid: u32) -> Option<String> {
        let found: Vec<String> = holders(pid).iter().map(ToString::to_string).collect();
        match found.as_slice() {
            [] => None,
            [first] => Some(format!("{first} holds a GPU")),
            [first, others @ ..] => Some(format!("{first} and {} more hold a GPU", others.len())),
        }
    }

    fn leave(&mut self, why: String) -> Result<Next> {
        let began = self.steps.begin(Step::Power);
        let outcome = Outcome::Skipped(format!("{why}: `--restart` restarts it all the same"));
        self.steps.end(Step::Power, outcome, began);
        Ok(Next::Left)
    }

    fn leave_pending(&mut self, why: &str) -> Result<Next> {
        let began = self.steps.begin(Step::Power);
        let outcome = pending::outcome(self.session.runtime.dialect(), self.session.ctid, why);
        self.steps.end(Step::Power, outcome, began);
        Ok(Next::Left)
    }

    fn restart(&mut self, why: String) -> Result<u32> {
        let session = self.session;
        self.steps.step(Step::Power, || {
            let applied = pending::applies(session)?;
            let pid = before::restart(session)?;
            Ok((Outcome::Changed(format!("restarted: {why}{applied}")), pid))
        })
    }
}
