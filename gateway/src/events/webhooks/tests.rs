//! Webhooks as they are kept.

use super::*;

fn said(url: &str) -> Said {
    Said {
        name: "mine".into(),
        url: url.into(),
        enabled: true,
        events: vec!["sandbox.lifecycle.*".into(), "exec.completed".into()],
        signature_secret: "not told".into(),
    }
}

fn tenant(name: &str) -> Tenant {
    name.parse().unwrap()
}

#[tokio::test]
async fn they_are_the_same_after_a_restart_and_each_tenants_own() {
    let dir = tempfile::tempdir().unwrap();
    let hooks = Webhooks::open(dir.path(), Reach::default()).unwrap();
    let (one, other) = (tenant("one"), tenant("other"));
    let first = hooks.create(&one, said("https://example.com/1")).await.unwrap();
    hooks.create(&other, said("https://example.com/2")).await.unwrap();
    assert_eq!(hooks.list(&one).len(), 1);
    assert!(hooks.get(&other, first.id).is_none());
    let change = || Change { enabled: Some(false), ..Change::default() };
    assert!(hooks.change(&other, first.id, change()).await.unwrap().is_none());
    assert!(!hooks.delete(&other, first.id).await.unwrap());
    hooks.change(&one, first.id, change()).await.unwrap().unwrap();

    let again = Webhooks::open(dir.path(), Reach::default()).unwrap();
    let kept = again.get(&one, first.id).unwrap();
    assert_eq!((kept.created_at, kept.said().enabled), (first.created_at, false));
    assert_eq!(kept.said().signature_secret, "not told");
    let file = dir.path().join("webhooks").join(format!("{}.json", first.id));
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&file).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    assert!(again.delete(&one, first.id).await.unwrap());
    assert!(!file.exists());
    assert!(Webhooks::open(dir.path(), Reach::default()).unwrap().list(&one).is_empty());
}

#[tokio::test]
async fn what_cannot_be_a_webhook_is_refused_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let hooks = Webhooks::open(dir.path(), Reach::default()).unwrap();
    let own = tenant("own");
    let hook = hooks.create(&own, said("https://example.com")).await.unwrap();
    let wrong = [
        Change { url: Some("http://127.0.0.1/".into()), ..Change::default() },
        Change { url: Some("gopher://example.com".into()), ..Change::default() },
        Change { events: Some(Vec::new()), ..Change::default() },
        Change { events: Some(vec!["sandbox.lifecycle.create".into()]), ..Change::default() },
        Change { name: Some(String::new()), ..Change::default() },
        Change { signature_secret: Some("x".repeat(1025)), ..Change::default() },
    ];
    for change in wrong {
        let refused = hooks.change(&own, hook.id, change).await;
        assert!(matches!(refused, Err(Error::Invalid(_))));
    }
    assert_eq!(hook.said().url, "https://example.com");
    for _ in 1..MOST_EACH {
        hooks.create(&own, said("https://example.com")).await.unwrap();
    }
    let one_more = hooks.create(&own, said("https://example.com")).await;
    assert!(matches!(one_more, Err(Error::TooMany(MOST_EACH))));
    hooks.create(&tenant("other"), said("https://example.com")).await.unwrap();
}

#[test]
fn a_type_is_asked_for_by_e2bs_name_by_ours_and_by_a_glob() {
    use super::payload::{is_of_any, types};
    for (glob, has, has_not) in [
        ("sandbox.lifecycle.killed", "sandbox.terminated", "sandbox.created"),
        ("sandbox.lifecycle.*", "sandbox.paused", "sandbox.started"),
        ("sandbox.*", "sandbox.started", "exec.started"),
        ("exec.*", "exec.failed", "sandbox.created"),
        ("*", "cost.total", "none"),
    ] {
        let types = types(&[glob.to_owned()]);
        assert!(types.matches(has), "{glob}");
        assert!(!types.matches(has_not), "{glob}");
    }
    for wrong in ["", "create", "sandbox.lifecycle", "exec.complete"] {
        assert!(!is_of_any(wrong), "{wrong}");
    }
}

/// A server that answers once, and what it was sent.
async fn once(answer: &'static str) -> (std::net::SocketAddr, tokio::task::JoinHandle<String>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let heard = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut text = Vec::new();
        while !text.ends_with(b"{}") {
            let mut part = [0; 1024];
            let count = stream.read(&mut part).await.unwrap();
            text.extend_from_slice(&part[..count]);
        }
        stream.write_all(answer.as_bytes()).await.unwrap();
        String::from_utf8(text).unwrap()
    });
    (address, heard)
}

async fn posted(allowed: &str, url: String) -> deliveries::Attempt {
    let reach = Reach { allowed: vec![allowed.parse().unwrap()] };
    let poster = Poster::new(reach).unwrap();
    let line = r#"{"id": "e", "sandbox": "s", "kind": "exec.started", "at": 0, "body": {}}"#;
    let waiting: intake::Waiting = serde_json::from_str(line).unwrap();
    let tenant = "acme".parse().unwrap();
    poster.send((Uuid::nil(), &tenant), &said(&url), &waiting, "{}".into()).await.attempt
}

#[tokio::test]
async fn a_delivery_is_signed_and_its_answer_is_kept_within_bounds() {
    let answer = "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\nset-cookie: secret\r\n\
                  content-length: 4\r\n\r\nlost";
    let (address, heard) = once(answer).await;
    let attempt = posted("127.0.0.0/8", format!("http://{address}/a?b")).await;
    let text = heard.await.unwrap();
    assert!(text.starts_with("POST /a?b HTTP/1.1\r\n"), "{text}");
    let signed = format!("e2b-signature: {}\r\n", sign::signature("not told", b"{}"));
    assert!(text.contains(&signed) && text.contains(&format!("host: {address}")), "{text}");
    assert!(text.contains(&format!("e2b-delivery-id: {}", attempt.id)), "{text}");
    let kept = attempt.answer.as_ref().unwrap();
    assert_eq!((kept.status, &*kept.body, attempt.failed()), (302, "lost", true));
    assert_eq!(attempt.error.as_ref().unwrap().0, "http_error");
    assert!(!kept.headers.contains("secret") && kept.headers.contains("location"));
    assert!(attempt.headers.contains("REDACTED") && !attempt.headers.contains(signed.trim()));
}

#[tokio::test]
async fn what_leads_inside_is_not_connected_to() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"] {
        let attempt = posted("192.0.2.0/24", format!("http://{host}:{port}/")).await;
        assert_eq!(attempt.error.unwrap().0, "request_error", "{host}");
    }
    let connected = timeout(Duration::from_millis(100), listener.accept()).await;
    assert!(connected.is_err());
}
