//! Templates: the root file systems sandboxes start from.
//!
//! `<data-dir>/templates/layers/<digest>/` holds a root file system, named by its content;
//! `<data-dir>/templates/<name>.json` says which layers a name means at present. A sandbox keeps
//! the layers it was made from, whatever its template's name means later.

mod store;

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::backend::Limits;

pub use store::{Error, FindError, Store};

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
}
