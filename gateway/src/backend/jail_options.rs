//! What the operator may ask of jails beside what every sandbox has.

/// All of it is FreeBSD's; elsewhere there is nothing to ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JailOptions {
    /// procfs(5) on `/proc`, for programs that cannot do without.
    pub procfs: bool,
    /// Thin roots are in memory, by tmpfs(5), and so bounded by the disk a sandbox may use.
    pub tmpfs: bool,
    /// Address space (bytes), of all processes of a sandbox together.
    pub vmemory_bytes: Option<u64>,
    /// Bytes a second, of all processes of a sandbox together.
    pub read_bps: Option<u64>,
    pub write_bps: Option<u64>,
}

impl JailOptions {
    /// Whether the backend of this program has any.
    pub fn are_there() -> bool {
        cfg!(target_os = "freebsd")
    }
}
