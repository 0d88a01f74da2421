//! `nvstage` puts NVIDIA's driver userland and the CUDA toolkit into Proxmox VE LXC containers,
//! from one verified local cache.
//!
//! The modules are ordered in floors; imports go down only (`tests/floors.rs` enforces it):
//!
//! | floor | modules | may do |
//! |---|---|---|
//! | 6 | `main`, `cli`, `printer` | see everything, print |
//! | 5 | `cmd` | one verb a file |
//! | 4 | `engine` | carry out steps on one container |
//! | 3 | `fetch` < `cache` < `runtime` | stores and containers |
//! | 2 | `host` | the live machine |
//! | 1 | `artifact`, `recipe`, `lock`, `gpu`, `container`, `runfile`, `apt`, `facts`, `plan`, `phoenix` | pure: text and values |
//! | 0 | `error`, `event`, `digest`, `ctid`, `version` | words |

pub mod ctid;
pub mod digest;
pub mod error;
pub mod event;
pub mod host;
pub mod version;
