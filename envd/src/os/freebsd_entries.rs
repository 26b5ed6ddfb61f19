//! FreeBSD: what has changed in directories, by what was in them before and what is now.
//!
//! The kernel says that a directory has changed and not how (kqueue(2), `EVFILT_VNODE`). Nothing
//! here calls the system, so that it is tested everywhere.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ffi::OsString,
    path::{Path, PathBuf},
};

use super::change::Change;

/// Which file it is, whatever its name: device and inode.
pub(super) type Identity = (u64, u64);

/// A name that its directory has no more, or has for another file.
#[derive(Clone, Debug)]
pub(super) struct Gone {
    pub(super) path: PathBuf,
    pub(super) identity: Identity,
    /// Whether the file was renamed, where it was held open and so could tell.
    pub(super) renamed: Option<bool>,
}

/// A name that its directory had not before, or had for another file.
#[derive(Clone, Debug)]
pub(super) struct New {
    pub(super) path: PathBuf,
    pub(super) identity: Identity,
    /// There is something in it already, so that it has been written to.
    pub(super) has_content: bool,
}

/// Names that went and names that came; one that is another file's now is among both.
pub(super) fn compare(
    before: &BTreeMap<OsString, u64>,
    now: &BTreeMap<OsString, u64>,
) -> (Vec<OsString>, Vec<OsString>) {
    let missing = |from: &BTreeMap<OsString, u64>, of: &BTreeMap<OsString, u64>| {
        of.iter()
            .filter(|(name, inode)| from.get(*name) != Some(inode))
            .map(|(name, _)| name.clone())
            .collect()
    };
    (missing(now, before), missing(before, now))
}

/// What that means, told as inotify(7) would. What left one watched directory for another is one
/// rename, whose two halves bear the same cookie.
pub(super) fn changes(
    gone: Vec<Gone>,
    new: Vec<New>,
    next_cookie: &mut usize,
) -> Vec<(PathBuf, Change)> {
    let mut came: HashMap<Identity, Vec<usize>> = HashMap::new();
    for (at, new) in new.iter().enumerate().rev() {
        came.entry(new.identity).or_default().push(at);
    }
    let mut cookies: HashMap<usize, usize> = HashMap::new();
    let mut left = Vec::new();
    let mut removed = Vec::new();
    for Gone { path, identity, renamed } in gone {
        let to = if renamed == Some(false) { None } else { came.get_mut(&identity) };
        let to = to.and_then(Vec::pop).filter(|&at| new[at].path != path);
        match to {
            Some(at) => {
                let cookie = *next_cookie;
                *next_cookie = next_cookie.wrapping_add(1);
                cookies.insert(at, cookie);
                left.push((path, Change::Left(Some(cookie))));
            }
            None if renamed == Some(true) => left.push((path, Change::Left(None))),
            None => removed.push(path),
        }
    }
    // A file that another took the name of by a rename is not told to be removed.
    let taken: BTreeSet<&Path> = cookies.keys().map(|&at| new[at].path.as_path()).collect();
    removed.retain(|path| !taken.contains(path.as_path()));

    let mut told: Vec<_> = removed.into_iter().map(|path| (path, Change::Removed)).collect();
    told.append(&mut left);
    for (at, New { path, has_content, .. }) in new.into_iter().enumerate() {
        match cookies.get(&at) {
            Some(&cookie) => told.push((path, Change::Arrived(Some(cookie)))),
            None => {
                told.push((path.clone(), Change::Created));
                if has_content {
                    told.push((path, Change::Written));
                }
            }
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(names: &[(&str, u64)]) -> BTreeMap<OsString, u64> {
        names.iter().map(|(name, inode)| ((*name).into(), *inode)).collect()
    }

    #[test]
    fn names_come_and_go_and_change_hands() {
        let before = names(&[("kept", 1), ("gone", 2), ("replaced", 3)]);
        let now = names(&[("kept", 1), ("new", 4), ("replaced", 5)]);
        let expect: (Vec<OsString>, Vec<OsString>) =
            (vec!["gone".into(), "replaced".into()], vec!["new".into(), "replaced".into()]);
        assert_eq!(compare(&before, &now), expect);
        assert_eq!(compare(&before, &before), Default::default());
    }

    fn gone(path: &str, inode: u64, renamed: Option<bool>) -> Gone {
        Gone { path: path.into(), identity: (1, inode), renamed }
    }

    fn new(path: &str, inode: u64, has_content: bool) -> New {
        New { path: path.into(), identity: (1, inode), has_content }
    }

    fn check(gone: &[Gone], new: &[New], expect: &[(&str, Change)]) {
        let told = changes(gone.to_vec(), new.to_vec(), &mut 7);
        let told: Vec<_> =
            told.iter().map(|(path, change)| (path.to_str().unwrap(), change)).collect();
        let expect: Vec<_> = expect.iter().map(|(path, change)| (*path, change)).collect();
        assert_eq!(told, expect, "{gone:?}, {new:?}");
    }

    #[test]
    fn what_comes_is_created_and_what_has_content_was_written() {
        check(
            &[],
            &[new("/a", 1, false), new("/b", 2, true)],
            &[("/a", Change::Created), ("/b", Change::Created), ("/b", Change::Written)],
        );
    }

    #[test]
    fn a_rename_between_watched_directories_has_two_halves() {
        let halves = [("/a/x", Change::Left(Some(7))), ("/b/y", Change::Arrived(Some(7)))];
        for renamed in [Some(true), None] {
            check(&[gone("/a/x", 1, renamed)], &[new("/b/y", 1, true)], &halves);
        }
    }

    #[test]
    fn what_went_elsewhere_has_left_and_what_was_deleted_is_removed() {
        check(&[gone("/a", 1, Some(true))], &[], &[("/a", Change::Left(None))]);
        check(&[gone("/a", 1, Some(false))], &[], &[("/a", Change::Removed)]);
        check(&[gone("/a", 1, None)], &[], &[("/a", Change::Removed)]);
    }

    #[test]
    fn a_new_file_with_the_inode_of_a_deleted_one_is_not_that_one() {
        check(
            &[gone("/a", 1, Some(false))],
            &[new("/b", 1, false)],
            &[("/a", Change::Removed), ("/b", Change::Created)],
        );
    }

    #[test]
    fn a_file_renamed_over_another_takes_its_name_without_a_removal() {
        check(
            &[gone("/tmp", 1, Some(true)), gone("/file", 2, Some(false))],
            &[new("/file", 1, true)],
            &[("/tmp", Change::Left(Some(7))), ("/file", Change::Arrived(Some(7)))],
        );
        // Removed and made anew is told as that.
        check(
            &[gone("/file", 2, Some(false))],
            &[new("/file", 3, false)],
            &[("/file", Change::Removed), ("/file", Change::Created)],
        );
    }

    #[test]
    fn each_of_two_links_to_one_file_has_one_place_to_go() {
        check(
            &[gone("/a", 1, Some(true)), gone("/b", 1, Some(true))],
            &[new("/c", 1, false)],
            &[
                ("/a", Change::Left(Some(7))),
                ("/b", Change::Left(None)),
                ("/c", Change::Arrived(Some(7))),
            ],
        );
    }

    proptest! {
        #[test]
        fn nothing_that_came_or_went_is_left_out(
            went in prop::collection::btree_map("[a-d]", (0..4_u64, any::<Option<bool>>()), 0..4),
            came in prop::collection::btree_map("[a-d]", (0..4_u64, any::<bool>()), 0..4),
        ) {
            let gone: Vec<_> = went.iter().map(|(path, (inode, renamed))| gone(path, *inode, *renamed)).collect();
            let new: Vec<_> = came.iter().map(|(path, (inode, content))| new(path, *inode, *content)).collect();
            let told = changes(gone, new, &mut 0);
            for path in came.keys() {
                let begun = |change: &Change| matches!(change, Change::Created | Change::Arrived(_));
                prop_assert_eq!(told.iter().filter(|(at, change)| at == Path::new(path) && begun(change)).count(), 1);
            }
            for path in went.keys().filter(|path| !came.contains_key(*path)) {
                let ended = |change: &Change| matches!(change, Change::Removed | Change::Left(_));
                prop_assert_eq!(told.iter().filter(|(at, change)| at == Path::new(path) && ended(change)).count(), 1);
            }
            let halves = |half: fn(&Change) -> Option<usize>| -> Vec<usize> {
                let mut cookies: Vec<_> = told.iter().filter_map(|(_, change)| half(change)).collect();
                cookies.sort_unstable();
                cookies
            };
            let left = halves(|change| if let Change::Left(cookie) = change { *cookie } else { None });
            let arrived = halves(|change| if let Change::Arrived(cookie) = change { *cookie } else { None });
            prop_assert_eq!(left, arrived);
        }
    }
}
