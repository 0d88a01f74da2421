//! One container, from what it is to what it should be.
//!
//! Order of events: look from outside and inside, refuse early; edit the configuration; start or
//! restart if needed; stage and install the driver; repository and packages; check; report. Every
//! step says what it came to; the first failure ends the job, and staging is undone in any case.

mod goods;
mod passthrough;
mod restore;
mod shared;

use std::collections::BTreeSet;
use std::time::Duration;

use self::goods::Goods;
use crate::engine::before::{self, Before};
use crate::engine::check::{self, Checked, Evidence, Verdict};
use crate::engine::conflicts;
use crate::engine::dpkg::{self, Settled};
use crate::engine::driver::{self, Package};
use crate::engine::journal;
use crate::engine::pending::OnRestart;
use crate::engine::shown;
use crate::engine::steps::Steps;
use crate::engine::stock::Rules;
use crate::engine::supplies::{Driver, Supplies};
use crate::engine::survey::{self, Look, Outside};
use crate::engine::tenant::{Images, Ways};
use crate::engine::unfinished;
use crate::engine::wish::{AtTheEnd, Stage, Wish};
use crate::error::{Error, ExitCode, Result};
use crate::facts::Facts;
use crate::journal::{Journal, Unfinished, UnfinishedWork};
use crate::lock::Lock;
use crate::plan::{Action, DriverState, Intent, Plan, Power, Sharing, Situation};
use crate::recipe::{Recipe, Userland};
use crate::remedy;
use crate::report::{ContainerReport, Outcome, Step};
use crate::runtime::Session;

/// How the job is to be done.
#[derive(Debug, Clone, Copy)]
pub struct Manner {
    /// How the installer gets inside.
    pub stage: Stage,
    /// What happens at the end to a container that was stopped.
    pub at_the_end: AtTheEnd,
    /// What becomes of a running container that needs a restart.
    pub on_restart: OnRestart,
    /// What is accepted of the cache's packages.
    pub rules: Rules,
    /// How long NVIDIA's installer may take in a container.
    pub installer_limit: Duration,
}

/// Everything a job needs that is the same for every container of a run.
#[derive(Debug)]
pub struct Means<'a> {
    /// What was asked for.
    pub wish: &'a Wish,
    /// The verified installer.
    pub driver: &'a Driver,
    /// Cache and network.
    pub supplies: &'a Supplies<'a>,
    /// How.
    pub manner: Manner,
}

/// How long a container whose processes end already may still be there.
const GOING_DOWN: Duration = Duration::from_secs(10);

/// One container's job.
#[derive(Debug)]
pub struct Job<'a> {
    session: &'a Session<'a>,
    means: &'a Means<'a>,
    steps: Steps<'a>,
    /// How the container is to have driver and CUDA.
    ways: Ways,
    /// What it is to share.
    images: Images,
    /// The lock of the CUDA that it is to share.
    lock: Option<Lock>,
    /// The recipe with the packages that are for apt.
    apt: Recipe,
    /// It was stopped, and this run has started it.
    has_started: bool,
    /// It needs a restart that is left pending: why.
    pending: Option<String>,
    /// What was found inside after the last change, where that was looked at with it.
    last_look: Option<Facts>,
}

/// What is known of the running container at some moment.
#[derive(Debug)]
struct Inside {
    pid: u32,
    facts: Facts,
    driver: DriverState,
    answering: BTreeSet<String>,
}

/// Provisions one container. The report holds the error, if there was one.
pub fn run<'a>(session: &'a Session<'a>, means: &'a Means<'a>) -> ContainerReport {
    let events = means.supplies.events;
    let mut job = Job {
        session,
        means,
        steps: Steps::new(session, events),
        ways: Ways::default(),
        images: Images::default(),
        lock: None,
        apt: (*means.wish.recipe).clone(),
        has_started: false,
        pending: None,
        last_look: None,
    };
    let result = job.carry_out().map_err(|error| unfinished::explain(session, error));
    let is_pending = result.is_ok() && job.pending.is_some();
    let mut report = job.steps.into_report(result);
    if is_pending {
        report.exit = ExitCode::Differs;
    }
    report
}

impl Job<'_> {
    /// Does `work` as a step: reports its outcome, or its failure, and passes the failure on.
    fn step<T>(
        &mut self,
        step: Step,
        work: impl FnOnce(&mut Self) -> Result<(Outcome, T)>,
    ) -> Result<T> {
        if step != Step::Restore {
            self.session.host.cancel.check()?;
        }
        let began = self.steps.begin(step);
        let result = work(self);
        self.steps.finish(step, result, began)
    }

    fn carry_out(&mut self) -> Result<()> {
        let found = self.step(Step::Facts, |job| {
            let (outside, seen) = job.facts()?;
            let outcome = Outcome::Unchanged(describe(&outside, seen.as_ref()));
            Ok((outcome, (outside, seen)))
        });
        let (outside, seen) = match found {
            Ok(found) => found,
            Err(error) => {
                // The first error counts.
                let _ = before::put_back(self.session, &mut self.steps);
                return Err(error);
            }
        };
        let before = Before::of(&self.session.host.paths, outside.pid, outside.before.as_ref());
        let result = self.put_right((outside, before), seen);
        // Whatever happened; the first error counts.
        let restored = self.restore(before);
        result.and(restored)
    }

    /// What can be seen from outside, and from inside where it runs. One that goes down while it is
    /// looked into is one that is stopped: a run that was killed may have begun that.
    fn facts(&mut self) -> Result<(Outside, Option<Inside>)> {
        let outside = survey::outside(self.session, self.means.wish, None)?;
        if outside.pid.is_some() {
            self.clear_half_written(&outside)?;
        }
        let outside = self.obtain_images(outside)?;
        let Some(pid) = outside.pid else { return Ok((outside, None)) };
        let seen = self.settle(pid).and_then(|()| match self.is_looked_at_later(&outside) {
            true => Ok(None),
            false => self.look_inside(pid, 30).map(Some),
        });
        match seen {
            Ok(seen) => Ok((outside, seen)),
            Err(error) if !error.is_interrupted() && self.session.is_gone_within(GOING_DOWN)? => {
                self.warn(&format!("it stopped while it was looked into: {}", error.what()));
                let outside = survey::outside(self.session, self.means.wish, None)?;
                Ok((self.obtain_images(outside)?, None))
            }
            Err(error) => Err(error),
        }
    }

    fn put_right(&mut self, found: (Outside, Before), seen: Option<Inside>) -> Result<()> {
        let (outside, before) = found;
        let mut goods = match &seen {
            Some(seen) => Some(self.goods(seen)?),
            None => None,
        };
        let plan = self.plan(&outside, seen.as_ref(), goods.as_ref())?;
        if let Some(seen) = seen.as_ref() {
            self.refuse_second_driver(&plan, &seen.facts)?;
        }
        if let Some(seen) = seen.as_ref().filter(|_| plan.driver.changes()) {
            self.check_room(seen.pid)?;
        }
        if let (Some(seen), Some(goods)) = (&seen, &mut goods) {
            // Before anything is touched.
            self.stock_up(&plan, seen, goods)?;
        }
        if let Some(pid) = outside.pid.filter(|_| plan.share.as_ref().is_some_and(Action::changes))
        {
            self.refuse_conflicts(pid)?;
        }
        let (mut outside, plan) =
            self.passthrough((outside, plan), seen.as_ref(), goods.as_ref())?;
        let plan = self.permitted(plan);
        if plan.power != Power::Keep {
            outside.journal.was = self.was(before, &plan.power);
        }
        let pid = self.power(&mut outside, &plan)?;
        let Some(pid) = pid.or(outside.pid) else {
            return Err(Error::restart("find the container running"));
        };
        if outside.pid.is_none() {
            self.clear_half_written(&outside)?;
        }
        self.settle(pid)?;
        let shared = self.share(pid)?;
        // What was looked at after the last change is as good as new.
        let mut is_fresh = shared.is_some() || seen.is_none() || !plan.changes();
        let (seen, goods, plan) = match (shared, seen, goods) {
            (None, Some(seen), Some(goods)) => (Inside { pid, ..seen }, goods, plan),
            (shared, ..) => self.plan_again(&outside, pid, shared)?,
        };
        is_fresh &= !plan.driver.changes() && !plan.packages.changes();
        self.driver(&plan, &seen)?;
        self.packages(&plan, &goods, &seen)?;
        self.note(|journal| journal.unfinished = None)?;
        if self.pending.is_some() {
            return self.leave_checks(seen.pid);
        }
        self.checks(seen, if is_fresh { Fresh::AsSeen } else { Fresh::LookAgain })
    }

    /// The plan for a container that was not looked into before it was started, or looked at anew.
    fn plan_again(
        &mut self,
        outside: &Outside,
        pid: u32,
        seen: Option<Inside>,
    ) -> Result<(Inside, Goods, Plan)> {
        let (seen, mut goods, plan) = self.step(Step::Facts, |job| {
            let seen = match seen {
                Some(seen) => seen,
                None => job.look_inside(pid, 60)?,
            };
            let goods = job.goods(&seen)?;
            let plan = job.plan(outside, Some(&seen), Some(&goods))?;
            Ok((Outcome::Unchanged(describe(outside, Some(&seen))), (seen, goods, plan)))
        })?;
        self.refuse_second_driver(&plan, &seen.facts)?;
        self.stock_up(&plan, &seen, &mut goods)?;
        Ok((seen, goods, plan))
    }

    fn refuse_second_driver(&mut self, plan: &Plan, facts: &Facts) -> Result<()> {
        match conflicts::second_driver(plan, self.ways.userland, facts) {
            Some(error) => self.step(Step::Driver, |_| Err(error)),
            None => Ok(()),
        }
    }

    /// Removes what a killed run's installer left half-written, before anything is compared.
    fn clear_half_written(&self, outside: &Outside) -> Result<()> {
        for path in unfinished::clear(self.session, outside.before.as_ref())? {
            self.detail(format!("removed `{path}`: a run that was cut short left it half-written"));
        }
        Ok(())
    }

    /// Names the work in the journal that is written with its first change.
    fn begin(&self, outside: &mut Outside, plan: &Plan) {
        if plan.changes() {
            let earlier = outside.before.as_ref().and_then(|journal| journal.unfinished.as_ref());
            let work = Unfinished::new(UnfinishedWork::Provision).after(earlier);
            outside.journal.unfinished = Some(work);
        }
    }

    fn plan(
        &self,
        outside: &Outside,
        seen: Option<&Inside>,
        goods: Option<&Goods>,
    ) -> Result<Plan> {
        let wish = self.means.wish;
        let none = Goods::default();
        let goods = goods.unwrap_or(&none);
        let intent = Intent {
            version: &wish.version,
            packages: self.apt.packages(),
            versions: &goods.versions,
            files: &goods.files,
            repository: goods.sources.text(),
            nodes: &wish.nodes,
        };
        let nothing = BTreeSet::new();
        let sharing = match seen.map(|seen| seen.pid).or(outside.pid) {
            Some(pid) => self.sharing(pid)?.0,
            None => Sharing {
                driver: self.ways.userland == Userland::Share,
                wanted: self.images.names(),
                ..Sharing::default()
            },
        };
        let situation = Situation {
            edit: &outside.edit,
            reach: outside.reach,
            is_running: outside.pid.is_some(),
            pending: outside.pending_restart(),
            inside: seen.map(|seen| (&seen.facts, &seen.driver)),
            answering: seen.map_or(&nothing, |seen| &seen.answering),
            sharing: &sharing,
        };
        Ok(Plan::compute(&intent, &situation))
    }

    fn look(&self, wait: u32) -> Look<'_> {
        let wish = self.means.wish;
        let (packages, checks) = (self.apt.packages(), wish.recipe.checks());
        Look { wait, nodes: &wish.nodes, packages, checks }
    }

    /// Brings dpkg to rest where packages matter: what follows is judged by its records.
    fn settle(&self, pid: u32) -> Result<()> {
        if self.means.wish.recipe.packages().is_empty() {
            return Ok(());
        }
        match dpkg::settle(self.session, &survey::root(self.session, pid)?)? {
            Settled::Before => {}
            Settled::Now => self.detail("what dpkg had begun inside is finished".to_owned()),
        }
        Ok(())
    }

    fn look_inside(&self, pid: u32, wait: u32) -> Result<Inside> {
        let facts = survey::inside(self.session, self.look(wait))?;
        self.inside_with(pid, facts)
    }

    /// What is known of the container, when these are the facts.
    fn inside_with(&self, pid: u32, facts: Facts) -> Result<Inside> {
        let wish = self.means.wish;
        survey::refuse_system(&facts)?;
        let root = survey::root(self.session, pid)?;
        let driver = match self.ways.userland {
            Userland::Installer => driver::state_since(self.session, &root, self.package()),
            Userland::Share => {
                match self.images.problems(&root, wish.architecture.triplet()).as_slice() {
                    [] => DriverState::Complete,
                    problems => DriverState::Damaged(problems.to_vec()),
                }
            }
        };
        let answering = survey::answering(self.session, &wish.nodes, &facts);
        Ok(Inside { pid, facts, driver, answering })
    }

    fn check_room(&self, pid: u32) -> Result<()> {
        let root = survey::root(self.session, pid)?;
        driver::check_room(&root, self.package(), self.means.manner.stage)
    }

    fn package(&self) -> Package<'_> {
        let Means { wish, driver, .. } = self.means;
        Package { recipe: &wish.recipe, driver, version: &wish.version }
    }

    fn detail(&self, text: String) {
        self.steps.detail(text);
    }

    fn warn(&self, text: &str) {
        self.steps.warn(text);
    }

    /// Writes down what is about to be applied.
    fn note(&self, change: impl FnOnce(&mut Journal)) -> Result<()> {
        journal::update(&self.session.host.paths, self.session.ctid, change)
    }

    fn driver(&mut self, plan: &Plan, seen: &Inside) -> Result<()> {
        let what = match &plan.driver {
            Action::Nothing(why) => {
                let began = self.steps.begin(Step::Driver);
                self.steps.end(Step::Driver, Outcome::Unchanged(why.clone()), began);
                return self.note_driver();
            }
            Action::Do(what) | Action::Unknown(what) => what.clone(),
        };
        let session = self.session;
        let manner = self.means.manner;
        let staged = self.step(Step::Stage, |job| {
            job.check_room(seen.pid)?;
            let staged = driver::stage(session, job.package(), manner.stage, seen.pid)?;
            let how = match manner.stage {
                Stage::Mount => "the unpacked installer is shown inside, read-only",
                Stage::Push => "the installer is copied inside",
            };
            Ok((Outcome::Changed(how.to_owned()), staged))
        })?;
        self.step(Step::Driver, |job| {
            let mut staged = staged;
            for text in driver::omissions(job.package()) {
                job.warn(&text);
            }
            job.detail(format!("running {} inside", job.means.driver.name));
            job.note_installing(seen.pid)?;
            let installed = staged.install(job.package(), manner.installer_limit);
            let removed = staged.remove();
            installed?;
            removed?;
            let root = survey::root(session, seen.pid)?;
            match driver::state_since(session, &root, job.package()) {
                DriverState::Complete => {
                    job.note_driver()?;
                    Ok((Outcome::Changed(what), ()))
                }
                DriverState::Damaged(problems) => {
                    let shown = problems[..problems.len().min(5)].join("\n");
                    Err(Error::install("install the driver: not every file arrived")
                        .because(shown)
                        .hint("is there room in the container's root file system?"))
                }
                _ => Err(Error::install("install the driver: the installer left no record")),
            }
        })
    }

    /// Writes down that the installer begins, and what it makes.
    fn note_installing(&self, pid: u32) -> Result<()> {
        let files = unfinished::writes(&survey::root(self.session, pid)?, self.package());
        let driver = Some(self.means.wish.version.clone());
        self.note(|journal| {
            journal.driver = None;
            let work = UnfinishedWork::Provision;
            journal.unfinished = Some(Unfinished { work, driver, files });
        })
    }

    /// Writes down that the driver is there.
    fn note_driver(&self) -> Result<()> {
        self.note(|journal| {
            journal.driver = Some(self.means.wish.version.clone());
            if let Some(unfinished) = &mut journal.unfinished {
                *unfinished = Unfinished::new(unfinished.work);
            }
        })
    }

    fn checks(&mut self, seen: Inside, fresh: Fresh) -> Result<()> {
        self.step(Step::Checks, |job| {
            shown::sweep(job.session, seen.pid);
            let seen = match fresh {
                Fresh::AsSeen => seen,
                Fresh::LookAgain => match job.last_look.take() {
                    Some(facts) => job.inside_with(seen.pid, facts)?,
                    None => job.look_inside(seen.pid, 60)?,
                },
            };
            job.report_foreign_drivers(&seen.facts);
            if let Some(smi) = &seen.facts.smi {
                job.detail(format!("nvidia-smi: status {}\n{}", smi.status, smi.output));
            }
            let checked = job.check(&seen);
            Ok((judge(&checked)?, ()))
        })
    }

    /// What a container is that waits for a restart says nothing of what it will be.
    fn leave_checks(&mut self, pid: u32) -> Result<()> {
        self.step(Step::Checks, |job| {
            shown::sweep(job.session, pid);
            let verify = remedy::verify(job.session.ctid);
            Ok((Outcome::Skipped(format!("restart pending: after it `{verify}`")), ()))
        })
    }

    fn report_foreign_drivers(&self, facts: &Facts) {
        if let Some(finding) = facts.second_driver() {
            let remedy = facts.second_driver_removal().join(" ");
            self.warn(&format!("{finding}: `{remedy}` inside removes it"));
        }
    }

    fn check(&self, seen: &Inside) -> Vec<Checked> {
        let wish = self.means.wish;
        let evidence = Evidence {
            facts: &seen.facts,
            driver: &seen.driver,
            module: wish.inventory.module_version(),
            version: &wish.version,
            nodes: &wish.nodes,
            packages: self.apt.packages(),
            answering: &seen.answering,
        };
        check::run(wish.recipe.checks(), &evidence)
    }
}

/// Whether the container has to be looked at again before it is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fresh {
    AsSeen,
    LookAgain,
}

fn describe(outside: &Outside, seen: Option<&Inside>) -> String {
    match seen {
        None if outside.pid.is_some() => "running".to_owned(),
        None => "stopped".to_owned(),
        Some(seen) => {
            format!("running {} {}", seen.facts.distribution, seen.facts.architecture.as_str())
        }
    }
}

/// The outcome of all checks together.
///
/// # Errors
/// Install error when one failed.
pub fn judge(checked: &[Checked]) -> Result<Outcome> {
    let failed: Vec<String> = checked
        .iter()
        .filter(|one| matches!(one.verdict, Verdict::Failed(_)))
        .map(ToString::to_string)
        .collect();
    if !failed.is_empty() {
        return Err(Error::install("pass the checks").because(failed.join("\n")));
    }
    let passed: Vec<&str> = checked
        .iter()
        .filter(|one| one.verdict == Verdict::Passed)
        .map(|one| one.name.as_str())
        .collect();
    let open: Vec<String> = checked
        .iter()
        .filter(|one| matches!(one.verdict, Verdict::NotCheckable(_) | Verdict::NotCompared(_)))
        .map(ToString::to_string)
        .collect();
    if open.is_empty() {
        return Ok(Outcome::Unchanged(format!("{} passed", passed.join(", "))));
    }
    let passed =
        if passed.is_empty() { String::new() } else { format!("{} passed; ", passed.join(", ")) };
    Ok(Outcome::Warned(format!("{passed}{}", open.join("; "))))
}
