//! Whom a rule or a filter is about.

use std::fmt;

use super::{Invalid, Per, digits};
use crate::abi::{MAXHOSTNAMELEN, MAXLOGNAME};

/// Whom a rule is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    /// By pid.
    Process(i32),
    /// By uid: the kernel takes numbers only, names are rctl(8)'s.
    User(u32),
    /// By the name of a class in login.conf(5).
    LoginClass(String),
    /// By the jail's *name*, never its number.
    Jail(String),
}

impl Subject {
    /// A jail by its name.
    ///
    /// # Errors
    /// When no jail can have that name, or rctl could not tell it from the rest of a rule.
    pub fn jail(name: &str) -> Result<Self, Invalid> {
        let subject = Self::Jail(name.to_owned());
        subject.check()?;
        Ok(subject)
    }

    #[must_use]
    pub fn kind(&self) -> Per {
        match self {
            Self::Process(_) => Per::Process,
            Self::User(_) => Per::User,
            Self::LoginClass(_) => Per::LoginClass,
            Self::Jail(_) => Per::Jail,
        }
    }

    /// The enumeration is open, so that what is in it is looked at where it is used.
    pub(crate) fn check(&self) -> Result<(), Invalid> {
        match self {
            Self::Process(pid) if *pid <= 0 => {
                Err(Invalid::new(&pid.to_string(), "no process has this number"))
            }
            Self::Process(_) | Self::User(_) => Ok(()),
            Self::LoginClass(name) => check_name(name, "a login class", MAXLOGNAME),
            Self::Jail(name) => check_name(name, "a jail", MAXHOSTNAMELEN),
        }
    }
}

/// `loginclass_find` and `prison_racct_find` take what is not empty and shorter than `room`.
fn check_name(name: &str, what: &str, room: usize) -> Result<(), Invalid> {
    let why = if name.is_empty() {
        format!("{what} without a name")
    } else if name.len() >= room {
        format!("longer than the {} bytes of a name of {what}", room - 1)
    } else if let Some(bad) = name.chars().find(|c| matches!(c, ':' | ',' | '\0')) {
        // The second separates the rules that rctl_get_rules(2) answers.
        format!("{bad:?} in the name of {what} would end it")
    } else {
        return Ok(());
    };
    Err(Invalid::new(name, why))
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.kind().name();
        match self {
            Self::Process(pid) => write!(f, "{kind}:{pid}:"),
            Self::User(uid) => write!(f, "{kind}:{uid}:"),
            Self::LoginClass(name) | Self::Jail(name) => write!(f, "{kind}:{name}:"),
        }
    }
}

/// One subject, or all of a kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Scope {
    Every(Per),
    One(Subject),
}

impl Scope {
    pub(crate) fn parse(kind: Per, id: Option<&str>) -> Result<Self, Invalid> {
        let Some(id) = id else {
            return Ok(Self::Every(kind));
        };
        let number = || Invalid::new(id, format!("no number of a {}", kind.name()));
        let subject = match kind {
            Per::Process => Subject::Process(digits(id).ok_or_else(number)?),
            Per::User => Subject::User(digits(id).ok_or_else(number)?),
            Per::LoginClass => Subject::LoginClass(id.to_owned()),
            Per::Jail => Subject::Jail(id.to_owned()),
        };
        subject.check()?;
        Ok(Self::One(subject))
    }

    pub(crate) fn whole(self) -> Option<Subject> {
        match self {
            Self::One(subject) => Some(subject),
            Self::Every(_) => None,
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Every(kind) => write!(f, "{}::", kind.name()),
            Self::One(subject) => subject.fmt(f),
        }
    }
}
