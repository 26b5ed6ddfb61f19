//! The Coppice gateway: sandboxes over the E2B API on hardware the user owns.

#![deny(unsafe_code)]

pub mod backend;
pub mod sandbox;
pub mod template;
