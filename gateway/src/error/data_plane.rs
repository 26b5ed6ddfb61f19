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
use crate::metrics::Denied;

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
    /// Its ports are not everybody's.
    #[error(
        "Sandbox is secured with traffic access token. Token header 'e2b-traffic-access-token' is \
         missing"
    )]
    NoTrafficToken { sandbox_id: String },
    #[error(
        "Sandbox is secured with traffic access token. Provided token in header \
         'e2b-traffic-access-token' is invalid"
    )]
    TrafficToken { sandbox_id: String },
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
    /// It has as many as it may; `connect`: the content type of who reads that in the words of
    /// Connect's streams.
    #[error("The sandbox has as many streams open as it may have")]
    Streams { sandbox_id: String, connect: Option<&'static str> },
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
    #[schema(minimum = 403, maximum = 502)]
    code: u16,
}

impl DataPlaneError {
    /// One of each, for the document.
    pub(super) fn each() -> [Self; 17] {
        let (sandbox_id, port) = (EXAMPLE_ID.to_owned(), 8080);
        [
            Self::RoutingHeaders,
            Self::SandboxId,
            Self::Port,
            Self::Host,
            Self::TransferEncoding,
            Self::Signature,
            Self::AccessToken,
            Self::NoTrafficToken { sandbox_id: sandbox_id.clone() },
            Self::TrafficToken { sandbox_id: sandbox_id.clone() },
            Self::Internal,
            Self::Connect,
            Self::NotFound { sandbox_id: sandbox_id.clone() },
            Self::Cut { sandbox_id: sandbox_id.clone() },
            Self::PortClosed { sandbox_id: sandbox_id.clone(), port },
            Self::Streams { sandbox_id: sandbox_id.clone(), connect: None },
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
            Self::NoTrafficToken { .. } | Self::TrafficToken { .. } => StatusCode::FORBIDDEN,
            Self::Internal => StatusCode::NOT_FOUND,
            Self::Connect => StatusCode::METHOD_NOT_ALLOWED,
            // The end of such a stream is in its body.
            Self::Streams { connect: Some(_), .. } => StatusCode::OK,
            Self::Streams { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::NotFound { .. }
            | Self::Cut { .. }
            | Self::PortClosed { .. }
            | Self::Unreachable { .. }
            | Self::BadResponse { .. } => StatusCode::BAD_GATEWAY,
        }
    }

    /// Why whoever asked was refused, where that is what an answer of envd's own says.
    pub(crate) fn denial_of(answered: StatusCode) -> Option<Denied> {
        (answered == StatusCode::UNAUTHORIZED).then_some(Denied::WrongToken)
    }

    /// Why whoever asked was refused, where that is what it says.
    pub(crate) fn denial(&self) -> Option<Denied> {
        match self {
            Self::Signature
            | Self::AccessToken
            | Self::NoTrafficToken { .. }
            | Self::TrafficToken { .. } => Some(Denied::WrongToken),
            Self::Internal => Some(Denied::Internal),
            Self::Streams { .. } => Some(Denied::Streams),
            _ => None,
        }
    }

    /// The sandbox it is about, and its port where that says more.
    fn subject(&self) -> Option<(&str, Option<u16>)> {
        match self {
            Self::NotFound { sandbox_id }
            | Self::Cut { sandbox_id }
            | Self::NoTrafficToken { sandbox_id }
            | Self::TrafficToken { sandbox_id }
            | Self::Streams { sandbox_id, .. } => Some((sandbox_id, None)),
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

    /// Seconds after which it may be tried again.
    pub(super) fn retry_after(&self) -> Option<u32> {
        matches!(self, Self::Streams { .. }).then_some(1)
    }

    pub(super) fn body(&self) -> Vec<u8> {
        let (code, message) = (self.status().as_u16(), &*self.to_string());
        match self.subject() {
            Some((sandbox_id, port)) => {
                serde_json::to_vec(&SandboxBody { sandbox_id, message, port, code })
            }
            None => {
                serde_json::to_vec(&ErrorBody { code, message: message.into(), error_code: None })
            }
        }
        .expect("strings and numbers always serialise")
    }

    /// The end of a stream of Connect's, and nothing before it: its only code that says so.
    fn end_of_stream(&self) -> Vec<u8> {
        const ENDS: u8 = 2;
        let error = serde_json::json!({"code": "resource_exhausted", "message": self.to_string()});
        let text = serde_json::json!({"error": error}).to_string();
        let length = u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes();
        [&[ENDS], &length[..], text.as_bytes()].concat()
    }

    pub fn into_response(self) -> Response<Body> {
        let (body, kind) = match self {
            Self::Streams { connect: Some(kind), .. } => (self.end_of_stream(), kind),
            _ => (self.body(), "application/json"),
        };
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        if let Some(seconds) = self.retry_after() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
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

    #[tokio::test]
    async fn one_stream_too_many_is_said_in_the_words_of_whoever_asked() {
        let refused = |connect| DataPlaneError::Streams { sandbox_id: "a1".into(), connect };
        let body = r#"{"sandboxId":"a1","message":"The sandbox has as many streams open as it may have","code":429}"#;
        check(refused(None), 429, body).await;
        let response = refused(Some("application/connect+proto")).into_response();
        assert_eq!(
            (response.status(), &response.headers()["retry-after"]),
            (StatusCode::OK, &HeaderValue::from(1))
        );
        assert_eq!(response.headers()["content-type"], "application/connect+proto");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(
            (body[0], u32::from_be_bytes(body[1..5].try_into().unwrap())),
            (2, body.len() as u32 - 5)
        );
        let said: serde_json::Value = serde_json::from_slice(&body[5..]).unwrap();
        assert_eq!(said["error"]["code"], "resource_exhausted");
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
