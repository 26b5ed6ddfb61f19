//! The backend of this system on the real kernel, as root: what every backend promises and, on
//! Linux, what its own owes beside that.

// All of this program is a test; the lint knows only functions marked as such.
#![allow(clippy::unwrap_used)]

#[cfg(target_os = "freebsd")]
mod freebsd;
#[cfg(target_os = "linux")]
mod linux;
mod suite;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    linux::main()
}

#[cfg(target_os = "freebsd")]
fn main() -> std::process::ExitCode {
    suite::main(freebsd::cases(), || ())
}
