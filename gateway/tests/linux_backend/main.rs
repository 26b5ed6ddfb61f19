//! The Linux backend's suite, and nothing where there is no Linux.

// All of this program is a test; the lint knows only functions marked as such.
#![allow(clippy::unwrap_used)]

#[cfg(target_os = "linux")]
#[path = "suite.rs"]
mod suite;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    suite::main()
}

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("skipped: not Linux");
}
