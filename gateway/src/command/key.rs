//! `coppice key`: keys in a file of keys, made, listed and revoked.

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, anyhow, bail};
use chrono::{DateTime, Days, NaiveTime, SecondsFormat, Utc};
use clap::Subcommand;
use coppice::{
    auth::{self, Entry, New, Scope},
    config,
    sandbox::Tenant,
};

#[derive(Subcommand)]
pub(crate) enum Key {
    /// Make a key, and print it this once: the file keeps a hash
    Create {
        #[command(flatten)]
        place: Place,
        /// Whose sandboxes it is for
        #[arg(long, default_value = "default")]
        tenant: Tenant,
        /// What it is good for, by commas: read, exec, admin
        #[arg(long, value_name = "SCOPE,...", default_value = "read,exec", value_parser = scopes)]
        scopes: Scopes,
        /// Templates it may make sandboxes from, by commas [default: all]
        #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
        templates: Option<Vec<String>>,
        /// Until when it is good: a number of days (90d), a date, or a time of RFC 3339 [default: for good]
        #[arg(long, value_name = "WHEN", value_parser = expiry)]
        expires: Option<DateTime<Utc>>,
        /// What it is for, for people
        #[arg(long, value_name = "TEXT")]
        note: Option<String>,
    },
    /// List the keys of a file, revoked and expired ones too
    List {
        #[command(flatten)]
        place: Place,
    },
    /// Have a key let in no more; a gateway that runs hears of it within seconds
    Revoke {
        #[command(flatten)]
        place: Place,
        /// Its id, as it is listed
        id: String,
    },
}

#[derive(clap::Args)]
pub(crate) struct Place {
    /// The file of keys; made where there is none [env: COPPICE_API_KEYS_FILE]
    #[arg(long, value_name = "FILE")]
    api_keys_file: Option<String>,
    /// TOML file of settings [env: COPPICE_CONFIG]
    #[arg(long, value_name = "FILE")]
    config: Option<String>,
}

#[derive(Clone)]
pub(crate) struct Scopes(BTreeSet<Scope>);

fn scopes(text: &str) -> Result<Scopes, String> {
    let named = text.split(',').map(|name| Scope::named(name.trim()));
    let scopes = named.collect::<Option<BTreeSet<_>>>();
    scopes.map(Scopes).ok_or_else(|| "among read, exec and admin, by commas".to_owned())
}

fn expiry(text: &str) -> Result<DateTime<Utc>, String> {
    let days = text.strip_suffix('d').and_then(|days| days.parse().ok());
    let in_days = days.and_then(|days| Utc::now().checked_add_days(Days::new(days)));
    let of_day =
        || Some(text.parse::<chrono::NaiveDate>().ok()?.and_time(NaiveTime::MIN).and_utc());
    let of_time = || Some(DateTime::parse_from_rfc3339(text).ok()?.to_utc());
    let when = in_days.or_else(of_day).or_else(of_time).filter(|when| *when > Utc::now());
    when.ok_or_else(|| "to come: 90d, 2030-01-31 or 2030-01-31T00:00:00Z".to_owned())
}

pub(crate) fn run(key: Key) -> anyhow::Result<ExitCode> {
    match key {
        Key::Create { place, tenant, scopes, templates, expires, note } => {
            let templates = templates.map(|names| names.into_iter().collect());
            let new = New { tenant, scopes: scopes.0, templates, expires, note };
            create(&place.path()?, new)?;
        }
        Key::List { place } => {
            let path = place.path()?;
            let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            let entries = auth::entries(&text).with_context(|| path.display().to_string())?;
            list(&mut io::stdout().lock(), &entries, Utc::now())?;
        }
        Key::Revoke { place, id } => {
            let path = place.path()?;
            let edit = Edit::begin(&path)?;
            let text = auth::revoke(&edit.text, &id, Utc::now())
                .with_context(|| path.display().to_string())?;
            edit.finish(&text)?;
            eprintln!("key {id} is let in no more; what it made goes on until its tenant ends it");
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl Place {
    fn path(self) -> anyhow::Result<PathBuf> {
        let path = config::api_keys_file(self.api_keys_file, self.config)?;
        path.ok_or_else(|| anyhow!("which file? give --api-keys-file"))
    }
}

fn create(path: &Path, new: New) -> anyhow::Result<()> {
    let told = format!("of tenant {}, for {}", new.tenant, joined(&new.scopes));
    let edit = Edit::begin(path)?;
    let mut text = edit.text.clone();
    let made = new.add_to(&mut text).with_context(|| path.display().to_string())?;
    edit.finish(&text)?;
    eprintln!(
        "key {} {told}; it is told this once, and its hash is in {}",
        made.id,
        path.display()
    );
    println!("{}", made.secret);
    Ok(())
}

fn joined(scopes: &BTreeSet<Scope>) -> String {
    scopes.iter().map(|scope| scope.name()).collect::<Vec<_>>().join(",")
}

fn list(out: &mut impl Write, entries: &[Entry], now: DateTime<Utc>) -> io::Result<()> {
    let time = |at: DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::Secs, true);
    writeln!(out, "id\ttenant\tscopes\ttemplates\tstate\tnote")?;
    for entry in entries {
        let templates = entry.templates.as_ref().map_or_else(
            || "all".to_owned(),
            |names| names.iter().cloned().collect::<Vec<_>>().join(","),
        );
        let state = match (entry.revoked, entry.expires) {
            (Some(at), _) => format!("revoked {}", time(at)),
            (None, Some(at)) if at <= now => format!("expired {}", time(at)),
            (None, Some(at)) => format!("good until {}", time(at)),
            (None, None) => "good".to_owned(),
        };
        let (id, tenant, scopes) = (entry.id.get_ref(), &entry.tenant, joined(&entry.scopes));
        // What is for people may not look like another line.
        let note = entry.note.as_deref().unwrap_or_default().escape_debug();
        writeln!(out, "{id}\t{tenant}\t{scopes}\t{templates}\t{state}\t{note}")?;
    }
    Ok(())
}

/// A change to a file, which takes effect as a whole or not at all.
struct Edit {
    path: PathBuf,
    beside: PathBuf,
    file: File,
    /// What it holds so far.
    text: String,
    done: bool,
}

impl Edit {
    /// Of a file that need not be there; no other change goes on meanwhile.
    fn begin(path: &Path) -> anyhow::Result<Self> {
        // Through links: what is renamed over them would take their place.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let mut name = path.file_name().context("--api-keys-file names no file")?.to_owned();
        name.push(".new");
        let beside = path.with_file_name(name);
        let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside);
        let file = match opened {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => bail!(
                "{} is there: another `coppice key` is at work, or was cut short and it can be \
                 deleted",
                beside.display()
            ),
            opened => opened.with_context(|| beside.display().to_string())?,
        };
        let mut edit = Self { path, beside, file, text: String::new(), done: false };
        match fs::read_to_string(&edit.path) {
            Ok(text) => edit.text = text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| edit.path.display().to_string()),
        }
        Ok(edit)
    }

    fn finish(mut self, text: &str) -> anyhow::Result<()> {
        // Whoever could read it before can go on doing so.
        if let Ok(about) = fs::metadata(&self.path) {
            chown(&self.beside, Some(about.uid()), Some(about.gid()))
                .and_then(|()| {
                    let mode = fs::Permissions::from_mode(about.mode() & 0o7777);
                    fs::set_permissions(&self.beside, mode)
                })
                .with_context(|| self.beside.display().to_string())?;
        }
        let written = self.file.write_all(text.as_bytes()).and_then(|()| self.file.sync_all());
        written
            .and_then(|()| fs::rename(&self.beside, &self.path))
            .with_context(|| self.beside.display().to_string())?;
        self.done = true;
        // Before anybody is told of it: a key that was revoked is not to be good again after a power
        // failure.
        let dir = match self.path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        };
        File::open(dir)
            .and_then(|dir| dir.sync_all())
            .with_context(|| format!("cannot flush {}", dir.display()))
    }
}

impl Drop for Edit {
    fn drop(&mut self) {
        if !self.done {
            // One that is left is told of by the next.
            let _ = fs::remove_file(&self.beside);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_whole_or_not_at_all_and_one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.toml");
        create(&path, New::default()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let before = fs::read_to_string(&path).unwrap();
        let edit = Edit::begin(&path).unwrap();
        let other = create(&path, New::default()).unwrap_err().to_string();
        assert!(other.contains("keys.toml.new is there"), "{other}");
        drop(edit);
        assert_eq!(fs::read_to_string(&path).unwrap(), before);
        create(&path, New::default()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o640);
        let entries = auth::entries(&fs::read_to_string(&path).unwrap()).unwrap();
        assert_eq!(entries.len(), 2);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_list_tells_what_became_of_each_key_and_no_hash() {
        let now = Utc::now();
        let mut text = String::new();
        let note = Some("a\tb\nc".to_owned());
        let first = New { note, ..New::default() }.add_to(&mut text).unwrap();
        let second = New { expires: Some(now), ..New::default() }.add_to(&mut text).unwrap();
        let text = auth::revoke(&text, &first.id, now).unwrap();
        let mut out = Vec::new();
        list(&mut out, &auth::entries(&text).unwrap(), now).unwrap();
        let out = String::from_utf8(out).unwrap();
        let lines: Vec<Vec<&str>> = out.lines().map(|line| line.split('\t').collect()).collect();
        assert_eq!(lines.len(), 3, "{out}");
        assert!(lines[1][0] == first.id && lines[1][4].starts_with("revoked 2"), "{out}");
        assert!(lines[2][0] == second.id && lines[2][4].starts_with("expired 2"), "{out}");
        assert!(lines[1][5] == "a\\tb\\nc" && !out.contains("blake3"), "{out}");
    }

    #[test]
    fn until_when_a_key_is_good_is_to_come() {
        for good in ["90d", "2999-01-31", "2999-01-31T00:00:00+01:00"] {
            assert!(expiry(good).is_ok(), "{good}");
        }
        for wrong in ["", "d", "-1d", "0d", "2001-01-31", "soon", "99999999999999999999d"] {
            assert!(expiry(wrong).is_err(), "{wrong}");
        }
    }
}
