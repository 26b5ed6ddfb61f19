//! The system calls themselves, the only place with `unsafe`.

#[cfg_attr(target_os = "freebsd", path = "freebsd.rs")]
#[cfg_attr(not(target_os = "freebsd"), path = "other.rs")]
mod host;

pub(crate) use host::{
    getfsstat, jail_attach, jail_get, jail_remove, jail_set, nmount, rctl, statfs, sysctl,
    sysctl_by_name, unmount,
};

/// Which call of rctl(2); they all take the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rctl {
    GetRacct,
    GetRules,
    GetLimits,
    AddRule,
    RemoveRule,
}

impl Rctl {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::GetRacct => "rctl_get_racct",
            Self::GetRules => "rctl_get_rules",
            Self::GetLimits => "rctl_get_limits",
            Self::AddRule => "rctl_add_rule",
            Self::RemoveRule => "rctl_remove_rule",
        }
    }
}
