//! Where the host gets Debian from, so that `base` comes from there too.
//!
//! Reads both of apt's formats and keeps Debian's own archive only: whatever else the host trusts
//! is no business of a sandbox. Pure but for [`of_host`].

use std::{collections::BTreeMap, fs, path::Path};

/// The key Debian signs its archive with, on the host and in the image.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// One suite of one archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Source {
    uri: String,
    suite: String,
}

impl Source {
    /// In apt's one-line format.
    pub(super) fn line(&self) -> String {
        format!("deb [signed-by={KEYRING}] {} {} main", self.uri, self.suite)
    }

    /// The same without user and password.
    pub(super) fn without_credentials(&self) -> Self {
        let uri = match self.uri.split_once("://") {
            Some((scheme, rest)) => {
                let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
                let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
                format!("{scheme}://{host}/{path}")
            }
            None => self.uri.clone(),
        };
        Self { uri, suite: self.suite.clone() }
    }
}

/// The sources of `release` in the files of an apt directory (`/etc/apt`). None is no error:
/// mmdebstrap knows Debian's own mirror.
pub(super) fn of_host(apt: &Path, release: &str) -> Vec<Source> {
    let mut files = vec![apt.join("sources.list")];
    let mut parts: Vec<_> = fs::read_dir(apt.join("sources.list.d"))
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    parts.sort_unstable();
    files.append(&mut parts);

    let mut sources = Vec::new();
    for file in files {
        let Ok(text) = fs::read_to_string(&file) else { continue };
        match file.extension().and_then(|ext| ext.to_str()) {
            Some("list") => sources.extend(one_line(&text)),
            Some("sources") => sources.extend(deb822(&text)),
            _ => {}
        }
    }
    choose(sources, release, |path| fs::read_to_string(path).ok())
}

/// A source as written, before it is known to be Debian's.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    uri: String,
    suite: String,
    components: Vec<String>,
    signed_by: Option<String>,
}

/// `deb [options] uri suite component...` lines.
fn one_line(text: &str) -> Vec<Entry> {
    text.lines().filter_map(entry_of_line).collect()
}

fn entry_of_line(line: &str) -> Option<Entry> {
    let line = line.split('#').next()?.trim().strip_prefix("deb")?;
    let rest = line.strip_prefix([' ', '\t'])?.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => ("", rest),
    };
    let mut words = rest.split_whitespace().map(str::to_owned);
    Some(Entry {
        uri: words.next()?,
        suite: words.next()?,
        components: words.collect(),
        signed_by: options
            .split_whitespace()
            .find_map(|option| option.strip_prefix("signed-by="))
            .map(str::to_owned),
    })
}

/// Stanzas of `Field: value`, apart by empty lines.
fn deb822(text: &str) -> Vec<Entry> {
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    lines.split(|line| line.trim().is_empty()).flat_map(entries_of_stanza).collect()
}

fn entries_of_stanza(lines: &[&str]) -> Vec<Entry> {
    let mut fields: BTreeMap<String, String> = BTreeMap::new();
    let mut last = None;
    for line in lines {
        if line.starts_with([' ', '\t']) {
            if let Some(value) = last.as_ref().and_then(|name| fields.get_mut(name)) {
                value.push(' ');
                value.push_str(line.trim());
            }
        } else if let Some((name, value)) = line.split_once(':') {
            let name = name.trim().to_ascii_lowercase();
            fields.insert(name.clone(), value.trim().to_owned());
            last = Some(name);
        }
    }
    let words = |name: &str| -> Vec<String> {
        let value = fields.get(name).map(String::as_str).unwrap_or_default();
        value.split_whitespace().map(str::to_owned).collect()
    };
    let off = fields.get("enabled").is_some_and(|value| value.eq_ignore_ascii_case("no"));
    if off || !words("types").iter().any(|kind| kind == "deb") {
        return Vec::new();
    }
    let mut entries = Vec::new();
    for uri in words("uris") {
        for suite in words("suites") {
            entries.push(Entry {
                uri: uri.clone(),
                suite,
                components: words("components"),
                signed_by: fields.get("signed-by").cloned(),
            });
        }
    }
    entries
}

/// Keeps `release` itself, its updates and its security fixes from Debian's own archive, each
/// suite once.
fn choose(
    entries: Vec<Entry>,
    release: &str,
    mirror_list: impl Fn(&str) -> Option<String>,
) -> Vec<Source> {
    let suites = [release.to_owned(), format!("{release}-updates"), format!("{release}-security")];
    let mut sources: Vec<Source> = Vec::new();
    for entry in entries {
        let signed_by_debian =
            entry.signed_by.as_ref().is_none_or(|key| key.contains("debian-archive"));
        if !suites.contains(&entry.suite)
            || !entry.components.iter().any(|component| component == "main")
            || !signed_by_debian
            || sources.iter().any(|source| source.suite == entry.suite)
        {
            continue;
        }
        // Cloud images name a file of mirrors, which is not there in the image.
        let uri = match entry.uri.strip_prefix("mirror+file:") {
            Some(path) => mirror_list(&format!("/{}", path.trim_start_matches('/')))
                .and_then(|list| list.split_whitespace().next().map(str::to_owned)),
            None => Some(entry.uri),
        };
        if let Some(uri) = uri.filter(|uri| uri.starts_with("http")) {
            sources.push(Source { uri, suite: entry.suite });
        }
    }
    // Without the release itself (say, only its security fixes are listed) nothing can be built.
    if sources.iter().any(|source| source.suite == release) { sources } else { Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(entries: Vec<Entry>) -> Vec<String> {
        choose(entries, "bookworm", |path| {
            (path == "/etc/apt/mirrors/debian.list")
                .then(|| "https://mirror.example/debian\n".to_owned())
        })
        .iter()
        .map(|source| format!("{} {}", source.uri, source.suite))
        .collect()
    }

    #[test]
    fn one_line_sources_keep_debian_only() {
        let text = "\
# deb http://commented.example/debian bookworm main
deb http://deb.example/debian bookworm main contrib # as installed
deb [arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.example/debian bookworm-updates main
deb-src http://deb.example/debian bookworm main
deb http://sec.example/debian-security bookworm-security main
deb http://deb.example/debian bookworm-backports main
deb [signed-by=/etc/apt/keyrings/other.asc] https://other.example/linux bookworm main
deb https://other.example/linux bookworm stable
deb cdrom:[Debian 12]/ bookworm main
";
        assert_eq!(
            lines(one_line(text)),
            [
                "http://deb.example/debian bookworm",
                "http://deb.example/debian bookworm-updates",
                "http://sec.example/debian-security bookworm-security",
            ]
        );
    }

    #[test]
    fn deb822_sources_keep_debian_only() {
        let text = "\
Types: deb deb-src
# a remark within
URIs: mirror+file:///etc/apt/mirrors/debian.list
Suites: bookworm bookworm-updates
 bookworm-backports
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: https://node.example/node_20.x
Suites: nodistro
Components: main

Enabled: no
Types: deb
URIs: http://off.example/debian-security
Suites: bookworm-security
Components: main

Types: deb
URIs: http://key.example/debian-security
Suites: bookworm-security
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 xsFNBF
";
        assert_eq!(
            lines(deb822(text)),
            [
                "https://mirror.example/debian bookworm",
                "https://mirror.example/debian bookworm-updates"
            ]
        );
    }

    #[test]
    fn a_host_without_the_release_leaves_the_choice_to_mmdebstrap() {
        let text = "deb http://deb.example/debian trixie main\n\
                    deb http://deb.example/debian-security bookworm-security main";
        assert!(lines(one_line(text)).is_empty());
    }

    #[test]
    fn credentials_do_not_reach_the_image() {
        let source =
            Source { uri: "https://me:secret@deb.example/debian".into(), suite: "bookworm".into() };
        let line = source.without_credentials().line();
        assert!(line.contains(" https://deb.example/debian bookworm main"), "{line}");
    }
}
