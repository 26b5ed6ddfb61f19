//! Events as E2B's clients know them: other names for what happens in a sandbox's life, and what
//! E2B has in the data of those.

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde_json::{Map, Value, json};

use super::{Kind, types::matches};
use crate::sandbox::Seen;

/// What E2B calls what happens in a sandbox's life.
const NAMES: [(Kind, &str); 6] = [
    (Kind::SandboxCreated, "sandbox.lifecycle.created"),
    (Kind::SandboxTerminated, "sandbox.lifecycle.killed"),
    (Kind::SandboxUpdated, "sandbox.lifecycle.updated"),
    (Kind::SandboxPaused, "sandbox.lifecycle.paused"),
    (Kind::SandboxResumed, "sandbox.lifecycle.resumed"),
    (Kind::SandboxSnapshotted, "sandbox.lifecycle.checkpointed"),
];

/// E2B's name of it, or ours where E2B has none.
pub(crate) fn name(kind: Kind) -> &'static str {
    NAMES.iter().find(|(known, _)| *known == kind).map_or(kind.name(), |(_, name)| name)
}

/// Whether it is of a sandbox's life: only then its data has more here than in the file.
pub(crate) fn is_of_life(kind: Kind) -> bool {
    NAMES.iter().any(|(known, _)| *known == kind)
}

/// What a glob matches, of E2B's names and of ours.
pub(crate) fn kinds(glob: &str) -> Vec<Kind> {
    let either = |kind: &Kind| matches(glob, kind.name()) || matches(glob, name(*kind));
    Kind::ALL.into_iter().filter(either).collect()
}

/// Of metadata, in each event (bytes). A sandbox may have a mebibyte, and an answer a thousand events.
const METADATA: usize = 16 << 10;

/// A sandbox's metadata as far as it goes into an event: all of it, or none.
pub(super) fn metadata(seen: &Seen) -> Value {
    let bytes: usize = seen.metadata.iter().map(|(key, value)| key.len() + value.len()).sum();
    if bytes <= METADATA { json!(seen.metadata) } else { json!({}) }
}

/// The data of an event of that type and time, with what E2B has there: the metadata, and of what
/// ends a run when it began and how long it was.
pub(crate) fn data(
    kind: Kind,
    at: DateTime<Utc>,
    mut data: Map<String, Value>,
    seen: Option<&Seen>,
) -> Map<String, Value> {
    if !is_of_life(kind) {
        return data;
    }
    let metadata = match seen {
        Some(seen) => Some(metadata(seen)),
        None if kind == Kind::SandboxCreated => {
            Some(data.get("metadata").cloned().unwrap_or_else(|| json!({})))
        }
        None => None,
    };
    if let Some(metadata) = metadata {
        data.insert("sandbox_metadata".to_owned(), metadata);
    }
    let ran = match kind {
        Kind::SandboxPaused => data.get("runtimeDurationMs"),
        Kind::SandboxTerminated => data.get("totalRuntimeMs"),
        _ => None,
    };
    // It is what a file says, which may be beyond any calendar.
    let began = |ran: u64| {
        let ran = TimeDelta::try_milliseconds(i64::try_from(ran).ok()?)?;
        at.checked_sub_signed(ran)
    };
    let ran = ran.and_then(Value::as_u64);
    if let Some((ran, began)) = ran.and_then(|ran| Some((ran, began(ran)?))) {
        let mut execution = json!({
            "started_at": began.to_rfc3339_opts(SecondsFormat::Millis, true),
            "execution_time": ran,
        });
        if let Some(limits) = seen.and_then(|seen| seen.limits) {
            execution["vcpu_count"] = limits.cpus.into();
            execution["memory_mb"] = (limits.memory_bytes >> 20).into();
        }
        data.insert("execution".to_owned(), execution);
    }
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_asked_for_by_either_name() {
        for glob in ["sandbox.created", "sandbox.lifecycle.created", "*.created"] {
            assert!(kinds(glob).contains(&Kind::SandboxCreated), "{glob}");
        }
        assert_eq!(kinds("sandbox.lifecycle.*").len(), NAMES.len());
        assert_eq!(kinds("sandbox.lifecycle.killed"), [Kind::SandboxTerminated]);
        assert_eq!(kinds("*").len(), Kind::ALL.len());
        assert!(kinds("sandbox").is_empty() && kinds("").is_empty());
        assert_eq!(name(Kind::SandboxTerminated), "sandbox.lifecycle.killed");
        assert_eq!(name(Kind::ExecCompleted), "exec.completed");
    }

    #[test]
    fn what_ends_a_run_says_when_it_began_as_e2b_does() {
        let at = "2026-06-15T10:30:00.500Z".parse().unwrap();
        let of = |kind, value: Value| {
            let Value::Object(map) = value else { panic!("{value}") };
            Value::Object(data(kind, at, map, None))
        };
        let killed = of(Kind::SandboxTerminated, json!({"totalRuntimeMs": 1500}));
        let execution = json!({"started_at": "2026-06-15T10:29:59.000Z", "execution_time": 1500});
        assert_eq!(killed, json!({"totalRuntimeMs": 1500, "execution": execution}));
        for ran in [u64::MAX, i64::MAX as u64, 9_000_000_000_000_000] {
            let beyond = json!({ "totalRuntimeMs": ran });
            assert_eq!(of(Kind::SandboxTerminated, beyond.clone()), beyond);
        }
        let created = of(Kind::SandboxCreated, json!({"metadata": {"a": "b"}}));
        assert_eq!(created["sandbox_metadata"], json!({"a": "b"}));
        let other = json!({"exitCode": 0});
        assert_eq!(of(Kind::ExecCompleted, other.clone()), other);
    }
}
