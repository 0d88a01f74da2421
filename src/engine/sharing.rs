//! Which containers have which GPU now, by their configurations, and which will have them when a run
//! has ended.
//!
//! A container has a GPU when the live section of its configuration passes the GPU's node by a line
//! that works, or has the hook pass it that runs NVIDIA's container tools. Of a GPU that MIG has divided it can use the instances whose two nodes it has too.

use std::io;

use serde::Serialize;

use crate::container::config::LxcConfig;
use crate::container::driver_files::{self, Visible};
use crate::container::passthrough::{self, DeviceNode, NodeKind};
use crate::ctid::Ctid;
use crate::error::{Error, ExitCode, Result};
use crate::event::{Event, Events};
use crate::gpu::{Assigned, Gpu, MigInstance};
use crate::host::devices::Inventory;
use crate::runtime::Runtime;

/// What one container has of the host's GPUs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Share {
    /// Which container.
    pub container: Ctid,
    /// Its GPUs, by index; at least one.
    pub gpus: Vec<GpuUse>,
}

/// What a container has of one GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GpuUse {
    /// The index of the GPU.
    pub index: u32,
    /// The MIG instances that it can use, `1/0`; `None` where MIG has not divided the GPU.
    pub instances: Option<Vec<String>>,
}

impl GpuUse {
    /// Whether another container's use is of the same GPU, or of the same instances of it.
    fn is_shared_with(&self, other: &Self) -> bool {
        self.index == other.index
            && match (&self.instances, &other.instances) {
                (Some(ours), Some(theirs)) => ours.iter().any(|name| theirs.contains(name)),
                _ => true,
            }
    }

    /// Whether it and what is assigned have something in common.
    fn meets(&self, assigned: &Assigned) -> bool {
        let mut named = assigned.instances.iter().map(ToString::to_string);
        self.index == assigned.gpu.index
            && match &self.instances {
                Some(instances) if !assigned.instances.is_empty() => {
                    named.any(|name| instances.contains(&name))
                }
                _ => true,
            }
    }
}

/// Every container that has a GPU, in the runtime's order; templates, which never run, have none.
///
/// # Errors
/// Host error when the containers cannot be listed, or a configuration cannot be read.
pub fn shares(runtime: &dyn Runtime, inventory: &Inventory) -> Result<Vec<Share>> {
    let mut shares = Vec::new();
    for container in runtime.containers()? {
        let Some(config) = configuration(runtime, &container)? else { continue };
        let gpus = gpus_of(&config, inventory);
        if !gpus.is_empty() && !config.is_template() {
            shares.push(Share { container, gpus });
        }
    }
    Ok(shares)
}

/// The shares as they are when a run has ended: of the containers that it works on by the
/// configurations that are `planned`. Not knowing what the others have is no reason against the
/// run; it is warned of.
pub fn foreseen(
    runtime: &dyn Runtime,
    inventory: &Inventory,
    planned: &[(&Ctid, &LxcConfig)],
    events: &dyn Events,
) -> Vec<Share> {
    let mut foreseen = shares(runtime, inventory).unwrap_or_else(|error| {
        events.emit(Event::Warning { text: error.to_string() });
        Vec::new()
    });
    for (container, config) in planned {
        foreseen.retain(|share| share.container != **container);
        let gpus = gpus_of(config, inventory);
        foreseen.push(Share { container: (*container).clone(), gpus });
    }
    foreseen
}

/// Which other containers have something of what is assigned to this one: `GPU 0 also with 202,
/// 203`; `None` for none.
pub fn others(shares: &[Share], container: &Ctid, assigned: &[Assigned]) -> Option<String> {
    let of_gpu = |assigned: &Assigned| {
        let others = shares.iter().filter(|share| share.container != *container);
        let names: Vec<&str> = others
            .filter(|share| share.gpus.iter().any(|used| used.meets(assigned)))
            .map(|share| share.container.as_str())
            .collect();
        let index = assigned.gpu.index;
        (!names.is_empty()).then(|| format!("GPU {index} also with {}", names.join(", ")))
    };
    let found: Vec<String> = assigned.iter().filter_map(of_gpu).collect();
    (!found.is_empty()).then(|| found.join("; "))
}

/// A container's configuration; `None` when the container went away since it was listed.
fn configuration(runtime: &dyn Runtime, container: &Ctid) -> Result<Option<LxcConfig>> {
    let path = match runtime.locate(container) {
        Ok(path) => path,
        Err(error) if error.code() == ExitCode::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    match std::fs::read(&path) {
        Ok(bytes) => Ok(Some(LxcConfig::parse(&bytes, runtime.dialect()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => {
            let what = format!("read `{}`", path.display());
            Err(Error::host(what).because(error).on(container))
        }
    }
}

/// The other containers that have something of the same GPUs as this one.
pub fn partners(shares: &[Share], share: &Share) -> Vec<Ctid> {
    let meets = |other: &&Share| {
        let pairs = |used: &GpuUse| other.gpus.iter().any(|theirs| used.is_shared_with(theirs));
        other.container != share.container && share.gpus.iter().any(pairs)
    };
    shares.iter().filter(meets).map(|other| other.container.clone()).collect()
}

/// The GPUs that a configuration passes by lines that work.
pub fn gpus_of(config: &LxcConfig, inventory: &Inventory) -> Vec<GpuUse> {
    let has = |path: String, kind| {
        passthrough::passes(config, &DeviceNode { path, kind, numbers: Vec::new() })
    };
    let all_capabilities = has("/dev/nvidia-caps".to_owned(), NodeKind::Directory);
    let can_use = |instance: &&MigInstance| {
        let mut nodes = instance.nodes().into_iter();
        all_capabilities || nodes.all(|node| has(node, NodeKind::File))
    };
    let of_gpu = |gpu: &Gpu| GpuUse {
        index: gpu.index,
        instances: (!gpu.mig.is_empty())
            .then(|| gpu.mig.iter().filter(can_use).map(ToString::to_string).collect()),
    };
    let hook = driver_files::visible(config);
    let of_hook = |gpu: &Gpu| {
        hook.as_ref().is_some_and(|visible| is_visible(visible, gpu)).then(|| GpuUse {
            index: gpu.index,
            // Which of them its tools take is theirs to say.
            instances: (!gpu.mig.is_empty())
                .then(|| gpu.mig.iter().map(ToString::to_string).collect()),
        })
    };
    let of_lines = |gpu: &Gpu| has(gpu.node(), NodeKind::File).then(|| of_gpu(gpu));
    inventory.gpus.iter().filter_map(|gpu| of_hook(gpu).or_else(|| of_lines(gpu))).collect()
}

/// Whether the hook of NVIDIA's container tools passes a GPU, or a part of it: `0`, `0:1`, `GPU-…`,
/// `MIG-GPU-…/1/0`. An instance by a UUID of its own may be any.
fn is_visible(visible: &Visible, gpu: &Gpu) -> bool {
    let Visible::These(names) = visible else { return true };
    let is_it = |name: &String| {
        if let Some(instance) = name.strip_prefix("MIG-") {
            let of_gpu = instance.split('/').next().unwrap_or_default();
            let is_named = gpu.uuid.as_deref() == Some(of_gpu);
            return !gpu.mig.is_empty() && (is_named || !of_gpu.starts_with("GPU-"));
        }
        let index = name.split(':').next().unwrap_or_default().parse();
        index == Ok(gpu.index) || gpu.uuid.as_deref().is_some_and(|uuid| uuid.starts_with(name))
    };
    names.iter().any(is_it)
}
