//! `coppice-backend-tests`: what every backend promises, as a program that needs no cargo. Run it
//! as root on the host that is to be tried; see [`suite`].

// All of this program is a test; the lint knows only functions marked as such.
#![allow(clippy::unwrap_used)]

#[cfg(target_os = "freebsd")]
mod freebsd;
mod suite;

#[cfg(target_os = "freebsd")]
fn main() -> std::process::ExitCode {
    suite::main(freebsd::cases(), || ())
}

#[cfg(not(target_os = "freebsd"))]
fn main() -> std::process::ExitCode {
    suite::main(suite::cases(), || ())
}
