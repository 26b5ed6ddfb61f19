//! What a webhook is sent of an event, and by which names it asks for it: E2B's where E2B has one.

use chrono::{Duration, SecondsFormat};
use serde_json::{Map, Value, json};

use crate::{
    events::{Event, Kind, Types, What, e2b, types::matches},
    sandbox::Sandboxes,
};

/// What E2B calls what happens in a sandbox's life, and in the words of before that.
const E2B: [(Kind, &str, &str); 6] = [
    (Kind::SandboxCreated, "sandbox.lifecycle.created", "create"),
    (Kind::SandboxTerminated, "sandbox.lifecycle.killed", "kill"),
    (Kind::SandboxUpdated, "sandbox.lifecycle.updated", "update"),
    (Kind::SandboxPaused, "sandbox.lifecycle.paused", "pause"),
    (Kind::SandboxResumed, "sandbox.lifecycle.resumed", "resume"),
    (Kind::SandboxSnapshotted, "sandbox.lifecycle.checkpointed", "checkpoint"),
];

/// The name by which receivers know it.
pub(super) fn name_of(kind: Kind) -> &'static str {
    let known = E2B.iter().find(|(known, ..)| *known == kind);
    known.map_or(kind.name(), |(_, name, _)| name)
}

/// Whether there is a type of event that the glob matches.
pub(super) fn is_of_any(glob: &str) -> bool {
    !kinds(glob).is_empty()
}

/// The types, by our names, of what all the globs match.
pub(super) fn types(globs: &[String]) -> Types {
    let mut kinds: Vec<Kind> = globs.iter().flat_map(|glob| kinds(glob)).collect();
    kinds.sort_unstable();
    kinds.dedup();
    let names = kinds.into_iter().map(Kind::name);
    // Each is a type's own name.
    Types::of(names).unwrap_or_default()
}

fn kinds(glob: &str) -> Vec<Kind> {
    // Those of E2B's names beside the ones of ours.
    let theirs = E2B.iter().filter(|(_, name, _)| matches(glob, name)).map(|(kind, ..)| *kind);
    let mut kinds: Vec<Kind> =
        Kind::ALL.into_iter().filter(|it| matches(glob, it.name())).collect();
    kinds.extend(theirs);
    kinds.sort_unstable();
    kinds.dedup();
    kinds
}

/// E2B's body, version `v2`. Its service writes names with underscores, its documents without: here
/// are both, and what reads the one or the other finds it.
pub(super) fn body(event: &Event, sandboxes: &Sandboxes) -> String {
    let kind = event.what.kind_of();
    let known = E2B.iter().find(|(known, ..)| *known == kind);
    let (category, label) = match known {
        Some((_, _, label)) => ("lifecycle", *label),
        None => kind.name().split_once('.').unwrap_or((kind.name(), "")),
    };
    let data = data(event, sandboxes);
    let pairs = [
        ("event_category", "eventCategory", category.into()),
        ("event_label", "eventLabel", label.into()),
        ("event_data", "eventData", data),
        ("sandbox_id", "sandboxId", event.sandbox.to_string().into()),
        // The same for its whole life here.
        ("sandbox_execution_id", "sandboxExecutionId", event.sandbox.to_string().into()),
        ("sandbox_template_id", "sandboxTemplateId", (&*event.template).into()),
        ("sandbox_build_id", "sandboxBuildId", (&*event.template).into()),
        ("sandbox_team_id", "sandboxTeamId", event.tenant.name().into()),
    ];
    let mut body = Map::new();
    body.insert("version".into(), "v2".into());
    body.insert("id".into(), event.id.to_string().into());
    body.insert("type".into(), name_of(kind).into());
    body.insert("timestamp".into(), event.timestamp().into());
    for (theirs, documented, value) in pairs {
        body.insert(theirs.into(), Value::clone(&value));
        body.insert(documented.into(), value);
    }
    if let Some(trace) = event.trace {
        body.insert("trace_id".into(), trace.to_string().into());
    }
    Value::Object(body).to_string()
}

/// That of the event, with what E2B has there.
fn data(event: &Event, sandboxes: &Sandboxes) -> Value {
    let mut data = match serde_json::to_value(&event.what) {
        Ok(Value::Object(mut what)) => match what.remove("data") {
            Some(Value::Object(data)) => data,
            _ => Map::new(),
        },
        _ => Map::new(),
    };
    let (ran, lifecycle) = match &event.what {
        What::SandboxPaused { runtime_duration_ms, .. } => (Some(*runtime_duration_ms), true),
        What::SandboxTerminated { total_runtime_ms, .. } => (Some(*total_runtime_ms), true),
        what => (None, E2B.iter().any(|(kind, ..)| *kind == what.kind_of())),
    };
    let seen = lifecycle.then(|| sandboxes.see(event.sandbox).ok()).flatten();
    if let Some(seen) = &seen {
        data.insert("sandbox_metadata".into(), e2b::metadata(seen));
    } else if let What::SandboxCreated { metadata, .. } = &event.what {
        data.insert("sandbox_metadata".into(), json!(metadata));
    }
    if let Some(ran) = ran {
        let began = event.at - Duration::milliseconds(ran.try_into().unwrap_or(0));
        let mut execution = json!({
            "started_at": began.to_rfc3339_opts(SecondsFormat::Millis, true),
            "execution_time": ran,
        });
        if let Some(limits) = seen.and_then(|seen| seen.limits) {
            execution["vcpu_count"] = limits.cpus.into();
            execution["memory_mb"] = (limits.memory_bytes >> 20).into();
        }
        data.insert("execution".into(), execution);
    }
    Value::Object(data)
}
