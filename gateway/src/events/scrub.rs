//! Secrets taken out of what events say.
//!
//! Patterns have names, under which it is counted what they found; what they found is replaced by
//! `[redacted:NAME]`. All look at a text as it came, before it is cut to what an event may have of
//! it: so one that the cut would go through is recognized, and none of it is left. Matching takes
//! time in proportion to the text, whatever it is.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use regex::{Regex, RegexBuilder, RegexSet, RegexSetBuilder};
use serde_json::Value;

use super::What;

/// Of a command, a path, an error or code (bytes).
const MOST: usize = envd::wire::MAX_OUTPUT;
/// Patterns, ours among them.
const MOST_PATTERNS: usize = 100;
/// What all of them may take when compiled (bytes), together and each.
const SIZE: usize = 16 << 20;

const BEGIN: &str = "[redacted:";

/// Ours. Where a pattern has groups, the first that took part is the secret; else all it found.
/// `\\?["']?` is a quote, or one that is quoted itself.
const PATTERNS: [(&str, &str); 16] = [
    ("e2b-key", r"(?-u:\b)e2b_[A-Za-z0-9_-]{8,}"),
    ("openai-key", r"(?-u:\b)sk-[A-Za-z0-9_-]{16,}"),
    ("stripe-key", r"(?-u:\b)[rs]k_(?:live|test)_[A-Za-z0-9]{10,}"),
    ("aws-key", r"(?-u:\b)(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}"),
    ("github-token", r"(?-u:\b)(?:gh[pousr]_[A-Za-z0-9]{16,}|github_pat_[A-Za-z0-9_]{16,})"),
    ("gitlab-token", r"(?-u:\b)glpat-[A-Za-z0-9_-]{16,}"),
    ("slack-token", r"(?-u:\b)xox[abceoprs]-[A-Za-z0-9-]{10,}"),
    ("google-key", r"(?-u:\b)(?:AIza[A-Za-z0-9_-]{30,}|ya29\.[A-Za-z0-9_-]{16,})"),
    (
        "registry-token",
        r"(?-u:\b)(?:npm_[A-Za-z0-9]{16,}|pypi-[A-Za-z0-9_-]{16,}|hf_[A-Za-z0-9]{16,})",
    ),
    ("jwt", r"(?-u:\b)eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)?"),
    ("bearer", r"(?i)(?-u:\b)bearer\s+([A-Za-z0-9._~+/=-]{8,})"),
    (
        "authorization",
        r#"(?i)(?-u:\b)authorization\\?["']?\s*[:=]\s*\\?["']?(?:(?:basic|bearer|digest|token)\s+)?([^\s"'\\,;]+)"#,
    ),
    ("url-password", r"(?i)(?-u:\b)[a-z][a-z0-9+.-]*://[^\s/:@]*:([^\s/@]+)@"),
    (
        "private-key",
        r"(?s)-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----.*?(?:-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----|\z)",
    ),
    (
        "assignment",
        r#"(?i)(?:passw(?:or)?d|passphrase|[_-]pass|secret|(?:api|access|auth|private|signing|encryption|account)[_-]?key|token|credentials?)\\?["']?\s*(?:=>|[:=])\s*(?:\\?"([^"\\]+)|\\?'([^'\\]+)|([^\s"'\\&;,\[{][^\s"'\\&;,]*))"#,
    ),
    (
        "option",
        r#"(?i)(?:^|[\s"'])--?(?:password|passwd|passphrase|token|secret|api-?key|access-?key)\s+(?:"([^"]+)|'([^']+)|([^\s"'=-][^\s"']*))"#,
    ),
];

/// What an operator wants of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Of stdout and stderr, each, what an event has at most (bytes).
    pub output: usize,
    /// More patterns, by their names; one of ours is replaced.
    pub patterns: BTreeMap<String, String>,
    /// Names of ours that are not wanted.
    pub without: BTreeSet<String>,
}

impl Default for Rules {
    fn default() -> Self {
        Self { output: MOST, patterns: BTreeMap::new(), without: BTreeSet::new() }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("pattern {0}: {1}")]
    Pattern(String, String),
    #[error("pattern {0:?}: a name has 1 to 40 lower-case letters, digits and hyphens")]
    Name(String),
    #[error("pattern {0} finds something in an empty text, and so anywhere")]
    Empty(String),
    #[error("there is no pattern {0:?} that could be left out, only {known}", known = names())]
    Unknown(String),
    #[error("more than {MOST_PATTERNS} patterns")]
    TooMany,
    #[error("output_bytes: {0} is more than {MOST} bytes")]
    Output(usize),
    #[error("the patterns together: {0}")]
    Together(String),
}

fn names() -> String {
    PATTERNS.map(|(name, _)| name).join(", ")
}

pub struct Scrub {
    output: usize,
    /// All of them, to see at once which have something to do.
    set: RegexSet,
    patterns: Vec<Pattern>,
    /// Bytes that were replaced.
    bytes: AtomicU64,
}

struct Pattern {
    name: String,
    regex: Regex,
    hits: AtomicU64,
}

impl Default for Scrub {
    fn default() -> Self {
        Self::new(&Rules::default()).expect("a test compiles ours")
    }
}

impl Scrub {
    pub fn new(rules: &Rules) -> Result<Self, Error> {
        let mut wanted: BTreeMap<&str, &str> = PATTERNS.into();
        for name in &rules.without {
            wanted.remove(name.as_str()).ok_or_else(|| Error::Unknown(name.clone()))?;
        }
        for (name, pattern) in &rules.patterns {
            let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
            if !(1..=40).contains(&name.len()) || !name.bytes().all(plain) {
                return Err(Error::Name(name.clone()));
            }
            wanted.insert(name, pattern);
        }
        if wanted.len() > MOST_PATTERNS {
            return Err(Error::TooMany);
        }
        if rules.output > MOST {
            return Err(Error::Output(rules.output));
        }
        let mut patterns = Vec::new();
        for (name, pattern) in &wanted {
            let name = (*name).to_owned();
            let regex = RegexBuilder::new(pattern).size_limit(SIZE).build();
            let regex = regex.map_err(|error| Error::Pattern(name.clone(), error.to_string()))?;
            if regex.is_match("") {
                return Err(Error::Empty(name));
            }
            patterns.push(Pattern { name, regex, hits: AtomicU64::new(0) });
        }
        let set = RegexSetBuilder::new(wanted.values()).size_limit(SIZE).build();
        let set = set.map_err(|error| Error::Together(error.to_string()))?;
        Ok(Self { output: rules.output, set, patterns, bytes: AtomicU64::new(0) })
    }

    /// Takes what looks like a secret out of all that the event says, and then what is too long.
    pub(super) fn clean(&self, what: &mut What) {
        let (short, output) = (MOST, self.output);
        let each = |text: &mut String, most: usize| self.text(text, most);
        let some = |text: &mut Option<String>, most: usize| {
            if let Some(text) = text {
                each(text, most);
            }
        };
        match what {
            What::SandboxCreated { metadata, .. } => {
                metadata.iter_mut().for_each(|(name, value)| self.named(name, value));
                if metadata.keys().any(|name| !self.found(name).is_empty()) {
                    let all = std::mem::take(metadata).into_iter();
                    *metadata = all.map(|it| self.renamed(it)).collect();
                }
            }
            What::ExecStarted { command, cwd, .. } => {
                some(cwd, short);
                each(command, short);
            }
            What::ExecCompleted { command, stdout, stderr, .. } => {
                some(command, short);
                some(stdout, output);
                some(stderr, output);
            }
            What::ExecFailed { error, command } => {
                some(command, short);
                each(error, short);
            }
            What::FileCreated { path, .. }
            | What::FileModified { path, .. }
            | What::FileDeleted { path }
            | What::FileRead { path, .. } => each(path, short),
            What::ToolInvoked { tool_name, tool_args, agent_id } => {
                each(tool_name, usize::MAX);
                some(agent_id, usize::MAX);
                self.value(tool_args);
            }
            What::ToolCompleted { tool_name, result, .. } => {
                each(tool_name, usize::MAX);
                self.value(result);
            }
            What::ToolFailed { tool_name, error } => {
                each(tool_name, usize::MAX);
                each(error, usize::MAX);
            }
            What::CodeExecuted { code, .. } => some(code, short),
            // Nobody else has a say in what these are.
            _ => {}
        }
    }

    /// All texts in it; it is nested no deeper than its parser goes.
    fn value(&self, value: &mut Value) {
        match value {
            Value::String(text) => self.text(text, usize::MAX),
            Value::Array(all) => all.iter_mut().for_each(|one| self.value(one)),
            Value::Object(all) => {
                for (name, one) in all.iter_mut() {
                    match one {
                        Value::String(text) => self.named(name, text),
                        other => match self.by_name(name, "x") {
                            Some(at) => self.secret(at, other),
                            None => self.value(other),
                        },
                    }
                }
                if all.keys().any(|name| !self.found(name).is_empty()) {
                    *all = std::mem::take(all).into_iter().map(|it| self.renamed(it)).collect();
                }
            }
            _ => {}
        }
    }

    fn renamed<T>(&self, (mut name, value): (String, T)) -> (String, T) {
        self.text(&mut name, usize::MAX);
        (name, value)
    }

    /// All that is in it is what that pattern found.
    fn secret(&self, at: usize, value: &mut Value) {
        let text = match value {
            Value::String(text) => std::mem::take(text),
            Value::Number(number) => number.to_string(),
            Value::Array(all) => return all.iter_mut().for_each(|one| self.secret(at, one)),
            Value::Object(all) => return all.values_mut().for_each(|one| self.secret(at, one)),
            Value::Null | Value::Bool(_) => return,
        };
        self.hit(at, text.len());
        *value = Value::String(self.instead(at));
    }

    fn instead(&self, at: usize) -> String {
        format!("{BEGIN}{}]", self.patterns[at].name)
    }

    /// By which pattern the text would be a secret for its name: `name="text`.
    fn by_name(&self, name: &str, text: &str) -> Option<usize> {
        let begin = name.len() + 2;
        let found = self.found(&format!("{name}=\"{text}"));
        found.into_iter().find(|(range, _)| range.start == begin).map(|(_, at)| at)
    }

    /// All of a text is a secret that would be one for its name.
    fn named(&self, name: &str, text: &mut String) {
        match self.by_name(name, text) {
            Some(at) if !self.found(text).iter().any(|(range, _)| range.start == 0) => {
                self.hit(at, text.len());
                *text = self.instead(at);
            }
            _ => self.text(text, usize::MAX),
        }
    }

    fn hit(&self, at: usize, bytes: usize) {
        self.patterns[at].hits.fetch_add(1, Relaxed);
        self.bytes.fetch_add(bytes as u64, Relaxed);
    }

    /// Of the first `most` bytes what is no secret.
    fn text(&self, text: &mut String, most: usize) {
        // Which databases do not take.
        if text.contains('\0') {
            *text = text.replace('\0', "\u{fffd}");
        }
        let found = self.found(text);
        let most = text.floor_char_boundary(most);
        if found.is_empty() {
            text.truncate(most);
            return;
        }
        let (mut clean, mut from) = (String::with_capacity(text.len().min(most)), 0);
        for (range, at) in found {
            if range.start >= most {
                break;
            }
            clean.push_str(&text[from..range.start]);
            clean.push_str(BEGIN);
            clean.push_str(&self.patterns[at].name);
            clean.push(']');
            self.hit(at, range.len());
            from = range.end;
        }
        if from < most {
            clean.push_str(&text[from..most]);
        }
        *text = clean;
    }

    /// Where secrets are, and by which pattern; in order, and none in another.
    fn found(&self, text: &str) -> Vec<(Range<usize>, usize)> {
        let mut found: Vec<(Range<usize>, usize)> = Vec::new();
        for at in self.set.matches(text) {
            let regex = &self.patterns[at].regex;
            found.extend(regex.captures_iter(text).filter_map(|captures| {
                let secret = captures.iter().skip(1).flatten().next().or(captures.get(0))?;
                // It has been here before.
                let fresh = !secret.is_empty() && !secret.as_str().starts_with(BEGIN);
                fresh.then(|| (secret.range(), at))
            }));
        }
        found.sort_by_key(|(range, _)| (range.start, std::cmp::Reverse(range.end)));
        found.dedup_by(|(next, _), (before, _)| {
            let within = next.start < before.end;
            if within {
                before.end = before.end.max(next.end);
            }
            within
        });
        found
    }

    /// How often each pattern found something.
    pub(crate) fn hits(&self) -> impl Iterator<Item = (&str, u64)> {
        self.patterns.iter().map(|pattern| (pattern.name.as_str(), pattern.hits.load(Relaxed)))
    }

    /// How much was taken out, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }
}

#[cfg(test)]
#[path = "scrub_tests.rs"]
mod tests;
