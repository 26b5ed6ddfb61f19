//! `jail`: what jails get, or may not, beside what every sandbox has. FreeBSD.

use super::{Error, Given};
use crate::backend::JailOptions;

pub(super) const NAME: &str = "jail";
const ALLOWED: &str = "procfs, tmpfs, and vmemory, readbps and writebps with whole MiB, such as \
                       procfs,vmemory=8192,readbps=100";

impl Given {
    pub(super) fn jail(&mut self) -> Result<JailOptions, Error> {
        self.take(NAME, "", |text| match parse(text)? {
            none if none == JailOptions::default() => Ok(none),
            _ if !JailOptions::are_there() => {
                Err("empty: sandboxes are no jails on this system".to_owned())
            }
            some => Ok(some),
        })
    }
}

/// As it would be written on the command line.
pub(super) fn text_of(options: &toml::Table) -> Option<String> {
    let parts = options.iter().map(|(name, value)| match value {
        toml::Value::Boolean(true) => Some(name.clone()),
        toml::Value::Boolean(false) => Some(String::new()),
        value => Some(format!("{name}={}", value.as_integer()?)),
    });
    Some(parts.collect::<Option<Vec<_>>>()?.join(","))
}

fn parse(text: &str) -> Result<JailOptions, String> {
    let refused = || ALLOWED.to_owned();
    let mut options = JailOptions::default();
    for part in text.split([',', ' ']).filter(|part| !part.is_empty()) {
        let mebibytes = |size: &str| {
            let size = size.parse::<u64>().ok().filter(|size| (1..=1 << 24).contains(size));
            size.map(|size| size << 20).ok_or_else(refused)
        };
        let again = match part.split_once('=') {
            None if part == "procfs" => std::mem::replace(&mut options.procfs, true),
            None if part == "tmpfs" => std::mem::replace(&mut options.tmpfs, true),
            Some(("vmemory", size)) => options.vmemory_bytes.replace(mebibytes(size)?).is_some(),
            Some(("readbps", size)) => options.read_bps.replace(mebibytes(size)?).is_some(),
            Some(("writebps", size)) => options.write_bps.replace(mebibytes(size)?).is_some(),
            _ => return Err(refused()),
        };
        if again {
            return Err(refused());
        }
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::config;

    #[test]
    fn options_are_words_and_sizes_in_a_flag_or_a_table() {
        let all = JailOptions {
            procfs: true,
            tmpfs: true,
            vmemory_bytes: Some(8 << 30),
            read_bps: Some(100 << 20),
            write_bps: Some(1 << 20),
        };
        let text = "procfs,tmpfs, vmemory=8192,readbps=100 writebps=1";
        assert_eq!(parse(text).unwrap(), all);
        assert_eq!(parse("").unwrap(), JailOptions::default());
        let table: toml::Table = "procfs = true\ntmpfs = false\nreadbps = 100".parse().unwrap();
        let of_table = text_of(&table).unwrap();
        let expected =
            JailOptions { procfs: true, read_bps: Some(100 << 20), ..Default::default() };
        assert_eq!(parse(&of_table).unwrap(), expected);
        assert_eq!(text_of(&"procfs = \"yes\"".parse().unwrap()), None);
    }

    #[test]
    fn what_is_no_option_is_refused_with_those_there_are() {
        for wrong in [
            "linprocfs",
            "procfs=1",
            "vmemory",
            "vmemory=0",
            "vmemory=1G",
            "readbps=-1",
            "writebps=",
            "procfs,procfs",
            "readbps=1,readbps=2",
            "vmemory=99999999999999999999",
        ] {
            let error = config(&[("jail", wrong)], &[]).err().expect(wrong).to_string();
            assert!(error.starts_with("--jail: ") && error.contains(ALLOWED), "{error}");
        }
    }

    #[test]
    fn where_there_are_no_jails_there_is_nothing_to_ask_of_them() {
        assert_eq!(config(&[], &[]).unwrap().jail, JailOptions::default());
        let asked = config(&[("jail", "procfs")], &[]);
        assert_eq!(asked.is_ok(), JailOptions::are_there());
        if let Err(error) = asked {
            assert!(error.to_string().contains("no jails on this system"), "{error}");
        }
    }
}
