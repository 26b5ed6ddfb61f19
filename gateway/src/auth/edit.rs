//! Changes to a file of keys as a text: what somebody wrote into it stays as it is.

use std::{collections::BTreeSet, fmt::Write};

use chrono::{DateTime, SecondsFormat, Utc};
use toml::Value;

use super::{
    Scope,
    file::{self, Invalid, PREFIX},
    keys::hash,
};
use crate::sandbox::Tenant;

/// Bytes of a key, all of them random.
const SECRET: usize = 20;
/// Bytes of a key's name.
const ID: usize = 4;

/// A key to be made.
#[derive(Clone, Debug)]
pub struct New {
    pub tenant: Tenant,
    pub scopes: BTreeSet<Scope>,
    pub templates: Option<BTreeSet<String>>,
    pub expires: Option<DateTime<Utc>>,
    pub note: Option<String>,
}

impl Default for New {
    fn default() -> Self {
        Self {
            tenant: Tenant::default(),
            scopes: [Scope::Read, Scope::Exec].into(),
            templates: None,
            expires: None,
            note: None,
        }
    }
}

/// One that was made.
pub struct Made {
    pub id: String,
    /// The key itself, which is kept nowhere.
    pub secret: String,
}

#[derive(Debug, thiserror::Error)]
pub enum NotChanged {
    #[error(transparent)]
    Invalid(#[from] Invalid),
    #[error("it has a key a line; such a list has no tenants, and is changed by hand")]
    Plain,
    #[error("there is no key {0:?}")]
    NoSuchKey(String),
    #[error("key {0:?} was revoked before")]
    Revoked(String),
    #[error("key {0:?} stands there in a way that only a person can change")]
    Unusual(String),
    #[error("cannot read the random number generator: {0}")]
    Random(#[from] getrandom::Error),
}

impl New {
    /// Writes a new key's hash to the end of a file, and tells the key.
    pub fn add_to(self, text: &mut String) -> Result<Made, NotChanged> {
        if file::has_plain_key(text) {
            return Err(NotChanged::Plain);
        }
        let known: BTreeSet<String> =
            file::entries(text)?.into_iter().map(|entry| entry.id.into_inner()).collect();
        let mut secret = [0; SECRET];
        getrandom::fill(&mut secret)?;
        let secret = format!("{PREFIX}{}", hex::encode(secret));
        let mut id = [0; ID];
        let id = loop {
            getrandom::fill(&mut id)?;
            let id = format!("key-{}", hex::encode(id));
            if !known.contains(&id) {
                break id;
            }
        };
        let mut more = String::new();
        if !text.is_empty() && !text.ends_with("\n\n") {
            more += if text.ends_with('\n') { "\n" } else { "\n\n" };
        }
        more += "[[key]]\n";
        let mut put = |name: &str, value: &str| {
            writeln!(more, "{name} = {value}").expect("memory takes what is written to it");
        };
        let quoted = |text: &str| Value::from(text).to_string();
        let list = |all: &mut dyn Iterator<Item = &str>| {
            format!("[{}]", all.map(quoted).collect::<Vec<_>>().join(", "))
        };
        put("id", &quoted(&id));
        put("hash", &quoted(&hash(&secret).to_string()));
        put("tenant", &quoted(self.tenant.name()));
        put("scopes", &list(&mut self.scopes.iter().map(|scope| scope.name())));
        if let Some(templates) = &self.templates {
            put("templates", &list(&mut templates.iter().map(String::as_str)));
        }
        put("created", &time(Utc::now()));
        if let Some(expires) = self.expires {
            put("expires", &time(expires));
        }
        if let Some(note) = &self.note {
            put("note", &quoted(note));
        }
        let whole = format!("{text}{more}");
        file::entries(&whole)?;
        *text = whole;
        Ok(Made { id, secret })
    }
}

/// The file with that key revoked: it stays, and is let in no more.
pub fn revoke(text: &str, id: &str, now: DateTime<Utc>) -> Result<String, NotChanged> {
    if file::has_plain_key(text) {
        return Err(NotChanged::Plain);
    }
    let of = |text: &str| -> Result<_, NotChanged> {
        let found = file::entries(text)?.into_iter().find(|entry| entry.id.get_ref() == id);
        found.ok_or_else(|| NotChanged::NoSuchKey(id.to_owned()))
    };
    let entry = of(text)?;
    if entry.revoked.is_some() {
        return Err(NotChanged::Revoked(id.to_owned()));
    }
    let at = entry.id.span().end;
    let end = text[at..].find('\n').map_or(text.len(), |end| at + end);
    let revoked = format!("{}\nrevoked = {}{}", &text[..end], time(now), &text[end..]);
    // What stands between braces has no line of its own.
    match of(&revoked) {
        Ok(entry) if entry.revoked.is_some() => Ok(revoked),
        _ => Err(NotChanged::Unusual(id.to_owned())),
    }
}

fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_in_the_file_stays_as_it_was() {
        let mut text = "# ours\n\n[tenant.acme]\nmax-sandboxes = 1 # one\n".to_owned();
        let before = text.clone();
        let note = Some("of \"alice\" \\ # \u{1}".to_owned());
        let new =
            New { note: note.clone(), templates: Some(["base".into()].into()), ..New::default() };
        let first = new.add_to(&mut text).unwrap();
        let second = New { tenant: "acme".parse().unwrap(), ..New::default() };
        let second = second.add_to(&mut text).unwrap();
        assert!(text.starts_with(&before));
        assert!(!text.contains(&first.secret) && first.secret.len() == 44);
        let entries = file::entries(&text).unwrap();
        assert_eq!((&entries[0].note, entries[1].tenant.name()), (&note, "acme"));

        let revoked = revoke(&text, &first.id, Utc::now()).unwrap();
        let entries = file::entries(&revoked).unwrap();
        assert!(entries[0].revoked.is_some() && entries[1].revoked.is_none());
        let lines: Vec<&str> =
            revoked.lines().filter(|line| !line.starts_with("revoked")).collect();
        assert_eq!(lines, text.lines().collect::<Vec<_>>());
        let again = revoke(&revoked, &first.id, Utc::now());
        assert!(matches!(again, Err(NotChanged::Revoked(_))));
        let unknown = revoke(&revoked, "key-0", Utc::now());
        assert!(matches!(unknown, Err(NotChanged::NoSuchKey(_))));
        assert!(revoke(&revoked, &second.id, Utc::now()).is_ok());
    }

    #[test]
    fn what_cannot_be_changed_line_by_line_is_left_to_a_person() {
        let hash = hash("e2b_");
        let text = format!("key = [{{ id = \"a\", hash = \"{hash}\", scopes = [\"read\"] }}]\n");
        assert_eq!(file::entries(&text).unwrap().len(), 1);
        let unusual = revoke(&text, "a", Utc::now());
        assert!(matches!(unusual, Err(NotChanged::Unusual(_))));
        let plain = format!("e2b_{}\n", "0".repeat(40));
        assert!(matches!(New::default().add_to(&mut plain.clone()), Err(NotChanged::Plain)));
        assert!(matches!(revoke(&plain, "a", Utc::now()), Err(NotChanged::Plain)));
    }
}
