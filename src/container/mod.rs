//! A container's configuration file: read without loss, and edited line by line.

pub mod config;
pub mod driver_files;
pub(crate) mod mount;
pub mod passthrough;
pub mod problems;
pub mod rules;
pub mod shared;
