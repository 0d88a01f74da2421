//! A container's configuration file: read without loss, and edited line by line.

pub mod config;
mod mount;
pub mod passthrough;
mod rules;
