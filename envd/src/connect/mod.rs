//! The Connect services generated from proto/, and how domain errors become Connect errors.

mod timeout;

pub(crate) use self::timeout::{keepalive_interval, stream_timeout, take_stream_timeout};

#[allow(clippy::all, unreachable_pub, dead_code, unused_imports)]
pub(crate) mod proto {
    connectrpc::include_generated!();
}
