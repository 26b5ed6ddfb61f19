//! OpenTelemetry: events as spans, and the gateway's figures as metrics, sent to a receiver over
//! HTTP or gRPC.

mod answer;
mod figures;
mod push;
mod send;
mod spans;

use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub(crate) use answer::{retry_after, short};
pub use figures::Temporality;
pub(crate) use send::Traces;

use push::Metrics;

use super::export::{Kind, Settings};
use crate::sandbox::Sandboxes;

/// Pushes metrics to those exporters that are to have them, until `stop`, and once more then.
pub fn push_metrics(
    exporters: &[Settings],
    sandboxes: &Sandboxes,
    stop: &CancellationToken,
) -> JoinSet<()> {
    let mut pushes = JoinSet::new();
    for settings in exporters {
        let Kind::Otlp(otlp) = &settings.kind else { continue };
        for warning in &otlp.warnings {
            tracing::warn!("{warning}");
        }
        if let Some(metrics) = Metrics::new(otlp, sandboxes) {
            pushes.spawn(metrics.keep(stop.clone()));
        }
    }
    pushes
}

fn attribute(name: &str, value: impl Into<Plain>) -> KeyValue {
    let value = AnyValue { value: Some(value.into().0) };
    KeyValue { key: name.to_owned(), value: Some(value), ..KeyValue::default() }
}

/// A value of an attribute that every receiver understands.
struct Plain(any_value::Value);

impl From<String> for Plain {
    fn from(text: String) -> Self {
        Self(any_value::Value::StringValue(text))
    }
}

impl From<&str> for Plain {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

/// Lists and objects go as their JSON.
impl From<serde_json::Value> for Plain {
    fn from(value: serde_json::Value) -> Self {
        use serde_json::Value;
        match value {
            Value::String(text) => text.into(),
            Value::Bool(yes) => Self(any_value::Value::BoolValue(yes)),
            Value::Number(number) => Self(match number.as_i64() {
                Some(whole) => any_value::Value::IntValue(whole),
                None => any_value::Value::DoubleValue(number.as_f64().unwrap_or_default()),
            }),
            other => other.to_string().into(),
        }
    }
}

/// What has made all that is sent.
fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: "coppice".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    }
}
