//! The devices a jail sees: a ruleset of our own for its devfs, as a list. Asks the kernel nothing.
//!
//! The system's ruleset 4 shows `fuse` and `zfs` too, differs between releases, and is there only
//! once `/etc/rc.d/devfs` has run. What hides is a property of the mount: devfs(5) applies the
//! ruleset it is mounted with (`ruleset=`) to all it ever shows.

use super::net_abi::{read_write, write};

/// Far from those of `/etc/defaults/devfs.rules` (1 to 5) and what people number theirs.
pub(super) const RULESET: u16 = 49_305;

/// What is shown; all else is hidden. `ctty` is what `/dev/tty` is to a process that has none.
const SHOWN: [&str; 15] = [
    "null", "zero", "full", "random", "urandom", "fd", "fd/*", "stdin", "stdout", "stderr", "tty",
    "ctty", "ptmx", "pts", "pts/*",
];

// fs/devfs/devfs.h
const MAGIC: u32 = 0xdb0a_087a;
const DRC_PATHPTRN: i32 = 2;
const DRA_BACTS: i32 = 1;
const DRB_HIDE: i32 = 1;
const DRB_UNHIDE: i32 = 2;
const PATTERN: usize = 200;

pub(super) const DEVFSIO_RADD: u64 = read_write::<Rule>(b'D', 0);
pub(super) const DEVFSIO_RDEL: u64 = write::<u32>(b'D', 1);
pub(super) const DEVFSIO_RGETNEXT: u64 = read_write::<Rule>(b'D', 4);

/// `struct devfs_rule`
#[repr(C)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    magic: u32,
    id: u32,
    conditions: i32,
    driver_flags: i32,
    pattern: [u8; PATTERN],
    actions: i32,
    visibility: i32,
    uid: u32,
    gid: u32,
    mode: u16,
    included: u16,
}

impl Rule {
    /// With nothing but its number: what a request for the next one of our ruleset begins with.
    pub(super) fn after(number: u16) -> Self {
        Self {
            magic: MAGIC,
            id: u32::from(RULESET) << 16 | u32::from(number),
            conditions: 0,
            driver_flags: 0,
            pattern: [0; PATTERN],
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
    use std::mem::offset_of;

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

    /// As a C compiler made them of FreeBSD's headers.
    #[test]
    fn requests_and_rules_are_laid_out_as_in_the_headers() {
        assert_eq!(DEVFSIO_RADD, 0xc0ec_4400);
        assert_eq!(DEVFSIO_RDEL, 0x8004_4401);
        assert_eq!(DEVFSIO_RGETNEXT, 0xc0ec_4404);
        assert_eq!(size_of::<Rule>(), 236);
        assert_eq!((offset_of!(Rule, pattern), offset_of!(Rule, actions)), (16, 216));
        assert_eq!((offset_of!(Rule, visibility), offset_of!(Rule, uid)), (220, 224));
        assert_eq!((offset_of!(Rule, mode), offset_of!(Rule, included)), (232, 234));
    }
}
