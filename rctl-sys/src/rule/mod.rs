//! Rules and filters of rctl(8): `subject:subject-id:resource:action=amount/per`.
//!
//! What can be built here the kernel takes, as far as that can be known without asking it: the
//! conditions are those of `rctl_string_to_rule` and `rctl_rule_add`, sys/kern/kern_rctl.c.

mod filter;
mod names;
mod subject;

use std::{fmt, str::FromStr};

pub use filter::Filter;
pub use names::{Action, Per, Resource, Signal};
pub use subject::Subject;

/// Why this is no rule, or no filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid(String);

impl Invalid {
    fn new(text: &str, why: impl fmt::Display) -> Self {
        // Hostile text is not repeated at length.
        let text: String = text.chars().take(120).collect();
        Self(format!("{text:?}: {why}"))
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Invalid {}

/// A rule that the kernel takes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Rule {
    subject: Subject,
    resource: Resource,
    action: Action,
    amount: u64,
    per: Per,
}

impl Rule {
    /// A rule over the whole of its subject.
    ///
    /// # Errors
    /// When the kernel would refuse it, with the reason.
    pub fn new(
        subject: Subject,
        resource: Resource,
        action: Action,
        amount: u64,
    ) -> Result<Self, Invalid> {
        subject.check()?;
        let per = subject.kind();
        Self { subject, resource, action, amount, per }.checked()
    }

    /// The same, counted over something smaller, such as each process of a jail.
    ///
    /// # Errors
    /// When the kernel would refuse it, with the reason.
    pub fn per(self, per: Per) -> Result<Self, Invalid> {
        Self { per, ..self }.checked()
    }

    #[must_use]
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    #[must_use]
    pub fn resource(&self) -> Resource {
        self.resource
    }

    #[must_use]
    pub fn action(&self) -> Action {
        self.action
    }

    /// In the unit of the resource: bytes, seconds, percent of one core, or a number of things.
    #[must_use]
    pub fn amount(&self) -> u64 {
        self.amount
    }

    #[must_use]
    pub fn counted_per(&self) -> Per {
        self.per
    }

    /// What rctl_get_rules(2) answers: rules with commas between them.
    ///
    /// # Errors
    /// When one of them is none.
    pub fn parse_list(list: &str) -> Result<Vec<Self>, Invalid> {
        list.split(',').filter(|text| !text.is_empty()).map(str::parse).collect()
    }

    fn checked(self) -> Result<Self, Invalid> {
        match self.refusal() {
            Some(why) => Err(Invalid::new(&self.to_string(), why)),
            None => Ok(self),
        }
    }

    /// Why the kernel would not take it. The subject is known to be good.
    fn refusal(&self) -> Option<String> {
        let resource = self.resource;
        let most = i64::MAX as u64 / if resource.in_millions() { 1_000_000 } else { 1 };
        if self.amount > most {
            // `str2int64`, and the multiplication behind it: ERANGE.
            return Some(format!("the most that the kernel counts is {most}"));
        }
        if self.action == Action::Deny && !resource.deniable() {
            // EOPNOTSUPP, as the two below.
            return Some(format!("{} can be counted, but not denied", resource.name()));
        }
        if self.action == Action::Throttle && !resource.throttled() {
            return Some(
                "only readbps, writebps, readiops and writeiops can be throttled".to_owned(),
            );
        }
        if self.per == Per::Process && resource.sloppy() {
            return Some(format!("{} is not counted for single processes", resource.name()));
        }
        if self.action == Action::Throttle && self.amount == 0 {
            // FreeBSD: `rctl_enforce` divides by the amount.
            return Some("a rate of nothing cannot be throttled to".to_owned());
        }
        None
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (resource, action) = (self.resource.name(), self.action.name());
        write!(f, "{}{resource}:{action}={}", self.subject, self.amount)?;
        if self.per == self.subject.kind() { Ok(()) } else { write!(f, "/{}", self.per.name()) }
    }
}

impl FromStr for Rule {
    type Err = Invalid;

    /// As the kernel reads one; the amount is in plain digits, since its units are rctl(8)'s.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let bad = |why: &str| Invalid::new(text, why);
        let parts = Parts::of(text)?;
        let subject = parts.subject.ok_or_else(|| bad("no subject"))?;
        let subject = subject.whole().ok_or_else(|| bad("the subject has no name"))?;
        let resource = parts.resource.ok_or_else(|| bad("no resource"))?;
        let action = parts.action.ok_or_else(|| bad("no action"))?;
        let amount = parts.amount.ok_or_else(|| bad("no amount"))?;
        let per = parts.per.unwrap_or_else(|| subject.kind());
        Self { subject, resource, action, amount, per }.checked()
    }
}

/// A rule or a filter, cut where `rctl_string_to_rule` cuts it. What is empty is not said.
#[derive(Debug)]
struct Parts {
    subject: Option<subject::Scope>,
    resource: Option<Resource>,
    action: Option<Action>,
    amount: Option<u64>,
    per: Option<Per>,
}

impl Parts {
    fn of(text: &str) -> Result<Self, Invalid> {
        let bad = |why: &str| Invalid::new(text, why);
        let (kind, rest) = cut(text, &[':']);
        let (id, rest) = cut(rest, &[':']);
        let (resource, rest) = cut(rest, &[':']);
        // FreeBSD: the action ends at the first of the two, so that `deny/user` has "user" for its
        // amount.
        let (action, rest) = cut(rest, &['=', '/']);
        let (amount, per) = cut(rest, &['/']);

        let kind = said(kind)
            .map(|kind| Per::from_name(kind).ok_or_else(|| bad("no such kind of subject")))
            .transpose()?;
        let subject = match (kind, said(id)) {
            (Some(kind), id) => Some(subject::Scope::parse(kind, id)?),
            (None, Some(_)) => return Err(bad("a subject without its kind")),
            (None, None) => None,
        };
        let resource = said(resource)
            .map(|it| Resource::from_name(it).ok_or_else(|| bad("no such resource")))
            .transpose()?;
        let action = said(action)
            .map(|it| Action::from_name(it).ok_or_else(|| bad("no such action")))
            .transpose()?;
        let amount = said(amount)
            .map(|it| digits(it).ok_or_else(|| bad("the amount is no plain number")))
            .transpose()?;
        let per = said(per)
            .map(|it| Per::from_name(it).ok_or_else(|| bad("no such thing to count per")))
            .transpose()?;
        Ok(Self { subject, resource, action, amount, per })
    }
}

/// Up to the first separator, and what follows it, as strsep(3).
fn cut<'a>(text: &'a str, at: &[char]) -> (&'a str, &'a str) {
    match text.find(at) {
        // All separators are one byte long.
        Some(end) => (&text[..end], &text[end + 1..]),
        None => (text, ""),
    }
}

fn said(part: &str) -> Option<&str> {
    (!part.is_empty()).then_some(part)
}

/// Rust would take a sign, too.
fn digits<T: FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests;
