//! What can go wrong with a filesystem call, and the Connect code each has.

use std::io;

use connectrpc::{ConnectError, ErrorCode};

use crate::{paths, users::UnknownUser};

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("invalid username: '{}'", .0.0)]
    User(UnknownUser),
    #[error(transparent)]
    Path(#[from] paths::Invalid),
    #[error("{0}")]
    Invalid(String),
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    Exists(String),
    #[error("{0}")]
    Precondition(String),
    #[error("{0}")]
    Exhausted(String),
    #[error("{doing}: {source}")]
    Io { doing: String, source: io::Error },
}

impl Error {
    /// `doing` says what failed on which path, e.g. `creating directory '/x'`.
    pub(crate) fn io(doing: impl Into<String>, source: io::Error) -> Self {
        Self::Io { doing: doing.into(), source }
    }
}

impl From<Error> for ConnectError {
    fn from(error: Error) -> Self {
        let code = match &error {
            Error::User(_) => ErrorCode::Unauthenticated,
            Error::Path(_) | Error::Invalid(_) => ErrorCode::InvalidArgument,
            Error::NotFound(_) => ErrorCode::NotFound,
            Error::Exists(_) => ErrorCode::AlreadyExists,
            Error::Precondition(_) => ErrorCode::FailedPrecondition,
            Error::Exhausted(_) => ErrorCode::ResourceExhausted,
            Error::Io { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    ErrorCode::ResourceExhausted
                }
                io::ErrorKind::NotADirectory | io::ErrorKind::InvalidFilename => {
                    ErrorCode::InvalidArgument
                }
                _ => ErrorCode::Internal,
            },
        };
        Self::new(code, error.to_string())
    }
}
