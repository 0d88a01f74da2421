//! One container, from what it is to what it should be.
//!
//! Order of events: look from outside and inside, refuse early; edit the configuration; start or
//! restart if needed; stage and install the driver; repository and packages; check; report. Every
//! step says what it came to; the first failure ends the job, and staging is undone in any case.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use crate::apt::{self, AptFile};
use crate::engine::check::{self, Checked, Evidence, Verdict};
use crate::engine::driver::{self, Package};
use crate::engine::packages::Asked;
use crate::engine::stock::{self, Mirror, Rules};
use crate::engine::supplies::{Driver, Repository, Supplies};
use crate::engine::survey::{self, Look, Outside};
use crate::engine::wish::{AtTheEnd, Stage, Wish};
use crate::engine::{configure, packages};
use crate::error::{Error, Result};
use crate::event::{Event, Events};
use crate::facts::Facts;
use crate::fetch::Network;
use crate::lock::Lock;
use crate::plan::{Action, DriverState, Intent, Plan, Power, Situation};
use crate::report::{ContainerReport, Outcome, Step};
use crate::runtime::Session;

/// How the job is to be done.
#[derive(Debug, Clone, Copy)]
pub struct Manner {
    /// How the installer gets inside.
    pub stage: Stage,
    /// What happens at the end to a container that was stopped.
    pub at_the_end: AtTheEnd,
    /// What is accepted of the cache's packages.
    pub rules: Rules,
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

/// One container's job.
#[derive(Debug)]
pub struct Job<'a> {
    session: &'a Session<'a>,
    means: &'a Means<'a>,
    report: ContainerReport,
}

/// What is known of the running container at some moment.
#[derive(Debug)]
struct Inside {
    pid: u32,
    facts: Facts,
    driver: DriverState,
    answering: BTreeSet<String>,
}

/// Where a container's packages come from.
#[derive(Debug, Default)]
struct Goods {
    /// The files that apt reads inside.
    files: Vec<AptFile>,
    /// The lock with the packages, if the cache has them.
    lock: Option<Lock>,
    /// The versions that the lock has of the wanted packages.
    versions: BTreeMap<String, String>,
    /// The mirror, once apt was asked and it has everything.
    mirror: Option<Mirror>,
}

/// The versions that a lock has of some packages.
pub fn locked_versions(lock: &Lock, names: &[String]) -> BTreeMap<String, String> {
    let version = |name: &String| Some((name.clone(), stock::version(lock, name)?.to_owned()));
    names.iter().filter_map(version).collect()
}

/// Provisions one container. The report holds the error, if there was one.
pub fn run<'a>(session: &'a Session<'a>, means: &'a Means<'a>) -> ContainerReport {
    let mut job = Job { session, means, report: ContainerReport::new(session.ctid) };
    job.report.log = session.log.path().map(|path| path.display().to_string());
    if let Err(error) = job.carry_out() {
        session.log.note(&format!("failed: {error}"));
        job.report.fail(error);
    }
    job.report
}

impl Job<'_> {
    fn events(&self) -> &dyn Events {
        self.means.supplies.events
    }

    fn begin(&self, step: Step) -> Instant {
        let container = Some(self.session.ctid.clone());
        self.events().emit(Event::StepStarted { container, step: step.to_string() });
        Instant::now()
    }

    fn end(&mut self, step: Step, outcome: Outcome, began: Instant) {
        let took = began.elapsed();
        self.session.log.note(&format!("{step}: {outcome}"));
        self.events().emit(Event::StepEnded {
            container: Some(self.session.ctid.clone()),
            step: step.to_string(),
            outcome: outcome.to_string(),
            took,
        });
        self.report.add(step, outcome, took);
    }

    /// Does `work` as a step: reports its outcome, or its failure, and passes the failure on.
    fn step<T>(
        &mut self,
        step: Step,
        work: impl FnOnce(&mut Self) -> Result<(Outcome, T)>,
    ) -> Result<T> {
        if step != Step::Restore {
            self.session.host.cancel.check()?;
        }
        let began = self.begin(step);
        match work(self) {
            Ok((outcome, value)) => {
                self.end(step, outcome, began);
                Ok(value)
            }
            Err(error) => {
                let error = error.on(self.session.ctid);
                self.end(step, Outcome::Failed(error.what().to_owned()), began);
                Err(error)
            }
        }
    }

    fn carry_out(&mut self) -> Result<()> {
        let (outside, seen) = self.step(Step::Facts, |job| {
            let outside = survey::outside(job.session, &job.means.wish.nodes)?;
            let seen = outside.pid.map(|pid| job.look_inside(pid, 30)).transpose()?;
            let outcome = Outcome::Unchanged(describe(seen.as_ref()));
            Ok((outcome, (outside, seen)))
        })?;
        let was_running = outside.pid.is_some();
        let result = self.put_right(outside, seen);
        if was_running || self.means.manner.at_the_end == AtTheEnd::KeepRunning {
            return result;
        }
        // Whatever happened, it goes back to what it was; the first error counts.
        let restored = self.step(Step::Restore, |job| {
            job.session.stop_regardless()?;
            Ok((Outcome::Changed("stopped again".to_owned()), ()))
        });
        result.and(restored)
    }

    fn put_right(&mut self, outside: Outside, seen: Option<Inside>) -> Result<()> {
        let mut goods = match &seen {
            Some(seen) => Some(self.goods(&seen.facts)?),
            None => None,
        };
        let plan = self.plan(&outside, seen.as_ref(), goods.as_ref());
        if let Some(seen) = seen.as_ref().filter(|_| plan.driver.changes()) {
            self.check_room(seen.pid)?;
        }
        if let (Some(seen), Some(goods)) = (&seen, &mut goods) {
            // Before anything is touched.
            self.ask(&plan, seen, goods)?;
        }
        self.passthrough(&outside, &plan)?;
        let pid = self.power(&outside, &plan)?;
        let Some(pid) = pid.or(outside.pid) else {
            return Err(Error::restart("find the container running"));
        };
        // A container that was stopped is looked into now, and planned once more.
        let (seen, goods, plan) = match (seen, goods) {
            (Some(seen), Some(goods)) => (Inside { pid, ..seen }, goods, plan),
            _ => {
                let (seen, mut goods, plan) = self.step(Step::Facts, |job| {
                    let seen = job.look_inside(pid, 60)?;
                    let goods = job.goods(&seen.facts)?;
                    let plan = job.plan(&outside, Some(&seen), Some(&goods));
                    Ok((Outcome::Unchanged(describe(Some(&seen))), (seen, goods, plan)))
                })?;
                self.ask(&plan, &seen, &mut goods)?;
                (seen, goods, plan)
            }
        };
        self.driver(&plan, &seen)?;
        self.packages(&plan, &goods, pid)?;
        let was_changed = plan.changes() || outside.pid.is_none();
        self.checks(seen, if was_changed { Fresh::LookAgain } else { Fresh::AsSeen })
    }

    fn plan(&self, outside: &Outside, seen: Option<&Inside>, goods: Option<&Goods>) -> Plan {
        let wish = self.means.wish;
        let none = Goods::default();
        let goods = goods.unwrap_or(&none);
        let intent = Intent {
            version: &wish.version,
            packages: wish.recipe.packages(),
            versions: &goods.versions,
            files: &goods.files,
            nodes: &wish.nodes,
        };
        let nothing = BTreeSet::new();
        let situation = Situation {
            edit: &outside.edit,
            is_running: outside.pid.is_some(),
            inside: seen.map(|seen| (&seen.facts, &seen.driver)),
            answering: seen.map_or(&nothing, |seen| &seen.answering),
        };
        Plan::compute(&intent, &situation)
    }

    fn look_inside(&self, pid: u32, wait: u32) -> Result<Inside> {
        let wish = self.means.wish;
        let look = Look { wait, nodes: &wish.nodes, packages: wish.recipe.packages() };
        let facts = survey::inside(self.session, look)?;
        survey::refuse_system(&facts)?;
        let root = survey::root(self.session, pid)?;
        let driver = driver::state(&root, self.package());
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

    /// Where the packages come from, and the files that apt reads for it; nothing where the recipe
    /// has no packages.
    fn goods(&self, facts: &Facts) -> Result<Goods> {
        let Means { wish, supplies, driver, .. } = self.means;
        if wish.recipe.packages().is_empty() {
            return Ok(Goods::default());
        }
        if !facts.has_apt {
            let what = format!("install {}: it has no `apt-get`", wish.recipe.packages().join(" "));
            return Err(Error::install(what)
                .hint("`--recipe driver-only` installs the driver's userland alone"));
        }
        let (recipe, distribution) = (&wish.recipe, &facts.distribution);
        recipe.repository(distribution, facts.architecture)?;
        let lock = supplies.stock(recipe, distribution, facts.architecture)?;
        let mut files = vec![apt::pins(recipe.denied_packages(), recipe.allowed_packages())];
        if supplies.fetcher.network() == Network::Allowed {
            let repository = supplies.repository(recipe, distribution, facts.architecture)?;
            self.record(distribution, &repository, driver)?;
            files.extend(repository.files());
        }
        let versions = lock.as_ref().map(|lock| locked_versions(lock, recipe.packages()));
        Ok(Goods { files, versions: versions.unwrap_or_default(), lock, mirror: None })
    }

    /// Makes the mirror ready and asks the container's apt whether it has everything. Where it has
    /// not, the network serves if it may be used.
    fn ask(&mut self, plan: &Plan, seen: &Inside, goods: &mut Goods) -> Result<()> {
        let Some(lock) = goods.lock.clone().filter(|_| plan.packages.changes()) else {
            return Ok(());
        };
        let asked = self.ask_apt(lock, seen, goods);
        let is_offline = self.means.supplies.fetcher.network() == Network::Forbidden;
        match asked {
            Ok((mirror, Asked::Complete)) => {
                goods.mirror = Some(mirror);
                return Ok(());
            }
            Ok((_, Asked::Lacking(missing))) if is_offline => {
                Err(packages::lacking(self.session, &missing))
            }
            Ok((_, Asked::Lacking(missing))) => {
                let count = missing.len();
                self.warn(&format!(
                    "the cache lacks {count} packages that it needs: apt fetches all"
                ));
                return Ok(());
            }
            Err(error) => Err(error),
        }
        .or_else(|error: Error| self.step(Step::Packages, |_| Err(error)))
    }

    fn ask_apt(&self, lock: Lock, seen: &Inside, goods: &Goods) -> Result<(Mirror, Asked)> {
        let Means { wish, supplies, manner, .. } = self.means;
        let mirror = supplies.stocked(lock, &wish.recipe, (&seen.facts, manner.rules))?;
        let job = packages::Job {
            recipe: &wish.recipe,
            files: &goods.files,
            mirror: Some(&mirror),
            pid: seen.pid,
        };
        let asked = packages::ask(self.session, job)?;
        Ok((mirror, asked))
    }

    fn record(&self, distribution: &str, repository: &Repository, driver: &Driver) -> Result<()> {
        let Means { wish, supplies, .. } = self.means;
        let target = (distribution, wish.architecture);
        supplies.record(&wish.recipe, target, driver, Some(repository))
    }

    fn passthrough(&mut self, outside: &Outside, plan: &Plan) -> Result<()> {
        let action = plan.passthrough.clone();
        self.step(Step::Passthrough, |job| {
            let foreign: Vec<String> = outside
                .edit
                .foreign
                .iter()
                .map(|line| format!("kept `{}`: {}", line.text, line.why))
                .collect();
            for text in &foreign {
                job.warn(text);
            }
            let Action::Do(what) = action else {
                return Ok((Outcome::Unchanged("device lines are there".to_owned()), ()));
            };
            configure::apply(job.session, outside)?;
            for line in &outside.edit.lines_added {
                job.detail(format!("configuration: added `{line}`"));
            }
            for (old, new) in &outside.edit.lines_corrected {
                job.detail(format!("configuration: corrected `{old}` to `{new}`"));
            }
            let gpus: Vec<String> =
                job.means.wish.gpus.iter().map(|gpu| format!("nvidia{}", gpu.minor)).collect();
            Ok((Outcome::Changed(format!("{what} ({})", gpus.join(", "))), ()))
        })
    }

    /// Something for the log of this run, and for whoever wants every detail.
    fn detail(&self, text: String) {
        self.session.log.note(&text);
        self.events().emit(Event::Detail { text });
    }

    fn warn(&self, text: &str) {
        let text = format!("container {}: {text}", self.session.ctid);
        self.session.log.note(&text);
        self.events().emit(Event::Warning { text });
    }

    /// Starts or restarts; returns the new first process.
    fn power(&mut self, outside: &Outside, plan: &Plan) -> Result<Option<u32>> {
        let power = plan.power.clone();
        self.step(Step::Power, |job| {
            let (pid, outcome) = match power {
                Power::Keep => {
                    return Ok((Outcome::Unchanged("no restart needed".to_owned()), None));
                }
                Power::Start => (job.session.start()?, Outcome::Changed("started".to_owned())),
                Power::Restart(why) => {
                    (job.session.restart()?, Outcome::Changed(format!("restarted: {why}")))
                }
            };
            configure::confirm(job.session, outside, &job.means.wish.nodes)?;
            Ok((outcome, Some(pid)))
        })
    }

    fn driver(&mut self, plan: &Plan, seen: &Inside) -> Result<()> {
        let what = match &plan.driver {
            Action::Nothing(why) => {
                let began = self.begin(Step::Driver);
                self.end(Step::Driver, Outcome::Unchanged(why.clone()), began);
                return Ok(());
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
            let installed = staged.install(job.package());
            let removed = staged.remove();
            installed?;
            removed?;
            let root = survey::root(session, seen.pid)?;
            match driver::state(&root, job.package()) {
                DriverState::Complete => Ok((Outcome::Changed(what), ())),
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

    fn packages(&mut self, plan: &Plan, goods: &Goods, pid: u32) -> Result<()> {
        let action = plan.packages.clone();
        self.step(Step::Packages, |job| match action {
            Action::Nothing(why) => Ok((Outcome::Unchanged(why), ())),
            Action::Do(what) | Action::Unknown(what) => {
                let from = goods.mirror.as_ref().map_or("the network", |_| "the cache");
                job.detail(format!("apt inside, from {from}: {what}"));
                let Goods { files, mirror, .. } = goods;
                let (recipe, mirror) = (&job.means.wish.recipe, mirror.as_ref());
                packages::install(job.session, packages::Job { recipe, files, mirror, pid })?;
                Ok((Outcome::Changed(format!("{what}, from {from}")), ()))
            }
        })
    }

    fn checks(&mut self, seen: Inside, fresh: Fresh) -> Result<()> {
        self.step(Step::Checks, |job| {
            let seen = match fresh {
                Fresh::AsSeen => seen,
                Fresh::LookAgain => job.look_inside(seen.pid, 60)?,
            };
            job.report_foreign_drivers(&seen.facts);
            if let Some(smi) = &seen.facts.smi {
                job.detail(format!("nvidia-smi: status {}\n{}", smi.status, smi.output));
            }
            let checked = job.check(&seen);
            Ok((judge(&checked)?, ()))
        })
    }

    fn report_foreign_drivers(&self, facts: &Facts) {
        for package in &facts.driver_packages {
            let (name, version) = (&package.name, &package.version);
            self.warn(&format!(
                "package {name} {version} brings a second driver: `apt-get purge {name}`"
            ));
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
            packages: wish.recipe.packages(),
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

fn describe(seen: Option<&Inside>) -> String {
    match seen {
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
        .filter(|one| matches!(one.verdict, Verdict::NotCheckable(_)))
        .map(ToString::to_string)
        .collect();
    if open.is_empty() {
        return Ok(Outcome::Unchanged(format!("{} passed", passed.join(", "))));
    }
    let passed =
        if passed.is_empty() { String::new() } else { format!("{} passed; ", passed.join(", ")) };
    Ok(Outcome::Warned(format!("{passed}{}", open.join("; "))))
}
