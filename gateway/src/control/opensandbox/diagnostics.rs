//! `GET /v1/sandboxes/{id}/diagnostics/logs` and `/events`, also without the `/v1`: what happened to
//! a sandbox as text for people and troubleshooting agents. It is drawn from the sandbox's own log,
//! which programs had better ask for at `/v2/sandboxes/{id}/logs`.

use std::fmt::Write;

use axum::{Json, extract::State};
use chrono::{DateTime, SecondsFormat};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::super::extract::{Parameters, SandboxPath};
use crate::{
    Gateway,
    error::{ApiError, NoSandbox},
    sandbox::{Entry, Level, SandboxId, Source},
};

/// The longest text (bytes): what is older is left out.
const MOST: usize = 256 << 10;
const KIND: &str = "text/plain; charset=utf-8";

pub(super) fn routes() -> OpenApiRouter<Gateway> {
    OpenApiRouter::new()
        .routes(routes!(logs))
        .routes(routes!(events))
        .routes(routes!(logs_without_version))
        .routes(routes!(events_without_version))
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct DiagnosticContent {
    sandbox_id: String,
    kind: Kind,
    scope: Scope,
    delivery: Delivery,
    /// `text/plain; charset=utf-8`.
    content_type: &'static str,
    /// A line for each entry, the oldest first.
    content: String,
    /// In bytes.
    content_length: usize,
    /// Whether older lines were left out, as the text would have been too long.
    truncated: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    warnings: Vec<&'static str>,
}

#[derive(Clone, Copy, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = DiagnosticKind)]
enum Kind {
    Logs,
    Events,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = DiagnosticDelivery)]
enum Delivery {
    Inline,
}

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = DiagnosticScope)]
enum Scope {
    /// What the sandbox's envd and processes say.
    Container,
    /// What the gateway knows of its life.
    Lifecycle,
    /// The same.
    Runtime,
    /// What became of its commands and kernels.
    Process,
    All,
}

impl Scope {
    fn parse(parameters: &Parameters) -> Result<Self, ApiError> {
        match parameters.take("scope").as_deref() {
            Some("container") => Ok(Self::Container),
            Some("lifecycle") => Ok(Self::Lifecycle),
            Some("runtime") => Ok(Self::Runtime),
            Some("process") => Ok(Self::Process),
            Some("all") => Ok(Self::All),
            _ => Err(ApiError::bad_request(
                "scope must be container, lifecycle, runtime, process or all",
            )),
        }
    }

    fn has(self, source: Source) -> bool {
        match self {
            Self::All => true,
            Self::Container => matches!(source, Source::Envd | Source::Sandbox),
            Self::Process => source == Source::Sandbox,
            Self::Lifecycle | Self::Runtime => source == Source::Gateway,
        }
    }
}

impl DiagnosticContent {
    async fn of(
        gateway: &Gateway,
        id: SandboxId,
        kind: Kind,
        parameters: &Parameters,
    ) -> Result<Json<Self>, ApiError> {
        let scope = Scope::parse(parameters)?;
        let entries = gateway.sandboxes().log(id).await?;
        // The log of an envd is no event.
        let wanted = entries.iter().filter(|entry| {
            scope.has(entry.source) && (kind == Kind::Logs || entry.source != Source::Envd)
        });
        let (content, truncated) = newest(wanted.map(|entry| line(kind, entry)).collect());
        let mut warnings = Vec::new();
        if gateway.sandboxes().present(id).is_err() {
            warnings.push(
                "the sandbox has ended: what it said itself is kept in part, its envd's log is not",
            );
        }
        Ok(Json(Self {
            sandbox_id: id.to_string(),
            kind,
            scope,
            delivery: Delivery::Inline,
            content_type: KIND,
            content_length: content.len(),
            content,
            truncated,
            warnings,
        }))
    }
}

/// The last lines that fit, and whether any did not.
fn newest(lines: Vec<String>) -> (String, bool) {
    let mut room = MOST;
    let fitting = lines.iter().rev().take_while(|line| {
        let fits = line.len() <= room;
        room = room.saturating_sub(line.len());
        fits
    });
    let left_out = lines.len() - fitting.count();
    (lines[left_out..].concat(), left_out > 0)
}

/// `2026-03-25T10:01:13.000Z lifecycle Normal paused phase=Paused reason=user`
fn line(kind: Kind, entry: &Entry) -> String {
    let at = i64::try_from(entry.at).ok().and_then(DateTime::from_timestamp_millis);
    let at = at.unwrap_or_default().to_rfc3339_opts(SecondsFormat::Millis, true);
    let source = match entry.source {
        Source::Gateway => "lifecycle",
        Source::Sandbox => "process",
        Source::Envd => "envd",
    };
    let level = match (kind, entry.level) {
        (Kind::Logs, level) => level.name(),
        (Kind::Events, Level::Warn | Level::Error) => "Warning",
        (Kind::Events, _) => "Normal",
    };
    let mut line = format!("{at} {source} {level} {}", plain(&entry.message));
    for (name, value) in &entry.fields {
        // Writing to memory never fails.
        let _ = write!(line, " {}={}", plain(name), plain(value));
    }
    line.push('\n');
    line
}

/// A line stays one, and moves no cursor.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

macro_rules! diagnostics {
    ($($(#[$doc:meta])* $name:ident $path:literal $kind:expr;)+) => {
        $(
            $(#[$doc])*
            #[utoipa::path(get, path = $path, tag = "opensandbox",
                params(
                    SandboxPath,
                    ("scope" = inline(Scope), Query, description = "of what"),
                ),
                responses(
                    (status = 200, description = "as far as it is kept", body = DiagnosticContent),
                    NoSandbox,
                ))]
            async fn $name(
                State(gateway): State<Gateway>,
                SandboxPath(id): SandboxPath,
                parameters: Parameters,
            ) -> Result<Json<DiagnosticContent>, ApiError> {
                DiagnosticContent::of(&gateway, id, $kind, &parameters).await
            }
        )+
    };
}

diagnostics! {
    /// What a sandbox's envd and processes said, and what became of it.
    logs "/v1/sandboxes/{id}/diagnostics/logs" Kind::Logs;
    /// What became of a sandbox, and of what ran in it.
    events "/v1/sandboxes/{id}/diagnostics/events" Kind::Events;
    /// The same as below `/v1`.
    logs_without_version "/sandboxes/{id}/diagnostics/logs" Kind::Logs;
    /// The same as below `/v1`.
    events_without_version "/sandboxes/{id}/diagnostics/events" Kind::Events;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_lines_are_those_that_are_kept() {
        let lines: Vec<String> = (0..MOST / 8).map(|n| format!("{n:09}\n")).collect();
        let (text, truncated) = newest(lines.clone());
        assert!(truncated && text.len() <= MOST && text.len() > MOST - 10);
        assert!(text.ends_with(lines.last().unwrap()));
        assert_eq!(newest(lines[..2].to_vec()), (lines[..2].concat(), false));
        assert_eq!(newest(Vec::new()), (String::new(), false));
    }
}
