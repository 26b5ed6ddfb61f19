//! For `fuzz/`, with the feature of that name: the control plane's private parsers, and sandboxes
//! that are only known of.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use chrono::Utc;
use http::Request;

use crate::{
    backend::{Limits, NetworkMode},
    control,
    sandbox::{Facts, Registry, Sandbox, SandboxId},
    template::Template,
};

/// The longest timeout there may be.
pub const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// The template and the timeout (seconds) that the body of a create asks for.
pub fn create(body: &[u8]) -> Option<(String, u64)> {
    let wanted = control::wanted(body, LONGEST).ok()?;
    Some((wanted.template, wanted.timeout.as_secs()))
}

pub fn list(query: &str) {
    if let Ok(request) = Request::get(format!("/v2/sandboxes?{query}")).body(()) {
        let _ = control::asked(request.into_parts().0);
    }
}

/// Sandboxes that run as far as the registry knows, with these tokens.
pub fn running(tokens: &[&str]) -> Registry {
    let registry = Registry::default();
    for token in tokens {
        let deadline = Utc::now() + chrono::Duration::days(365);
        registry.readmit(Arc::new(Sandbox::new(facts(token), "/nowhere".into(), deadline)));
    }
    registry
}

fn facts(token: &str) -> Facts {
    let limits = Limits { cpus: 1, memory_bytes: 1 << 30, processes: 1 };
    Facts {
        from_pool: false,
        auto_pause: false,
        auto_resume: false,
        timeout: 60,
        id: SandboxId::random(),
        template: Template {
            id: "base".into(),
            layers: Vec::new(),
            limits,
            env: BTreeMap::new(),
            user: "user".into(),
            workdir: None,
            kernels: false,
        },
        limits,
        network: NetworkMode::None,
        allow_internet_access: None,
        metadata: BTreeMap::new(),
        env_vars: BTreeMap::new(),
        started_at: Utc::now(),
        envd_token: token.to_owned(),
    }
}
