//! Which types of events somebody wants.

use std::{fmt, str::FromStr};

use super::kind::Kind;

/// Types of events, said as globs with commas between: `sandbox.*,exec.completed`. `*` stands for
/// whatever is there, dots too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Types {
    globs: Vec<String>,
    /// A bit for each kind.
    bits: u64,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no type of event, and matches none, as exec.completed is and sandbox.* does")]
pub struct InvalidTypes(String);

/// Globs at most, each of so many bytes.
const MOST: usize = 100;
const LONGEST: usize = 100;

impl Types {
    pub fn all() -> Self {
        Self { globs: vec!["*".to_owned()], bits: u64::MAX }
    }

    /// What any of the globs matches.
    pub fn of<S: AsRef<str>>(globs: impl IntoIterator<Item = S>) -> Result<Self, InvalidTypes> {
        let mut types = Self { globs: Vec::new(), bits: 0 };
        for glob in globs {
            let glob = glob.as_ref().trim();
            if glob.len() > LONGEST || types.globs.len() >= MOST {
                return Err(InvalidTypes(glob.chars().take(LONGEST).collect()));
            }
            let kinds = Kind::ALL.into_iter().filter(|kind| matches(glob, kind.name()));
            let bits = kinds.fold(0, |bits, kind| bits | kind.bit());
            if bits == 0 {
                return Err(InvalidTypes(glob.to_owned()));
            }
            types.bits |= bits;
            types.globs.push(glob.to_owned());
        }
        Ok(types)
    }

    /// By its name.
    pub fn matches(&self, kind: &str) -> bool {
        self.globs.iter().any(|glob| matches(glob, kind))
    }

    pub fn has(&self, kind: Kind) -> bool {
        self.bits & kind.bit() != 0
    }

    pub(super) fn bits(&self) -> u64 {
        self.bits
    }
}

impl Default for Types {
    fn default() -> Self {
        Self::all()
    }
}

impl FromStr for Types {
    type Err = InvalidTypes;

    fn from_str(text: &str) -> Result<Self, InvalidTypes> {
        Self::of(text.split(','))
    }
}

impl fmt::Display for Types {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.globs.join(","))
    }
}

/// In time of their lengths' product at most: a star gives back what it took only to the last star.
pub(super) fn matches(glob: &str, text: &str) -> bool {
    let (glob, text) = (glob.as_bytes(), text.as_bytes());
    let (mut g, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match glob.get(g) {
            Some(b'*') => {
                star = Some((g, t));
                g += 1;
            }
            Some(byte) if *byte == text[t] => {
                g += 1;
                t += 1;
            }
            _ => match &mut star {
                None => return false,
                Some((at, taken)) => {
                    *taken += 1;
                    (g, t) = (*at + 1, *taken);
                }
            },
        }
    }
    glob[g..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_as_people_expect() {
        for (types, kind, expected) in [
            ("*", "exec.completed", true),
            ("sandbox.*", "sandbox.paused", true),
            ("sandbox.*", "exec.started", false),
            ("*.completed", "exec.completed", true),
            ("*.completed", "tool.completed", true),
            ("*.completed", "tool.failed", false),
            ("exec.started, cost.*", "cost.total", true),
            ("exec.started, cost.*", "exec.completed", false),
            ("e*c.*ed*", "exec.completed", true),
            ("**", "file.read", true),
            ("exec.completed", "exec.completed2", false),
        ] {
            let parsed: Types = types.parse().unwrap();
            assert_eq!(parsed.matches(kind), expected, "{types} {kind}");
            if let Some(kind) = Kind::named(kind) {
                assert_eq!(parsed.has(kind), expected, "{types} {kind:?}");
            }
        }
    }

    #[test]
    fn a_glob_that_can_match_nothing_is_refused_with_its_words() {
        for wrong in ["", "exce.*", "sandbox.*,", "sandbox", "SANDBOX.*", &"*".repeat(101)] {
            let error = wrong.parse::<Types>().unwrap_err().to_string();
            assert!(error.contains("sandbox.*"), "{error}");
        }
        assert_eq!("a*b".parse::<Types>(), Err(InvalidTypes("a*b".into())));
        assert!(Types::of(std::iter::repeat_n("*", 101)).is_err());
        assert_eq!(" sandbox.* ,exec.*".parse::<Types>().unwrap().to_string(), "sandbox.*,exec.*");
    }

    #[test]
    fn many_stars_are_matched_in_no_time() {
        let glob = "*a".repeat(50) + "*";
        assert!(!matches(&(glob.clone() + "b"), &"a".repeat(100_000)));
        assert!(matches(&glob, &"a".repeat(100_000)));
    }
}
