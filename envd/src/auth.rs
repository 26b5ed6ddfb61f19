//! Who may call, and as which user of the sandbox.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD},
};
use connectrpc::ConnectError;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::{
    rest::RestError,
    state::{Envd, Settings},
    users::User,
};

const ACCESS_TOKEN: &str = "x-access-token";

/// Middleware: the access token, on everything but what checks for itself or is open to all.
pub(crate) async fn require_token(
    State(envd): State<Arc<Envd>>,
    request: Request,
    next: Next,
) -> Response {
    let exempt = matches!(
        (request.method(), request.uri().path()),
        (&Method::GET | &Method::POST, "/files")
            | (&Method::GET, "/health")
            | (&Method::POST, "/init" | "/warm")
    );
    if exempt || has_token(&envd.settings(), request.headers()) != Some(false) {
        return next.run(request).await;
    }
    RestError::new(
        StatusCode::UNAUTHORIZED,
        "unauthorized access, please provide a valid access token or method signing if supported",
    )
    .into_response()
}

/// What `/files` asks for: the token, or a signature made with it. `operation` is `read` or
/// `write`; the rest is the query, decoded.
pub(crate) fn check_files(
    settings: &Settings,
    headers: &HeaderMap,
    operation: &str,
    path: Option<&str>,
    username: Option<&str>,
    signature: Option<&str>,
    signature_expiration: Option<&str>,
) -> Result<(), RestError> {
    let refuse = |message| Err(RestError::new(StatusCode::UNAUTHORIZED, message));
    let Some(token) = &settings.access_token else { return Ok(()) };
    if headers.contains_key(ACCESS_TOKEN) {
        return match has_token(settings, headers) {
            Some(true) => Ok(()),
            _ => refuse("access token present in header but does not match"),
        };
    }
    let Some(signature) = signature else { return refuse("missing signature query parameter") };
    let expected = sign(
        path.unwrap_or_default(),
        operation,
        username.unwrap_or_default(),
        token,
        signature_expiration,
    );
    if !bool::from(expected.as_bytes().ct_eq(signature.as_bytes())) {
        return refuse("invalid signature");
    }
    match signature_expiration.map(str::parse::<i64>) {
        None => Ok(()),
        Some(Ok(expiration)) if expiration >= now() => Ok(()),
        Some(Ok(_)) => refuse("signature is already expired"),
        Some(Err(_)) => refuse("invalid signature"),
    }
}

/// The user an RPC runs as: Basic auth's, or the sandbox's default.
pub(crate) fn user(envd: &Envd, headers: &HeaderMap) -> Result<User, ConnectError> {
    envd.user(user_name(headers).as_deref()).map_err(|unknown| {
        ConnectError::unauthenticated(format!("invalid username: '{}'", unknown.0))
    })
}

/// Basic authentication's user; any other scheme names none.
pub(crate) fn user_name(headers: &HeaderMap) -> Option<String> {
    basic_user(headers.get(header::AUTHORIZATION)?.to_str().ok()?)
}

/// `None`: no token is configured.
fn has_token(settings: &Settings, headers: &HeaderMap) -> Option<bool> {
    let token = settings.access_token.as_ref()?;
    let given = headers.get(ACCESS_TOKEN);
    Some(given.is_some_and(|given| given.as_bytes().ct_eq(token.as_bytes()).into()))
}

fn basic_user(authorization: &str) -> Option<String> {
    let (scheme, credentials) = authorization.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(BASE64_STANDARD.decode(credentials.trim()).ok()?).ok()?;
    decoded.split_once(':').map(|(user, _)| user.to_owned())
}

fn sign(
    path: &str,
    operation: &str,
    username: &str,
    token: &str,
    expiration: Option<&str>,
) -> String {
    let mut text = format!("{path}:{operation}:{username}:{token}");
    if let Some(expiration) = expiration {
        text.push(':');
        text.push_str(expiration);
    }
    format!("v1_{}", BASE64_STANDARD_NO_PAD.encode(Sha256::digest(text)))
}

fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(token: Option<&str>, query: [Option<&str>; 4]) -> Result<(), String> {
        let settings = Settings { access_token: Some("secret".into()), ..Settings::default() };
        let mut headers = HeaderMap::new();
        if let Some(token) = token {
            headers.insert(ACCESS_TOKEN, token.parse().unwrap());
        }
        let [path, username, signature, expiration] = query;
        check_files(&settings, &headers, "read", path, username, signature, expiration)
            .map_err(|error| error.message)
    }

    #[test]
    fn the_token_opens_files() {
        assert_eq!(check(Some("secret"), [None; 4]), Ok(()));
        assert_eq!(
            check(Some("guess"), [None; 4]).unwrap_err(),
            "access token present in header but does not match"
        );
        assert_eq!(check(None, [None; 4]).unwrap_err(), "missing signature query parameter");
    }

    #[test]
    fn a_signature_opens_one_file_for_one_user() {
        // printf '/a b:read::secret' | openssl dgst -sha256 -binary | base64 | tr -d =
        let signature = sign("/a b", "read", "", "secret", None);
        assert_eq!(signature.len(), "v1_".len() + 43);
        let with = |path, user| check(None, [Some(path), user, Some(&signature), None]);
        assert_eq!(with("/a b", None), Ok(()));
        assert_eq!(with("/a b", Some("")), Ok(()));
        assert_eq!(with("/a", None).unwrap_err(), "invalid signature");
        assert_eq!(with("/a b", Some("root")).unwrap_err(), "invalid signature");
    }

    #[test]
    fn a_signature_ends_with_its_time() {
        let at = |expiration: &str| {
            let signature = sign("x", "read", "u", "secret", Some(expiration));
            check(None, [Some("x"), Some("u"), Some(&signature), Some(expiration)])
        };
        assert_eq!(at(&(now() + 60).to_string()), Ok(()));
        assert_eq!(at(&(now() - 60).to_string()).unwrap_err(), "signature is already expired");
        assert_eq!(at("soon").unwrap_err(), "invalid signature");
        let forged = sign("x", "read", "u", "secret", Some("1"));
        assert_eq!(
            check(None, [Some("x"), Some("u"), Some(&forged), Some("9999999999")]).unwrap_err(),
            "invalid signature"
        );
    }

    #[test]
    fn basic_auth_names_the_user() {
        assert_eq!(basic_user("Basic dXNlcjo=").as_deref(), Some("user"));
        assert_eq!(basic_user("Bearer dXNlcjo="), None);
        assert_eq!(basic_user("Basic %%%"), None);
    }

    proptest! {
        // A colon in a part would make it ambiguous which part it belongs to; that is E2B's.
        #[test]
        fn the_signature_that_was_made_is_the_only_one_accepted(
            parts in prop::array::uniform2("[^:]{0,12}"),
            ahead in prop::option::of(1..1_000_000_i64),
            changed in 0..4_usize,
            into in "[^:]{0,12}",
            forged in "v1_[A-Za-z0-9+/]{43}",
        ) {
            let [path, user] = &parts;
            let expiration = ahead.map(|ahead| (now() + ahead).to_string());
            let signature = sign(path, "read", user, "secret", expiration.as_deref());
            let asked = |path: &str, user: &str, signature: &str, expiration: Option<&str>| {
                check(None, [Some(path), Some(user), Some(signature), expiration]).is_ok()
            };
            prop_assert!(asked(path, user, &signature, expiration.as_deref()));
            prop_assert!(!asked(path, user, &forged, expiration.as_deref()));
            for other in [("write", "secret"), ("read", "guess")] {
                let other = sign(path, other.0, user, other.1, expiration.as_deref());
                prop_assert!(!asked(path, user, &other, expiration.as_deref()));
            }
            let refused = match changed {
                0 => into == *path || !asked(&into, user, &signature, expiration.as_deref()),
                1 => into == *user || !asked(path, &into, &signature, expiration.as_deref()),
                2 => !asked(path, user, &signature, Some("99999999999")),
                _ => expiration.is_none() || !asked(path, user, &signature, None),
            };
            prop_assert!(refused);
        }

        #[test]
        fn basic_authentication_is_read_as_it_was_written(user in "[^:]{0,12}", password in ".{0,12}") {
            let encoded = BASE64_STANDARD.encode(format!("{user}:{password}"));
            prop_assert_eq!(basic_user(&format!("bAsIc {encoded}")), Some(user));
        }

        #[test]
        fn no_authorization_breaks(text in "([Bb]asic )?[ -~]{0,40}") {
            let _ = basic_user(&text);
        }
    }
}
