//! The three sockets, and who answers on them.

use std::{io, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::Request,
    http::{HeaderValue, Method, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use connectrpc::{
    CompressionPolicy, CompressionRegistry, ConnectRpcService, Limits, Router as Services,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    time::{sleep, timeout},
};

use crate::{
    auth, connect, files,
    filesystem::FilesystemService,
    kernel,
    os::Handed,
    process::{CHILDREN, ProcessService},
    rest,
    state::Envd,
    tunnel, unread,
    walls::{self, Wall},
};

/// An RPC message larger than this is refused (bytes); files go through `/files`.
const MAX_MESSAGE: usize = 16 << 20;

/// Readers of the report stream at once: a gateway, and one that has not noticed it is gone.
const MAX_REPORT_READERS: usize = 8;

/// Between a report and the ones that came meanwhile.
const REPORT_PAUSE: Duration = Duration::from_millis(10);

/// The sockets that the gateway bound.
pub struct Listeners {
    pub envd: UnixListener,
    pub tunnel: UnixListener,
    pub report: UnixListener,
}

/// Serves until one of the parts fails, which none should.
///
/// Waits for all children of this process, whoever started them.
///
/// # Errors
/// Of the listener, or of waiting for SIGCHLD.
pub async fn serve(envd: Arc<Envd>, listeners: Listeners) -> io::Result<()> {
    tokio::spawn(tunnel::serve(listeners.tunnel));
    tokio::spawn(serve_reports(envd.clone(), listeners.report));
    let http = axum::serve(Front(listeners.envd), router(envd));
    tokio::select! {
        served = http.into_future() => served,
        waited = CHILDREN.wait() => waited,
    }
}

/// Where clients come in.
struct Front(UnixListener);

impl axum::serve::Listener for Front {
    type Io = Handed;
    type Addr = ();

    async fn accept(&mut self) -> (Handed, ()) {
        loop {
            let stream = accept(&self.0).await.into_std();
            match stream.and_then(|stream| Handed::unix(stream.into())) {
                Ok(stream) => return (stream, ()),
                Err(error) => tracing::warn!(%error, "cannot take a connection"),
            }
        }
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Everything on envd's own port.
pub(crate) fn router(envd: Arc<Envd>) -> Router {
    let services = Services::new()
        .add_service(Arc::new(ProcessService(envd.clone())))
        .add_service(Arc::new(FilesystemService::new(envd.clone())));
    let most = if walls::is_down(Wall::MessageSize) { usize::MAX } else { MAX_MESSAGE };
    let limits = Limits::default().with_max_message_size(most).with_max_request_body_size(most);
    let rpc = ConnectRpcService::new(services)
        .with_limits(limits)
        // Clients' HTTP layers offer gzip, and then cannot read it in a stream.
        .with_compression(CompressionRegistry::new())
        .with_compression_policy(CompressionPolicy::disabled());
    let rpc = Router::new()
        .route_service("/process.Process/{method}", rpc.clone())
        .route_service("/filesystem.Filesystem/{method}", rpc)
        .layer(middleware::from_fn(connect::take_stream_timeout));
    rest::routes()
        .merge(files::routes())
        .merge(rpc)
        .layer(middleware::from_fn_with_state(envd.clone(), auth::require_token))
        .layer(middleware::from_fn_with_state(envd.clone(), kernel::divert))
        .layer(middleware::from_fn(tell_when_to_retry))
        .layer(middleware::from_fn(allow_browsers))
        .layer(middleware::from_fn(unread::read_rest))
        .with_state(envd)
}

/// Where there is no room now there may be soon.
async fn tell_when_to_retry(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    if matches!(response.status(), StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE)
    {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// CORS: any page may call, since the token and not a cookie says who it is.
async fn allow_browsers(request: Request, next: Next) -> Response {
    let preflight = request.method() == Method::OPTIONS
        && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let wanted = request.headers().get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned();
    let mut response = if preflight {
        let mut response = StatusCode::NO_CONTENT.into_response();
        let headers = response.headers_mut();
        let methods = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE");
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
        // Named one by one: `*` does not cover Authorization.
        let wanted = wanted.unwrap_or(HeaderValue::from_static("*"));
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, wanted);
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("7200"));
        response
    } else {
        next.run(request).await
    };
    let headers = response.headers_mut();
    let any = HeaderValue::from_static("*");
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, any.clone());
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, any);
    response
}

/// The next connection. Being out of descriptors or memory passes.
pub(crate) async fn accept(listener: &UnixListener) -> UnixStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve_reports(envd: Arc<Envd>, listener: UnixListener) {
    let room = Arc::new(Semaphore::new(MAX_REPORT_READERS));
    loop {
        let gateway = accept(&listener).await;
        let Ok(permit) = room.clone().try_acquire_owned() else { continue };
        let envd = envd.clone();
        tokio::spawn(async move {
            let _permit = permit;
            if let Err(error) = report(&envd, gateway).await {
                tracing::debug!(%error, "the report stream broke");
            }
        });
    }
}

async fn report(envd: &Envd, mut gateway: UnixStream) -> io::Result<()> {
    let mut seen = timeout(Duration::from_secs(5), gateway.read_u64()).await??;
    let (mut from, mut to) = gateway.split();
    loop {
        let reports = tokio::select! {
            reports = envd.reports.after(seen) => reports,
            // It has nothing more to say, so this is its end.
            _ = from.read_u8() => return Ok(()),
        };
        let mut lines = Vec::new();
        for report in reports {
            seen = report.seq;
            serde_json::to_writer(&mut lines, &report)?;
            lines.push(b'\n');
        }
        to.write_all(&lines).await?;
        // One wake-up of the gateway for many reports, where there are many.
        tokio::select! {
            () = sleep(REPORT_PAUSE) => {}
            () = envd.reports.urgent() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, routing::get};
    use tower::ServiceExt as _;

    use super::*;

    #[tokio::test]
    async fn what_has_no_room_says_when_to_come_again() {
        for (status, told) in [(429, true), (503, true), (200, false), (500, false)] {
            let status = StatusCode::from_u16(status).unwrap();
            let router = Router::new()
                .route("/", get(move || async move { status }))
                .layer(middleware::from_fn(tell_when_to_retry));
            let request = Request::get("/").body(Body::empty()).unwrap();
            let answer = router.oneshot(request).await.unwrap();
            assert_eq!(answer.headers().contains_key("retry-after"), told, "{status}");
        }
    }
}
