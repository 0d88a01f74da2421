//! The repository and the packages, installed by the container's own apt: from a partial mirror
//! that is shown inside, or from the network.

use std::time::Duration;

use crate::apt::diagnosis::{self, Origin};
use crate::apt::{self, AptFile};
use crate::engine::closure::Sha1Bound;
use crate::engine::dpkg;
use crate::engine::shown::{self, Shown};
use crate::engine::stock::Mirror;
use crate::engine::survey::Look;
use crate::engine::wish::Wish;
use crate::error::{Error, Result};
use crate::facts::Facts;
use crate::host::mount::Programs;
use crate::recipe::Recipe;
use crate::remedy;
use crate::runtime::{Inside, Ran, Session};

/// The whole toolkit is some gigabytes over a network of unknown speed.
const LIMIT: Duration = Duration::from_secs(3 * 3600);

/// Bytes of the longest argument that is sure to be taken: the kernel takes 128 KiB
/// (`MAX_ARG_STRLEN`).
const LONGEST: usize = 100 * 1024;

/// The script, and after it the look at the container.
const INSTALL_AND_LOOK: &str = concat!(
    include_str!("../prelude.sh"),
    "work() (\n",
    include_str!("../apt/install.sh"),
    ")\nlook() {\n",
    include_str!("../facts/gather.sh"),
    "}\n",
    include_str!("then_look.sh"),
);

/// What apt in a container is to do.
#[derive(Debug, Clone, Copy)]
pub struct Job<'a> {
    /// The recipe.
    pub recipe: &'a Recipe,
    /// The files that apt reads: pins, and key and source where they are wanted.
    pub files: &'a [AptFile],
    /// Where the packages come from; `None` means the network.
    pub mirror: Option<&'a Mirror>,
    /// Packages that a run which was cut short has left.
    pub unfinished: &'a [String],
    /// The container's first process.
    pub pid: u32,
}

/// What apt would do with a mirror.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// The mirror has everything.
    Complete,
    /// It lacks these files.
    Lacking(Vec<String>),
}

/// Asks the container's apt what it would install, and compares that with the mirror. Nothing in
/// the container changes.
///
/// # Errors
/// Install error with apt's own last words and what they mean.
pub fn ask(session: &Session<'_>, job: Job<'_>) -> Result<Asked> {
    let ran = run(session, job, (apt::SCRIPT, arguments(job, "ask")))?;
    asked(session, job, &ran)
}

/// The same, and where nothing is lacking writes pins, and key and source where they are wanted,
/// and installs the recipe's packages. Returns also what the container is like after that, where it
/// could be told.
///
/// # Errors
/// As [`ask`].
pub fn install(
    session: &Session<'_>,
    job: Job<'_>,
    look: Look<'_>,
) -> Result<(Asked, Option<Facts>)> {
    let arguments = [look.arguments(), arguments(job, "install")].concat();
    let ran = run(session, job, (INSTALL_AND_LOOK, arguments))?;
    let asked = asked(session, job, &ran)?;
    Ok((asked, Facts::parse(&ran.answer).ok()))
}

/// Packages that the container's apt would bring in from the network, and of which nothing is there.
///
/// # Errors
/// As [`ask`].
pub fn coming(session: &Session<'_>, job: Job<'_>) -> Result<Vec<String>> {
    let ran = run(session, job, (apt::SCRIPT, arguments(job, "ask")))?;
    judge(session, job, &ran)?;
    Ok(ran.answer.all("new").map(str::to_owned).collect())
}

fn asked(session: &Session<'_>, job: Job<'_>, ran: &Ran) -> Result<Asked> {
    let missing: Vec<String> = ran.answer.all("missing").map(str::to_owned).collect();
    if !missing.is_empty() {
        return Ok(Asked::Lacking(missing));
    }
    judge(session, job, ran).map(|()| Asked::Complete)
}

/// The error for a mirror that lacks files which a container needs.
pub fn lacking(session: &Session<'_>, wish: &Wish, missing: &[String]) -> Error {
    let count = missing.len();
    Error::install(format!("install packages offline: the cache lacks {count} that it needs"))
        .because(missing.join("\n"))
        .hint(format!(
            "on a host with network: `{}`, or for the template it was made from",
            remedy::prefetch(session.ctid, &wish.recipe)
        ))
}

fn run(
    session: &Session<'_>,
    job: Job<'_>,
    (script, arguments): (&'static str, Vec<String>),
) -> Result<Ran> {
    let shown: Option<Shown<'_>> = match job.mirror {
        Some(mirror) => {
            let layers = [mirror.directory.as_path(), mirror.nothing.as_path()];
            Some(shown::show(session, job.pid, layers, Programs::Refused)?)
        }
        None => None,
    };
    let ran = session.run_inside(&Inside { script, arguments, limit: LIMIT });
    let removed = shown.map_or(Ok(()), Shown::remove);
    if ran.is_err() && session.init_process()? == Some(job.pid) {
        // The first error counts.
        let _ = shown::clean(session);
    }
    let ran = ran?;
    removed?;
    Ok(ran)
}

fn arguments(job: Job<'_>, what: &str) -> Vec<String> {
    let accepts_sha1 = job.mirror.is_some_and(|mirror| mirror.sha1 == Sha1Bound::Allowed);
    let place = job.mirror.map_or("-", |_| shown::PLACE);
    let policy = if accepts_sha1 { "sha1" } else { "-" };
    let mut arguments: Vec<String> = [what, place, policy].map(str::to_owned).into();
    for path in [apt::PINS_PATH, apt::KEY_PATH, apt::SOURCES_PATH] {
        let found = job.files.iter().find(|file| file.path == path);
        arguments.push(found.map_or(String::new(), |file| file.path.to_owned()));
        arguments.push(found.map_or(String::new(), |file| file.text.clone()));
    }
    arguments.push(job.recipe.denied_packages().join(" "));
    arguments.push(job.recipe.allowed_packages().join(" "));
    let read = job.mirror.map_or("", |mirror| mirror.read.as_str());
    // Only to install; where it is too long for an argument apt reads the packages itself.
    let is_for_it = what == "install" && read.len() <= LONGEST;
    arguments.push(if is_for_it { read.to_owned() } else { String::new() });
    arguments.push(job.unfinished.join(" "));
    match job.mirror {
        Some(mirror) => arguments.extend(mirror.wanted(job.recipe.packages())),
        None => arguments.extend(job.recipe.packages().iter().cloned()),
    }
    arguments
}

fn judge(session: &Session<'_>, job: Job<'_>, ran: &Ran) -> Result<()> {
    if ran.answer.has("done") {
        return Ok(());
    }
    let error = Error::install(format!("install {}", job.recipe.packages().join(" ")));
    dpkg::refuse_busy(&ran.answer, || error.clone())?;
    let is_refused = ran.answer.has("refused") || ran.answer.has("failed");
    if !is_refused && session.is_gone_within(Duration::from_secs(3))? {
        return Err(error
            .because("the container stopped while apt was running")
            .hint("start it, and run the command again: dpkg is finished first"));
    }
    if ran.answer.has("refused") {
        return Err(refused(error, ran));
    }
    let what = ran.answer.get("failed").unwrap_or("apt");
    let error = error
        .because(format!("`{what}` failed, {}", ran.ended))
        .because(diagnosis::decisive(&ran.output));
    let origin = if job.mirror.is_some() { Origin::Mirror } else { Origin::Network };
    Err(match diagnosis::diagnose(&ran.output, origin) {
        Some(found) => {
            let enlarge = session.resize_command("+10G");
            error.because(found.meaning).hint(found.remedy.text(enlarge.as_deref()))
        }
        None => error.hint(session.log.whole_output("apt")),
    })
}

/// The error for what apt would do and must not.
fn refused(error: Error, ran: &Ran) -> Error {
    let all: Vec<&str> = ran.answer.all("refused").collect();
    let error =
        error.because(format!("apt would do what must not be: it {}", ran.answer.text("refused")));
    let is_said = |verb: &str| all.iter().any(|one| one.starts_with(verb));
    let error = match is_said("removes ") {
        true => error.hint("`apt-mark hold` does not help: remove what conflicts, or name other packages: `--set packages=NAME,…`"),
        false => error,
    };
    match is_said("brings in ") {
        true => error.hint(
            "the recipe denies packages of these names: they may bring a driver of another version",
        ),
        false => error,
    }
}
