//! What the data plane answers in the place of a sandbox.
//!
//! SDKs search the 502 texts for "was not found" and "port is not open" to tell a sandbox that has
//! ended from a server that is not there yet: they are part of the protocol.

use axum::{
    body::Body,
    http::{HeaderValue, Response, StatusCode, header},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{ErrorBody, NO, SHOULD_RETRY, routed::EXAMPLE_ID};

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DataPlaneError {
    #[error("E2b-Sandbox-Id and E2b-Sandbox-Port must be sent together, once each")]
    RoutingHeaders,
    #[error("invalid sandbox ID")]
    SandboxId,
    #[error("invalid sandbox port")]
    Port,
    #[error("invalid host")]
    Host,
    #[error("transfer encodings other than chunked are not supported")]
    TransferEncoding,
    /// No sandbox's token makes the signature of a URL without a sandbox in it.
    #[error("invalid signature")]
    Signature,
    /// The same, of a token sent in a header.
    #[error("access token present in header but does not match")]
    AccessToken,
    /// A route of envd's that is for the gateway alone.
    #[error("not found")]
    Internal,
    #[error("CONNECT is not supported")]
    Connect,
    /// Unknown, ended, or ending.
    #[error("The sandbox was not found")]
    NotFound { sandbox_id: String },
    /// Ended or paused when it had been sent some of the request.
    #[error("The sandbox was not found")]
    Cut { sandbox_id: String },
    #[error("The sandbox is running but port is not open")]
    PortClosed { sandbox_id: String, port: u16 },
    /// It does not accept connections, or not in time.
    #[error("The sandbox did not accept the connection")]
    Unreachable { sandbox_id: String, port: u16 },
    /// It answered something that is not HTTP, too much of it, or hung up.
    #[error("The sandbox sent an invalid response")]
    BadResponse { sandbox_id: String, port: u16 },
}

/// Of what is about a sandbox. The order of the fields is the one clients have seen so far.
#[derive(Serialize, ToSchema)]
#[schema(as = SandboxError)]
#[serde(rename_all = "camelCase")]
pub(super) struct SandboxBody<'a> {
    /// As it was asked for, whether there is one or not.
    sandbox_id: &'a str,
    /// "was not found" is in it when the sandbox is not there, "port is not open" when it is and
    /// nothing listens there.
    message: &'a str,
    /// Where it says more.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = u16, required = false, minimum = 1)]
    port: Option<u16>,
    /// The HTTP status.
    #[schema(minimum = 502, maximum = 502)]
    code: u16,
}

impl DataPlaneError {
    /// One of each, for the document.
    pub(super) fn each() -> [Self; 14] {
        let (sandbox_id, port) = (EXAMPLE_ID.to_owned(), 8080);
        [
            Self::RoutingHeaders,
            Self::SandboxId,
            Self::Port,
            Self::Host,
            Self::TransferEncoding,
            Self::Signature,
            Self::AccessToken,
            Self::Internal,
            Self::Connect,
            Self::NotFound { sandbox_id: sandbox_id.clone() },
            Self::Cut { sandbox_id: sandbox_id.clone() },
            Self::PortClosed { sandbox_id: sandbox_id.clone(), port },
            Self::Unreachable { sandbox_id: sandbox_id.clone(), port },
            Self::BadResponse { sandbox_id, port },
        ]
    }

    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::RoutingHeaders
            | Self::SandboxId
            | Self::Port
            | Self::Host
            | Self::TransferEncoding => StatusCode::BAD_REQUEST,
            Self::Signature | Self::AccessToken => StatusCode::UNAUTHORIZED,
            Self::Internal => StatusCode::NOT_FOUND,
            Self::Connect => StatusCode::METHOD_NOT_ALLOWED,
            Self::NotFound { .. }
            | Self::Cut { .. }
            | Self::PortClosed { .. }
            | Self::Unreachable { .. }
            | Self::BadResponse { .. } => StatusCode::BAD_GATEWAY,
        }
    }

    /// The sandbox it is about, and its port where that says more.
    fn subject(&self) -> Option<(&str, Option<u16>)> {
        match self {
            Self::NotFound { sandbox_id } | Self::Cut { sandbox_id } => Some((sandbox_id, None)),
            Self::PortClosed { sandbox_id, port }
            | Self::Unreachable { sandbox_id, port }
            | Self::BadResponse { sandbox_id, port } => Some((sandbox_id, Some(*port))),
            _ => None,
        }
    }

    /// Then it had better not be sent again.
    pub(super) fn may_have_had_its_effect(&self) -> bool {
        matches!(self, Self::BadResponse { .. } | Self::Cut { .. })
    }

    pub(super) fn body(&self) -> Vec<u8> {
        let (code, message) = (self.status().as_u16(), &*self.to_string());
        match self.subject() {
            Some((sandbox_id, port)) => {
                serde_json::to_vec(&SandboxBody { sandbox_id, message, port, code })
            }
            None => serde_json::to_vec(&ErrorBody { code, message, error_code: None }),
        }
        .expect("strings and numbers always serialise")
    }

    pub fn into_response(self) -> Response<Body> {
        let mut response = Response::new(Body::from(self.body()));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        // A web page may read them, as it may what envd answers: they tell nothing to who does not
        // know a sandbox's id or its token.
        let any = HeaderValue::from_static("*");
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, any.clone());
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, any);
        if self.may_have_had_its_effect() {
            headers.insert(SHOULD_RETRY, NO);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    async fn check(error: DataPlaneError, status: u16, expect: &str) {
        let response = error.into_response();
        assert_eq!(response.status(), status);
        assert_eq!(response.headers()["content-type"], "application/json");
        assert_eq!(response.headers()["access-control-allow-origin"], "*");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, expect);
    }

    #[tokio::test]
    async fn bodies_are_what_sdks_search_in() {
        let sandbox_id = "a1".to_owned();
        check(
            DataPlaneError::NotFound { sandbox_id: sandbox_id.clone() },
            502,
            r#"{"sandboxId":"a1","message":"The sandbox was not found","code":502}"#,
        )
        .await;
        check(
            DataPlaneError::PortClosed { sandbox_id, port: 8080 },
            502,
            r#"{"sandboxId":"a1","message":"The sandbox is running but port is not open","port":8080,"code":502}"#,
        )
        .await;
        check(DataPlaneError::Port, 400, r#"{"code":400,"message":"invalid sandbox port"}"#).await;
    }

    #[test]
    fn only_what_may_have_had_its_effect_is_not_to_be_sent_again() {
        let (sandbox_id, port) = ("a1".to_owned(), 8080);
        let sent = DataPlaneError::BadResponse { sandbox_id: sandbox_id.clone(), port };
        assert_eq!(sent.into_response().headers()["should-retry"], "false");
        for not_sent in [
            DataPlaneError::PortClosed { sandbox_id: sandbox_id.clone(), port },
            DataPlaneError::Unreachable { sandbox_id: sandbox_id.clone(), port },
            DataPlaneError::NotFound { sandbox_id },
        ] {
            assert!(!not_sent.into_response().headers().contains_key("should-retry"));
        }
    }
}
