//! How refusals stand in the OpenAPI document, in groups that a handler names among its
//! `responses`. That each status there can really come, and no other, is what the control plane's
//! tests prove.

use std::collections::BTreeMap;

use axum::http::header;
use utoipa::{
    IntoResponses, ToSchema,
    openapi::{
        ContentBuilder, HeaderBuilder, Ref, RefOr, Response, ResponseBuilder,
        schema::{ObjectBuilder, Type},
    },
};

use super::{ErrorBody, SHOULD_RETRY, Status};

type Responses = BTreeMap<String, RefOr<Response>>;

const UNAVAILABLE: Status = Status::Unavailable { retry_after: 0 };
const TOO_MANY: Status = Status::TooMany { retry_after: 0 };

macro_rules! groups {
    ($($(#[$doc:meta])* $group:ident { $($status:expr => $text:literal,)+ })+) => {
        $(
            $(#[$doc])*
            pub(crate) struct $group;

            impl IntoResponses for $group {
                fn responses() -> Responses {
                    BTreeMap::from([$(documented($status, $text)),+])
                }
            }
        )+
    };
}

groups! {
    /// Of every call with a body.
    InvalidBody {
        Status::BadRequest => "the body, or something else in the request, is not valid",
        Status::RequestTimeout => "the body did not come in time",
        Status::TooLarge => "the body is too large",
    }
    InvalidQuery {
        Status::BadRequest => "a parameter is not valid",
    }
    /// Of every call on one sandbox.
    NoSandbox {
        Status::BadRequest => "the id, or something else in the request, is not valid",
        Status::NotFound => "there is no such sandbox",
    }
    NoTemplate {
        Status::BadRequest => "the name, or something else in the request, is not valid",
        Status::NotFound => "there is no such template",
        UNAVAILABLE => "the template is being built, or could not be",
    }
    NoSandboxMade {
        Status::NotFound => "there is no such template",
        Status::Conflict => "it was killed before it was ready",
        Status::Unprocessable => "the Idempotency-Key came before with a different request",
        Status::Internal => "something failed inside; the gateway's log has it",
        UNAVAILABLE => "there is no room, or the template is being built",
        Status::StartTimeout => "it did not start in time; nothing is left of it",
        Status::DiskFull => "there is no room on the disk",
    }
    /// Of what a tenant may have or do so much of.
    TooMany {
        TOO_MANY => "the tenant has as many as it may, or has made as many in a minute",
    }
    /// Of what agents tell.
    TooManyTold {
        TOO_MANY => "more was told of the sandbox than may be in a second",
    }
    TooManyWatch {
        TOO_MANY => "as many watch as may",
    }
    /// Of whoever copies a sandbox's files.
    NotCopied {
        Status::Conflict => "it is paused, or about to be, or a template has that name",
        Status::Internal => "something failed inside; the gateway's log has it",
        UNAVAILABLE => "it is being copied already, or others are",
        Status::StartTimeout => "it could not be copied in time, and runs on",
        Status::DiskFull => "there is no room on the disk but what is kept free",
    }
    NoSnapshot {
        Status::BadRequest => "the name is not valid, or there are sandboxes made from it",
        Status::NotFound => "there is no such snapshot",
    }
    NoPool {
        Status::BadRequest => "the name, or something else in the request, is not valid",
        Status::NotFound => "there is no such pool",
    }
    PoolNotMade {
        Status::NotFound => "there is no such template",
        Status::Conflict => "there is a pool of that name",
        Status::Internal => "something failed inside; the gateway's log has it",
    }
    PoolNotChanged {
        Status::Conflict => "it is one of the gateway's settings",
        Status::Internal => "something failed inside; the gateway's log has it",
    }
    NoBatch {
        Status::BadRequest => "the id, or something else in the request, is not valid",
        Status::NotFound => "there is no such batch",
    }
    NoBatchMade {
        Status::NotFound => "there is no such template",
        Status::Unprocessable => "the Idempotency-Key came before with a different request",
        Status::Internal => "something failed inside; the gateway's log has it",
        UNAVAILABLE => "the template is being built, or could not be",
    }
    BatchNotDeleted {
        Status::Internal => "something failed inside; the gateway's log has it",
    }
    Resumed {
        Status::Conflict => "it is running, or being killed",
    }
    /// Of what takes a sandbox in any phase but the last.
    BeingKilled {
        Status::Conflict => "it is being killed",
    }
    /// Of what takes a sandbox that runs.
    NotNow {
        Status::Conflict => "it is about to be paused, or to go on, or being killed",
    }
    /// Of what asks the envd of a sandbox.
    NoAnswer {
        Status::Conflict => "it is paused, or about to be, or being killed",
        UNAVAILABLE => "its envd does not answer",
    }
    NoFigures {
        UNAVAILABLE => "nothing is known of what it uses yet",
    }
    TooManyStreams {
        TOO_MANY => "there are as many of them as there may be at once",
    }
    NoAgent {
        Status::BadRequest => "it has no sandboxes, or something in the request is not valid",
        Status::NotFound => "there is no such agent",
    }
    /// Of what changes what a sandbox may reach.
    NotFenced {
        Status::Conflict => "it is paused, or about to be, or being killed",
        Status::Internal => "something failed inside; the gateway's log has it",
        Status::StartTimeout => "it could not be done in time",
    }
    NotPaused {
        Status::Conflict => "it is paused already, or about to be, or being killed",
        Status::Internal => "something failed inside; the gateway's log has it",
        UNAVAILABLE => "its envd does not answer, or its files are being copied",
        Status::StartTimeout => "it could not be stopped in time, and runs on",
    }
    NotResumed {
        Status::Conflict => "its envd did not answer when it was paused: only without memory",
        UNAVAILABLE => "there is no room for its processes",
        Status::DiskFull => "there is no room on the disk",
        Status::Internal => "something failed inside; the gateway's log has it",
        Status::StartTimeout => "it did not go on in time, and is paused",
    }
    NotReady {
        UNAVAILABLE => "no sandbox can be made yet",
    }
    NoWebhook {
        Status::BadRequest => "the id, or something else in the request, is not valid",
        Status::NotFound => "there is no such webhook",
    }
    /// Of what is written to a file of its own.
    NotKept {
        Status::Internal => "something failed inside; the gateway's log has it",
    }
    NotImplemented {
        Status::NotImplemented => "E2B has it, this gateway does not yet",
    }
}

/// What every call behind the keys may get.
pub(crate) fn guarded() -> Responses {
    BTreeMap::from([
        documented(Status::Unauthorized, "no API key, or not a known one"),
        documented(
            Status::Forbidden,
            "the API key is not for this; without API keys configured, a host name or a web page that \
             is not the machine's own",
        ),
    ])
}

fn documented(status: Status, text: &str) -> (String, RefOr<Response>) {
    let schema = Ref::from_schema_name(ErrorBody::name());
    let mut response = ResponseBuilder::new()
        .description(text)
        .content("application/json", ContentBuilder::new().schema(Some(schema)).build());
    if status.retry_after().is_some() {
        let seconds = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(0));
        let retry_after = HeaderBuilder::new()
            .schema(seconds)
            .description(Some("seconds after which to try again"));
        let should_retry = HeaderBuilder::new()
            .schema(ObjectBuilder::new().schema_type(Type::String))
            .description(Some("`false` where trying again is of no use"));
        response = response
            .header(header::RETRY_AFTER.as_str(), retry_after.build())
            .header(SHOULD_RETRY.as_str(), should_retry.build());
    }
    (status.code().as_u16().to_string(), RefOr::T(response.build()))
}
