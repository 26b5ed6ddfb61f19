//! One thing that happened to one sandbox.

use std::{fmt, str::FromStr, sync::Arc};

use chrono::{DateTime, SecondsFormat, SubsecRound, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use uuid::Uuid;

use super::{kind::What, trace};
use crate::sandbox::{SandboxId, Tenant};

/// A UUIDv7: sorts by time, to the millisecond of what happened.
///
/// Those of one gateway rise in the order of their making, with one exception: what a sandbox is
/// made, started, paused, resumed and ended by is [derived](Self::derived) from what its record
/// keeps, and may be told a moment after its instant; so may what its envd
/// [reports](Self::reported). So the bus, and a file written from it, have
/// the order; to go on after an id look for it, rather than compare.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventId(Uuid);

#[derive(Debug, thiserror::Error)]
#[error("not the id of an event, which is a UUID")]
pub struct InvalidEventId;

/// Ids that count within a millisecond begin here: those that are derived come before them.
pub(super) const FIRST: u16 = 0x20;
/// So many ids of one millisecond are told apart by their number.
const NUMBERS: u16 = 0x1000;

impl EventId {
    /// `millis` since the epoch, a number in that millisecond, and what tells it from those of other
    /// gateways.
    pub(super) fn of(millis: u64, number: u16, random: u64) -> Self {
        debug_assert!(number < NUMBERS, "{number}");
        let high = (millis << 16) | 0x7000 | u64::from(number % NUMBERS);
        let low = (random & (u64::MAX >> 2)) | (1 << 63);
        Self(Uuid::from_u64_pair(high, low))
    }

    /// The id that every gateway gives to what happened to that sandbox then. `rank` orders what
    /// happened in the same millisecond, below [`FIRST`].
    pub(crate) fn derived(sandbox: SandboxId, at: DateTime<Utc>, rank: u16) -> Self {
        debug_assert!(rank < FIRST, "{rank}");
        // The id of a sandbox is random: as good as any hash of it.
        let random = sandbox.spread().rotate_left(u32::from(rank));
        Self::of(millis(at), rank, random)
    }

    /// The id that every gateway gives to what the envd of that sandbox reports so: which one
    /// follows it need not know what the one before has told. It comes after those that are
    /// [derived](Self::derived) of the same millisecond; `rank` tells the events of one report
    /// apart.
    pub(crate) fn reported(sandbox: SandboxId, at: DateTime<Utc>, seq: u64, rank: u8) -> Self {
        let number = seq.wrapping_mul(2).wrapping_add(u64::from(rank));
        let count = u64::from(NUMBERS - FIRST);
        let random = (sandbox.spread() ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        // Less than a count that fits.
        let within = u16::try_from(number % count).unwrap_or_default();
        Self::of(millis(at), FIRST + within, random ^ (random >> 29))
    }
}

pub(super) fn millis(at: DateTime<Utc>) -> u64 {
    u64::try_from(at.timestamp_millis()).unwrap_or_default()
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl fmt::Debug for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for EventId {
    type Err = InvalidEventId;

    fn from_str(text: &str) -> Result<Self, InvalidEventId> {
        Uuid::try_parse(text).map(Self).map_err(|_| InvalidEventId)
    }
}

impl Serialize for EventId {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.0.hyphenated().encode_lower(&mut Uuid::encode_buffer()))
    }
}

impl<'de> Deserialize<'de> for EventId {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(de::Error::custom)
    }
}

/// The trace that a request belongs to, as W3C's `traceparent` names it: 32 hex digits, not all 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId([u8; 16]);

#[derive(Debug, thiserror::Error)]
#[error("not the id of a trace, which is 32 lower-case hex digits that are not all 0")]
pub struct InvalidTraceId;

impl TraceId {
    /// `None`: all are 0.
    pub fn new(bytes: [u8; 16]) -> Option<Self> {
        (bytes != [0; 16]).then_some(Self(bytes))
    }

    pub fn bytes(self) -> [u8; 16] {
        self.0
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for TraceId {
    type Err = InvalidTraceId;

    fn from_str(text: &str) -> Result<Self, InvalidTraceId> {
        let lower = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let mut bytes = [0; 16];
        if !lower || hex::decode_to_slice(text, &mut bytes).is_err() {
            return Err(InvalidTraceId);
        }
        Self::new(bytes).ok_or(InvalidTraceId)
    }
}

impl Serialize for TraceId {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TraceId {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(de::Error::custom)
    }
}

/// What happened, to whom, when, and why. As JSON it is one object, in this order:
///
/// ```json
/// {"timestamp":"2026-06-15T10:30:00.000Z","id":"…","parentId":"…","sandboxId":"…",
///  "type":"exec.completed","data":{"exitCode":0},"traceId":"…","tenant":"default","template":"base"}
/// ```
///
/// without `parentId` and `traceId` where there is none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Whole milliseconds.
    #[serde(rename = "timestamp", with = "timestamp")]
    pub at: DateTime<Utc>,
    pub id: EventId,
    /// What it came of.
    #[serde(rename = "parentId", default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<EventId>,
    #[serde(rename = "sandboxId")]
    pub sandbox: SandboxId,
    #[serde(flatten)]
    pub what: What,
    #[serde(rename = "traceId", default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<TraceId>,
    pub tenant: Tenant,
    /// The name of the template that the sandbox was made from; empty where nobody knows.
    #[serde(with = "shared")]
    pub template: Arc<str>,
}

impl Event {
    /// As the bus reckons with it (bytes): about what it has in memory, and as JSON.
    pub fn weight(&self) -> usize {
        400 + self.what.weight()
    }

    /// One line of JSON, without its end.
    pub fn line(&self) -> Vec<u8> {
        let mut line = Vec::with_capacity(self.weight());
        // Cannot fail: all keys are strings, and memory takes whatever is written.
        let _ = serde_json::to_writer(&mut line, self);
        line
    }

    /// As the JSON has it: `2026-06-15T10:30:00.000Z`.
    pub fn timestamp(&self) -> String {
        timestamp::text(self.at)
    }
}

mod timestamp {
    use super::*;

    pub(super) fn text(at: DateTime<Utc>) -> String {
        at.to_rfc3339_opts(SecondsFormat::Millis, true)
    }

    pub(super) fn serialize<S: Serializer>(at: &DateTime<Utc>, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&text(*at))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<DateTime<Utc>, D::Error> {
        Ok(DateTime::<Utc>::deserialize(from)?.trunc_subsecs(3))
    }
}

mod shared {
    use super::*;

    pub(super) fn serialize<S: Serializer>(text: &Arc<str>, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(text)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Arc<str>, D::Error> {
        Ok(String::deserialize(from)?.into())
    }
}

/// An event that is about to be told.
#[derive(Clone, Debug)]
pub struct New {
    pub(super) id: Option<EventId>,
    pub(super) at: Option<DateTime<Utc>>,
    pub(super) parent: Option<EventId>,
    pub(super) trace: Option<TraceId>,
    pub(super) sandbox: SandboxId,
    pub(super) template: Arc<str>,
    pub(super) tenant: Tenant,
    pub(super) what: What,
}

impl New {
    /// That happened now, came of nothing, and belongs to the request that is being answered, if
    /// there is one.
    pub fn of(
        sandbox: SandboxId,
        tenant: Tenant,
        template: impl Into<Arc<str>>,
        what: What,
    ) -> Self {
        let template = template.into();
        let trace = trace::current();
        Self { id: None, at: None, parent: None, trace, sandbox, template, tenant, what }
    }

    #[must_use]
    pub fn parent(self, parent: impl Into<Option<EventId>>) -> Self {
        Self { parent: parent.into(), ..self }
    }

    #[must_use]
    pub fn trace(self, trace: impl Into<Option<TraceId>>) -> Self {
        Self { trace: trace.into(), ..self }
    }

    #[must_use]
    pub fn at(self, at: DateTime<Utc>) -> Self {
        Self { at: Some(at), ..self }
    }

    /// One that has its id from elsewhere.
    #[must_use]
    pub(crate) fn id(self, id: EventId) -> Self {
        Self { id: Some(id), ..self }
    }

    pub(super) fn told(self, id: EventId, now: DateTime<Utc>) -> Event {
        Event {
            at: self.at.unwrap_or(now).trunc_subsecs(3),
            id,
            parent: self.parent,
            sandbox: self.sandbox,
            what: self.what,
            trace: self.trace,
            tenant: self.tenant,
            template: self.template,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::events::{
        cost::Cost,
        kind::{Kind, Period, Resources},
    };

    pub(crate) fn sandbox() -> SandboxId {
        "0123456789abcdef0123456789abcdef".parse().unwrap()
    }

    /// One of each type.
    pub(crate) fn each() -> Vec<What> {
        let text = || "x \" \n ü".to_owned();
        let period = || Period { from: "2026-06-15T10:30:00.000Z".into(), to: String::new() };
        let cost = Cost::from_nanos(123_456_789_012);
        let resources = Resources { cpu_count: 2, memory_mb: 512, disk_mb: None };
        let metadata = [(text(), text())].into();
        let some = || Some(text());
        vec![
            What::SandboxCreated {
                image: text(),
                resources,
                metadata,
                from_pool: true,
                forked_from: some(),
            },
            What::SandboxStarted { startup_duration_ms: 7, took_ns: u64::MAX },
            What::SandboxPaused { runtime_duration_ms: 120_000, reason: text(), took_ns: 1 },
            What::SandboxResumed { paused_duration_ms: 5, reason: text(), took_ns: 1 },
            What::SandboxUpdated { changed: text(), end_at: None },
            What::SandboxSnapshotted { snapshot: text() },
            What::SandboxForked { asked: 2, made: 1 },
            What::SandboxAdopted { state: text() },
            What::SandboxFailed { reason: text() },
            What::SandboxTerminated {
                total_runtime_ms: 1,
                total_paused_ms: 2,
                reason: text(),
                total_cost: Some(cost),
            },
            What::ExecStarted { command: text(), cwd: some(), pid: Some(3), repeated: true },
            What::ExecCompleted {
                command: some(),
                exit_code: -1,
                duration_ms: 4521,
                stdout: some(),
                stderr: None,
                pid: None,
            },
            What::ExecTimedOut { timeout_ms: 1, signal: text(), pid: None },
            What::ExecFailed { error: text(), command: None },
            What::FileCreated { path: text(), size_bytes: 1 },
            What::FileModified { path: text(), size_bytes: 1 },
            What::FileDeleted { path: text() },
            What::FileRead { path: text(), size_bytes: u64::MAX },
            What::ToolInvoked {
                tool_name: text(),
                tool_args: serde_json::json!({"a": [1, 1.5, null]}),
                agent_id: some(),
            },
            What::ToolCompleted {
                tool_name: text(),
                result: serde_json::json!("x"),
                duration_ms: 1,
            },
            What::ToolFailed { tool_name: text(), error: text() },
            What::PortExposed { port: 8000, url: text() },
            What::PortClosed { port: 8000 },
            What::NetworkEgress { host: text(), port: 443, bytes_sent: 9 },
            What::ResourceCpu { cpu_percent: 99.5, cores: 2 },
            What::ResourceMemory { memory_used_mb: 1.5, memory_limit_mb: 512 },
            What::ResourceDisk { disk_used_mb: 0.0, disk_limit_mb: None },
            What::ResourceThreshold {
                agent_id: text(),
                resource: text(),
                above: true,
                percent: 99.5,
                threshold: 80.0,
            },
            What::CostRuntime { duration_ms: 1, rate: cost, cost },
            What::CostStorage { duration_ms: 1, rate: cost, cost },
            What::CostTotal { sandbox_cost: cost, period: period() },
            What::KernelStarted { language: some() },
            What::KernelExited { died: true },
            What::CodeExecuted {
                language: text(),
                error: false,
                duration_ms: None,
                repeated: true,
                code: some(),
            },
        ]
    }

    fn told(what: What) -> Event {
        let at = "2026-06-15T10:30:00.1239Z".parse().unwrap();
        let id = EventId::of(millis(at), 1, 2);
        New::of(sandbox(), Tenant::default(), "base", what).parent(id).at(at).told(id, at)
    }

    #[test]
    fn what_is_written_of_each_type_is_read_as_it_was_on_one_line() {
        let all = each();
        assert_eq!(all.len(), Kind::ALL.len());
        for (what, kind) in all.into_iter().zip(Kind::ALL) {
            assert_eq!(what.kind(), kind.name());
            assert_eq!(Kind::named(kind.name()), Some(kind));
            let event = told(what);
            let line = String::from_utf8(event.line()).unwrap();
            assert!(!line.contains('\n') && line.len() < event.weight() + 200, "{line}");
            assert!(line.contains(&format!("\"type\":\"{}\",\"data\":{{", kind.name())), "{line}");
            assert_eq!(serde_json::from_str::<Event>(&line).unwrap(), event, "{line}");
            let value = serde_json::to_value(&event).unwrap();
            assert_eq!(serde_json::from_value::<Event>(value).unwrap(), event, "{line}");
        }
    }

    #[test]
    fn an_event_is_told_in_the_words_and_the_order_that_others_read() {
        let what = What::ExecCompleted {
            command: Some("npm test".into()),
            exit_code: 0,
            duration_ms: 4521,
            stdout: None,
            stderr: None,
            pid: None,
        };
        let event = Event { trace: "0af7651916cd43dd8448eb211c80319c".parse().ok(), ..told(what) };
        let id = event.id;
        let expected = format!(
            r#"{{"timestamp":"2026-06-15T10:30:00.123Z","id":"{id}","parentId":"{id}","sandboxId":"0123456789abcdef0123456789abcdef","type":"exec.completed","data":{{"command":"npm test","exitCode":0,"durationMs":4521}},"traceId":"0af7651916cd43dd8448eb211c80319c","tenant":"default","template":"base"}}"#
        );
        assert_eq!(String::from_utf8(event.line()).unwrap(), expected);
        let bare = Event { parent: None, trace: None, ..event };
        let line = String::from_utf8(bare.line()).unwrap();
        assert!(!line.contains("parentId") && !line.contains("traceId"), "{line}");
    }

    #[test]
    fn ids_sort_by_time_and_those_that_are_derived_are_the_same_whoever_derives_them() {
        let at: DateTime<Utc> = "2026-06-15T10:30:00.123Z".parse().unwrap();
        let id = EventId::of(millis(at), 0xfff, u64::MAX);
        assert_eq!(id.to_string(), "019ecad4-bcbb-7fff-bfff-ffffffffffff");
        assert_eq!(id.to_string().parse::<EventId>().unwrap(), id);
        assert!(id < EventId::of(millis(at) + 1, 0, 0));
        let derived = |rank| EventId::derived(sandbox(), at, rank);
        assert_eq!(derived(1), derived(1));
        assert!(derived(0) < derived(1) && derived(1) < EventId::of(millis(at), FIRST, 0));
    }

    #[test]
    fn a_trace_has_32_digits_that_are_not_all_0() {
        let text = "0af7651916cd43dd8448eb211c80319c";
        assert_eq!(text.parse::<TraceId>().unwrap().to_string(), text);
        for wrong in ["", "0", &"0".repeat(32), &text.to_uppercase(), &text.repeat(2), "ü"] {
            assert!(wrong.parse::<TraceId>().is_err(), "{wrong}");
        }
    }
}
