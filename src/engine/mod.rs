//! The engine: takes one container from what it is to what it should be.
//!
//! Order of events: [`wish`] says what should be, [`survey`] what is, [`crate::plan`] compares;
//! [`supplies`] fetches and verifies; [`provision`] carries out the steps ([`configure`],
//! [`driver`], [`packages`]); [`check`] judges the result. [`detach`] is the way back. [`batch`] does all that
//! to many containers at once.

pub mod batch;
pub mod before;
pub mod bundle;
pub mod chain;
pub mod check;
pub mod closure;
pub mod configure;
pub mod conflicts;
pub mod detach;
pub mod doctor;
pub mod dpkg;
pub mod drift;
pub mod driver;
pub mod existing_sources;
pub mod journal;
pub mod locked;
pub mod metadata;
pub mod packages;
pub mod pending;
pub mod provision;
pub mod refresh;
pub mod resolve;
pub mod seen;
pub mod shared;
pub mod sharing;
pub mod shown;
pub mod status;
pub mod steps;
pub mod stock;
pub mod supplies;
pub mod survey;
pub mod sync;
pub mod systems;
pub mod tenant;
pub mod transfer;
pub mod unfinished;
pub mod wish;
