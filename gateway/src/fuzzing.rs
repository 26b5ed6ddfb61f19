//! For `fuzz/`, with the feature of that name: the control plane's private parsers, and sandboxes
//! that are only known of.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use chrono::Utc;
use http::{HeaderMap, Request};

use crate::{
    auth,
    backend::NetworkMode,
    control,
    limits::Limits,
    network::NetworkPolicy,
    sandbox::{self, Facts, Registry, Sandbox, SandboxId, Tenant},
    template::Template,
};

/// The longest timeout there may be.
pub const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// The template and the timeout (seconds) that the body of a create asks for.
pub fn create(body: &[u8]) -> Option<(String, u64)> {
    let wanted = control::wanted(body, Some(LONGEST)).ok()?;
    Some((wanted.template, wanted.timeout.as_secs()))
}

/// How much the query of a list, and that of a log, ask for at most.
pub fn asked(query: &str) -> [Option<usize>; 2] {
    [control::asked, control::asked_of_log].map(|asked| {
        let request = Request::get(format!("/x?{query}")).body(()).ok()?;
        asked(request.into_parts().0).ok()
    })
}

/// What a change of a sandbox's network asks for.
pub fn policy(body: &[u8]) -> Option<NetworkPolicy> {
    control::policy(body).ok()
}

/// The ids of the keys that a file has.
pub fn keys(text: &str) -> Option<Vec<String>> {
    auth::ids(text)
}

/// Whether anything in those headers may be a key.
pub fn presents_key(headers: &HeaderMap) -> bool {
    auth::presents(headers)
}

/// The instants and messages in a log of envd's, which is read at `now`.
pub fn logged(text: &str, now: u64) -> Vec<(u64, String)> {
    sandbox::logged(text, now).into_iter().map(|entry| (entry.at, entry.message)).collect()
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
    let limits = Limits { cpus: 1, memory_bytes: 1 << 30, processes: 1, ..Limits::default() };
    Facts {
        from_pool: false,
        pool: None,
        batch: None,
        auto_pause: false,
        auto_resume: false,
        auto_pause_filesystem: false,
        timeout: 60,
        tariff: Default::default(),
        id: SandboxId::random(),
        tenant: Tenant::default(),
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
        ingress: Default::default(),
        traffic_token: None,
        metadata: BTreeMap::new(),
        env_vars: BTreeMap::new(),
        started_at: Utc::now(),
        envd_token: token.to_owned(),
    }
}
