//! The Coppice gateway: sandboxes over the E2B API on hardware the user owns.

#![deny(unsafe_code)]

pub mod backend;
pub mod data;
pub mod error;
pub mod front_door;
pub mod sandbox;
pub mod serve;
pub mod template;
