//! What the container shares with its host: the images, the lines for them, and what inside has to
//! make way and to be set up.
//!
//! It is known from outside, so that a container that has everything costs no call; one that lacks
//! something is set up and looked at in the same one.

use super::{Inside, Job};
use crate::engine::configure::{self, Applied, ReadBack};
use crate::engine::conflicts::{self, Place};
use crate::engine::survey::{self, Outside};
use crate::engine::tenant::{self, Own};
use crate::engine::{detach, journal, shared};
use crate::error::{Error, Result};
use crate::host::rootfs::ContainerRoot;
use crate::plan::{Reach, Sharing};
use crate::recipe::{CudaMethod, Userland};
use crate::report::{Outcome, Step};

/// What to do about packages that something else needs.
const KEEP_PACKAGES: &str = "`--cuda apt` leaves them as they are";

impl Job<'_> {
    /// Obtains the images that the container is to share, as far as they can be told before it runs;
    /// returns what it is with them.
    pub(super) fn obtain_images(&mut self, outside: Outside) -> Result<Outside> {
        self.ways = outside.ways;
        if self.ways.userland == Userland::Share {
            let (host, means) = (self.session.host, self.means);
            if means.wish.inventory.module_version().is_none() {
                let what = "share the host's driver: no NVIDIA kernel module is loaded";
                return Err(Error::host(what).hint("load it: `modprobe nvidia`"));
            }
            let image = shared::obtain_driver(host, means.supplies, means.driver)?;
            shared::switch(host, &image.version)?;
            self.images.driver = Some(image);
        }
        match outside.pid {
            Some(pid) if self.ways.share() => {
                let root = survey::root(self.session, pid)?;
                survey::system(&root, self.means.wish.architecture)
                    .map_err(|error| error.on(self.session.ctid))?;
                match self.ways.cuda {
                    CudaMethod::Share => self.obtain_cuda(&root),
                    CudaMethod::Apt => Ok(outside),
                }
            }
            _ => Ok(outside),
        }
    }

    /// The image of CUDA for the container's distribution; what is left for apt is known then.
    fn obtain_cuda(&mut self, root: &ContainerRoot) -> Result<Outside> {
        let (wish, supplies) = (self.means.wish, self.means.supplies);
        let (recipe, ctid) = (&wish.recipe, self.session.ctid);
        let system = survey::system(root, wish.architecture).map_err(|error| error.on(ctid))?;
        let lock = tenant::locked(supplies, wish, (&system, ctid))?;
        let image = supplies.cuda_image(self.session.host, &lock, recipe)?;
        self.apt = (**recipe).clone().with_packages(image.rest.clone());
        let outside = survey::outside(self.session, wish, Some(&image))?;
        (self.images.cuda, self.lock) = (Some(image), Some(lock));
        Ok(outside)
    }

    /// Whether a look inside would tell nothing that what follows does not change: a restart, or
    /// that it gets all its nodes. What can be refused is refused by then.
    pub(super) fn is_looked_at_later(&self, outside: &Outside) -> bool {
        // One that a run which was killed has begun to stop may be going down.
        let is_over = outside.before.as_ref().is_none_or(|journal| journal.was.is_none());
        let is_new = match outside.reach {
            Reach::AtStart => true,
            Reach::WhileRunning => is_over && outside.brings_every_node(self.means.wish),
        };
        self.ways.userland == Userland::Share
            && self.apt.packages().is_empty()
            && outside.edit.changed()
            && is_new
    }

    /// What a running container shares, and what of its own is in the way.
    pub(super) fn sharing(&self, pid: u32) -> Result<(Sharing, Own)> {
        let wish = self.means.wish;
        let root = survey::root(self.session, pid)?;
        if !self.ways.share() && !tenant::remains(&root) {
            return Ok(Default::default());
        }
        let mut own = Own::default();
        if self.ways.share() {
            let system = survey::system(&root, wish.architecture)?;
            let packages = self.instead()?;
            own = Own::of(&root, &system, (self.ways, &self.images), &packages);
        }
        let triplet = wish.architecture.triplet();
        let ways = (self.ways, &self.images);
        Ok((tenant::sharing((pid, &root), ways, &own, triplet), own))
    }

    /// The packages that what is shared is instead of.
    fn instead(&self) -> Result<Vec<String>> {
        let (Some(image), Some(lock)) = (&self.images.cuda, &self.lock) else {
            return Ok(Vec::new());
        };
        let journal = journal::load(&self.session.host.paths, self.session.ctid)?;
        let recipe = &self.means.wish.recipe;
        Ok(tenant::instead(recipe, (&image.rest, lock), journal.as_ref()))
    }

    /// Refuses a container of whose own packages something else needs one that is in the way, or that
    /// has something else of its own there. A dpkg that was cut short is finished for that; nothing
    /// else is touched yet.
    pub(super) fn refuse_conflicts(&mut self, pid: u32) -> Result<()> {
        let (_, own) = self.sharing(pid)?;
        // Those that a purge which was cut short has begun with are among them.
        let mut leaving = self.instead()?;
        if !own.packages.is_empty() {
            match detach::removable(self.session, &own.packages) {
                Ok(removable) => leaving.extend(removable),
                Err(error) => self.step(Step::Share, |_| Err(error.hint(KEEP_PACKAGES)))?,
            }
        }
        let root = survey::root(self.session, pid)?;
        match self.images.refuse_conflicts(self.place(pid, &root), &leaving) {
            Ok(()) => Ok(()),
            Err(error) => self.step(Step::Share, |_| Err(error)),
        }
    }

    fn place<'r>(&self, pid: u32, root: &'r ContainerRoot) -> Place<'r> {
        Place { pid, root, triplet: self.means.wish.architecture.triplet() }
    }

    /// Gives the running container what it shares, and takes away what it shares no more. Returns
    /// how it is then, where it was looked at anew.
    pub(super) fn share(&mut self, pid: u32) -> Result<Option<Inside>> {
        let root = survey::root(self.session, pid)?;
        if !self.ways.share() && !tenant::remains(&root) {
            return Ok(None);
        }
        self.step(Step::Share, |job| {
            if job.ways.cuda == CudaMethod::Share && job.images.cuda.is_none() {
                job.add_cuda(pid, &root)?;
            }
            let (sharing, own) = job.sharing(pid)?;
            let names = sharing.wanted.join(" and ");
            if sharing.leaving.is_empty() && sharing.problems.is_empty() {
                return Ok((Outcome::Unchanged(format!("{names} of the host")), None));
            }
            job.make_way(pid, &own)?;
            let seen = job.set_up(pid, &root)?;
            let what = match (names.is_empty(), sharing.leaving.is_empty()) {
                (true, _) => "nothing of the host any more".to_owned(),
                (false, true) => format!("{names} of the host"),
                (false, false) => {
                    format!("{names} of the host instead of {}", sharing.leaving.join(" and "))
                }
            };
            Ok((Outcome::Changed(what), Some(seen)))
        })
    }

    /// A container that was stopped is known only now: its line for CUDA is added, and no restart is
    /// needed for it.
    fn add_cuda(&mut self, pid: u32, root: &ContainerRoot) -> Result<()> {
        for _ in 0..2 {
            let outside = self.obtain_cuda(root)?;
            let (_, own) = self.sharing(pid)?;
            let leaving = self.lock.as_ref().map(|lock| conflicts::leaving(root, &own, lock));
            let leaving = leaving.unwrap_or_default();
            self.images.refuse_conflicts(self.place(pid, root), &leaving)?;
            if !outside.edit.changed() {
                return Ok(());
            }
            if configure::apply(self.session, &outside, self.means.wish)? == Applied::Written {
                for line in &outside.edit.lines_added {
                    self.detail(format!("configuration: added `{line}`"));
                }
                let back = configure::read_back(self.session, &outside, self.means.wish)?;
                if back == ReadBack::Kept {
                    return Ok(());
                }
            }
        }
        Err(configure::changed(self.session))
    }

    /// Removes what of the container's own is in the way.
    fn make_way(&self, pid: u32, own: &Own) -> Result<()> {
        let (session, paths) = (self.session, &self.session.host.paths);
        if own.driver.is_some() {
            detach::uninstall(session, pid)?;
        }
        let instead = self.instead()?;
        let known = journal::load(paths, session.ctid)?;
        let (ours, unfinished) = known
            .map(|journal| (journal.packages, journal.unfinished_packages))
            .unwrap_or_default();
        let mut packages = own.packages.clone();
        let is_left = |name: &String| instead.contains(name) && !own.packages.contains(name);
        packages.extend(unfinished.into_iter().filter(is_left));
        if !packages.is_empty() {
            // What lies behind the tree that is shown is removed, not the tree.
            self.images.uncover(pid)?;
            let others: Vec<String> =
                ours.into_iter().filter(|name| !instead.contains(name)).collect();
            detach::purge(session, &packages, &others)
                .map_err(|error| error.hint(KEEP_PACKAGES))?;
        }
        // Those that a purge which was cut short has removed are forgotten too.
        self.note(|journal| journal.packages.retain(|name| !instead.contains(name)))
    }

    fn set_up(&mut self, pid: u32, root: &ContainerRoot) -> Result<Inside> {
        let (session, wish) = (self.session, self.means.wish);
        // Of one that was stopped it can be told only now.
        let (place, leaving) = (self.place(pid, root), self.instead()?);
        self.images.refuse_conflicts(place, &leaving)?;
        self.images.align(pid, root).map_err(|error| error.on(session.ctid))?;
        let triplet = wish.architecture.triplet();
        let look = self.look(0);
        let (facts, own) = survey::set_up(session, look, &self.images, triplet)?;
        own.remarks().iter().for_each(|remark| self.warn(remark));
        let problems = match self.ways.share() {
            true => self.images.problems(root, triplet),
            false => Vec::new(),
        };
        if !problems.is_empty() {
            // The container may have mounted something over it while it started.
            self.images.refuse_conflicts(place, &leaving)?;
            let shown = problems[..problems.len().min(5)].join("\n");
            return Err(Error::install("share what the host has").because(shown));
        }
        if self.ways.userland == Userland::Share {
            self.note_driver()?;
        }
        self.inside_with(pid, facts)
    }
}
