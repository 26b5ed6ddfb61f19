//! The statuses of refusals. Those that mean "later" cannot be had without saying when.

use axum::http::StatusCode;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    BadRequest,
    Unauthorized,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    RequestTimeout,
    Conflict,
    TooLarge,
    Unprocessable,
    /// Seconds.
    TooMany {
        retry_after: u32,
    },
    Internal,
    NotImplemented,
    /// Seconds.
    Unavailable {
        retry_after: u32,
    },
    StartTimeout,
    DiskFull,
}

impl Status {
    pub(super) fn code(self) -> StatusCode {
        match self {
            Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::Conflict => StatusCode::CONFLICT,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Unprocessable => StatusCode::UNPROCESSABLE_ENTITY,
            Self::TooMany { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::NotImplemented => StatusCode::NOT_IMPLEMENTED,
            Self::Unavailable { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::StartTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::DiskFull => StatusCode::INSUFFICIENT_STORAGE,
        }
    }

    pub(super) fn retry_after(self) -> Option<u32> {
        match self {
            Self::TooMany { retry_after } | Self::Unavailable { retry_after } => Some(retry_after),
            _ => None,
        }
    }
}
