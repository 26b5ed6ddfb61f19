//! Whose the datasets are, in files of one directory: `<data-dir>/clones`.
//!
//! | file | says |
//! |---|---|
//! | `<id>` | the clone that is a sandbox's root, and how much of it is its template's; there before the clone is used |
//! | `.kept-<id>` | the same of a sandbox that has no processes, and is to find its files again |
//! | `.gone-<leaf>` | that a clone is nobody's any more, until it is destroyed |
//! | `.copy-<layer>` | the path that stands for a copy of a sandbox |
//!
//! A clone without any of them is ready.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{super::error::Call, Layer};
use crate::{backend::Error, sandbox::SandboxId};

const KEPT: &str = ".kept-";
const GONE: &str = ".gone-";
const COPY: &str = ".copy-";

pub(super) struct Claims(PathBuf);

/// What a sandbox has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) leaf: String,
    /// Bytes that were in it from the beginning.
    pub(super) base: u64,
}

/// What one file is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Of {
    Sandbox(SandboxId),
    Kept(SandboxId),
    Gone(String),
    Copy(Layer),
}

impl Claims {
    pub(super) fn new(directory: PathBuf) -> Self {
        Self(directory)
    }

    pub(super) fn prepare(&self) -> Result<(), Error> {
        fs::create_dir_all(&self.0).call("mkdir", self.0.display())
    }

    pub(super) fn directory(&self) -> &Path {
        &self.0
    }

    pub(super) fn all(&self) -> Result<Vec<Of>, Error> {
        let entries = match fs::read_dir(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            result => result.call("read", self.0.display())?,
        };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        Ok(names.filter_map(|name| of_name(&name)).collect())
    }

    pub(super) fn read(&self, of: &Of) -> Result<Option<Claim>, Error> {
        Ok(self.text(of)?.as_deref().and_then(parse))
    }

    /// The path that stands for a copy.
    pub(super) fn copy(&self, layer: &Layer) -> Result<Option<PathBuf>, Error> {
        Ok(self.text(&Of::Copy(layer.clone()))?.map(PathBuf::from))
    }

    fn text(&self, of: &Of) -> Result<Option<String>, Error> {
        let path = self.path(of);
        match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            result => result.map(Some).call("read", path.display()),
        }
    }

    pub(super) fn write(&self, of: &Of, claim: &Claim) -> Result<(), Error> {
        self.put(of, &format!("{} {}", claim.leaf, claim.base))
    }

    pub(super) fn write_copy(&self, layer: &Layer, path: &Path) -> Result<(), Error> {
        self.put(&Of::Copy(layer.clone()), &path.to_string_lossy())
    }

    /// By rename: whole, or not there.
    fn put(&self, of: &Of, text: &str) -> Result<(), Error> {
        let (new, path) = (self.0.join(format!(".new-{}", name_of(of))), self.path(of));
        fs::write(&new, text).call("write", new.display())?;
        fs::rename(&new, &path).call("rename", path.display())
    }

    pub(super) fn rename(&self, from: &Of, to: &Of) -> Result<(), Error> {
        let (from, to) = (self.path(from), self.path(to));
        fs::rename(&from, &to).call("rename", format!("{} to {}", from.display(), to.display()))
    }

    /// Idempotent.
    pub(super) fn remove(&self, of: &Of) -> Result<(), Error> {
        let path = self.path(of);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result.call("unlink", path.display()),
        }
    }

    fn path(&self, of: &Of) -> PathBuf {
        self.0.join(name_of(of))
    }
}

fn name_of(of: &Of) -> String {
    match of {
        Of::Sandbox(id) => id.to_string(),
        Of::Kept(id) => format!("{KEPT}{id}"),
        Of::Gone(leaf) => format!("{GONE}{leaf}"),
        Of::Copy(layer) => format!("{COPY}{}", layer.as_str()),
    }
}

fn of_name(name: &str) -> Option<Of> {
    if let Some(id) = name.strip_prefix(KEPT) {
        id.parse().ok().map(Of::Kept)
    } else if let Some(leaf) = name.strip_prefix(GONE) {
        is_leaf(leaf).then(|| Of::Gone(leaf.to_owned()))
    } else if let Some(layer) = name.strip_prefix(COPY) {
        Layer::named(layer).map(Of::Copy)
    } else {
        name.parse().ok().map(Of::Sandbox)
    }
}

fn parse(text: &str) -> Option<Claim> {
    let (leaf, base) = text.trim_end().split_once(' ')?;
    is_leaf(leaf).then(|| Some(Claim { leaf: leaf.to_owned(), base: base.parse().ok()? }))?
}

/// Clones are named as sandboxes are.
fn is_leaf(leaf: &str) -> bool {
    leaf.parse::<SandboxId>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_read_as_it_was_written_and_what_is_none_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let claims = Claims::new(directory.path().join("clones"));
        assert_eq!(claims.all().unwrap(), []);
        claims.prepare().unwrap();
        let id = SandboxId::random();
        let claim = Claim { leaf: SandboxId::random().to_string(), base: 7 << 30 };
        let (sandbox, kept) = (Of::Sandbox(id), Of::Kept(id));
        assert_eq!(claims.read(&sandbox).unwrap(), None);
        claims.write(&sandbox, &claim).unwrap();
        assert_eq!(claims.read(&sandbox).unwrap(), Some(claim.clone()));
        claims.rename(&sandbox, &kept).unwrap();
        assert_eq!(claims.all().unwrap(), std::slice::from_ref(&kept));
        assert_eq!(claims.read(&kept).unwrap(), Some(claim.clone()));
        claims.rename(&kept, &Of::Gone(claim.leaf.clone())).unwrap();
        assert_eq!(claims.all().unwrap(), [Of::Gone(claim.leaf.clone())]);
        claims.remove(&Of::Gone(claim.leaf.clone())).unwrap();
        claims.remove(&Of::Gone(claim.leaf)).unwrap();
        let layer = Layer::of(Path::new("/data/snapshots/x"));
        claims.write_copy(&layer, Path::new("/data/snapshots/x")).unwrap();
        assert_eq!(claims.all().unwrap(), [Of::Copy(layer.clone())]);
        assert_eq!(claims.copy(&layer).unwrap(), Some("/data/snapshots/x".into()));
        fs::write(directory.path().join("clones/notes"), "").unwrap();
        fs::write(directory.path().join("clones/.gone-..x"), "").unwrap();
        assert_eq!(claims.all().unwrap().len(), 1);
        for wrong in ["", "x 1", "0123456789abcdef0123456789abcdef", "../x 4", "a b c"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
