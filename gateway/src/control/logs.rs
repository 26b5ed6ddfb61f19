//! `GET /sandboxes/{id}/logs` and its younger `/v2/sandboxes/{id}/logs`: what happened to one.

use std::collections::BTreeMap;

use axum::{Json, extract::State};
use chrono::DateTime;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    extract::{Parameters, SandboxPath},
    shape::time,
};
use crate::{
    Gateway,
    error::{ApiError, NoSandbox},
    sandbox::{Entry, Level},
};

/// In one answer.
const MOST: usize = 1000;
/// The longest text that can be looked for (characters).
const LONGEST_SEARCH: usize = 256;

pub(super) fn routes() -> OpenApiRouter<Gateway> {
    OpenApiRouter::new().routes(routes!(show)).routes(routes!(show_v2))
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct SandboxLogs {
    logs: Vec<SandboxLog>,
    log_entries: Vec<LogEntry>,
}

#[derive(Serialize, ToSchema)]
struct SandboxLog {
    #[schema(format = DateTime)]
    timestamp: String,
    /// A JSON object with `level`, `logger`, `message` and what else there is, all of them texts.
    line: String,
}

#[derive(Serialize, ToSchema)]
struct SandboxLogsV2 {
    logs: Vec<LogEntry>,
}

#[derive(Serialize, ToSchema)]
struct LogEntry {
    #[schema(format = DateTime)]
    timestamp: String,
    message: String,
    #[schema(inline)]
    level: LogLevel,
    /// `logger` is `gateway`, `envd`, or `sandbox` for what ran in it.
    fields: BTreeMap<String, String>,
}

#[derive(Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum LogLevel {
    Debug,
    Info,
    Warn,
    Error,
}

impl From<Level> for LogLevel {
    fn from(level: Level) -> Self {
        match level {
            Level::Debug => Self::Debug,
            Level::Info => Self::Info,
            Level::Warn => Self::Warn,
            Level::Error => Self::Error,
        }
    }
}

#[derive(Clone, Copy, PartialEq, ToSchema)]
enum Direction {
    #[schema(rename = "forward")]
    Forward,
    #[schema(rename = "backward")]
    Backward,
}

impl LogEntry {
    fn new(entry: &Entry) -> Self {
        Self {
            timestamp: timestamp(entry),
            message: entry.message.clone(),
            level: entry.level.into(),
            fields: fields(entry),
        }
    }
}

impl SandboxLog {
    fn new(entry: &Entry) -> Self {
        let mut line: Map<String, Value> =
            fields(entry).into_iter().map(|(name, value)| (name, value.into())).collect();
        line.insert("level".to_owned(), entry.level.name().into());
        line.insert("message".to_owned(), entry.message.clone().into());
        Self { timestamp: timestamp(entry), line: Value::Object(line).to_string() }
    }
}

fn fields(entry: &Entry) -> BTreeMap<String, String> {
    let mut fields = entry.fields.clone();
    fields.insert("logger".to_owned(), entry.source.name().to_owned());
    fields
}

fn timestamp(entry: &Entry) -> String {
    let millis = i64::try_from(entry.at).ok();
    time(millis.and_then(DateTime::from_timestamp_millis).unwrap_or_default())
}

/// What happened to a sandbox, the oldest first. One that has ended is remembered for a while.
#[utoipa::path(get, path = "/sandboxes/{id}/logs", tag = "sandboxes",
    params(
        SandboxPath,
        ("start" = Option<u64>, Query, maximum = 9007199254740991_u64,
            description = "in milliseconds since the epoch"),
        Limit,
    ),
    responses(
        (status = 200, description = "from that instant on", body = SandboxLogs),
        NoSandbox,
    ))]
async fn show(
    State(gateway): State<Gateway>,
    SandboxPath(id): SandboxPath,
    parameters: Parameters,
) -> Result<Json<SandboxLogs>, ApiError> {
    let start = parameters.number("start")?.unwrap_or(0);
    let Limit { limit } = Limit::parse(&parameters)?;
    let mut entries = gateway.sandboxes().log(id).await?;
    entries.retain(|entry| entry.at >= start);
    entries.truncate(limit);
    Ok(Json(SandboxLogs {
        logs: entries.iter().map(SandboxLog::new).collect(),
        log_entries: entries.iter().map(LogEntry::new).collect(),
    }))
}

/// The same, from an instant on or back from one.
#[utoipa::path(get, path = "/v2/sandboxes/{id}/logs", tag = "sandboxes",
    params(
        SandboxPath,
        ("cursor" = Option<u64>, Query, maximum = 9007199254740991_u64,
            description = "in milliseconds since the epoch; if left \
            out the beginning, or backward the end"),
        Limit,
        ("direction" = inline(Option<Direction>), Query, description = "from the cursor on, which \
            is so if left out, or back from it with the newest first"),
        ("level" = inline(Option<LogLevel>), Query, description = "at least"),
        ("search" = Option<String>, Query, max_length = 256,
            description = "what the message contains"),
    ),
    responses(
        (status = 200, description = "as asked for", body = SandboxLogsV2),
        NoSandbox,
    ))]
async fn show_v2(
    State(gateway): State<Gateway>,
    SandboxPath(id): SandboxPath,
    parameters: Parameters,
) -> Result<Json<SandboxLogsV2>, ApiError> {
    let query = Query::parse(&parameters)?;
    let entries = query.select(gateway.sandboxes().log(id).await?);
    Ok(Json(SandboxLogsV2 { logs: entries.iter().map(LogEntry::new).collect() }))
}

struct Query {
    cursor: Option<u64>,
    limit: usize,
    direction: Direction,
    level: Level,
    search: String,
}

impl Query {
    fn parse(parameters: &Parameters) -> Result<Self, ApiError> {
        let direction = match parameters.take("direction").as_deref() {
            None | Some("forward") => Direction::Forward,
            Some("backward") => Direction::Backward,
            Some(_) => return Err(ApiError::bad_request("direction must be forward or backward")),
        };
        let level = match parameters.take("level") {
            None => Level::Debug,
            Some(name) => Level::named(&name)
                .ok_or_else(|| ApiError::bad_request("level must be debug, info, warn or error"))?,
        };
        let search = parameters.take("search").unwrap_or_default();
        if search.chars().count() > LONGEST_SEARCH {
            let text = format!("search must have {LONGEST_SEARCH} characters at most");
            return Err(ApiError::bad_request(text));
        }
        let cursor = parameters.number("cursor")?;
        let Limit { limit } = Limit::parse(parameters)?;
        Ok(Self { cursor, limit, direction, level, search })
    }

    /// Of entries of which the oldest comes first.
    fn select(&self, mut entries: Vec<Entry>) -> Vec<Entry> {
        let forward = self.direction == Direction::Forward;
        if !forward {
            entries.reverse();
        }
        entries.retain(|entry| {
            let begun = self.cursor.is_none_or(|cursor| match forward {
                true => entry.at >= cursor,
                false => entry.at <= cursor,
            });
            begun && entry.level >= self.level && entry.message.contains(&self.search)
        });
        entries.truncate(self.limit);
        entries
    }
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
struct Limit {
    /// 1000 if left out
    #[param(value_type = Option<usize>, minimum = 1, maximum = 1000)]
    limit: usize,
}

impl Limit {
    fn parse(parameters: &Parameters) -> Result<Self, ApiError> {
        let limit = parameters.number("limit")?.unwrap_or(MOST as u64);
        let limit = usize::try_from(limit).ok().filter(|limit| (1..=MOST).contains(limit));
        let wrong = || ApiError::bad_request(format!("limit must be between 1 and {MOST}"));
        limit.map(|limit| Self { limit }).ok_or_else(wrong)
    }
}

/// How many entries a query asks for at most.
#[cfg(feature = "fuzzing")]
pub(crate) fn asked(mut parts: axum::http::request::Parts) -> Result<usize, ApiError> {
    use axum::extract::FromRequestParts;
    use futures_util::FutureExt;

    let read = Parameters::from_request_parts(&mut parts, &()).now_or_never();
    Query::parse(&read.expect("nothing is waited for")?).map(|query| query.limit)
}
