//! `nvstage` puts NVIDIA's driver userland and the CUDA toolkit into Proxmox VE LXC containers,
//! from one verified local cache.
//!
//! The modules are ordered in floors; imports go down only (`tests/floors.rs` enforces it):
//!
//! | floor | modules | may do |
//! |---|---|---|
//! | 6 | `main`, `cli`, `printer`, `phoenix_log` | see everything, print |
//! | 5 | `cmd` | one verb a file |
//! | 4 | `engine` | carry out steps on one container |
//! | 3 | `fetch` < `cache` < `runtime` | stores and containers |
//! | 2 | `host` | the live machine |
//! | 1 | `artifact`, `recipe`, `lock`, `gpu`, `container`, `runfile`, `apt`, `openpgp`, `facts`, `plan`, `journal`, `doctor`, `report`, `remedy`, `diff`, `phoenix`, `fleet` | pure: text and values |
//! | 0 | `error`, `event`, `digest`, `ctid`, `version`, `architecture`, `fingerprint`, `answer`, `selection`, `shell` | words |

pub mod answer;
pub mod apt;
pub mod architecture;
pub mod artifact;
pub mod cache;
pub mod cli;
pub mod cmd;
pub mod container;
pub mod ctid;
pub mod diff;
pub mod digest;
pub mod doctor;
pub mod engine;
pub mod error;
pub mod event;
pub mod facts;
pub mod fetch;
pub mod fingerprint;
pub mod fleet;
pub mod gpu;
pub mod host;
pub mod journal;
pub mod lock;
pub mod openpgp;
pub mod phoenix;
pub mod phoenix_log;
pub mod plan;
pub mod printer;
pub mod recipe;
pub mod remedy;
pub mod report;
pub mod runfile;
pub mod runtime;
pub mod selection;
pub mod shell;
pub mod version;
