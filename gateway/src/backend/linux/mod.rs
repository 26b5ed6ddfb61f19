//! The linux backend.

/// This host.
pub struct Host;
