//! NVIDIA's driver installer as data: the self-extracting file, the list of what it installs, its
//! options, and what it says when it ran. Nothing here runs it or touches a disk.

pub mod backup_log;
pub mod diagnosis;
pub mod header;
pub mod layout;
pub mod manifest;
pub mod options;
