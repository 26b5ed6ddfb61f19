//! Whether a template has kernels for the code interpreter.

use std::path::{Path, PathBuf};

/// Where envd looks for them, inside.
const DIRECTORIES: [&str; 2] = ["usr/local/share/jupyter/kernels", "usr/share/jupyter/kernels"];

/// Whether any of these layers has a kernelspec. One that a layer above hides counts as well; envd
/// then says that there is none.
pub(super) fn any(layers: &[PathBuf]) -> bool {
    let directories =
        layers.iter().flat_map(|layer| DIRECTORIES.iter().map(|directory| layer.join(directory)));
    directories.into_iter().any(|directory| any_in(&directory))
}

fn any_in(directory: &Path) -> bool {
    let Ok(entries) = directory.read_dir() else { return false };
    entries.flatten().any(|entry| entry.path().join("kernel.json").is_file())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn one_kernelspec_in_any_layer_is_enough() {
        let layers = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let paths = [layers[0].path().to_owned(), layers[1].path().to_owned()];
        assert!(!any(&paths));
        let kernel = paths[1].join("usr/share/jupyter/kernels/python3");
        fs::create_dir_all(&kernel).unwrap();
        assert!(!any(&paths));
        fs::write(kernel.join("kernel.json"), "{}").unwrap();
        assert!(any(&paths));
    }
}
