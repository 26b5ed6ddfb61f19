//! What the gateway can build by itself, each from what it lies on.

use std::{
    env,
    path::{Path, PathBuf},
};

use tokio_util::sync::CancellationToken;

use super::{BASE, INTERPRETER, debootstrap, freebsd, import, interpreter, tool, tree};
use crate::backend;

/// Where a layer is a whole root, and packages come from `pkg(8)`.
pub(super) const ON_FREEBSD: bool = matches!(backend::BUILT_IN.as_bytes(), b"jail");

/// Where a root comes from and what to do with it; the directories are those of bsdinstall(8).
pub const HOW_TO_MAKE_BASE: &str = "fetch https://download.freebsd.org/releases/$(uname -m)/$(uname \
                                    -p)/$(uname -r | sed 's/-p.*//')/base.txz && coppice template \
                                    build base --from base.txz --data-dir DIR";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Recipe {
    Base,
    Interpreter,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0} is not installed: `apt-get install {0}`")]
    Missing(&'static str),
    #[error("building templates takes root")]
    NotRoot,
    #[error("on FreeBSD it is made from a root file system that you name: {HOW_TO_MAKE_BASE}")]
    NoSource,
    #[error(transparent)]
    Import(#[from] import::Error),
    #[error(transparent)]
    Packages(#[from] freebsd::Error),
    #[error(transparent)]
    Tool(#[from] tool::Error),
    #[error(transparent)]
    Tree(#[from] tree::Error),
}

/// What a build made.
pub(super) struct Built {
    /// A root file system, or what changes in the one below.
    pub(super) root: PathBuf,
    /// The version of Node in it; `None` where the host has no npm to fetch it with.
    pub(super) node: Option<String>,
}

/// What a template is built on.
pub(super) struct Below {
    /// The topmost first.
    pub(super) layers: Vec<PathBuf>,
    pub(super) node: Option<String>,
}

impl Recipe {
    /// What lies below comes first.
    pub const ALL: [Self; 2] = [Self::Base, Self::Interpreter];

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|recipe| recipe.name() == name)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Base => BASE,
            Self::Interpreter => INTERPRETER,
        }
    }

    /// Whether it cannot be built of nothing on this system.
    pub fn is_built_from_a_source(self) -> bool {
        ON_FREEBSD && self.below().is_none()
    }

    pub(super) fn below(self) -> Option<Self> {
        match self {
            Self::Base => None,
            Self::Interpreter => Some(Self::Base),
        }
    }

    /// Changes when any part of the recipe does, so that an older template is known as such.
    pub(super) fn fingerprint(self) -> String {
        let recipe = match self {
            Self::Base => debootstrap::recipe(),
            Self::Interpreter if ON_FREEBSD => freebsd::recipe(),
            Self::Interpreter => interpreter::recipe(),
        };
        blake3::hash(recipe.as_bytes()).to_hex()[..16].to_owned()
    }

    /// Builds in `dir`, an empty directory; `progress` hears of every step. Blocking: runs on a
    /// thread of its own, see `Tool::run`.
    pub(super) fn build(
        self,
        dir: &Path,
        below: Option<&Below>,
        stop: &CancellationToken,
        progress: &(dyn Fn(&str) + Sync),
    ) -> Result<Built, Error> {
        check_host()?;
        match below {
            None if ON_FREEBSD => Err(Error::NoSource),
            None => debootstrap::build(dir, stop, progress),
            Some(below) if ON_FREEBSD => freebsd::build(dir, below, stop, progress),
            Some(below) => interpreter::build(dir, below, stop, progress),
        }
    }
}

/// Whether anything can be built here.
pub(super) fn check_host() -> Result<(), Error> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::NotRoot);
    }
    for program in ["setpriv", "unshare"] {
        if !ON_FREEBSD && !in_path(program) {
            return Err(Error::Missing("util-linux"));
        }
    }
    Ok(())
}

pub(super) fn in_path(program: &str) -> bool {
    env::var_os("PATH")
        .is_some_and(|path| env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_are_short_steady_and_apart() {
        for recipe in Recipe::ALL {
            assert_eq!(recipe.fingerprint().len(), 16);
            assert_eq!(recipe.fingerprint(), recipe.fingerprint());
        }
        assert_ne!(Recipe::Base.fingerprint(), Recipe::Interpreter.fingerprint());
    }

    #[test]
    fn what_lies_below_comes_before_in_the_list_of_all() {
        for (index, recipe) in Recipe::ALL.into_iter().enumerate() {
            assert!(recipe.below().is_none_or(|below| Recipe::ALL[..index].contains(&below)));
            assert_eq!(Recipe::named(recipe.name()), Some(recipe));
        }
        assert_eq!(Recipe::named("Base"), None);
    }
}
