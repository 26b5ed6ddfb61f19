//! Templates: the root file systems sandboxes start from.
//!
//! `<data-dir>/templates/layers/<digest>/` holds a root file system, named by its content;
//! `<data-dir>/templates/<name>.json` says which layers a name means at present. A sandbox keeps
//! the layers it was made from, whatever its template's name means later.
//!
//! `store` finds templates by their records, `build` makes those there is a `recipe` of:
//! `debootstrap` is that of `base`, `interpreter` that of `code-interpreter-v1` on top of it, and
//! `freebsd` that on FreeBSD. `import` makes a template of a root file system that is there already,
//! `account` gives it a user. `tree` measures and clears a finished root; `tool` runs the programs a
//! build needs. `removal` takes templates away again.
//!
//! On Linux a template's layers lie on each other. On FreeBSD there is one, a whole root: nothing
//! there mounts one over another. Nothing here is on the path of a create but [`Store::find`].

mod account;
mod build;
mod debootstrap;
mod freebsd;
mod import;
mod interpreter;
mod kernels;
mod recipe;
mod record;
mod removal;
mod sources;
mod store;
mod tool;
mod tree;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::limits::Limits;

pub use import::Source;
pub use recipe::{HOW_TO_MAKE_BASE, Recipe};
pub use store::{Error, FindError, Listed, Store};

/// The template a sandbox gets when none is named.
pub const BASE: &str = "base";
/// The one that E2B's code interpreter SDKs ask for.
pub const INTERPRETER: &str = "code-interpreter-v1";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Template {
    /// Also its name: `base`.
    pub id: String,
    /// Root file systems, read-only, the topmost first; absolute paths.
    pub layers: Vec<PathBuf>,
    pub limits: Limits,
    pub env: BTreeMap<String, String>,
    pub user: String,
    /// `None`: the user's home.
    pub workdir: Option<String>,
    /// Whether it has Jupyter's kernels, and so envd answers on the code interpreter's port.
    #[serde(default)]
    pub kernels: bool,
}

/// A template that sandboxes can be made from at present.
#[derive(Clone, Debug)]
pub struct Available {
    pub template: Arc<Template>,
    pub built_at: DateTime<Utc>,
}

/// Whether a data directory has a template of that name, as far as a look tells; makes nothing.
pub fn is_there(data_dir: &Path, name: &str) -> bool {
    data_dir.join("templates").join(format!("{name}.json")).exists()
}

/// What is available at present, in the order of names.
pub type ListTemplates = Box<dyn Fn() -> Vec<Available> + Send + Sync>;
