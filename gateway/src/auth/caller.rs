//! Who asks, as handlers are told: the middleware that has looked at the key puts a [`Caller`] into
//! the request.

use std::{collections::BTreeSet, convert::Infallible, fmt, sync::Arc};

use axum::{extract::FromRequestParts, http::request::Parts};

use crate::{
    error::ApiError,
    sandbox::{Error, Owner, Tenant},
    template::FindError,
};

/// What a key is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// To look, and to be told nothing that lets one in.
    Read,
    /// To make, change and end sandboxes, and to be let into them.
    Exec,
    /// To see what concerns the gateway and all its tenants.
    Admin,
}

impl Scope {
    pub const ALL: [Self; 3] = [Self::Read, Self::Exec, Self::Admin];

    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Exec => "exec",
            Self::Admin => "admin",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.name() == name)
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What comes with a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Grant {
    /// Of the key; none where no keys are configured, or the key has no name of its own.
    pub(super) key: Option<String>,
    pub(super) owner: Owner,
    pub(super) scopes: BTreeSet<Scope>,
    /// Those it may make sandboxes from; `None` is all.
    pub(super) templates: Option<BTreeSet<String>>,
}

impl Default for Grant {
    /// To whoever comes where there are no keys, or with a key that is only a key.
    fn default() -> Self {
        Self { key: None, owner: Owner::default(), scopes: Scope::ALL.into(), templates: None }
    }
}

/// Whoever a request comes from; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Caller(pub(super) Arc<Grant>);

impl Caller {
    /// Whose sandboxes are there for them.
    pub fn tenant(&self) -> &Tenant {
        &self.0.owner.tenant
    }

    /// On whose behalf what they ask for is made.
    pub fn owner(&self) -> &Owner {
        &self.0.owner
    }

    /// The name of their key, which is no secret.
    pub fn key(&self) -> Option<&str> {
        self.0.key.as_deref()
    }

    pub fn may(&self, scope: Scope) -> bool {
        self.0.scopes.contains(&scope)
    }

    /// To whoever may not make sandboxes from it, a template is not there.
    pub fn allowed(&self, template: &str) -> Result<(), ApiError> {
        if self.may_use(template) {
            return Ok(());
        }
        let (name, source) = (template.to_owned(), FindError::Unknown);
        Err(Error::Template { name, source }.into())
    }

    /// Whether they may make sandboxes from what is called so, whatever its tag.
    pub fn may_use(&self, template: &str) -> bool {
        let name = template.split_once(':').map_or(template, |(name, _)| name);
        self.0.templates.as_ref().is_none_or(|allowed| allowed.contains(name))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let caller = parts.extensions.get().cloned();
        // A mistake of ours, which is to be found by the first test that comes here.
        Ok(caller.expect("the route is behind the keys"))
    }
}
