//! What `nvstage gpus` found, for people.

use std::fmt::Write as _;

use super::{Printer, columns, table_within};
use crate::cmd::gpus::{Gpus, Row};
use crate::engine::sharing::{GpuUse, Share};

/// `CUDA_DEVICE_ORDER` is `FASTEST_FIRST` by default (CUDA C++ Programming Guide, environment
/// variables); `nvidia-smi` and we number by PCI address.
const CUDA_ORDER: &str =
    "\ninside, CUDA numbers GPUs by speed unless CUDA_DEVICE_ORDER=PCI_BUS_ID is set\n";

impl Printer {
    /// Prints the GPUs, and who has them.
    pub fn gpus(&self, gpus: &Gpus) {
        self.result(gpus, || text(gpus, columns()));
    }
}

/// The same as text of so many columns.
pub fn text(gpus: &Gpus, columns: u16) -> String {
    let mut text = match &gpus.module {
        Some(module) => format!("kernel module {}, {}\n", module.version, module.flavour),
        None => "no kernel module of NVIDIA is loaded: no container can use a GPU\n".to_owned(),
    };
    if gpus.gpus.is_empty() {
        text.push_str("this host has no GPU of NVIDIA\n");
        return text;
    }
    let mut table = table_within(columns, ["GPU", "minor", "PCI address", "driver", "model, UUID"]);
    for row in &gpus.gpus {
        table.add_row([
            or_dash(row.index),
            or_dash(row.minor),
            or_dash(row.pci_address.as_deref()),
            driver(row),
            model(row),
        ]);
    }
    let _ = writeln!(text, "\n{}", table.trim_fmt());
    if has_several_models(gpus) {
        text.push_str(CUDA_ORDER);
    }
    for row in gpus.gpus.iter().filter(|row| !row.mig.is_empty()) {
        let _ = writeln!(text, "\nMIG instances of GPU {}:", or_dash(row.index));
        for instance in &row.mig {
            let _ = writeln!(text, "  {}", instance.name.as_ref().unwrap_or(&instance.place));
        }
    }
    if let Some(containers) = &gpus.containers {
        let _ = writeln!(text, "\n{}", shares(containers, columns));
    }
    text
}

/// Whether NVIDIA's driver has GPUs of different models, so that their speed differs.
fn has_several_models(gpus: &Gpus) -> bool {
    let mut models = gpus.gpus.iter().filter_map(|row| row.model.as_ref());
    let first = models.next();
    models.any(|model| Some(model) != first)
}

fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or("-".to_owned(), |value| value.to_string())
}

fn driver(row: &Row) -> String {
    let machines = row.claimed_by.iter().map(|machine| format!("VM {machine}"));
    let lines: Vec<String> = [or_dash(row.driver.as_deref())].into_iter().chain(machines).collect();
    lines.join("\n")
}

fn model(row: &Row) -> String {
    match (&row.model, &row.uuid) {
        (None, None) => "-".to_owned(),
        (Some(model), None) => model.clone(),
        (None, Some(uuid)) => uuid.clone(),
        (Some(model), Some(uuid)) => format!("{model}\n{uuid}"),
    }
}

fn shares(shares: &[Share], columns: u16) -> String {
    if shares.is_empty() {
        return "no container has a GPU".to_owned();
    }
    let mut table = table_within(columns, ["container", "GPUs"]);
    for share in shares {
        let gpus: Vec<String> = share.gpus.iter().map(used).collect();
        table.add_row([share.container.to_string(), gpus.join(", ")]);
    }
    table.trim_fmt()
}

/// `0`, `0 (MIG 1/0 2/0)`.
fn used(used: &GpuUse) -> String {
    match &used.instances {
        None => used.index.to_string(),
        Some(instances) if instances.is_empty() => format!("{} (no MIG instance)", used.index),
        Some(instances) => format!("{} (MIG {})", used.index, instances.join(" ")),
    }
}
