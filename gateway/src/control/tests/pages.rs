//! What web pages may do.

use super::*;

fn from(origin: &str) -> axum::http::request::Builder {
    Request::builder().header("origin", origin).header("host", "127.0.0.1:3000")
}

fn preflight(origin: &str, path: &str) -> Request<Body> {
    let wanted = "authorization,connect-protocol-version,content-type,e2b-sandbox-id,\
                  e2b-sandbox-port,keepalive-ping-interval,traceparent,x-access-token,x-api-key";
    let request = from(origin)
        .method(Method::OPTIONS)
        .uri(path)
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", wanted);
    request.body(Body::empty()).unwrap()
}

#[tokio::test]
async fn with_keys_a_page_of_any_origin_may_ask_and_read_every_answer() {
    let bed = bed();
    for path in ["/v2/sandboxes", "/process.Process/Start", "/nosuch"] {
        let asked = bed.answer(preflight("https://any.example", path)).await;
        assert_eq!(asked.status, StatusCode::NO_CONTENT, "{path}");
        assert_eq!(asked.headers["access-control-allow-origin"], "*");
        let methods = asked.headers["access-control-allow-methods"].to_str().unwrap();
        assert!(["GET", "POST", "DELETE"].iter().all(|method| methods.contains(method)));
        let allowed = asked.headers["access-control-allow-headers"].to_str().unwrap();
        for header in ["x-api-key", "authorization", "x-access-token", "e2b-sandbox-id"] {
            assert!(allowed.contains(header), "{header}");
        }
    }
    for (path, key, status) in [
        ("/v2/sandboxes", KEY, 200),
        ("/v2/sandboxes", "wrong", 401),
        ("/sandboxes/i0", KEY, 404),
        ("/nosuch", KEY, 404),
        ("/health", "", 200),
    ] {
        let request = from("https://any.example").uri(path).header("x-api-key", key);
        let answer = bed.answer(request.body(Body::empty()).unwrap()).await;
        assert_eq!(answer.status.as_u16(), status, "{path}");
        assert_eq!(answer.headers["access-control-allow-origin"], "*", "{path}");
        assert_eq!(answer.headers["access-control-expose-headers"], "*", "{path}");
    }
}

#[tokio::test]
async fn without_keys_only_pages_of_this_machine_and_the_domain_may_ask() {
    let bed = without_keys();
    for (origin, may) in [
        ("http://localhost:5173", true),
        ("http://127.0.0.1:3000", true),
        ("https://console.sandboxes.test", true),
        ("https://any.example", false),
        ("null", false),
        ("https://8080-i0123456789abcdefghij.sandboxes.test", false),
    ] {
        let asked = bed.answer(preflight(origin, "/v2/sandboxes")).await;
        assert_eq!(asked.status.is_success(), may, "{origin}");
        let create = from(origin).method(Method::POST).uri("/v2/sandboxes");
        let create = create.header("x-api-key", "any").body(Body::from(base().to_string()));
        let created = bed.send(create.unwrap()).await;
        let expected = if may { StatusCode::CREATED } else { StatusCode::FORBIDDEN };
        assert_eq!(created.status, expected, "{origin}");
        for answer in [asked, created] {
            let allowed = answer.headers.get("access-control-allow-origin");
            assert_eq!(allowed.map(|allowed| allowed == origin), may.then_some(true), "{origin}");
            assert_eq!(answer.headers["vary"], "Origin");
        }
    }
    assert_eq!(bed.made(), 3);
}
