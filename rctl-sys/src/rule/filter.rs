//! Which rules are meant.

use std::{fmt, str::FromStr};

use super::{Action, Invalid, Parts, Per, Resource, Rule, Subject, subject::Scope};

/// Which rules are meant. What is not said matches all; [`Filter::default`] matches every rule
/// there is, so that nothing should ever be removed by it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Filter {
    pub(super) subject: Option<Scope>,
    pub(super) resource: Option<Resource>,
    pub(super) action: Option<Action>,
    pub(super) amount: Option<u64>,
    pub(super) per: Option<Per>,
}

impl Filter {
    /// All rules of one subject.
    #[must_use]
    pub fn of(subject: Subject) -> Self {
        Self { subject: Some(Scope::One(subject)), ..Self::default() }
    }

    /// All rules of a kind of subject: those of every jail, in one sweep.
    #[must_use]
    pub fn every(kind: Per) -> Self {
        Self { subject: Some(Scope::Every(kind)), ..Self::default() }
    }

    /// Only those about this resource.
    #[must_use]
    pub fn resource(self, resource: Resource) -> Self {
        Self { resource: Some(resource), ..self }
    }

    /// Only those with this action.
    #[must_use]
    pub fn action(self, action: Action) -> Self {
        Self { action: Some(action), ..self }
    }

    /// Whether the kernel would find whom it names.
    pub(crate) fn check(&self) -> Result<(), Invalid> {
        match &self.subject {
            Some(Scope::One(subject)) => subject.check(),
            Some(Scope::Every(_)) | None => Ok(()),
        }
    }
}

/// Exactly this rule.
impl From<&Rule> for Filter {
    fn from(rule: &Rule) -> Self {
        Self {
            subject: Some(Scope::One(rule.subject().clone())),
            resource: Some(rule.resource()),
            action: Some(rule.action()),
            amount: Some(rule.amount()),
            per: Some(rule.counted_per()),
        }
    }
}

impl fmt::Display for Filter {
    /// With all separators up to the last part that is said, by which the kernel counts.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.subject {
            Some(subject) => subject.fmt(f)?,
            None => f.write_str("::")?,
        }
        if let Some(resource) = self.resource {
            f.write_str(resource.name())?;
        }
        if self.action.is_none() && self.amount.is_none() && self.per.is_none() {
            return Ok(());
        }
        write!(f, ":{}", self.action.map_or("", Action::name))?;
        if self.amount.is_none() && self.per.is_none() {
            return Ok(());
        }
        f.write_str("=")?;
        if let Some(amount) = self.amount {
            write!(f, "{amount}")?;
        }
        match self.per {
            Some(per) => write!(f, "/{}", per.name()),
            None => Ok(()),
        }
    }
}

impl FromStr for Filter {
    type Err = Invalid;

    /// As the kernel reads one.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let Parts { subject, resource, action, amount, per } = Parts::of(text)?;
        Ok(Self { subject, resource, action, amount, per })
    }
}
