//! `nvstage gpus`: the GPUs of this host, what drives them, and which containers have them.

use clap::Args;
use serde::Serialize;

use super::{Context, RuntimeArgument};
use crate::engine::sharing::{self, Share};
use crate::error::Result;
use crate::event::Event;
use crate::gpu::{Gpu, ModuleFlavour, PciAddress, PciGpu};
use crate::host::devices::Inventory;
use crate::runtime;

/// Show the GPUs of this host, and which containers have them
#[derive(Debug, Clone, Args)]
pub struct Arguments {
    /// How containers are driven: auto, pct, or lxc
    #[arg(long, value_enum, hide_possible_values = true, default_value_t = RuntimeArgument::Auto)]
    pub runtime: RuntimeArgument,
}

/// What was found.
#[derive(Debug, Serialize)]
pub struct Gpus {
    schema: u32,
    /// The loaded kernel module.
    pub module: Option<Module>,
    /// Every GPU, in PCI order.
    pub gpus: Vec<Row>,
    /// The containers that have one; `None` where that could not be found out.
    pub containers: Option<Vec<Share>>,
}

/// NVIDIA's loaded kernel module.
#[derive(Debug, Serialize)]
pub struct Module {
    /// Its version.
    pub version: String,
    /// `open` or `proprietary`.
    pub flavour: &'static str,
}

/// One GPU.
#[derive(Debug, Serialize)]
pub struct Row {
    /// Its index; `None` when NVIDIA's driver does not have it.
    pub index: Option<u32>,
    /// The minor of its node.
    pub minor: Option<u32>,
    /// Its PCI address; `None` when only its node is known.
    pub pci_address: Option<String>,
    /// Its UUID, where the driver knows it.
    pub uuid: Option<String>,
    /// Its model, where the driver knows it.
    pub model: Option<String>,
    /// The driver that it is bound to.
    pub driver: Option<String>,
    /// The virtual machines whose configuration claims it.
    pub claimed_by: Vec<u32>,
    /// Its MIG instances.
    pub mig: Vec<Instance>,
}

/// A MIG instance.
#[derive(Debug, Serialize)]
pub struct Instance {
    /// Its place, `<gpu instance>/<compute instance>`.
    pub place: String,
    /// Its name in an assignment.
    pub name: Option<String>,
    /// The two nodes that opening it takes.
    pub nodes: [String; 2],
}

/// Looks.
///
/// # Errors
/// Host error for a file of the kernel that cannot be understood, or a GPU that does not answer.
/// Without a runtime the containers are missing, and a warning says why.
pub fn run(context: &Context<'_>, arguments: &Arguments) -> Result<Gpus> {
    let inventory = Inventory::read(&context.host.paths)?;
    let shares = runtime::choose(context.host, arguments.runtime.into())
        .and_then(|runtime| sharing::shares(&*runtime, &inventory));
    let containers = shares.map_err(|error| {
        let text = format!("which containers have a GPU is not known: {error}");
        context.events.emit(Event::Warning { text });
    });
    let module = inventory.module.as_ref().map(|(version, flavour)| Module {
        version: version.to_string(),
        flavour: match flavour {
            ModuleFlavour::Open => "open",
            ModuleFlavour::Proprietary => "proprietary",
        },
    });
    Ok(Gpus { schema: 1, module, gpus: rows(&inventory), containers: containers.ok() })
}

fn rows(inventory: &Inventory) -> Vec<Row> {
    let address = |text: &str| PciAddress::parse(text);
    let on_bus = |gpu: &Gpu| {
        let mut devices = inventory.pci.iter();
        devices.find(|device| address(&device.address) == address(&gpu.pci_address))
    };
    let mut rows: Vec<Row> = inventory.gpus.iter().map(|gpu| of_driver(gpu, on_bus(gpu))).collect();
    let is_new = |device: &&PciGpu| {
        let mut gpus = inventory.gpus.iter();
        gpus.all(|gpu| address(&gpu.pci_address) != address(&device.address))
    };
    rows.extend(inventory.pci.iter().filter(is_new).map(|device| Row {
        index: None,
        minor: None,
        pci_address: Some(device.address.clone()),
        uuid: None,
        model: None,
        driver: device.driver.clone(),
        claimed_by: device.claimed_by.clone(),
        mig: Vec::new(),
    }));
    rows.sort_by_key(|row| (row.pci_address.as_deref().and_then(PciAddress::parse), row.minor));
    rows
}

fn of_driver(gpu: &Gpu, device: Option<&PciGpu>) -> Row {
    let instances = gpu.mig.iter().map(|instance| Instance {
        place: instance.to_string(),
        name: gpu.instance_name(instance),
        nodes: instance.nodes(),
    });
    Row {
        index: Some(gpu.index),
        minor: Some(gpu.minor),
        pci_address: Some(gpu.pci_address.clone()).filter(|address| !address.is_empty()),
        uuid: gpu.uuid.clone(),
        model: gpu.model.clone(),
        driver: device.and_then(|device| device.driver.clone()),
        claimed_by: device.map(|device| device.claimed_by.clone()).unwrap_or_default(),
        mig: instances.collect(),
    }
}
