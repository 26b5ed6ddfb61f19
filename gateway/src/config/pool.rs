//! `pool`: how many sandboxes of which template are kept ready.

use std::collections::BTreeMap;

use super::{Error, Given};
use crate::sandbox::PoolRules;

pub(super) const NAME: &str = "pool";
/// One that starts at once for whoever has just installed this; a sandbox of `base` does anyway.
const DEFAULT: &str = "code-interpreter-v1=1";
const MOST: usize = 1000;

impl Given {
    pub(super) fn pool(&mut self) -> Result<PoolRules, Error> {
        Ok(PoolRules {
            sizes: self.take(NAME, DEFAULT, parse)?,
            memory: (self.number("pool-memory", "2048", 1, 1 << 24)? as u64) << 20,
        })
    }
}

/// As it would be written on the command line.
pub(super) fn text_of(sizes: &toml::Table) -> Option<String> {
    let parts = sizes.iter().map(|(name, size)| Some(format!("{name}={}", size.as_integer()?)));
    Some(parts.collect::<Option<Vec<_>>>()?.join(","))
}

/// Nothing is a pool of nothing.
fn parse(text: &str) -> Result<BTreeMap<String, usize>, String> {
    let refused = || {
        format!("templates and whole numbers up to {MOST}, such as base=2,code-interpreter-v1=1")
    };
    let mut sizes = BTreeMap::new();
    for part in text.split([',', ' ']).filter(|part| !part.is_empty()) {
        let (name, size) = part.split_once('=').ok_or_else(refused)?;
        let size = size.parse().ok().filter(|size| *size <= MOST).ok_or_else(refused)?;
        if name.is_empty() || sizes.insert(name.to_lowercase(), size).is_some() {
            return Err(refused());
        }
    }
    Ok(sizes)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::tests::config;
    use super::*;

    #[test]
    fn sizes_are_given_by_template_in_a_flag_or_a_table() {
        let sizes = |flags: &[(&'static str, &str)]| config(flags, &[]).unwrap().pool.sizes;
        let of = |pairs: &[(&str, usize)]| {
            pairs.iter().map(|(name, size)| ((*name).to_owned(), *size)).collect::<BTreeMap<_, _>>()
        };
        assert_eq!(sizes(&[]), of(&[("code-interpreter-v1", 1)]));
        assert_eq!(sizes(&[("pool", "base=3, Mine=0")]), of(&[("base", 3), ("mine", 0)]));
        assert_eq!(sizes(&[("pool", "")]), of(&[]));
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "pool-memory = 64\n[pool]\nbase = 2\n\"a-b\" = 1\n").unwrap();
        let path = file.path().to_str().unwrap();
        let read = config(&[("config", path)], &[]).unwrap().pool;
        assert_eq!(read.sizes, of(&[("a-b", 1), ("base", 2)]));
        assert_eq!(read.memory, 64 << 20);
        assert_eq!(sizes(&[("config", path), ("pool", "base=1")]), of(&[("base", 1)]));
        fs::write(file.path(), "[pool]\nbase = \"two\"\n").unwrap();
        let error = config(&[("config", path)], &[]).err().unwrap().to_string();
        assert!(error.contains("a table of numbers"), "{error}");
    }

    #[test]
    fn what_is_no_size_is_refused_with_an_example() {
        for wrong in ["base", "base=", "=1", "base=-1", "base=1001", "base=1,base=2"] {
            let error = config(&[("pool", wrong)], &[]).err().expect(wrong).to_string();
            assert!(error.starts_with("--pool: ") && error.contains("such as base=2"), "{error}");
        }
        assert!(config(&[("pool-memory", "0")], &[]).is_err());
    }
}
