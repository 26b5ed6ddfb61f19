//! The platform half of envd: the only place here that names an operating system.

#[cfg_attr(target_os = "linux", path = "linux_attach.rs")]
#[cfg_attr(target_os = "freebsd", path = "freebsd_attach.rs")]
pub(crate) mod attach;
