//! The commands that messages advise. Each, typed as it stands, does what it is advised for and no
//! more: what it does not name holds for a container as it was named before.

use std::path::Path;

use crate::container::config::Dialect;
use crate::ctid::Ctid;
use crate::recipe::{FULL, Recipe};
use crate::shell;

/// What a container gets that nvstage has not worked on: its GPUs, and a driver if it has none.
const LEAST: &str = "driver-only";

/// Provisions a container again, with what it was given before.
pub fn provision(ctid: &Ctid) -> String {
    format!("nvstage provision {ctid}")
}

/// Provisions a container that nvstage has not worked on, with these GPUs and nothing else.
pub fn provision_first(ctid: &Ctid, gpus: &str) -> String {
    shell::line(["nvstage", "provision", ctid.as_str(), "--gpus", gpus, "--recipe", LEAST])
}

/// Provisions a container again, and takes out the lines that bring it a driver by another way.
pub fn adopt(ctid: &Ctid) -> String {
    format!("nvstage provision {ctid} --adopt")
}

/// Takes a container's GPUs out again; `and` is a blank and a further option, or nothing.
pub fn detach(ctid: &Ctid, and: &str) -> String {
    format!("nvstage detach {ctid}{and}")
}

/// Has NVIDIA's installer install the driver into a container again.
pub fn reinstall(ctid: &Ctid) -> String {
    format!("nvstage provision {ctid} --method installer")
}

/// Brings a container to the driver of the loaded kernel module.
pub fn sync(ctid: &Ctid) -> String {
    format!("nvstage sync {ctid}")
}

/// Brings all containers to the driver of the loaded kernel module, and the host's images with them.
pub fn sync_all() -> String {
    "nvstage sync".to_owned()
}

/// Checks a container, and changes nothing.
pub fn verify(ctid: &Ctid) -> String {
    format!("nvstage verify {ctid}")
}

/// Makes nodes, mounts images and brings device rules up to date.
pub fn refresh() -> String {
    "nvstage refresh".to_owned()
}

/// Has systemd refresh at boot.
pub fn host_setup() -> String {
    "nvstage host-setup".to_owned()
}

/// Shows the host's GPUs and who has them.
pub fn gpus() -> String {
    "nvstage gpus".to_owned()
}

/// Fetches what a recipe needs for a container.
pub fn prefetch(ctid: &Ctid, recipe: &Recipe) -> String {
    let mut words = vec!["nvstage", "prefetch", "--for", ctid.as_str()];
    words.extend(["--recipe", recipe.origin()]);
    if recipe.profile() != FULL {
        words.extend(["--profile", recipe.profile()]);
    }
    for setting in recipe.settings() {
        words.extend(["--set", setting]);
    }
    shell::line(words)
}

/// Forgets a container that is gone.
pub fn forget(journal: &Path) -> String {
    shell::line(["rm", &journal.to_string_lossy()])
}

/// Starts a container.
pub fn start(dialect: Dialect, ctid: &Ctid) -> String {
    match dialect {
        Dialect::Proxmox => format!("pct start {ctid}"),
        Dialect::Lxc => format!("lxc-start -n {ctid}"),
    }
}

/// Stops and starts a container.
pub fn restart(dialect: Dialect, ctid: &Ctid) -> String {
    match dialect {
        Dialect::Proxmox => format!("pct reboot {ctid}"),
        // A reboot alone does not read the configuration again.
        Dialect::Lxc => format!("lxc-stop -n {ctid} && lxc-start -n {ctid}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::Overrides;

    #[test]
    fn what_is_fetched_for_a_container_is_named_with_everything_that_differs_from_the_recipe() {
        let ctid = Ctid::parse("201").unwrap();
        let recipe = Recipe::shipped("cuda-12-8").unwrap().unwrap();
        assert_eq!(prefetch(&ctid, &recipe), "nvstage prefetch --for 201 --recipe cuda-12-8");
        let set = Overrides::from_settings(&["repository.url=http://a/{arch}/".to_owned()]);
        let recipe = recipe.with_profile("build").unwrap().with(&set.unwrap()).unwrap();
        assert_eq!(
            prefetch(&ctid, &recipe),
            "nvstage prefetch --for 201 --recipe cuda-12-8 --profile build \
             --set 'repository.url=http://a/{arch}/'"
        );
    }
}
