//! The live machine: processes, files, locks, mounts, signals. The only floor that touches it.

pub mod cancel;
pub mod paths;
