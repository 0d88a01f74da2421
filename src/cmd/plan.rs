//! `nvstage plan CTID…`: what `provision` would do; no container is changed, nothing fetched.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use clap::Args;
use serde::Serialize;

use super::{
    Context, RecipeArguments, RequestValue, SourceArguments, Stores, Target, TargetArguments,
    ValueSource,
};
use crate::apt::existing::Change;
use crate::apt::{self, AptFile};
use crate::artifact::Artifact;
use crate::container::config::PendingChange;
use crate::container::passthrough::DriverLines;
use crate::container::problems::{self, HostDevices};
use crate::ctid::Ctid;
use crate::diff;
use crate::engine::conflicts;
use crate::engine::driver::{self, Package};
use crate::engine::existing_sources::{self, Need};
use crate::engine::pending;
use crate::engine::seen::Seen;
use crate::engine::sharing::{self, Share};
use crate::engine::stock;
use crate::engine::supplies::{Driver, Supplies};
use crate::engine::survey::{self, Look, Outside};
use crate::engine::tenant::Known;
use crate::engine::wish::Wish;
use crate::error::{Error, ExitCode, Result};
use crate::facts::Facts;
use crate::fetch::Network;
use crate::host::devices::Inventory;
use crate::host::rootfs::ContainerRoot;
use crate::host::runlog::RunLog;
use crate::journal::Journal;
use crate::plan::{DriverState, Intent, Plan, Power, Situation};
use crate::recipe::{CudaMethod, Userland};
use crate::runtime::{Runtime, Session};

/// Show what provision would do, and change nothing
#[derive(Debug, Clone, Args)]
pub struct Arguments {
    #[command(flatten)]
    targets: TargetArguments,
    #[command(flatten)]
    recipe: RecipeArguments,
    #[command(flatten)]
    sources: SourceArguments,
    /// As provision: take out lines that bring a driver of the host's by another way
    #[arg(long)]
    adopt: bool,
}

/// Something that would be downloaded.
#[derive(Debug, Clone, Serialize)]
pub struct Download {
    /// Its name.
    pub name: String,
    /// Its size in bytes, where known.
    pub bytes: Option<u64>,
}

/// The plan for one container.
#[derive(Debug, Serialize)]
pub struct ContainerPlan {
    /// Which container.
    pub container: Ctid,
    /// What it is to get, value by value, and where each value comes from.
    pub request: Vec<RequestValue>,
    /// What would happen, part by part.
    pub parts: Vec<(&'static str, String)>,
    /// The configuration's change as a unified diff; empty when there is none.
    pub diff: String,
    /// Whether the container would be restarted.
    pub restart: bool,
    /// What would be downloaded by this host.
    pub downloads: Vec<Download>,
    /// Bytes of the driver that would be written into the container; `None` when the installer
    /// has to be downloaded to know.
    pub bytes_to_write: Option<u64>,
    /// Lines of the configuration about NVIDIA devices that stay as they are, and why.
    pub kept: Vec<String>,
    /// Whether anything would change.
    pub changes: bool,
    /// Why there is no plan.
    pub error: Option<String>,
    /// The exit code for this container alone.
    #[serde(skip)]
    pub exit: ExitCode,
}

/// The plans of one run.
#[derive(Debug, Serialize)]
pub struct Plans {
    schema: u32,
    /// One for each container.
    pub containers: Vec<ContainerPlan>,
    /// The exit code of the run.
    #[serde(skip)]
    pub exit: ExitCode,
}

impl ContainerPlan {
    fn new(ctid: &Ctid) -> Self {
        Self {
            container: ctid.clone(),
            request: Vec::new(),
            parts: Vec::new(),
            diff: String::new(),
            restart: false,
            downloads: Vec::new(),
            bytes_to_write: Some(0),
            kept: Vec::new(),
            changes: false,
            error: None,
            exit: ExitCode::Done,
        }
    }
}

/// Runs the verb.
///
/// # Errors
/// What concerns every container; what concerns one is in its plan.
pub fn run(context: &Context<'_>, arguments: &Arguments) -> Result<Plans> {
    let targets = arguments.targets.resolve(context, &arguments.recipe)?;
    let runtime = arguments.targets.runtime(context)?;
    let stores = Stores::open(context, &arguments.sources)?;
    let supplies = stores.supplies(context);
    let inventory = Inventory::read(&context.host.paths).map(Arc::new);
    let driver_lines = super::driver_lines(arguments.adopt);
    let looked: Vec<_> = targets
        .iter()
        .map(|target| {
            let looked = look_outside(context, &inventory, &*runtime, target, driver_lines);
            (&target.ctid, looked)
        })
        .collect();
    let shares = shares(context, &*runtime, &looked);
    let mut containers = Vec::new();
    for (target, (ctid, looked)) in targets.iter().zip(looked) {
        let planned = looked.and_then(|looked| match looked {
            Some(looked) => one(context, &*runtime, (ctid, &looked), &supplies).map(|mut plan| {
                let others = sharing::others(&shares, ctid, &looked.wish.gpus);
                plan.parts.extend(others.map(|others| ("shared", others)));
                plan
            }),
            None => {
                let mut plan = ContainerPlan::new(ctid);
                plan.parts.push((
                    "passthrough",
                    "unchanged: no GPU is assigned, nothing to do".to_owned(),
                ));
                Ok(plan)
            }
        });
        let mut planned = planned.unwrap_or_else(|error| refused(ctid, error));
        let named = target.wanted.as_ref().map(|wanted| wanted.values.clone());
        planned.request.splice(0..0, named.unwrap_or_default());
        containers.push(planned);
    }
    let exit = ExitCode::combine(containers.iter().map(|plan| plan.exit));
    Ok(Plans { schema: 1, containers, exit })
}

/// What is wanted for a container, and what can be seen of it from outside.
struct Looked {
    wish: Wish,
    outside: Outside,
}

/// `None` where no GPU is assigned.
fn look_outside(
    context: &Context<'_>,
    inventory: &Result<Arc<Inventory>>,
    runtime: &dyn Runtime,
    target: &Target,
    driver_lines: DriverLines,
) -> Result<Option<Looked>> {
    let ctid = &target.ctid;
    runtime.locate(ctid)?;
    let wanted = target.wanted.as_ref().map_err(Error::clone)?;
    let inventory = inventory.as_ref().map_err(Error::clone)?;
    let wish = Wish::resolve(context.host, inventory, &wanted.recipe, &wanted.gpus)?;
    let Some(wish) = wish else { return Ok(None) };
    let wish = wish.with_driver_lines(driver_lines);
    let session = Session { host: context.host, runtime, ctid, log: &RunLog::none() };
    let outside = survey::outside(&session, &wish, None)?;
    Ok(Some(Looked { wish, outside }))
}

/// Which containers will have GPUs when everything is done that is planned here.
fn shares(
    context: &Context<'_>,
    runtime: &dyn Runtime,
    looked: &[(&Ctid, Result<Option<Looked>>)],
) -> Vec<Share> {
    let mut planned = Vec::new();
    let mut inventory = None;
    for (ctid, looked) in looked {
        if let Ok(Some(looked)) = looked {
            planned.push((*ctid, &looked.outside.edit.config));
            inventory = Some(&looked.wish.inventory);
        }
    }
    inventory.map_or_else(Vec::new, |inventory| {
        sharing::foreseen(runtime, inventory, &planned, context.events)
    })
}

fn refused(ctid: &Ctid, error: Error) -> ContainerPlan {
    let error = error.on(ctid);
    let exit = error.code();
    ContainerPlan { error: Some(error.to_string()), exit, ..ContainerPlan::new(ctid) }
}

fn one(
    context: &Context<'_>,
    runtime: &dyn Runtime,
    container: (&Ctid, &Looked),
    supplies: &Supplies<'_>,
) -> Result<ContainerPlan> {
    let (ctid, Looked { wish, outside }) = container;
    let session = Session { host: context.host, runtime, ctid, log: &RunLog::none() };
    let mut known = Known::of(&session, wish, supplies, (outside.ways, outside.pid))?;
    known.conflict.take().map_or(Ok(()), Err)?;
    let with_cuda = match &known.images.cuda {
        Some(image) => Some(survey::outside(&session, wish, Some(image))?),
        None => None,
    };
    let outside = with_cuda.as_ref().unwrap_or(outside);
    let (artifact, driver) =
        supplies.driver_at_hand(&wish.recipe, &wish.version, wish.architecture)?;
    supplies.refuse_unpinned(&artifact)?;
    let before = outside.before.as_ref();
    let inside = |pid| look(&session, wish, (driver.as_ref(), &known), pid, before);
    let seen = outside.pid.map(inside).transpose()?;
    let mut result = ContainerPlan::new(ctid);
    let apt = match (&seen, outside.pid) {
        (Some((facts, _)), Some(pid)) => {
            let root = survey::root(&session, pid)?;
            apt_files(wish, supplies, (facts, &known, &root), &mut result.downloads)?
        }
        _ => Apt::default(),
    };
    let intent = Intent {
        version: &wish.version,
        packages: known.apt.packages(),
        versions: &apt.versions,
        files: &apt.files,
        repository: apt.sources.text(),
        nodes: &wish.nodes,
    };
    let answering = match &seen {
        Some((facts, _)) => survey::answering(&session, &wish.nodes, facts),
        None => BTreeSet::new(),
    };
    let situation = Situation {
        edit: &outside.edit,
        reach: outside.reach,
        is_running: outside.pid.is_some(),
        pending: outside.pending_restart(),
        inside: seen.as_ref().map(|(facts, state)| (facts, state)),
        answering: &answering,
        sharing: &known.sharing,
    };
    let plan = Plan::compute(&intent, &situation);
    let refused = seen
        .as_ref()
        .and_then(|(facts, _)| conflicts::second_driver(&plan, outside.ways.userland, facts));
    refused.map_or(Ok(()), Err)?;
    let foresight = Foresight { context, supplies, wish, outside, known: &known, plan: &plan };
    foresight.bytes(&mut result, artifact, driver.as_ref());
    describe(&mut result, outside, &plan);
    foresight.troubles(&mut result, seen.as_ref().map(|(facts, _)| facts))?;
    result.request = not_named(wish, outside);
    result.parts.extend(apt.part());
    result.parts.extend(troubles(context, wish, outside));
    Ok(result)
}

/// What the plan of a container is made from.
struct Foresight<'a> {
    context: &'a Context<'a>,
    supplies: &'a Supplies<'a>,
    wish: &'a Wish,
    outside: &'a Outside,
    known: &'a Known,
    plan: &'a Plan,
}

impl Foresight<'_> {
    /// Bytes to download and to write.
    fn bytes(&self, result: &mut ContainerPlan, artifact: Artifact, driver: Option<&Driver>) {
        let Self { wish, known, plan, .. } = *self;
        let needs_installer = plan.driver.changes() || known.sharing.driver;
        if driver.is_none() && needs_installer && known.images.driver.is_none() {
            result.downloads.insert(0, Download { name: artifact.name, bytes: artifact.size });
        }
        if plan.driver.changes() {
            let (recipe, version) = (&wish.recipe, &wish.version);
            let package = driver.map(|driver| Package { recipe, driver, version });
            result.bytes_to_write = package.map(driver::bytes_to_write);
        }
    }

    /// What would fail, or come in addition, as far as it can be told before anything is done.
    fn troubles(&self, result: &mut ContainerPlan, facts: Option<&Facts>) -> Result<()> {
        let Self { context, supplies, wish, outside, known, plan } = *self;
        let mut foreseen = absent_nodes(context, outside);
        if let Some(facts) = facts.filter(|_| plan.packages.changes()) {
            foreseen.extend(unlisted(wish, supplies, &facts.distribution, known.apt.packages())?);
        }
        if outside.ways.cuda == CudaMethod::Share && outside.cuda.is_none() {
            let text = "the lines for CUDA come in addition, when its image is known";
            foreseen.push(text.to_owned());
        }
        result.parts.extend(foreseen.into_iter().map(|text| ("foreseen", text)));
        Ok(())
    }
}

/// Devices of the configuration whose node this host does not have: Proxmox VE does not start a
/// container with one (`PVE::LXC`, `device_passthrough`).
fn absent_nodes(context: &Context<'_>, outside: &Outside) -> Vec<String> {
    let devices = outside.edit.config.devices().into_iter();
    let absent = devices.filter(|device| !context.host.paths.host_path(&device.path).exists());
    absent
        .map(|device| {
            let (key, path) = (device.key, device.path);
            format!("`{key}: {path}` names no node of this host: the container cannot start")
        })
        .collect()
}

/// The packages that no repository of the cache lists. The indexes may be out of date.
fn unlisted(
    wish: &Wish,
    supplies: &Supplies<'_>,
    distribution: &str,
    packages: &[String],
) -> Result<Vec<String>> {
    let known = supplies.known_packages(&wish.recipe, distribution, wish.architecture)?;
    let Some((date, known)) = known else {
        return Ok(Vec::new());
    };
    let unlisted = packages.iter().filter(|name| !known.contains(*name));
    let text = |name: &String| {
        format!(
            "`{name}` is in no repository as the cache has them, of {date}: apt cannot install it"
        )
    };
    Ok(unlisted.map(text).collect())
}

/// What is pending about devices, and what of the configuration cannot work after the edit.
fn troubles(
    context: &Context<'_>,
    wish: &Wish,
    outside: &Outside,
) -> impl Iterator<Item = (&'static str, String)> {
    let pending = outside.configuration.config.pending().into_iter();
    let pending = pending.filter(PendingChange::is_of_device);
    let pending = pending.map(|change| ("pending", format!("at the next start {change}")));
    let exists = |path: &str| context.host.paths.host_path(path).exists();
    let host = HostDevices { nodes: &wish.inventory.nodes, exists: &exists };
    let problems = problems::problems(&outside.edit.config.at_next_start(), host).into_iter();
    pending.chain(problems.map(|problem| ("problem", problem.to_string())))
}

/// What the plan says, beside the bytes.
fn describe(result: &mut ContainerPlan, outside: &Outside, plan: &Plan) {
    let read = &outside.configuration;
    result.diff =
        diff::unified(&read.path.to_string_lossy(), &read.bytes, &outside.edit.config.to_bytes());
    result.kept =
        outside.edit.foreign.iter().map(|line| format!("`{}`: {}", line.text, line.why)).collect();
    result.restart = matches!(plan.power, Power::Restart(_));
    result.changes = plan.changes();
    result.exit = if plan.changes() { ExitCode::Differs } else { ExitCode::Done };
    result.parts = parts(plan);
    if result.restart {
        let applied = pending::changes(read).into_iter();
        result
            .parts
            .extend(applied.map(|change| ("pending", format!("with the restart {change}"))));
    }
    let adopted = outside.adopted().len();
    if adopted > 0 {
        let what =
            format!("{adopted} lines that are as nvstage writes them: `detach` takes them out");
        result.parts.push(("adopt", what));
    }
}

/// The methods that nobody has named: as its lines have them, or what holds everywhere.
fn not_named(wish: &Wish, outside: &Outside) -> Vec<RequestValue> {
    let (journal, ways) = (&outside.journal, outside.ways);
    let source = |is_default| match is_default {
        true => ValueSource::Default,
        false => ValueSource::Configuration,
    };
    let recipe = &wish.recipe;
    let mut values = Vec::new();
    if recipe.passthrough().is_none() {
        values.push(RequestValue::new("passthrough", journal.method, ValueSource::Default));
    }
    if recipe.userland().is_none() {
        let is_default = ways.userland == Userland::default();
        values.push(RequestValue::new("method", ways.userland, source(is_default)));
    }
    if recipe.cuda().is_none() && !recipe.packages().is_empty() {
        let is_default = ways.cuda == CudaMethod::default();
        values.push(RequestValue::new("cuda", ways.cuda, source(is_default)));
    }
    values
}

fn look(
    session: &Session<'_>,
    wish: &Wish,
    (driver, known): (Option<&Driver>, &Known),
    pid: u32,
    before: Option<&Journal>,
) -> Result<(Facts, DriverState)> {
    let packages = known.apt.packages();
    let look = Look { wait: 30, nodes: &wish.nodes, packages, checks: &[] };
    let facts = survey::inside(session, look)?;
    survey::refuse_system(&facts)?;
    let root = survey::root(session, pid)?;
    let state = match driver {
        _ if known.sharing.driver => known.driver(),
        Some(driver) => {
            let package = Package { recipe: &wish.recipe, driver, version: &wish.version };
            // What it finds out itself is not written down: it changes nothing.
            let mut seen = Seen::load(&session.host.paths, session.ctid);
            driver::state(&root, package, &mut seen)
        }
        None => survey::recorded_driver(&root, &wish.version, before),
    };
    Ok((facts, state))
}

/// What concerns apt inside.
#[derive(Default)]
struct Apt {
    files: Vec<AptFile>,
    versions: BTreeMap<String, String>,
    sources: Change,
}

impl Apt {
    /// The container's own source, where it serves as it is.
    fn part(&self) -> Option<(&'static str, String)> {
        let path = self.sources.serving.as_ref().filter(|_| self.sources.text().is_none())?;
        Some(("repository", format!("unchanged: the source of `{path}` serves")))
    }
}

/// The files that apt should read, as far as they are known without fetching the key.
fn apt_files(
    wish: &Wish,
    supplies: &Supplies<'_>,
    (facts, known, root): (&Facts, &Known, &ContainerRoot),
    downloads: &mut Vec<Download>,
) -> Result<Apt> {
    let recipe = &wish.recipe;
    if known.apt.packages().is_empty() {
        return Ok(Apt::default());
    }
    let mut files = vec![apt::pins(recipe.denied_packages(), recipe.allowed_packages())];
    let lock = match supplies.stock(recipe, &facts.distribution, facts.architecture) {
        // Nothing is wanted of it.
        Err(_) if facts.is_complete(known.apt.packages(), &files) => None,
        found => found?,
    };
    let versions =
        lock.map(|lock| stock::versions(&lock, known.apt.packages())).unwrap_or_default();
    let is_offline = supplies.fetcher.network() == Network::Forbidden;
    let need = match is_offline || known.images.cuda.is_some() {
        true => Need::Nothing,
        false => Need::Source,
    };
    let sources = existing_sources::look(root, recipe, facts, need)?;
    if need == Need::Nothing {
        return Ok(Apt { files, versions, sources });
    }
    match supplies.repository_at_hand(recipe, &facts.distribution, facts.architecture)? {
        Some(repository) => files.extend(existing_sources::files(&sources, repository.files())),
        None => {
            let name = format!("repository key for {}", facts.distribution);
            downloads.push(Download { name, bytes: None });
        }
    }
    Ok(Apt { files, versions, sources })
}

fn parts(plan: &Plan) -> Vec<(&'static str, String)> {
    let power = match &plan.power {
        Power::Keep => "unchanged: no restart needed".to_owned(),
        Power::Start => "change: start it".to_owned(),
        Power::Restart(why) => format!("change: restart it, {why}"),
        Power::Pending(why) => format!("pending: restart it, {why}"),
    };
    let mut parts = vec![("passthrough", plan.passthrough.to_string()), ("power", power)];
    parts.extend(plan.share.as_ref().map(|share| ("share", share.to_string())));
    parts.push(("driver", plan.driver.to_string()));
    parts.push(("packages", plan.packages.to_string()));
    parts
}
