//! `coppice-backend-tests`: what every backend promises, as a program that needs no cargo. Run it
//! as root on the host that is to be tried; see [`suite`].

// All of this program is a test; the lint knows only functions marked as such.
#![allow(clippy::unwrap_used)]

mod suite;

fn main() -> std::process::ExitCode {
    suite::main(suite::cases(), || ())
}
