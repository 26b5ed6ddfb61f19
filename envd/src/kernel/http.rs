//! The HTTP of port 49999: E2B's contract of the code interpreter, word for word.
//!
//! Without a router, which would take memory in every sandbox that never runs any code.

use std::{collections::BTreeMap, io, sync::Arc};

use axum::{
    Json,
    body::Body,
    extract::{Request, State},
    http::{HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures_util::stream;
use http_body_util::BodyExt;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::{
    HOME,
    context::{Chunk, Context, Run},
    contexts::{Error, PYTHON, Table},
    variables,
};
use crate::{
    state::Envd,
    trace::{TraceId, Traceparent},
    wire::CODE_HEADER,
};

/// Longest body of a request (bytes).
const MAX_BODY: usize = 16 << 20;

/// A longer one is read up to here, so that its client is there to hear that it is too long.
const MAX_READ: usize = 64 << 20;

/// Chunks of lines on their way to a client.
const CHUNKS: usize = 2;

/// A layer: answers what the gateway says is for the code interpreter.
pub(crate) async fn divert(
    State(envd): State<Arc<Envd>>,
    request: Request,
    next: Next,
) -> Response {
    if request.headers().contains_key(CODE_HEADER) {
        return answer(&envd, request).await.into_response();
    }
    next.run(request).await
}

/// `POST /warm`, from the gateway alone: returns when the default Python kernel answers.
pub(crate) async fn warm(State(envd): State<Arc<Envd>>) -> Result<StatusCode, Refusal> {
    let table = envd.contexts.table(&envd).await;
    let context = table.default(&envd, PYTHON).await?;
    let started = context.start().await.map_err(|_| Error::NotFound(context.id.clone()))?;
    started.map_err(Error::Failed)?;
    Ok(StatusCode::NO_CONTENT)
}

/// In plain text.
pub(crate) struct Refusal(StatusCode, String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, self.1).into_response()
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let status = match error {
            Error::NotFound(_) => StatusCode::NOT_FOUND,
            Error::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Error::TooMany => StatusCode::TOO_MANY_REQUESTS,
        };
        Self(status, error.to_string())
    }
}

fn bad(text: impl Into<String>) -> Refusal {
    Refusal(StatusCode::BAD_REQUEST, text.into())
}

async fn answer(envd: &Arc<Envd>, request: Request) -> Result<Response, Refusal> {
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    let segments: Vec<_> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    let allowed = match segments[..] {
        ["health"] => &[Method::GET, Method::HEAD][..],
        ["execute"] | ["contexts", _, "restart"] => &[Method::POST],
        ["contexts"] => &[Method::GET, Method::HEAD, Method::POST],
        ["contexts", _] => &[Method::DELETE],
        _ => return Err(Refusal(StatusCode::NOT_FOUND, "no such route".into())),
    };
    if !allowed.contains(&head.method) {
        return Err(Refusal(StatusCode::METHOD_NOT_ALLOWED, "method not allowed".into()));
    }
    if let ["health"] = segments[..] {
        return Ok(Json("OK").into_response());
    }
    let table = envd.contexts.table(envd).await;
    match (&head.method, &segments[..]) {
        (_, ["execute"]) => {
            let trace = Traceparent::of(&head.headers).map(|traceparent| traceparent.trace);
            execute(envd, table, body, trace).await
        }
        (&Method::POST, ["contexts"]) => create(envd, table, body).await,
        (_, ["contexts"]) => {
            let all = table.all();
            Ok(Json(all.iter().map(|context| shown(context)).collect::<Vec<_>>()).into_response())
        }
        (_, ["contexts", id, "restart"]) => {
            let context = table.find(id)?;
            let restarted = context.restart().await;
            let restarted = restarted.map_err(|_| Error::NotFound((*id).to_owned()))?;
            restarted
                .map_err(|why| Error::Failed(format!("Failed to restart context {id}: {why}")))?;
            Ok(Json(Value::Null).into_response())
        }
        (_, ["contexts", id]) => {
            table.remove(id).await?;
            Ok(Json(Value::Null).into_response())
        }
        _ => Err(Refusal(StatusCode::NOT_FOUND, "no such route".into())),
    }
}

fn shown(context: &Context) -> Value {
    json!({"id": context.id, "language": context.language, "cwd": context.cwd})
}

#[derive(Deserialize)]
struct ExecuteBody {
    code: String,
    context_id: Option<String>,
    language: Option<String>,
    env_vars: Option<BTreeMap<String, String>>,
}

async fn execute(
    envd: &Arc<Envd>,
    table: &Table,
    body: Body,
    trace: Option<TraceId>,
) -> Result<Response, Refusal> {
    let (body, room) = receive(&table.room, body).await?;
    let ExecuteBody { code, context_id, language, env_vars } = parse(&body)?;
    drop(body);
    let env = env_vars.unwrap_or_default();
    let context_id = context_id.filter(|id| !id.is_empty());
    let language = language.filter(|language| !language.trim().is_empty());
    if context_id.is_some() && language.is_some() {
        return Err(bad("Only one of context_id or language can be provided"));
    }
    let is_variable = |name: &str| !name.is_empty() && !name.contains(['=', '\0']);
    if !env.iter().all(|(name, value)| is_variable(name) && !value.contains('\0')) {
        return Err(bad(
            "env_vars: names cannot be empty or contain '=', and nothing contains NUL",
        ));
    }
    let context = match context_id {
        Some(id) => table.find(&id)?,
        None => table.default(envd, language.as_deref().unwrap_or(PYTHON)).await?,
    };
    if !env.is_empty() && !variables::can_be_set(&context.language) {
        return Err(bad(format!("env_vars cannot be set in {}", context.language)));
    }
    let (lines, chunks) = mpsc::channel(CHUNKS);
    let run = Run { code, env, lines, room, trace };
    context.run(run).map_err(|_| Error::NotFound(context.id.clone()))?;
    let kind = HeaderValue::from_static("application/x-ndjson");
    Ok(([(header::CONTENT_TYPE, kind)], lines_of(chunks)).into_response())
}

/// Breaks off where the last lines are missing, rather than to end as if they had come.
fn lines_of(mut chunks: mpsc::Receiver<Chunk>) -> Body {
    let mut over = false;
    Body::from_stream(stream::poll_fn(move |cx| {
        chunks.poll_recv(cx).map(|chunk| match chunk {
            Some(Chunk { lines, is_last }) => {
                over = is_last;
                Some(Ok(lines))
            }
            None if over => None,
            None => {
                over = true;
                Some(Err(io::Error::other("the last lines were not taken in time")))
            }
        })
    }))
}

#[derive(Deserialize)]
struct CreateBody {
    language: Option<String>,
    cwd: Option<String>,
}

async fn create(envd: &Arc<Envd>, table: &Table, body: Body) -> Result<Response, Refusal> {
    let (body, _room) = receive(&table.room, body).await?;
    let CreateBody { language, cwd } = parse(&body)?;
    let language = language.filter(|language| !language.trim().is_empty());
    let cwd = cwd.filter(|cwd| !cwd.is_empty());
    let (language, cwd) = (language.as_deref().unwrap_or(PYTHON), cwd.as_deref().unwrap_or(HOME));
    let context = table.create(envd, language, cwd).await?;
    Ok(Json(shown(&context)).into_response())
}

fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|error| bad(format!("invalid request body: {error}")))
}

/// All of a request's body, and its share of what may wait.
async fn receive(
    room: &Arc<Semaphore>,
    mut body: Body,
) -> Result<(Vec<u8>, OwnedSemaphorePermit), Refusal> {
    let mut share = room.clone().try_acquire_many_owned(0).map_err(|_| full())?;
    let (mut whole, mut read) = (Vec::new(), 0);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| bad(format!("the request broke off: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        read += data.len();
        if read > MAX_READ {
            break;
        }
        if read > MAX_BODY {
            whole = Vec::new();
            continue;
        }
        let more = u32::try_from(data.len()).unwrap_or(u32::MAX);
        share.merge(room.clone().try_acquire_many_owned(more).map_err(|_| full())?);
        whole.extend_from_slice(&data);
    }
    if read > MAX_BODY {
        let text = format!("the request is longer than {} MiB", MAX_BODY >> 20);
        return Err(Refusal(StatusCode::PAYLOAD_TOO_LARGE, text));
    }
    Ok((whole, share))
}

fn full() -> Refusal {
    let text = "too much code waits for its turn in this sandbox";
    Refusal(StatusCode::TOO_MANY_REQUESTS, text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_answer_without_its_last_lines_is_seen_to_be_broken() {
        for (lasts, whole) in [(&[false, true][..], true), (&[false, false], false), (&[], false)] {
            let (sender, chunks) = mpsc::channel(CHUNKS);
            for &is_last in lasts {
                sender.try_send(Chunk { lines: "{}\n".into(), is_last }).ok().unwrap();
            }
            drop(sender);
            assert_eq!(lines_of(chunks).collect().await.is_ok(), whole, "{lasts:?}");
        }
    }
}
