//! The devices a jail sees: a ruleset of our own for its devfs, as a list. Asks the kernel nothing.
//!
//! The system's ruleset 4 shows `fuse` and `zfs` too, differs between releases, and is there only
//! once `/etc/rc.d/devfs` has run. What hides is a property of the mount: devfs(5) applies the
//! ruleset it is mounted with (`ruleset=`) to all it ever shows.

use std::mem::offset_of;

use rctl_sys::abi::{
    self, DEVFS_MAGIC, DEVFS_MAXPTRNLEN, DRA_BACTS, DRB_HIDE, DRB_UNHIDE, DRC_PATHPTRN,
};

/// Far from those of `/etc/defaults/devfs.rules` (1 to 5) and what people number theirs.
pub(super) const RULESET: u16 = 49_305;

/// What is shown; all else is hidden. `ctty` is what `/dev/tty` is to a process that has none.
const SHOWN: [&str; 15] = [
    "null", "zero", "full", "random", "urandom", "fd", "fd/*", "stdin", "stdout", "stderr", "tty",
    "ctty", "ptmx", "pts", "pts/*",
];

/// `struct devfs_rule`
#[repr(C)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    magic: u32,
    id: u32,
    conditions: i32,
    driver_flags: i32,
    pattern: [u8; DEVFS_MAXPTRNLEN],
    actions: i32,
    visibility: i32,
    uid: u32,
    gid: u32,
    mode: u16,
    included: u16,
}

// What the headers say, which `abi` is checked against.
const _: () = {
    assert!(size_of::<Rule>() == abi::DEVFS_RULE_SIZE);
    assert!(offset_of!(Rule, magic) == abi::DR_MAGIC);
    assert!(offset_of!(Rule, id) == abi::DR_ID);
    assert!(offset_of!(Rule, conditions) == abi::DR_ICOND);
    assert!(offset_of!(Rule, driver_flags) == abi::DR_DSWFLAGS);
    assert!(offset_of!(Rule, pattern) == abi::DR_PATHPTRN);
    assert!(offset_of!(Rule, actions) == abi::DR_IACTS);
    assert!(offset_of!(Rule, visibility) == abi::DR_BACTS);
    assert!(offset_of!(Rule, uid) == abi::DR_UID);
    assert!(offset_of!(Rule, gid) == abi::DR_GID);
    assert!(offset_of!(Rule, mode) == abi::DR_MODE);
    assert!(offset_of!(Rule, included) == abi::DR_INCSET);
};

impl Rule {
    /// With nothing but its number: what a request for the next one of our ruleset begins with.
    pub(super) fn after(number: u16) -> Self {
        Self {
            magic: DEVFS_MAGIC,
            id: u32::from(RULESET) << 16 | u32::from(number),
            conditions: 0,
            driver_flags: 0,
            pattern: [0; DEVFS_MAXPTRNLEN],
            actions: 0,
            visibility: 0,
            uid: 0,
            gid: 0,
            mode: 0,
            included: 0,
        }
    }

    pub(super) fn id(&self) -> u32 {
        self.id
    }

    pub(super) fn number(&self) -> u16 {
        (self.id & 0xffff) as u16
    }

    fn hide_all(number: u16) -> Self {
        Self { actions: DRA_BACTS, visibility: DRB_HIDE, ..Self::after(number) }
    }

    fn show(number: u16, pattern: &str) -> Self {
        let mut rule = Self::after(number);
        rule.pattern[..pattern.len()].copy_from_slice(pattern.as_bytes());
        Self { conditions: DRC_PATHPTRN, actions: DRA_BACTS, visibility: DRB_UNHIDE, ..rule }
    }
}

/// The ruleset, in the order in which its rules apply.
pub(super) fn rules() -> Vec<Rule> {
    let shown = SHOWN.iter().zip(2..).map(|(pattern, place)| Rule::show(100 * place, pattern));
    std::iter::once(Rule::hide_all(100)).chain(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_hidden_before_anything_is_shown() {
        let rules = rules();
        assert_eq!((rules[0].conditions, rules[0].visibility), (0, DRB_HIDE));
        let numbers: Vec<u16> = rules.iter().map(Rule::number).collect();
        assert_eq!(numbers[..3], [100, 200, 300]);
        assert!(numbers.is_sorted());
        assert!(
            rules[1..]
                .iter()
                .all(|rule| { rule.conditions == DRC_PATHPTRN && rule.visibility == DRB_UNHIDE })
        );
        assert_eq!(&rules[1].pattern[..5], b"null\0");
        assert!(rules.iter().all(|rule| rule.id() >> 16 == u32::from(RULESET)));
    }

    #[test]
    fn nothing_of_the_host_s_hardware_is_shown() {
        for hidden in ["mem", "kmem", "io", "pci", "da0", "ada0", "bpf", "pf", "zfs", "fuse"] {
            assert!(!SHOWN.contains(&hidden), "{hidden}");
        }
        let wildcards: Vec<&str> = SHOWN.into_iter().filter(|name| name.contains('*')).collect();
        assert_eq!(wildcards, ["fd/*", "pts/*"]);
    }
}
