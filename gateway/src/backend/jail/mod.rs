//! The jail backend.

/// This host.
pub struct Host;
