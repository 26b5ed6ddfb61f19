//! Linux namespaces do not exist here.

use crate::{
    control::{Descriptors, Failure},
    wire::LinuxAttach,
};

pub(crate) fn enter(_: &LinuxAttach, _: &mut Descriptors) -> Result<(), Failure> {
    Err(Failure {
        step: "enter linux namespaces".into(),
        errno: None,
        message: "this envd was built for FreeBSD".into(),
    })
}

pub(crate) fn refresh_meminfo(_used: u64) {}
