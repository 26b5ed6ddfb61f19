//! What clients are told when something is refused or fails: the only place that knows status
//! codes.

mod data_plane;

pub use data_plane::DataPlaneError;
