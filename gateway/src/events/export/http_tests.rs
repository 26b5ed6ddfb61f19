use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use super::*;

const PATIENCE: Duration = Duration::from_secs(5);

/// Answers every request with that, whatever it is.
async fn serve(answer: &'static str, tls: Option<TlsAcceptor>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let tls = tls.clone();
            tokio::spawn(async move {
                let mut stream: Box<dyn Both> = match tls {
                    None => Box::new(tcp),
                    Some(tls) => match tls.accept(tcp).await {
                        Ok(stream) => Box::new(stream),
                        Err(_) => return,
                    },
                };
                let mut request = Vec::new();
                while !request.ends_with(b"the body") {
                    if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
                        return;
                    }
                }
                let head = format!("HTTP/1.1 {answer}");
                stream.write_all(head.as_bytes()).await.unwrap();
                let _ = stream.shutdown().await;
            });
        }
    });
    port
}

async fn post(uri: String, trust: &Trust) -> Result<Answer, String> {
    let http = Http::new(trust, Speaks::Http1).unwrap();
    let body = Bytes::from_static(b"the body");
    http.post(&uri.parse().unwrap(), HeaderMap::new(), body, PATIENCE).await
}

#[tokio::test]
async fn an_answer_is_judged_by_its_status_and_told_without_secrets() {
    let trust = Trust::default();
    let ok = serve("204 No Content\r\n\r\n", None).await;
    let ok = post(format!("http://localhost:{ok}/a"), &trust).await.unwrap();
    assert!(ok.judged(&[]).is_ok());
    let busy = "503 Busy\r\nRetry-After: 7\r\nContent-Length: 11\r\n\r\nnot hush\nno";
    let busy = serve(busy, None).await;
    let busy = post(format!("http://127.0.0.1:{busy}"), &trust).await.unwrap();
    let Err(Failure::Later { why, after }) = busy.judged(&["hush", ""]) else { panic!() };
    assert_eq!(after, Some(Duration::from_secs(7)));
    assert_eq!(why, "it answers 503 Service Unavailable: not ***\\nno");
    for (answer, refused) in [("400 No\r\n\r\n", true), ("401 No\r\n\r\n", false)] {
        let port = serve(answer, None).await;
        let answer = post(format!("http://127.0.0.1:{port}"), &trust).await.unwrap();
        assert_eq!(matches!(answer.judged(&[]), Err(Failure::Refused { .. })), refused);
    }
}

#[tokio::test]
async fn what_is_no_answer_says_why() {
    let trust = Trust::default();
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let error = post(format!("http://127.0.0.1:{closed}/"), &trust).await.unwrap_err();
    assert!(error.contains("refused"), "{error}");
    let port = serve("200 OK\r\nContent-Length: 2000000\r\n\r\n", None).await;
    assert!(post(format!("http://127.0.0.1:{port}/"), &trust).await.is_err());
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}/", silent.local_addr().unwrap()).parse().unwrap();
    let http = Http::new(&trust, Speaks::Http1).unwrap();
    let patience = Duration::from_millis(200);
    let late = http.post(&uri, HeaderMap::new(), Bytes::new(), patience).await.unwrap_err();
    assert!(late.starts_with("no answer within"), "{late}");
    let inside = Trust { may: |address| !address.is_loopback(), ..Trust::default() };
    let error = post(format!("http://localhost:{port}/"), &inside).await.unwrap_err();
    assert!(error.contains("at an address that may not be asked"), "{error}");
}

#[tokio::test]
async fn over_tls_a_server_is_judged_by_whom_the_file_names() {
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = own.signing_key.serialize_der().try_into().unwrap();
    let config = rustls::ServerConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key)
        .unwrap();
    let port = serve("200 OK\r\n\r\n", Some(TlsAcceptor::from(Arc::new(config)))).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), own.cert.pem()).unwrap();
    let known = Trust { ca: Some(file.path().to_owned()), ..Trust::default() };
    let answer = post(format!("https://localhost:{port}/"), &known).await.unwrap();
    assert_eq!(answer.status, StatusCode::OK);
    let other = post(format!("https://127.0.0.1:{port}/"), &known).await.unwrap_err();
    assert!(other.contains("not valid for name"), "{other}");
    let unknown = post(format!("https://localhost:{port}/"), &Trust::default()).await.unwrap_err();
    assert!(unknown.contains("certificate"), "{unknown}");
    let missing = Trust { ca: Some("/no/such/file".into()), ..Trust::default() };
    assert!(Http::new(&missing, Speaks::Http1).unwrap_err().contains("/no/such/file"));
}
