//! Sending to a receiver: as protobuf or JSON over HTTP/1.1, or over gRPC, which is HTTP/2 with
//! a frame around each message and the outcome in the trailers.

use std::{collections::BTreeMap, io::Write, sync::Arc};

use async_trait::async_trait;
use flate2::{Compression, write::GzEncoder};
use http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use opentelemetry_proto::tonic::{
    collector::{
        metrics::v1::{ExportMetricsServiceRequest, ExportMetricsServiceResponse},
        trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse},
    },
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span},
};
use prost::Message;
use serde::{Serialize, de::DeserializeOwned};

use super::{
    answer::{self, Answer},
    attribute, scope,
    spans::Spans,
};
use crate::{
    config::{Otlp, Protocol, Way},
    events::{
        Event,
        export::{
            Exporter, Failure,
            http::{Http, Speaks, Trust},
        },
    },
};

/// Of one request (bytes), so that what is read into memory at once stays below the 4 MiB that
/// receivers of gRPC take.
const MOST: usize = 1 << 20;
const AGENT: HeaderValue = HeaderValue::from_static(concat!("coppice/", env!("CARGO_PKG_VERSION")));

/// What can be sent.
pub(super) trait Request: Message + Serialize {
    type Response: Message + Default + DeserializeOwned;
    /// Over gRPC.
    const PATH: &'static str;
    /// How many were refused, and what was said.
    fn partial(response: Self::Response) -> Option<(i64, String)>;
}

impl Request for ExportTraceServiceRequest {
    type Response = ExportTraceServiceResponse;
    const PATH: &'static str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

    fn partial(response: Self::Response) -> Option<(i64, String)> {
        response.partial_success.map(|partial| (partial.rejected_spans, partial.error_message))
    }
}

impl Request for ExportMetricsServiceRequest {
    type Response = ExportMetricsServiceResponse;
    const PATH: &'static str = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export";

    fn partial(response: Self::Response) -> Option<(i64, String)> {
        let partial = response.partial_success?;
        Some((partial.rejected_data_points, partial.error_message))
    }
}

/// To one receiver.
pub(super) struct Sender {
    http: Http,
    way: Way,
    pub(super) resource: Resource,
}

impl Sender {
    pub(super) fn new(way: &Way, resource: &BTreeMap<String, String>) -> Result<Self, String> {
        let trust = Trust { ca: way.certificate.clone(), ..Trust::default() };
        let speaks = match way.protocol {
            Protocol::Grpc => Speaks::Http2,
            Protocol::HttpProtobuf | Protocol::HttpJson => Speaks::Http1,
        };
        let attributes = resource.iter().map(|(name, value)| attribute(name, value.as_str()));
        let resource = Resource { attributes: attributes.collect(), ..Resource::default() };
        Ok(Self { http: Http::new(&trust, speaks)?, way: way.clone(), resource })
    }

    pub(super) async fn send<R: Request>(&self, request: &R) -> Answer {
        let sent = match self.way.protocol {
            Protocol::HttpProtobuf => {
                self.over_http::<R>(request.encode_to_vec(), "application/x-protobuf").await
            }
            Protocol::HttpJson => match serde_json::to_vec(request) {
                Ok(json) => self.over_http::<R>(json, "application/json").await,
                Err(error) => Ok(Answer::Refused(error.to_string())),
            },
            Protocol::Grpc => self.over_grpc::<R>(request.encode_to_vec()).await,
        };
        // Nobody knows what has become of it.
        sent.unwrap_or_else(Answer::later)
    }

    async fn over_http<R: Request>(
        &self,
        body: Vec<u8>,
        kind: &'static str,
    ) -> Result<Answer, String> {
        let mut headers = self.headers(kind);
        let body = if self.way.gzip {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            gzipped(&body)
        } else {
            body
        };
        let sent = self.http.post(&self.way.endpoint, headers, body.into(), self.way.timeout);
        let answer = sent.await?;
        let json =
            answer.headers.get(header::CONTENT_TYPE).map_or(kind.ends_with("json"), |kind| {
                kind.as_bytes().starts_with(b"application/json")
            });
        if answer.status != StatusCode::OK {
            return Ok(answer::of_http(answer.status, &answer.headers, &answer.body, json));
        }
        // Some receivers answer with an empty body where JSON would be an object.
        let response = match json {
            true => serde_json::from_slice(&answer.body).unwrap_or_default(),
            false => R::Response::decode(answer.body).unwrap_or_default(),
        };
        Ok(taken::<R>(response))
    }

    async fn over_grpc<R: Request>(&self, message: Vec<u8>) -> Result<Answer, String> {
        let mut headers = self.headers("application/grpc+proto");
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        let body = if self.way.gzip {
            headers.insert("grpc-encoding", HeaderValue::from_static("gzip"));
            answer::framed(&gzipped(&message), true)
        } else {
            answer::framed(&message, false)
        };
        let timeout = format!("{}m", self.way.timeout.as_millis().min(99_999_999));
        if let Ok(timeout) = timeout.parse() {
            headers.insert("grpc-timeout", timeout);
        }
        let mut parts = self.way.endpoint.clone().into_parts();
        parts.path_and_query = R::PATH.parse().ok();
        let target = Uri::from_parts(parts).map_err(|error| error.to_string())?;
        let answer = self.http.post(&target, headers, body, self.way.timeout).await?;
        let trailers = answer.trailers.as_ref().unwrap_or(&answer.headers);
        if let Some(refused) = answer::of_grpc(answer.status, trailers) {
            return Ok(refused);
        }
        let response = answer::unframed(answer.body).unwrap_or_default();
        Ok(taken::<R>(R::Response::decode(response).unwrap_or_default()))
    }

    fn headers(&self, kind: &'static str) -> HeaderMap {
        let mut headers = self.way.headers.clone();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.entry(header::USER_AGENT).or_insert(AGENT);
        headers
    }
}

fn taken<R: Request>(response: R::Response) -> Answer {
    let (refused, said) = R::partial(response).unwrap_or_default();
    Answer::Taken { refused: refused.try_into().unwrap_or(0), said: answer::short(&said) }
}

fn gzipped(plain: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    // Into memory, where writing does not fail.
    let _ = encoder.write_all(plain);
    encoder.finish().unwrap_or_default()
}

/// The exporter of events.
pub(crate) struct Traces {
    /// `None`: the receiver is to have no traces.
    way: Option<Way>,
    resource: BTreeMap<String, String>,
    /// Made anew after a failure.
    sender: Option<Sender>,
    spans: Spans,
}

impl Traces {
    pub(crate) fn new(otlp: &Otlp) -> Self {
        let (way, resource) = (otlp.traces.clone(), otlp.resource.clone());
        Self { way, resource, sender: None, spans: Spans::default() }
    }

    async fn part(sender: &Sender, spans: Vec<Span>) -> Answer {
        let scope_spans = ScopeSpans { scope: Some(scope()), spans, ..ScopeSpans::default() };
        let request = ExportTraceServiceRequest {
            resource_spans: vec![ResourceSpans {
                resource: Some(sender.resource.clone()),
                scope_spans: vec![scope_spans],
                ..ResourceSpans::default()
            }],
        };
        sender.send(&request).await
    }
}

#[async_trait]
impl Exporter for Traces {
    async fn send(&mut self, events: &[Arc<Event>]) -> Result<(), Failure> {
        let Some(way) = &self.way else { return Ok(()) };
        let sender = match self.sender.take() {
            Some(sender) => sender,
            None => Sender::new(way, &self.resource).map_err(Failure::later)?,
        };
        let (mut refused, mut why) = (0, String::new());
        for spans in parts(self.spans.of(events)) {
            let all = spans.len();
            match Self::part(&sender, spans).await {
                Answer::Taken { refused: 0, said } => {
                    if !said.is_empty() {
                        tracing::warn!("the receiver of traces says: {said}");
                    }
                }
                Answer::Taken { refused: some, said } => {
                    refused += usize::try_from(some).unwrap_or(all).min(all);
                    why = said;
                }
                Answer::Later { after, why } => return Err(Failure::Later { why, after }),
                // By the specification it is not sent again, not in halves either.
                Answer::Refused(said) => {
                    refused += all;
                    why = said;
                }
            }
        }
        self.sender = Some(sender);
        match refused.min(events.len()) {
            0 => Ok(()),
            refused => Err(Failure::Partly { refused, why }),
        }
    }
}

/// In their order, each no larger than one request may be; a span alone is.
fn parts(spans: Vec<Span>) -> Vec<Vec<Span>> {
    let mut parts: Vec<Vec<Span>> = Vec::new();
    let mut room = 0;
    for span in spans {
        let size = span.encoded_len();
        match parts.last_mut() {
            Some(part) if size <= room => part.push(span),
            _ => {
                parts.push(vec![span]);
                room = MOST;
            }
        }
        room = room.saturating_sub(size);
    }
    parts
}
