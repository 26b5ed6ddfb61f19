//! Batches: many sandboxes that are alike, with one call.

use std::{collections::BTreeMap, time::Duration};

use axum::{
    Extension, Json,
    extract::{FromRequestParts, Path, State},
    http::{HeaderMap, StatusCode, request::Parts},
};
use serde::{Deserialize, Serialize};
use utoipa::{
    IntoParams, ToSchema,
    openapi::{
        Required,
        path::{Parameter, ParameterBuilder, ParameterIn},
        schema::{ObjectBuilder, Type},
    },
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    create::{NewSandbox, V2_TIMEOUT, idempotency_key, is_variable, variables},
    extract::{ApiJson, Parameters},
    name::TemplateName,
    pools::whole,
    shape::time,
};
use crate::{
    Gateway,
    audit::Made,
    auth::Caller,
    error::{ApiError, BatchNotDeleted, InvalidBody, NoBatch, NoBatchMade, TooMany},
    sandbox::{
        self, BatchId, BatchState, MOST_REPLICAS, Phase, SeenBatch, SeenMember, TaskState, Wanted,
    },
};

/// The longest that a request waits for what it asked for (seconds).
const LONGEST_WAIT: u64 = 60;
const MOST_WORDS: usize = 1024;
/// Of a task (seconds).
const LONGEST_TASK: usize = 2_147_483_647;

pub(super) fn routes() -> OpenApiRouter<Gateway> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(show, delete))
}

/// The batch a path names.
struct BatchPath(BatchId);

impl<S: Send + Sync> FromRequestParts<S> for BatchPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let invalid = || ApiError::bad_request("Invalid batch ID");
        let path = Path::<String>::from_request_parts(parts, state).await;
        let Path(text) = path.map_err(|_| invalid())?;
        if !text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()) {
            return Err(invalid());
        }
        // Well-formed, but none that we give out.
        let none = || ApiError::not_found(format!("batch {text} is not there"));
        text.parse().map(Self).map_err(|_| none())
    }
}

impl IntoParams for BatchPath {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let id = ObjectBuilder::new().schema_type(Type::String).pattern(Some("^[a-z0-9]+$"));
        let id = ParameterBuilder::new()
            .name("id")
            .parameter_in(ParameterIn::Path)
            .required(Required::True)
            .description(Some("of a batch"))
            .schema(Some(id));
        vec![id.build()]
    }
}

/// What is run in each sandbox of a batch, as soon as that is there.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NewTask {
    /// A program and its arguments. No shell reads it, unless it is one: `["sh", "-c", "…"]`.
    #[schema(schema_with = words)]
    command: Vec<String>,
    /// Beside those of the sandbox.
    #[schema(schema_with = variables, required = false)]
    env_vars: Option<BTreeMap<String, String>>,
    /// Where it is run; without it, where commands of clients are.
    #[schema(pattern = r"^[^\u0000]*$")]
    working_dir: Option<String>,
    /// As whom it is run; without it, as whom commands of clients are.
    #[schema(pattern = r"^[^\u0000]*$")]
    user: Option<String>,
    /// After so many seconds it is killed, and has failed.
    #[serde(default, deserialize_with = "some_whole")]
    #[schema(value_type = Option<usize>, minimum = 1, maximum = 2147483647)]
    timeout_seconds: Option<usize>,
}

fn some_whole<'de, D: serde::Deserializer<'de>>(number: D) -> Result<Option<usize>, D::Error> {
    #[derive(Deserialize)]
    struct Whole(#[serde(deserialize_with = "whole")] usize);
    Ok(Option::<Whole>::deserialize(number)?.map(|Whole(number)| number))
}

fn words() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
    let word = ObjectBuilder::new().schema_type(Type::String).pattern(Some(r"^[^\u0000]*$"));
    utoipa::openapi::schema::ArrayBuilder::new()
        .items(word)
        .min_items(Some(1))
        .max_items(Some(MOST_WORDS))
        .into()
}

impl NewTask {
    fn checked(self) -> Result<sandbox::Task, ApiError> {
        let wrong = |why: String| ApiError::bad_request(format!("task: {why}"));
        let Self { command, env_vars, working_dir, user, timeout_seconds } = self;
        if !(1..=MOST_WORDS).contains(&command.len()) {
            return Err(wrong(format!("command must have 1 to {MOST_WORDS} words")));
        }
        let texts = command.iter().chain(&working_dir).chain(&user);
        if texts.into_iter().any(|text| text.contains('\0')) {
            return Err(wrong("no text in it can have a zero byte".to_owned()));
        }
        let env_vars = env_vars.unwrap_or_default();
        if let Some((name, _)) = env_vars.iter().find(|(name, value)| !is_variable(name, value)) {
            return Err(wrong(format!("envVars: {name:?} cannot be an environment variable")));
        }
        if timeout_seconds.is_some_and(|seconds| !(1..=LONGEST_TASK).contains(&seconds)) {
            return Err(wrong(format!("timeoutSeconds must be between 1 and {LONGEST_TASK}")));
        }
        let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
        Ok(sandbox::Task {
            command,
            env_vars,
            cwd: filled(working_dir),
            user: filled(user),
            timeout: timeout_seconds.map(|seconds| seconds as u64),
        })
    }
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewBatch {
    /// How many sandboxes, of as many as there may be, as the tenant may have and make in a minute, and
    /// as the agent may have that the metadata names.
    #[schema(minimum = 1, maximum = 1000)]
    replicas: i64,
    /// A template's name.
    #[serde(rename = "templateID")]
    #[schema(value_type = TemplateName)]
    template_id: String,
    /// Seconds until all of them end, whenever they were made; 300 if left out.
    #[schema(minimum = 1)]
    timeout: Option<i64>,
    /// Of each sandbox, and of the batch; keys mean what they mean in a create.
    metadata: Option<BTreeMap<String, String>>,
    #[serde(rename = "envVars")]
    #[schema(schema_with = variables, required = false)]
    env_vars: Option<BTreeMap<String, String>>,
    /// Without it, what the gateway is configured for.
    allow_internet_access: Option<bool>,
    task: Option<NewTask>,
}

/// As OpenSandbox tells it.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Batch {
    #[serde(rename = "batchID")]
    batch_id: String,
    #[serde(rename = "templateID")]
    template_id: String,
    metadata: BTreeMap<String, String>,
    state: Stage,
    /// Why a sandbox could not be made last; left out where none lacks.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    reason: Option<&'static str>,
    /// The same, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    message: Option<&'static str>,
    /// Sandboxes that were asked for.
    desired: usize,
    /// That are there, or being made.
    total: usize,
    /// That are there.
    allocated: usize,
    /// That run.
    ready: usize,
    /// That were there and have ended; none is made in their place.
    ended: usize,
    /// That could not be made.
    failed: usize,
    /// Of tasks; all are 0 where there is none.
    task_pending: usize,
    task_running: usize,
    task_succeed: usize,
    task_failed: usize,
    /// Whose end nobody saw.
    task_unknown: usize,
    /// The end of what a task that failed said last; left out while none has.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    task_last_error_message: Option<String>,
    #[schema(format = DateTime)]
    created_at: String,
    /// When all of it ends.
    #[schema(format = DateTime)]
    expires_at: String,
}

#[derive(Serialize, ToSchema)]
#[schema(as = BatchState)]
enum Stage {
    Provisioning,
    Running,
    PartialFailed,
    Failed,
    Terminated,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct BatchDetail {
    #[serde(flatten)]
    batch: Batch,
    /// All that were ever made for it, in the order in which they were.
    sandboxes: Vec<BatchMember>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct BatchMember {
    index: usize,
    #[serde(rename = "sandboxID")]
    sandbox_id: String,
    /// `Terminated` once it has ended, however that was.
    state: Phase,
    /// Left out where there is no task.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = TaskStage, required = false)]
    task: Option<TaskStage>,
    /// Of a task that ran to an end of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = i32, required = false)]
    exit_code: Option<i32>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = TaskState)]
enum TaskStage {
    Pending,
    Running,
    Succeed,
    Failed,
    Unknown,
}

#[derive(Serialize, ToSchema)]
struct Batches {
    items: Vec<Batch>,
}

impl From<&SeenBatch> for Batch {
    fn from(seen: &SeenBatch) -> Self {
        let tasks = seen.tasks.clone().unwrap_or_default();
        Self {
            batch_id: seen.id.to_string(),
            template_id: seen.template.clone(),
            metadata: seen.metadata.clone(),
            state: match seen.state {
                BatchState::Provisioning => Stage::Provisioning,
                BatchState::Running => Stage::Running,
                BatchState::PartialFailed => Stage::PartialFailed,
                BatchState::Failed => Stage::Failed,
                BatchState::Terminated => Stage::Terminated,
            },
            reason: seen.why.map(|why| why.code()),
            message: seen.why.map(|why| why.message()),
            desired: seen.desired,
            total: seen.total,
            allocated: seen.allocated,
            ready: seen.ready,
            ended: seen.ended,
            failed: seen.failed,
            task_pending: tasks.pending,
            task_running: tasks.running,
            task_succeed: tasks.succeeded,
            task_failed: tasks.failed,
            task_unknown: tasks.unknown,
            task_last_error_message: tasks.last_error,
            created_at: time(seen.created_at),
            expires_at: time(seen.expires_at),
        }
    }
}

impl From<SeenMember> for BatchMember {
    fn from(SeenMember { id, index, phase, task }: SeenMember) -> Self {
        let exit_code = match &task {
            Some(TaskState::Succeeded) => Some(0),
            Some(TaskState::Failed { exit_code }) => *exit_code,
            _ => None,
        };
        let task = task.map(|task| match task {
            TaskState::Pending => TaskStage::Pending,
            TaskState::Running => TaskStage::Running,
            TaskState::Succeeded => TaskStage::Succeed,
            TaskState::Failed { .. } => TaskStage::Failed,
            TaskState::Unknown => TaskStage::Unknown,
        });
        let (sandbox_id, state) = (id.to_string(), phase.unwrap_or(Phase::Terminated));
        Self { index, sandbox_id, state, task, exit_code }
    }
}

impl From<SeenBatch> for BatchDetail {
    fn from(seen: SeenBatch) -> Self {
        let batch = Batch::from(&seen);
        Self { batch, sandboxes: seen.members.into_iter().map(BatchMember::from).collect() }
    }
}

/// Makes a batch, and answers when it is there: its sandboxes are made after that, of a pool as far
/// as that goes, and those that there is no room for as soon as there is. What has ended is not made
/// again.
#[utoipa::path(post, path = "/batches", tag = "batches",
    params(
        ("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255,
            pattern = "^[ -~]*$",
            description = "the same key again, as long as there is the batch, gives the same batch"),
        ("wait" = Option<u64>, Query, minimum = 0, maximum = 60,
            description = "seconds to wait at most until all of its sandboxes were made"),
    ),
    request_body = NewBatch, responses(
        (status = 201, description = "there is such a batch", body = BatchDetail),
        InvalidBody, NoBatchMade, TooMany,
    ))]
async fn create(
    State(gateway): State<Gateway>,
    caller: Caller,
    headers: HeaderMap,
    parameters: Parameters,
    ApiJson(body): ApiJson<NewBatch>,
) -> Result<(StatusCode, Extension<Made>, Json<BatchDetail>), ApiError> {
    let key = idempotency_key(&headers)?;
    let wait = parameters.number("wait")?.unwrap_or_default();
    if wait > LONGEST_WAIT {
        return Err(ApiError::bad_request(format!("wait must be between 0 and {LONGEST_WAIT}")));
    }
    let sandboxes = gateway.sandboxes();
    let quota = &caller.owner().quota;
    let of_agent = body.metadata.as_ref().and_then(|metadata| gateway.agents().most(metadata));
    // Of a minute's creates no more are to be had at once than those.
    let a_minute = quota.creates_per_minute.map(|most| most as usize);
    let mosts = [Some(sandboxes.most()), quota.max_sandboxes, a_minute, of_agent];
    let most = mosts.into_iter().flatten().fold(MOST_REPLICAS, usize::min);
    let replicas = usize::try_from(body.replicas).unwrap_or_default();
    if !(1..=most).contains(&replicas) {
        return Err(ApiError::bad_request(format!("replicas must be between 1 and {most}")));
    }
    let task = body.task.map(NewTask::checked).transpose()?;
    let asked = NewSandbox::plain(
        body.template_id,
        body.timeout,
        body.allow_internet_access,
        body.metadata,
        body.env_vars,
    );
    let wanted = asked.wanted(V2_TIMEOUT, gateway.max_timeout())?;
    caller.allowed(&wanted.template)?;
    let wanted = Wanted { owner: caller.owner().clone(), ..wanted };
    let new = sandbox::NewBatch { wanted, replicas, task };
    let id = sandboxes.make_batch(new, key).await?;
    if wait > 0 {
        sandboxes.await_batch(caller.tenant(), id, Duration::from_secs(wait)).await;
    }
    let seen = sandboxes.see_batch(caller.tenant(), id)?;
    Ok((StatusCode::CREATED, Extension(Made(vec![id.to_string()])), Json(seen.into())))
}

/// All batches, the oldest first; those that have expired too, for an hour.
#[utoipa::path(get, path = "/batches", tag = "batches", responses(
    (status = 200, description = "all there are", body = Batches),
))]
async fn list(State(gateway): State<Gateway>, caller: Caller) -> Json<Batches> {
    let batches = gateway.sandboxes().batches(caller.tenant());
    Json(Batches { items: batches.iter().map(Batch::from).collect() })
}

/// One batch with its sandboxes.
#[utoipa::path(get, path = "/batches/{id}", tag = "batches", params(BatchPath), responses(
    (status = 200, description = "it is there", body = BatchDetail),
    NoBatch,
))]
async fn show(
    State(gateway): State<Gateway>,
    caller: Caller,
    BatchPath(id): BatchPath,
) -> Result<Json<BatchDetail>, ApiError> {
    Ok(Json(gateway.sandboxes().see_batch(caller.tenant(), id)?.into()))
}

/// Ends a batch: none of its sandboxes is left when this is answered, and none is made any more.
#[utoipa::path(delete, path = "/batches/{id}", tag = "batches", params(BatchPath), responses(
    (status = 204, description = "it is gone"),
    NoBatch, BatchNotDeleted,
))]
async fn delete(
    State(gateway): State<Gateway>,
    caller: Caller,
    BatchPath(id): BatchPath,
) -> Result<StatusCode, ApiError> {
    gateway.sandboxes().remove_batch(caller.tenant(), id).await?;
    Ok(StatusCode::NO_CONTENT)
}
