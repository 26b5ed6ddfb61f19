//! The Connect services generated from proto/, and how domain errors become Connect errors.

#[allow(clippy::all, unreachable_pub, dead_code, unused_imports)]
pub(crate) mod proto {
    connectrpc::include_generated!();
}
