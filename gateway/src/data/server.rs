//! Who answers on a port of a sandbox.

use envd::wire::{CODE_PORT, ENVD_PORT};

use crate::sandbox::Sandbox;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Server {
    Envd,
    /// envd too: nobody inside can be there before it, or in its place.
    Interpreter,
    User,
}

impl Server {
    pub(super) fn of(sandbox: &Sandbox, port: u16) -> Self {
        match port {
            ENVD_PORT => Self::Envd,
            CODE_PORT if sandbox.facts().template.kernels => Self::Interpreter,
            _ => Self::User,
        }
    }

    /// Whether it is reached by envd's own socket.
    pub(super) fn is_envds(self) -> bool {
        self != Self::User
    }
}
