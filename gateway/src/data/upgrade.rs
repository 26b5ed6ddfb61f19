//! Connections that have left HTTP behind: WebSockets, and any other protocol both ends agree on.

use std::io;

use axum::body::Body;
use http::{
    HeaderValue, Response,
    header::{CONNECTION, UPGRADE},
};
use hyper::{body::Incoming, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;
use tokio_util::{
    io::{InspectReader, InspectWriter},
    sync::CancellationToken,
};

use super::streams::Paced;
use crate::{
    logging::request::carried,
    metrics::{Meter, Open},
    sandbox::{Busy, Outflow, Stream},
    serve::Line,
};

/// What a tunnel is in figures, for as long as it is there.
pub(super) struct Counted {
    pub(super) inwards: Meter,
    pub(super) outwards: Meter,
    pub(super) outflow: Option<Outflow>,
    pub(super) _open: (Open, Open, Option<Stream>),
}

/// Answers that the protocol is switched, and carries bytes both ways from then on.
pub(super) fn tunnel(
    mut response: Response<Incoming>,
    protocol: HeaderValue,
    client: OnUpgrade,
    cut: &CancellationToken,
    line: &Line,
    busy: Option<Busy>,
    counted: Counted,
) -> Response<Body> {
    let inside = hyper::upgrade::on(&mut response);
    let (cut, line) = (cut.clone(), line.clone());
    tokio::spawn(carried(async move {
        let _busy = busy;
        let abandoned = line.abandoned().clone();
        let carried =
            abandoned.run_until_cancelled(carry(client, inside, counted, &line, &cut)).await;
        if let Some(Err(error)) = carried {
            tracing::debug!(peer = %line.peer(), %error, "tunnel ended");
        }
    }));
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocol);
    response.map(|_| Body::empty())
}

/// Carries bytes until both ends are done, or resets the client's connection when the sandbox's
/// breaks.
async fn carry(
    client: OnUpgrade,
    inside: OnUpgrade,
    Counted { inwards, outwards, outflow, _open }: Counted,
    line: &Line,
    cut: &CancellationToken,
) -> io::Result<()> {
    let (client, inside) = tokio::try_join!(client, inside).map_err(io::Error::other)?;
    let inside = Paced::new(TokioIo::new(inside), outflow);
    let inside = InspectWriter::new(inside, |bytes| inwards.add(bytes.len()));
    let mut inside = InspectReader::new(inside, |bytes| outwards.add(bytes.len()));
    let mut client = TokioIo::new(client);
    let copied = cut.run_until_cancelled(copy_bidirectional(&mut client, &mut inside)).await;
    if !matches!(copied, Some(Ok(_))) {
        line.reset();
    }
    copied.transpose().map(|_| ())
}
