//! What clients are told of one file: `EntryInfo`.

use std::{collections::HashMap, fs, io, os::unix::fs::MetadataExt as _, path::Path};

use buffa_types::google::protobuf::Timestamp;

use super::{metadata, permissions};
use crate::{
    connect::proto::filesystem::{EntryInfo, FileType},
    users::Users,
};

/// Describes files, and remembers the owners' names for the length of one call.
pub(crate) struct Describe {
    users: Users,
    owners: HashMap<u32, String>,
    groups: HashMap<u32, String>,
}

impl Describe {
    pub(crate) fn new() -> Self {
        Self { users: Users::read(), owners: HashMap::new(), groups: HashMap::new() }
    }

    /// The file at `path`, told as if it were at `shown`.
    ///
    /// Existence is lstat's: a broken link exists. Type and mode are those of a link's target.
    pub(crate) fn entry(&mut self, path: &Path, shown: &Path) -> io::Result<EntryInfo> {
        let found = fs::symlink_metadata(path)?;
        let is_symlink = found.file_type().is_symlink();
        let mut symlink_target = None;
        let target = if is_symlink {
            let resolved = fs::canonicalize(path);
            let target = resolved.as_ref().ok().and_then(|target| fs::metadata(target).ok());
            symlink_target = Some(text(resolved.as_deref().unwrap_or(shown)));
            target
        } else {
            Some(found.clone())
        };
        let kind = match target.as_ref().map(fs::Metadata::file_type) {
            Some(kind) if kind.is_file() => FileType::FILE_TYPE_FILE,
            Some(kind) if kind.is_dir() => FileType::FILE_TYPE_DIRECTORY,
            _ => FileType::FILE_TYPE_UNSPECIFIED,
        };
        let mode = target.as_ref().map_or(0, |target| target.mode() & 0o777);
        let name = shown.file_name().map_or_else(|| text(shown), |name| text(Path::new(name)));
        let has_metadata = target.is_some_and(|target| target.is_file() || target.is_dir());
        Ok(EntryInfo {
            name,
            r#type: kind.into(),
            path: text(shown),
            size: found.size().try_into().unwrap_or(i64::MAX),
            mode,
            permissions: permissions::letters(found.mode()),
            owner: self.owner(found.uid()),
            group: self.group(found.gid()),
            modified_time: buffa::MessageField::some(modified(&found)),
            symlink_target,
            metadata: if has_metadata {
                metadata::read(path).into_iter().collect()
            } else {
                Default::default()
            },
            is_symlink,
            ..EntryInfo::default()
        })
    }

    fn owner(&mut self, uid: u32) -> String {
        self.owners.entry(uid).or_insert_with(|| self.users.user_name(uid)).clone()
    }

    fn group(&mut self, gid: u32) -> String {
        self.groups.entry(gid).or_insert_with(|| self.users.group_name(gid)).clone()
    }
}

fn modified(found: &fs::Metadata) -> Timestamp {
    let nanos = found.mtime_nsec().clamp(0, 999_999_999);
    // The protobuf type ends with the year 9999; a file's clock need not.
    let seconds = found.mtime().clamp(-62_135_596_800, 253_402_300_799);
    Timestamp::from_unix(seconds, i32::try_from(nanos).unwrap_or_default())
}

/// Names that are not UTF-8 come out with replacement characters; the wire has only strings.
pub(crate) fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
