//! `nvstage sync`: after the host's driver has changed, every container that nvstage manages.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::Args;

use super::restarts::Restarts;
use super::{
    BatchArguments, Context, ForeseenRestart, RecipeContent, RecipeFiles, RestartArguments,
    RuntimeArgument, SourceArguments, Stores, select,
};
use crate::ctid::Ctid;
use crate::engine::batch::{Batch, Ended, Entry};
use crate::engine::before;
use crate::engine::drift::{Drift, Kind};
use crate::engine::provision::{self, Manner, Means};
use crate::engine::shared::{self, DriverImage};
use crate::engine::status::{ContainerStatus, Machine, State};
use crate::engine::stock::Rules;
use crate::engine::supplies::{Driver, Supplies};
use crate::engine::sync::{self, InUse};
use crate::engine::wish::{AtTheEnd, Stage, Wish};
use crate::engine::{journal, pending, survey, tenant, wish};
use crate::error::{Error, ExitCode, Result};
use crate::event::Event;
use crate::gpu::GpuAssignment;
use crate::host::devices::Inventory;
use crate::host::holders::holders;
use crate::host::runlog::RunLog;
use crate::journal::{Journal, State as Passing, Unfinished};
use crate::recipe::{Overrides, Recipe, Userland};
use crate::report::{ContainerReport, Outcome, Report, Step};
use crate::runtime::{self, Runtime, Session};
use crate::version::DriverVersion;

/// Bring containers to the driver version of the loaded kernel module
#[derive(Debug, Clone, Args)]
pub struct Arguments {
    /// Containers; without any, all that nvstage manages
    #[arg(value_name = "CTID")]
    containers: Vec<String>,
    /// Change nothing; exit with 10 when a container differs
    #[arg(long)]
    check: bool,
    /// Restart also those whose processes hold a GPU; otherwise they are left alone
    #[arg(long, conflicts_with = "no_restart")]
    restart: bool,
    #[command(flatten)]
    restarts: RestartArguments,
    #[command(flatten)]
    sources: SourceArguments,
    #[command(flatten)]
    batch: BatchArguments,
    /// How containers are driven: auto, pct, or lxc
    #[arg(long, value_enum, hide_possible_values = true, default_value_t = RuntimeArgument::Auto)]
    runtime: RuntimeArgument,
}

/// Runs the verb.
///
/// # Errors
/// Host error where no kernel module is loaded; what concerns one container is in its report.
pub fn run(context: &Context<'_>, arguments: &Arguments) -> Result<Report> {
    let runtime = runtime::choose(context.host, arguments.runtime.into())?;
    let named = select(&arguments.containers, Some(&*runtime))?;
    let machine = Machine::read(context.host, &*runtime);
    let Some(module) = machine.inventory.module_version().cloned() else {
        return Err(Error::host(
            "find out which driver containers need: no NVIDIA kernel module is loaded",
        )
        .hint("load it: `modprobe nvidia`"));
    };
    let (containers, errors) = machine.containers(&named)?;
    let (managed, others) = managed(context, containers, &named);
    for error in &errors {
        context.events.emit(Event::Failed { text: error.to_string() });
    }
    let mut reports: Vec<ContainerReport> = match arguments.check {
        true => managed.iter().map(|one| one.check(&module)).collect(),
        false => bring(context, (&*runtime, arguments), (managed, &module))?,
    };
    reports.extend(others);
    let mut report = Report::new("sync", reports);
    let codes = errors.iter().map(Error::code).chain([report.exit]);
    report.exit = ExitCode::combine(codes);
    Ok(report)
}

/// Does what is to be done.
fn bring(
    context: &Context<'_>,
    (runtime, arguments): (&dyn Runtime, &Arguments),
    (managed, module): (Vec<Managed>, &DriverVersion),
) -> Result<Vec<ContainerReport>> {
    let stores = Stores::open(context, &arguments.sources)?;
    let inventory = Inventory::read(&context.host.paths).map(Arc::new)?;
    let mut work = Work {
        context,
        runtime,
        supplies: &stores.supplies(context),
        inventory,
        files: RecipeFiles::new(context),
        image: Ok(None),
        drivers: Mutex::default(),
        in_use: if arguments.restart { InUse::Restart } else { InUse::Skip },
        restarts: Restarts::All,
    };
    work.tell(&managed, module);
    work.restarts = arguments.restarts.decide(context, || work.foreseen(&managed, module))?;
    // Those that have their own driver do not wait for it.
    work.image = work.share(&managed, module);
    let batch = arguments.batch.batch(context, managed.len());
    Ok(work.carry_out(managed, module, &batch))
}

/// One container that nvstage manages.
struct Managed {
    status: ContainerStatus,
    journal: Journal,
}

/// Those of the containers whose GPUs nvstage passes, and reports of others whose driver drifts; of
/// the rest it is said why they are left out.
fn managed(
    context: &Context<'_>,
    containers: Vec<ContainerStatus>,
    named: &[Ctid],
) -> (Vec<Managed>, Vec<ContainerReport>) {
    let is_named = !named.is_empty();
    let (mut managed, mut others) = (Vec::new(), Vec::new());
    for status in containers {
        let ctid = &status.container;
        let is_other = |drift: &&Drift| drift.kind == Kind::Gone || drift.kind == Kind::Journal;
        if let Some(drift) = status.drift.iter().find(is_other) {
            let text = format!("container {ctid} is left out: {}", drift.text);
            context.events.emit(Event::Warning { text });
            continue;
        }
        match journal::load(&context.host.paths, ctid) {
            Ok(Some(journal)) if journal.state == Passing::Attached => {
                managed.push(Managed { status, journal });
            }
            Ok(None) if status.drift.iter().any(|drift| drift.kind == Kind::Driver) => {
                others.extend(somebody_elses(&status));
            }
            _ if is_named => {
                let text = format!("container {ctid} is left out: nvstage passes it no GPUs");
                context.events.emit(Event::Warning { text });
            }
            _ => {}
        }
    }
    (managed, others)
}

/// The report of a container that nvstage does not manage, and whose driver drifts.
fn somebody_elses(status: &ContainerStatus) -> Option<ContainerReport> {
    let drift = status.drift.iter().find(|drift| drift.kind == Kind::Driver)?;
    let remedy = drift.remedy.as_deref().unwrap_or_default();
    let text = format!("not managed by nvstage: {}; {remedy} takes it over", drift.text);
    let mut report = ContainerReport::new(&status.container);
    report.exit = ExitCode::Differs;
    report.add(Step::Facts, Outcome::Skipped(text), Duration::ZERO);
    Some(report)
}

impl Managed {
    /// What is wrong with its driver: lines that are missing too, where it is to be shown by one.
    fn drift(&self) -> Option<&Drift> {
        let shares = self.journal.userland == Userland::Share;
        let counts = |kind: Kind| match kind {
            Kind::Driver | Kind::Incomplete => true,
            kind => shares && kind == Kind::Lines,
        };
        self.status.drift.iter().find(|drift| counts(drift.kind))
    }

    /// Whether a `detach` of it is not finished.
    fn is_being_removed(&self) -> bool {
        self.journal.unfinished.as_ref().is_some_and(Unfinished::is_removal)
    }

    /// Why nothing can be said of it.
    fn unknown(&self) -> Option<Error> {
        let is_unknown = |kind: Kind| kind == Kind::Configuration || kind == Kind::State;
        let drift = self.status.drift.iter().find(|drift| is_unknown(drift.kind))?;
        Some(Error::host("find out which driver it has").because(&drift.text))
    }

    fn has(&self, module: &DriverVersion) -> String {
        match (&self.status.driver, self.journal.userland) {
            (Some(seen), Userland::Share) => format!("driver {} of the host", seen.version),
            (Some(seen), Userland::Installer) => format!("driver {}", seen.version),
            (None, _) => format!("driver {module}"),
        }
    }

    fn check(&self, module: &DriverVersion) -> ContainerReport {
        if let Some(error) = self.unknown() {
            return ContainerReport::failed(&self.status.container, error);
        }
        let mut report = ContainerReport::new(&self.status.container);
        let outcome = match self.drift() {
            None if !self.status.notes.is_empty() => Outcome::Skipped(self.status.notes.join("; ")),
            Some(drift) => {
                report.exit = ExitCode::Differs;
                Outcome::Failed(drift.text.clone())
            }
            None => Outcome::Unchanged(self.has(module)),
        };
        report.add(Step::Checks, outcome, Duration::ZERO);
        report
    }

    /// The report of one that there is nothing to do for, or nothing can be done.
    fn over(&self, module: &DriverVersion) -> Option<ContainerReport> {
        if let Some(error) = self.unknown() {
            return Some(ContainerReport::failed(&self.status.container, error));
        }
        let mut report = ContainerReport::new(&self.status.container);
        let outcome = match (self.drift(), self.status.state) {
            // A run that was killed may have left it stopped.
            (None, State::Stopped) if self.journal.was.is_some() => return None,
            (None, _) if !self.status.notes.is_empty() => {
                Outcome::Skipped(self.status.notes.join("; "))
            }
            (None, _) => Outcome::Unchanged(self.has(module)),
            (Some(drift), _) if self.is_being_removed() => {
                report.exit = ExitCode::Differs;
                let remedy = drift.remedy.as_deref().unwrap_or_default();
                Outcome::Skipped(format!("{}: {remedy}", drift.text))
            }
            (Some(_), State::Template) if self.journal.userland == Userland::Share => {
                Outcome::Unchanged(format!("a template: its clones get driver {module}"))
            }
            (Some(drift), State::Template) => {
                report.exit = ExitCode::Differs;
                Outcome::Skipped(format!("{}: a template cannot be changed", drift.text))
            }
            _ => return None,
        };
        report.add(Step::Facts, outcome, Duration::ZERO);
        Some(report)
    }
}

/// The installers of a run, each obtained once for all containers that get the same recipe.
type Drivers = Mutex<Vec<(Arc<Recipe>, Result<Arc<Driver>>)>>;

/// What is the same for every container of a run.
struct Work<'a> {
    context: &'a Context<'a>,
    runtime: &'a dyn Runtime,
    supplies: &'a Supplies<'a>,
    inventory: Arc<Inventory>,
    files: RecipeFiles<'a>,
    /// The image that containers share, or why there is none.
    image: Result<Option<DriverImage>>,
    drivers: Drivers,
    in_use: InUse,
    restarts: Restarts,
}

impl Work<'_> {
    /// Says what is about to be done.
    fn tell(&self, managed: &[Managed], module: &DriverVersion) {
        for one in managed.iter().filter(|one| one.over(module).is_none()) {
            let text = one.drift().map(|drift| drift.text.as_str()).unwrap_or_default();
            let is_unfinished = one.journal.unfinished.is_some();
            let what = match (one.journal.userland, one.status.state) {
                _ if is_unfinished => "finish it",
                (Userland::Share, State::Running) => "restart it",
                (Userland::Share, _) => "change the host's alone",
                (Userland::Installer, State::Running) => "install the other one",
                (Userland::Installer, _) => "start it, install the other one, stop it",
            };
            let text = format!("container {}: {text}: {what}", one.status.container);
            self.context.events.emit(Event::Note { text });
        }
    }

    /// The running containers that are going to be restarted.
    fn foreseen(&self, managed: &[Managed], module: &DriverVersion) -> Vec<ForeseenRestart> {
        let worked_on = managed.iter().filter(|one| one.over(module).is_none());
        // What is wrong with one is said when it is worked on.
        worked_on.filter_map(|one| self.foreseen_restart(one, module).ok()?).collect()
    }

    fn foreseen_restart(
        &self,
        one: &Managed,
        module: &DriverVersion,
    ) -> Result<Option<ForeseenRestart>> {
        let (ctid, log) = (&one.status.container, RunLog::none());
        let session = Session { host: self.context.host, runtime: self.runtime, ctid, log: &log };
        let Some(wish) = self.wish(&one.journal)? else { return Ok(None) };
        let outside = survey::outside(&session, &wish, None)?;
        let Some(pid) = outside.pid else { return Ok(None) };
        let is_in_use = !holders(pid).is_empty();
        let is_share = one.journal.userland == Userland::Share;
        // What it lacks of a driver that it sees needs no restart.
        let sees_it = is_share && !outside.edit.changed() && {
            let root = survey::root(&session, pid)?;
            tenant::version_inside(&root).as_ref() == Some(module)
        };
        let why = match (one.journal.userland, is_in_use, self.in_use) {
            (_, true, InUse::Skip) => None,
            _ if sees_it => None,
            (Userland::Share, ..) => Some(format!("to get driver {module}")),
            (Userland::Installer, true, InUse::Restart) => {
                Some("its processes hold a GPU".to_owned())
            }
            (Userland::Installer, false, _) => outside.foreseen_restart(&session, &wish),
        };
        let applies = pending::changes(&outside.configuration);
        Ok(why.map(|why| ForeseenRestart { container: ctid.clone(), why, applies }))
    }

    /// What a container is to have; `None` where its journal names no GPU.
    fn wish(&self, journal: &Journal) -> Result<Option<Wish>> {
        let recipe = self.recipe(journal)?;
        let gpus = GpuAssignment::parse(&journal.gpus)?;
        Wish::resolve(self.context.host, &self.inventory, &recipe, &gpus)
    }

    /// Makes the module's version the one that containers get at their next start, where any of them
    /// shares the host's driver.
    fn share(&self, managed: &[Managed], module: &DriverVersion) -> Result<Option<DriverImage>> {
        let sharing = managed.iter().find(|one| one.journal.userland == Userland::Share);
        let Some(one) = sharing else { return Ok(None) };
        let host = self.context.host;
        shared::mount_all(host, self.context.events)?;
        let known = match shared::driver_at_hand(&host.paths, module)? {
            Some(image) => Some(image),
            None => shared::build_from_cache(host, self.supplies, module)?,
        };
        let image = match known {
            Some(image) => image,
            None => {
                let recipe = self.recipe(&one.journal)?;
                let architecture = wish::host_architecture()?;
                let driver = self.supplies.driver(&recipe, module, architecture)?;
                shared::obtain_driver(host, self.supplies, &driver)?
            }
        };
        shared::switch(host, module)?;
        Ok(Some(image))
    }

    fn carry_out(
        &self,
        managed: Vec<Managed>,
        module: &DriverVersion,
        batch: &Batch<'_>,
    ) -> Vec<ContainerReport> {
        let entry = |one: Managed| {
            let ctid = one.status.container.clone();
            match one.over(module) {
                Some(report) => (ctid, Entry::Ended(report)),
                None => (ctid, Entry::Ready(())),
            }
        };
        batch.run(
            managed.into_iter().map(entry).collect(),
            |ctid| self.context.try_lock(ctid),
            |ctid, (), _lock| {
                let log = self.context.log(ctid);
                let (host, runtime) = (self.context.host, self.runtime);
                let session = Session { host, runtime, ctid, log: &log };
                let report = self
                    .one(&session)
                    .unwrap_or_else(|error| before::failed(&session, self.context.events, error));
                self.context.record_run(&report, "sync");
                report
            },
        )
    }

    fn one(&self, session: &Session<'_>) -> Result<ContainerReport> {
        let (context, ctid) = (self.context, session.ctid);
        // Whoever was waited for may have changed it.
        let known = journal::load(&context.host.paths, ctid)?;
        let Some(journal) = known.filter(|journal| journal.state == Passing::Attached) else {
            let mut report = ContainerReport::new(ctid);
            let why = "its GPUs were taken out meanwhile".to_owned();
            report.add(Step::Facts, Outcome::Unchanged(why), Duration::ZERO);
            return Ok(report);
        };
        let journal = &journal;
        let wish = self.wish(journal)?.ok_or_else(|| {
            Error::host("find out which GPUs it has: its journal names none").hint(
                "provision it with `--gpus all` for every GPU of this host, or `--gpus 0` for GPU 0 \
                 alone",
            )
        })?;
        let on_restart = self.restarts.of(ctid);
        let manner = sync::Manner { events: context.events, in_use: self.in_use, on_restart };
        let image = match journal.userland {
            Userland::Share => self.image.as_ref().map_err(Error::clone)?.as_ref(),
            Userland::Installer => None,
        };
        Ok(sync::run(session, manner, (&wish, image), || {
            self.provision(session, &wish)
                .unwrap_or_else(|error| before::failed(session, context.events, error))
        }))
    }

    fn provision(&self, session: &Session<'_>, wish: &Wish) -> Result<ContainerReport> {
        let driver = self.driver(wish)?;
        let manner = Manner {
            stage: Stage::Mount,
            at_the_end: AtTheEnd::StopAgain,
            on_restart: self.restarts.of(session.ctid),
            rules: Rules::default(),
            installer_limit: Duration::from_secs(super::provision::INSTALLER_TIMEOUT.into()),
        };
        let means = Means { wish, driver: &driver, supplies: self.supplies, manner };
        Ok(provision::run(session, &means))
    }

    /// The installer of the module's version; fetched at most once, also where that fails.
    fn driver(&self, wish: &Wish) -> Result<Arc<Driver>> {
        let mut drivers = self.drivers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, driver)) = drivers.iter().find(|(recipe, _)| *recipe == wish.recipe) {
            return driver.clone();
        }
        let driver = self.supplies.driver(&wish.recipe, &wish.version, wish.architecture);
        let driver = driver.map(Arc::new);
        drivers.push((Arc::clone(&wish.recipe), driver.clone()));
        driver
    }

    /// The recipe that a container was provisioned with, for the loaded module's version.
    fn recipe(&self, journal: &Journal) -> Result<Arc<Recipe>> {
        let driver = Some("host".to_owned());
        let recipe = self
            .files
            .of_journal(journal, RecipeContent::Kept)?
            .with_profile(&journal.profile)?
            .with(&Overrides::from_settings(&journal.settings)?)?
            .with(&Overrides { driver, ..Overrides::default() })?
            .with_passthrough(journal.method)
            .with_methods(Some(journal.userland), Some(journal.cuda));
        Ok(Arc::new(recipe))
    }
}
