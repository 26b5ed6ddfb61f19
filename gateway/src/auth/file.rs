//! The file of keys: what each is good for and what their tenants may have, with the keys
//! themselves only as hashes. docs/keys.md has the format.
//!
//! One that has a key a line and nothing else is understood too: each of those may do anything as
//! the default tenant.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt,
    str::FromStr,
};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, de};
use toml::Spanned;

use super::{
    Scope,
    caller::Grant,
    keys::{Hash, Known, Table, hash},
};
use crate::{
    limits::{self, Limit},
    sandbox::{Owner, Quota, Tenant},
};

pub(super) const PREFIX: &str = "e2b_";
/// 128 bits.
const LEAST_DIGITS: usize = 32;
/// The longest name of a key (bytes).
const LONGEST_ID: usize = 64;

/// What is wrong with a file of keys. Never repeats what may be one.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct Invalid {
    pub line: usize,
    why: String,
}

impl Invalid {
    fn at(text: &str, at: usize, why: impl fmt::Display) -> Self {
        let line = text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count() + 1;
        Self { line, why: why.to_string() }
    }
}

/// One `[[key]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    pub id: Spanned<String>,
    hash: Hash,
    #[serde(default)]
    pub tenant: Tenant,
    #[serde(deserialize_with = "scopes")]
    pub scopes: BTreeSet<Scope>,
    pub templates: Option<BTreeSet<String>>,
    #[serde(default, deserialize_with = "time")]
    pub created: Option<DateTime<Utc>>,
    #[serde(default, deserialize_with = "time")]
    pub expires: Option<DateTime<Utc>>,
    #[serde(default, deserialize_with = "time")]
    pub revoked: Option<DateTime<Utc>>,
    pub note: Option<String>,
}

/// One `[tenant.<name>]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Bounds {
    max_sandboxes: Option<u32>,
    creates_per_minute: Option<u32>,
    max_snapshots: Option<u32>,
    sandbox_cpus: Option<u64>,
    sandbox_memory: Option<u64>,
    sandbox_swap: Option<u64>,
    sandbox_processes: Option<u64>,
    sandbox_open_files: Option<u64>,
    sandbox_disk: Option<u64>,
    sandbox_disk_read: Option<u64>,
    sandbox_disk_write: Option<u64>,
    sandbox_net_in: Option<u64>,
    sandbox_net_out: Option<u64>,
    sandbox_streams: Option<u64>,
    sandbox_output: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    key: Vec<Spanned<Entry>>,
    #[serde(default)]
    tenant: BTreeMap<Tenant, Spanned<Bounds>>,
}

/// What there is in a file.
pub(super) fn read(text: &str) -> Result<Table, Invalid> {
    if has_plain_key(text) { plain(text) } else { table(text) }
}

/// Whether it has a key a line, as far as that can be told from the first.
pub(super) fn has_plain_key(text: &str) -> bool {
    let mut lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    let first = lines.find(|line| !line.is_empty());
    first.is_some_and(|line| !line.starts_with('[') && !line.contains('='))
}

/// One key a line (or separated by commas); what follows a `#` is a comment.
pub(super) fn plain(text: &str) -> Result<Table, Invalid> {
    let mut known = HashMap::new();
    for (n, line) in text.lines().enumerate() {
        let line = line.split_once('#').map_or(line, |(keys, _)| keys);
        for key in line.split([',', ' ', '\t']).filter(|key| !key.is_empty()) {
            check(key).map_err(|why| Invalid {
                line: n + 1,
                why: format!(
                    "not an API key: {why}; a key is `e2b_` and at least 32 lower-case hex \
                     digits, such as `printf 'e2b_%s\\n' \"$(openssl rand -hex 20)\"` prints"
                ),
            })?;
            known.insert(hash(key), Known::default());
        }
    }
    Ok(Table(known))
}

fn check(key: &str) -> Result<(), &'static str> {
    let digits = key.strip_prefix(PREFIX).ok_or("it does not begin with `e2b_`")?;
    if !digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Err("something in it is not a lower-case hex digit");
    }
    if digits.len() < LEAST_DIGITS {
        return Err("it is too short to be secret");
    }
    Ok(())
}

/// All entries of a file that is no list, revoked ones too.
pub fn entries(text: &str) -> Result<Vec<Entry>, Invalid> {
    let (file, _) = parse(text)?;
    Ok(file.key.into_iter().map(Spanned::into_inner).collect())
}

fn table(text: &str) -> Result<Table, Invalid> {
    let (file, quotas) = parse(text)?;
    let mut known = HashMap::new();
    for entry in file.key {
        let entry = entry.into_inner();
        if entry.revoked.is_some() {
            continue;
        }
        let quota = quotas.get(&entry.tenant).copied().unwrap_or_default();
        let grant = Grant {
            key: Some(entry.id.into_inner()),
            owner: Owner { tenant: entry.tenant, quota },
            scopes: entry.scopes,
            templates: entry.templates,
        };
        known.insert(entry.hash, Known::new(grant, entry.expires));
    }
    Ok(Table(known))
}

fn parse(text: &str) -> Result<(File, BTreeMap<Tenant, Quota>), Invalid> {
    // Its own text would quote the line, which may be a key in the wrong place.
    let file: File = toml::from_str(text).map_err(|error| {
        Invalid::at(text, error.span().map_or(0, |span| span.start), error.message())
    })?;
    let (mut ids, mut hashes) = (HashSet::new(), HashSet::new());
    for entry in &file.key {
        let wrong = |why: &str| Err(Invalid::at(text, entry.get_ref().id.span().start, why));
        let id = entry.get_ref().id.get_ref();
        if !is_id(id) {
            return wrong("an id is 1 to 64 of A-Z, a-z, 0-9, _, - and .");
        }
        if !ids.insert(id) {
            return wrong("another key has the same id");
        }
        if !hashes.insert(&entry.get_ref().hash) {
            return wrong("another key has the same hash");
        }
        if entry.get_ref().scopes.is_empty() {
            return wrong("a key without scopes is good for nothing");
        }
    }
    let quotas = file.tenant.iter().map(|(tenant, bounds)| {
        let quota = bounds.get_ref().quota();
        let at = bounds.span().start;
        quota.map(|it| (tenant.clone(), it)).map_err(|why| Invalid::at(text, at, why))
    });
    let quotas = quotas.collect::<Result<_, _>>()?;
    Ok((file, quotas))
}

fn is_id(text: &str) -> bool {
    let known = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    (1..=LONGEST_ID).contains(&text.len()) && text.bytes().all(known)
}

impl Bounds {
    fn quota(&self) -> Result<Quota, String> {
        if self.creates_per_minute == Some(0) {
            return Err("creates-per-minute is at least 1".to_owned());
        }
        let mut said = limits::Bounds::default();
        for limit in Limit::ALL {
            if let Some(units) = self.of_each_sandbox(limit) {
                // More than there can be bounds nothing, and is no mistake.
                let put = said.put(limit, Some(units.min(limit.most())));
                put.map_err(|allowed| format!("sandbox-{limit} is to be {allowed}"))?;
            }
        }
        Ok(Quota {
            max_sandboxes: self.max_sandboxes.map(|most| most as usize),
            creates_per_minute: self.creates_per_minute,
            max_snapshots: self.max_snapshots.map(|most| most as usize),
            limits: said,
        })
    }

    fn of_each_sandbox(&self, limit: Limit) -> Option<u64> {
        match limit {
            Limit::Cpus => self.sandbox_cpus,
            Limit::Memory => self.sandbox_memory,
            Limit::Swap => self.sandbox_swap,
            Limit::Processes => self.sandbox_processes,
            Limit::OpenFiles => self.sandbox_open_files,
            Limit::Disk => self.sandbox_disk,
            Limit::DiskRead => self.sandbox_disk_read,
            Limit::DiskWrite => self.sandbox_disk_write,
            Limit::NetIn => self.sandbox_net_in,
            Limit::NetOut => self.sandbox_net_out,
            Limit::Streams => self.sandbox_streams,
            Limit::Output => self.sandbox_output,
        }
    }
}

/// `blake3:` and 64 hex digits.
impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digits = text.strip_prefix("blake3:").unwrap_or_default();
        let mut hash = [0; 32];
        hex::decode_to_slice(digits, &mut hash)
            .map_err(|_| de::Error::custom("a hash is `blake3:` and 64 hex digits"))?;
        Ok(Self(hash))
    }
}

fn scopes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeSet<Scope>, D::Error> {
    let names = Vec::<String>::deserialize(deserializer)?;
    let scopes = names.iter().map(|name| Scope::named(name)).collect::<Option<_>>();
    scopes.ok_or_else(|| de::Error::custom("scopes are among read, exec and admin"))
}

/// A time that says where, or a string of one.
fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<DateTime<Utc>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Time {
        Of(toml::value::Datetime),
        Text(String),
    }
    let text = match Time::deserialize(deserializer) {
        Ok(Time::Of(time)) => time.to_string(),
        Ok(Time::Text(text)) => text,
        Err(_) => String::new(),
    };
    let time = DateTime::<chrono::FixedOffset>::from_str(&text);
    let wrong = || de::Error::custom("a time is one of RFC 3339, such as 2027-01-31T00:00:00Z");
    time.map(|time| Some(time.to_utc())).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: &str = "e2b_0123456789abcdef0123456789abcdef01234567";

    fn file(more: &str) -> String {
        let hash = hash(KEY);
        format!("[[key]]\nid = \"a\"\nhash = \"{hash}\"\nscopes = [\"read\", \"exec\"]\n{more}")
    }

    #[test]
    fn a_key_has_its_tenant_its_scopes_its_templates_and_its_tenants_bounds() {
        let text = file(
            "tenant = \"acme\"\ntemplates = [\"base\"]\nexpires = 2027-01-31T00:00:00Z\n\
             [tenant.acme]\nmax-sandboxes = 2\ncreates-per-minute = 30\nmax-snapshots = 5\nsandbox-memory = 512\n\
             sandbox-open-files = 4096\n",
        );
        let table = read(&text).unwrap();
        let known = &table.0[&hash(KEY)];
        let grant = known.grant();
        assert_eq!(grant.key.as_deref(), Some("a"));
        assert_eq!(grant.owner.tenant.name(), "acme");
        assert_eq!(grant.owner.quota.max_sandboxes, Some(2));
        assert_eq!(grant.owner.quota.creates_per_minute, Some(30));
        assert_eq!(grant.owner.quota.max_snapshots, Some(5));
        assert_eq!(grant.owner.quota.limits.get(Limit::Memory), Some(512));
        assert_eq!(grant.owner.quota.limits.get(Limit::OpenFiles), Some(4096));
        assert_eq!(grant.scopes, [Scope::Read, Scope::Exec].into());
        assert_eq!(grant.templates, Some(["base".to_owned()].into()));
        assert!(known.is_good("2027-01-30T23:59:59Z".parse().unwrap()));
        assert!(!known.is_good("2027-01-31T00:00:00Z".parse().unwrap()));
    }

    #[test]
    fn more_than_any_sandbox_can_have_is_as_much_as_one_can() {
        let tables =
            read(&file("tenant = \"acme\"\n[tenant.acme]\nsandbox-cpus = 4294967295")).unwrap();
        let limits = tables.0.values().next().unwrap().grant().owner.quota.limits;
        assert_eq!(limits.get(Limit::Cpus), Some(65_536));
    }

    #[test]
    fn a_revoked_key_is_not_known_and_still_told_of() {
        let text = file("revoked = \"2026-01-31T00:00:00+01:00\"\n");
        assert!(read(&text).unwrap().0.is_empty());
        let entries = entries(&text).unwrap();
        assert_eq!(entries[0].revoked, Some("2026-01-30T23:00:00Z".parse().unwrap()));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line_and_never_repeated() {
        for (text, line, why) in [
            (file("tenant = \"A\""), 5, "a tenant's name"),
            (file("expires = 2027-01-31"), 5, "RFC 3339"),
            (file("template = []"), 5, "unknown field"),
            (file("[tenant.x]\ncreates-per-minute = 0"), 5, "at least 1"),
            (file("[tenant.x]\nsandbox-cpus = 0"), 5, "sandbox-cpus is to be cpus from 1"),
            (file("[tenant.x]\nsandbox-disk = 0"), 5, "MiB"),
            (file("[tenant.x]\nsandbox-net = 1"), 6, "unknown field"),
            (file("[tenant.x]\nmax-sandboxes = -1"), 6, "invalid value"),
            (file(KEY), 5, ""),
            (file(&file("")), 6, "same id"),
            (file(&file("").replace("\"a\"", "\"b\"")), 6, "same hash"),
            (file("").replace("\"a\"", "\"a b\""), 2, "an id is"),
            (file("").replace("blake3:", "sha256:"), 3, "a hash is"),
            (file("").replace("\"exec\"", "\"all\""), 4, "scopes are among"),
            (file("").replace("\"read\", \"exec\"", ""), 2, "good for nothing"),
            (format!("{KEY}\nhunter2"), 2, "does not begin"),
            (format!("{KEY}\ne2b_0123"), 2, "too short"),
            (format!("{KEY}\ne2b_{}", "G".repeat(40)), 2, "lower-case hex"),
        ] {
            let error = read(&text).expect_err(&text);
            assert_eq!(error.line, line, "{error}: {text}");
            let said = error.to_string();
            assert!(said.contains(why), "{said}: {text}");
            assert!(!said.contains("0123456789") && !said.contains("hunter2"), "{said}");
        }
    }

    #[test]
    fn keys_stand_one_a_line_with_comments() {
        let other = format!("e2b_{}", "f".repeat(32));
        let table = read(&format!("# ours\n{KEY} # of alice\n\n{other}\n")).unwrap();
        assert_eq!(table.0.len(), 2);
        for key in [KEY, &other] {
            assert_eq!(*table.0[&hash(key)].grant(), Grant::default());
        }
        assert!(read("# nothing\n").unwrap().0.is_empty());
    }

    proptest! {
        #[test]
        fn no_file_breaks(text in ".{0,200}") {
            let _ = read(&text);
            let _ = read(&file(&text));
        }
    }
}
