//! The packages' part of the job: where they come from, whether the cache has all of them, and their
//! installation.

use std::collections::BTreeMap;

use super::{Inside, Job, Means};
use crate::apt::existing::Change;
use crate::apt::{self, AptFile};
use crate::engine::existing_sources::{self, Need};
use crate::engine::journal;
use crate::engine::packages::{self, Asked};
use crate::engine::stock::{self, Mirror};
use crate::engine::supplies::{Driver, Repository};
use crate::engine::survey;
use crate::error::{Error, Result};
use crate::facts::Facts;
use crate::fetch::Network;
use crate::lock::Lock;
use crate::plan::{Action, Plan, Power};
use crate::report::{Outcome, Step};

/// Where a container's packages come from.
#[derive(Debug, Default)]
pub(super) struct Goods {
    /// The files that apt reads inside.
    pub(super) files: Vec<AptFile>,
    /// What becomes of the container's own sources of the repository.
    pub(super) sources: Change,
    /// The lock with the packages, if the cache has them.
    lock: Option<Lock>,
    /// The versions that the lock has of the wanted packages.
    pub(super) versions: BTreeMap<String, String>,
    /// The mirror, once apt was asked and it has everything.
    mirror: Option<Mirror>,
}

impl Job<'_> {
    /// Where the packages come from, and the files that apt reads for it; nothing where the recipe
    /// has no packages.
    pub(super) fn goods(&self, seen: &Inside) -> Result<Goods> {
        let Means { wish, supplies, driver, .. } = self.means;
        let facts = &seen.facts;
        if self.apt.packages().is_empty() {
            return Ok(Goods::default());
        }
        if !facts.has_apt {
            let what = format!("install {}: it has no `apt-get`", self.apt.packages().join(" "));
            return Err(Error::install(what)
                .hint("`--recipe driver-only` installs the driver's userland alone"));
        }
        let (recipe, distribution) = (&wish.recipe, &facts.distribution);
        recipe.repository(distribution, facts.architecture)?;
        let mut files = vec![apt::pins(recipe.denied_packages(), recipe.allowed_packages())];
        let lock = match supplies.stock(recipe, distribution, facts.architecture) {
            // Nothing is wanted of it.
            Err(_) if facts.is_complete(self.apt.packages(), &files) => None,
            found => found?,
        };
        // What is shared comes from the host, and what is left from the distribution.
        let is_wanted = self.may_use_network() && self.images.cuda.is_none();
        let root = survey::root(self.session, seen.pid)?;
        let need = if is_wanted { Need::Source } else { Need::Nothing };
        let sources = existing_sources::look(&root, recipe, facts, need)?;
        if is_wanted {
            let repository = supplies.repository(recipe, distribution, facts.architecture)?;
            self.record(distribution, &repository, driver)?;
            files.extend(existing_sources::files(&sources, repository.files()));
        }
        let versions = lock.as_ref().map(|lock| stock::versions(lock, self.apt.packages()));
        let versions = versions.unwrap_or_default();
        Ok(Goods { files, sources, versions, lock, mirror: None })
    }

    /// Makes the mirror ready, and before anything else is touched asks the container's apt whether
    /// it has everything. Where it has not, the network serves if it may be used.
    pub(super) fn stock_up(&mut self, plan: &Plan, seen: &Inside, goods: &mut Goods) -> Result<()> {
        self.session.host.cancel.check()?;
        let Some(lock) = goods.lock.clone().filter(|_| plan.packages.changes()) else {
            return Ok(());
        };
        match self.ready(plan, seen, (lock, &goods.files)) {
            Ok(mirror) => goods.mirror = mirror,
            Err(error) => self.step(Step::Packages, |_| Err::<(Outcome, ()), _>(error))?,
        }
        Ok(())
    }

    fn ready(
        &self,
        plan: &Plan,
        seen: &Inside,
        what: (Lock, &[AptFile]),
    ) -> Result<Option<Mirror>> {
        let Means { wish, supplies, manner, .. } = self.means;
        let (lock, files) = what;
        for repository in &lock.repositories {
            if self.may_use_network() && !supplies.has_repository(repository)? {
                let url = &repository.url;
                self.warn(&format!("the cache lacks files of `{url}`: apt fetches all packages"));
                return Ok(None);
            }
        }
        let mirror = supplies.stocked(lock, &wish.recipe, (&seen.facts, manner.rules))?;
        // Where the packages are all there is to do, they are asked for when they are installed.
        let is_all =
            !plan.passthrough.changes() && plan.power == Power::Keep && !plan.driver.changes();
        if is_all {
            return Ok(Some(mirror));
        }
        let (recipe, pid) = (&self.apt, seen.pid);
        let job = packages::Job { recipe, files, mirror: Some(&mirror), unfinished: &[], pid };
        match packages::ask(self.session, job)? {
            Asked::Complete => Ok(Some(mirror)),
            Asked::Lacking(missing) => self.do_without(&missing).map(|()| None),
        }
    }

    fn may_use_network(&self) -> bool {
        self.means.supplies.fetcher.network() == Network::Allowed
    }

    /// The cache lacks something that the container needs.
    fn do_without(&self, missing: &[String]) -> Result<()> {
        if !self.may_use_network() {
            return Err(packages::lacking(self.session, self.means.wish, missing));
        }
        let count = missing.len();
        self.warn(&format!("the cache lacks {count} packages that it needs: apt fetches all"));
        Ok(())
    }

    fn record(&self, distribution: &str, repository: &Repository, driver: &Driver) -> Result<()> {
        let Means { wish, supplies, .. } = self.means;
        let target = (distribution, wish.architecture);
        supplies.record(&wish.recipe, target, driver, Some(repository))
    }

    pub(super) fn packages(&mut self, plan: &Plan, goods: &Goods, seen: &Inside) -> Result<()> {
        let action = plan.packages.clone();
        let pid = seen.pid;
        self.step(Step::Packages, |job| match action {
            Action::Nothing(why) => {
                job.note_finished(goods)?;
                Ok((Outcome::Unchanged(why), ()))
            }
            Action::Do(what) | Action::Unknown(what) => {
                job.set_sources_aside(goods)?;
                let left = job.left()?;
                job.note_packages(goods, &seen.facts, pid)?;
                let from = job.install(goods, &left, pid)?;
                job.note_finished(goods)?;
                Ok((Outcome::Changed(format!("{what}, from {from}")), ()))
            }
        })
    }

    /// Writes down which packages will be ours: those that are not there, and what comes with them
    /// until all of it has come.
    fn note_packages(&self, goods: &Goods, facts: &Facts, pid: u32) -> Result<()> {
        let is_there =
            |name: &String| facts.packages.iter().any(|p| p.name == *name && p.is_installed());
        let wanted = self.apt.packages().iter();
        let new: Vec<String> = wanted.filter(|name| !is_there(name)).cloned().collect();
        let coming = self.coming(goods, pid)?;
        self.note(|journal| {
            let known = journal.packages.clone();
            journal.packages.extend(new.into_iter().filter(|name| !known.contains(name)));
            journal.begin(&coming);
        })
    }

    /// Packages that an installation brings in: those of the lock that are not there, or else what
    /// the container's apt says.
    fn coming(&self, goods: &Goods, pid: u32) -> Result<Vec<String>> {
        let Some(lock) = &goods.lock else {
            let (recipe, files) = (&self.apt, goods.files.as_slice());
            return packages::coming(
                self.session,
                packages::Job { recipe, files, mirror: None, unfinished: &[], pid },
            );
        };
        let there = survey::system(&survey::root(self.session, pid)?, lock.architecture)?.packages;
        let names = lock.packages.iter().map(|package| &package.name);
        Ok(names.filter(|name| !there.contains_key(*name)).cloned().collect())
    }

    /// Packages that came along with others, and that a run which was cut short was at work on.
    fn left(&self) -> Result<Vec<String>> {
        let journal = journal::load(&self.session.host.paths, self.session.ctid)?;
        let (ours, mut left) = journal
            .map(|journal| (journal.packages, journal.unfinished_packages))
            .unwrap_or_default();
        left.retain(|name| !ours.contains(name));
        Ok(left)
    }

    /// Forgets what came with the packages once all of them are there. Packages of another recipe are
    /// finished by that one, or removed.
    fn note_finished(&self, goods: &Goods) -> Result<()> {
        let wanted = self.apt.packages();
        if wanted.is_empty() {
            return Ok(());
        }
        let locked = goods.lock.as_ref().map_or(&[][..], |lock| &lock.packages);
        let is_wanted = |name: &String| {
            wanted.contains(name) || locked.iter().any(|package| package.name == *name)
        };
        self.note(|journal| {
            if journal.packages.iter().all(is_wanted) {
                journal.unfinished_packages.clear();
            }
        })
    }

    /// Sets the container's own sources of the repository aside where ours is needed.
    fn set_sources_aside(&self, goods: &Goods) -> Result<()> {
        existing_sources::apply(self.session, &goods.sources)?;
        for reason in &goods.sources.reasons {
            self.warn(&format!(
                "set aside the source of the CUDA repository in {reason}; `detach --purge` puts it back"
            ));
        }
        Ok(())
    }

    /// Installs the packages; says from where.
    fn install(&mut self, goods: &Goods, left: &[String], pid: u32) -> Result<&'static str> {
        let (recipe, files) = (&self.apt, goods.files.as_slice());
        let mirror = goods.mirror.as_ref();
        let job = packages::Job { recipe, files, mirror, unfinished: left, pid };
        let look = self.look(60);
        let (asked, mut facts) = packages::install(self.session, job, look)?;
        let from = match asked {
            Asked::Complete if mirror.is_some() => "the cache",
            Asked::Complete => "the network",
            Asked::Lacking(missing) => {
                self.do_without(&missing)?;
                let job = packages::Job { mirror: None, ..job };
                (_, facts) = packages::install(self.session, job, look)?;
                "the network"
            }
        };
        self.last_look = facts;
        Ok(from)
    }
}
