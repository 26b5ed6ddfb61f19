//! OTLP: by the environment, as OpenTelemetry's specification has it for every program, and as an
//! exporter of the file. What the specification would have warned of and ignored is told by
//! [`Otlp::warnings`], since nothing can be logged yet when settings are read.

use std::{collections::BTreeMap, fmt, path::PathBuf, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use percent_encoding::percent_decode_str;
use serde::Deserialize;

use crate::events::otlp::Temporality;

const TIMEOUT: Duration = Duration::from_secs(10);
const INTERVAL: Duration = Duration::from_secs(60);
/// Of spans: most at once, and how long one waits for others.
const BATCH: usize = 512;
const DELAY: Duration = Duration::from_secs(5);
const MOST_AT_ONCE: usize = 10_000;
const SERVICE: &str = "coppice";

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    #[default]
    HttpProtobuf,
    HttpJson,
    Grpc,
}

impl Protocol {
    fn named(name: &str) -> Option<Self> {
        match name {
            "http/protobuf" => Some(Self::HttpProtobuf),
            "http/json" => Some(Self::HttpJson),
            "grpc" => Some(Self::Grpc),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Signal {
    Traces,
    Metrics,
}

impl Signal {
    /// Below an endpoint that is not of one signal alone, over HTTP.
    fn path(self) -> &'static str {
        match self {
            Self::Traces => "v1/traces",
            Self::Metrics => "v1/metrics",
        }
    }

    /// In the names of variables.
    fn name(self) -> &'static str {
        match self {
            Self::Traces => "TRACES",
            Self::Metrics => "METRICS",
        }
    }
}

/// Where one signal goes, and how.
#[derive(Clone, PartialEq, Eq)]
pub struct Way {
    /// With its path over HTTP; over gRPC only whom to connect to counts.
    pub endpoint: Uri,
    pub protocol: Protocol,
    /// Secret.
    pub headers: HeaderMap,
    pub timeout: Duration,
    pub gzip: bool,
    /// Whom to trust; `None`: whom the system does.
    pub certificate: Option<PathBuf>,
}

impl fmt::Debug for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { protocol, timeout, gzip, .. } = self;
        let endpoint = self.endpoint.authority().map(http::uri::Authority::host);
        f.debug_struct("Way")
            .field("endpoint", &endpoint)
            .field("protocol", protocol)
            .field("timeout", timeout)
            .field("gzip", gzip)
            .finish_non_exhaustive()
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Otlp {
    pub traces: Option<Way>,
    pub metrics: Option<Way>,
    /// Of what it comes from, `service.name` among it.
    pub resource: BTreeMap<String, String>,
    /// Most events at once, and how long one waits for others, where the exporter does not say.
    pub batch: usize,
    pub delay: Duration,
    /// Between one push of metrics and the next.
    pub interval: Duration,
    pub temporality: Temporality,
    /// What was given and cannot be used.
    pub warnings: Vec<String>,
}

/// The variables, and what was wrong with them.
struct Variables<'a> {
    variable: &'a dyn Fn(&str) -> Option<String>,
    warnings: Vec<String>,
}

impl Variables<'_> {
    /// An empty one is as good as none.
    fn get(&self, name: &str) -> Option<String> {
        (self.variable)(name).filter(|value| !value.trim().is_empty())
    }

    fn parsed<T>(&mut self, name: &str, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
        let text = self.get(name)?;
        let parsed = parse(text.trim());
        if parsed.is_none() {
            // Not the value: it may be a secret.
            self.warnings.push(format!("{name} is ignored: it is not of a form that is known"));
        }
        parsed
    }

    /// That of the signal, else that of all.
    fn of<T>(&mut self, signal: Signal, end: &str, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
        let own = format!("OTEL_EXPORTER_OTLP_{}_{end}", signal.name());
        self.parsed(&own, &parse)
            .or_else(|| self.parsed(&format!("OTEL_EXPORTER_OTLP_{end}"), &parse))
    }

    fn millis(&mut self, name: &str, default: Duration) -> Duration {
        let given = self.parsed(name, |text| text.parse().ok().map(Duration::from_millis));
        given.filter(|given| !given.is_zero()).unwrap_or(default)
    }

    fn way(&mut self, signal: Signal) -> Option<Way> {
        // None are sent where another kind of exporter is asked for, which is not here.
        let wanted = self.get(&format!("OTEL_{}_EXPORTER", signal.name()));
        if wanted.is_some_and(|wanted| !wanted.split(',').any(|one| one.trim() == "otlp")) {
            return None;
        }
        let protocol = self.of(signal, "PROTOCOL", Protocol::named).unwrap_or_default();
        let own = self.parsed(&format!("OTEL_EXPORTER_OTLP_{}_ENDPOINT", signal.name()), uri);
        let endpoint = match own {
            Some(own) => own,
            None => below(&self.parsed("OTEL_EXPORTER_OTLP_ENDPOINT", uri)?, signal, protocol)?,
        };
        Some(Way {
            endpoint,
            protocol,
            headers: self.of(signal, "HEADERS", header_list).unwrap_or_default(),
            timeout: self
                .of(signal, "TIMEOUT", |text| text.parse().ok().map(Duration::from_millis))
                .filter(|timeout| !timeout.is_zero())
                .unwrap_or(TIMEOUT),
            gzip: self.of(signal, "COMPRESSION", gzip).unwrap_or_default(),
            certificate: self.of(signal, "CERTIFICATE", |text| Some(PathBuf::from(text))),
        })
    }

    fn resource(&mut self) -> BTreeMap<String, String> {
        let mut resource = self.parsed("OTEL_RESOURCE_ATTRIBUTES", attributes).unwrap_or_default();
        if let Some(name) = self.get("OTEL_SERVICE_NAME") {
            resource.insert("service.name".to_owned(), name);
        }
        resource
    }
}

/// What the environment asks for; nothing where it names no endpoint.
pub(super) fn of_environment(variable: &dyn Fn(&str) -> Option<String>) -> Option<Otlp> {
    let mut variables = Variables { variable, warnings: Vec::new() };
    let off = variables.get("OTEL_SDK_DISABLED");
    if off.is_some_and(|off| off.trim().eq_ignore_ascii_case("true")) {
        return None;
    }
    let traces = variables.way(Signal::Traces);
    let metrics = variables.way(Signal::Metrics);
    if traces.is_none() && metrics.is_none() && variables.warnings.is_empty() {
        return None;
    }
    let temporality =
        variables.parsed("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", |text| {
            match text.to_ascii_lowercase().as_str() {
                "cumulative" => Some(Temporality::Cumulative),
                "delta" | "lowmemory" => Some(Temporality::Delta),
                _ => None,
            }
        });
    Some(Otlp {
        traces,
        metrics,
        resource: with_defaults(variables.resource()),
        batch: variables
            .parsed("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", |text| text.parse().ok())
            .filter(|batch| (1..=MOST_AT_ONCE).contains(batch))
            .unwrap_or(BATCH),
        delay: variables.millis("OTEL_BSP_SCHEDULE_DELAY", DELAY),
        interval: variables.millis("OTEL_METRIC_EXPORT_INTERVAL", INTERVAL),
        temporality: temporality.unwrap_or_default(),
        warnings: variables.warnings,
    })
}

/// An exporter of the file.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Said {
    /// Of all signals.
    endpoint: Option<String>,
    /// As it is.
    traces_endpoint: Option<String>,
    metrics_endpoint: Option<String>,
    #[serde(default)]
    protocol: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    timeout_ms: Option<u64>,
    #[serde(default)]
    compression: Option<String>,
    certificate: Option<PathBuf>,
    #[serde(default)]
    resource_attributes: BTreeMap<String, String>,
    metrics_interval_ms: Option<u64>,
    #[serde(default)]
    temporality: Option<String>,
}

impl Said {
    pub(super) fn settings(self) -> Result<Otlp, String> {
        let refused = |what: &str| what.to_owned();
        let protocol = match self.protocol.as_deref() {
            None => Protocol::default(),
            Some(name) => Protocol::named(name)
                .ok_or_else(|| refused("protocol must be http/protobuf, http/json or grpc"))?,
        };
        let gzip = match self.compression.as_deref() {
            None => false,
            Some(name) => gzip(name).ok_or_else(|| refused("compression must be gzip or none"))?,
        };
        let temporality = match self.temporality.as_deref() {
            None | Some("cumulative") => Temporality::Cumulative,
            Some("delta") => Temporality::Delta,
            Some(_) => return Err(refused("temporality must be cumulative or delta")),
        };
        let headers =
            headers(self.headers.iter().map(|(name, value)| (name.as_str(), value.clone())))
                .ok_or_else(|| refused("headers has a name or a value that HTTP does not allow"))?;
        let parsed = |text: Option<&String>| match text {
            None => Ok(None),
            Some(text) => uri(text).map(Some).ok_or_else(|| {
                refused("an endpoint must begin with http:// or https:// and name a host")
            }),
        };
        let all = parsed(self.endpoint.as_ref())?;
        let way = |own: Option<Uri>, signal| {
            let endpoint = match own {
                Some(own) => Some(own),
                None => all.as_ref().and_then(|all| below(all, signal, protocol)),
            };
            endpoint.map(|endpoint| Way {
                endpoint,
                protocol,
                headers: headers.clone(),
                timeout: self.timeout_ms.map_or(TIMEOUT, Duration::from_millis),
                gzip,
                certificate: self.certificate.clone(),
            })
        };
        let traces = way(parsed(self.traces_endpoint.as_ref())?, Signal::Traces);
        let metrics = way(parsed(self.metrics_endpoint.as_ref())?, Signal::Metrics);
        if traces.is_none() && metrics.is_none() {
            return Err(refused("endpoint is missing, such as \"http://127.0.0.1:4318\""));
        }
        if self.timeout_ms == Some(0) || self.metrics_interval_ms == Some(0) {
            return Err(refused("timeout_ms and metrics_interval_ms must be at least 1"));
        }
        Ok(Otlp {
            traces,
            metrics,
            resource: with_defaults(self.resource_attributes),
            batch: BATCH,
            delay: DELAY,
            interval: self.metrics_interval_ms.map_or(INTERVAL, Duration::from_millis),
            temporality,
            warnings: Vec::new(),
        })
    }
}

fn with_defaults(mut resource: BTreeMap<String, String>) -> BTreeMap<String, String> {
    for (name, value) in [("service.name", SERVICE), ("service.version", env!("CARGO_PKG_VERSION"))]
    {
        resource.entry(name.to_owned()).or_insert_with(|| value.to_owned());
    }
    resource
}

fn uri(text: &str) -> Option<Uri> {
    let uri: Uri = text.parse().ok()?;
    let known = matches!(uri.scheme_str(), Some("http" | "https"));
    (known && uri.host().is_some_and(|host| !host.is_empty())).then_some(uri)
}

/// Where the signal is taken below an endpoint of all.
fn below(all: &Uri, signal: Signal, protocol: Protocol) -> Option<Uri> {
    if protocol == Protocol::Grpc {
        return Some(all.clone());
    }
    let (path, query) = match all.path_and_query() {
        Some(both) => (both.path(), both.query()),
        None => ("", None),
    };
    let mut target = format!("{}/{}", path.trim_end_matches('/'), signal.path());
    if let Some(query) = query {
        target = format!("{target}?{query}");
    }
    let mut parts = all.clone().into_parts();
    parts.path_and_query = Some(target.parse().ok()?);
    Uri::from_parts(parts).ok()
}

fn gzip(name: &str) -> Option<bool> {
    match name {
        "gzip" => Some(true),
        "none" => Some(false),
        _ => None,
    }
}

/// `name=value,name=value`, percent-encoded where need be.
fn list(text: &str) -> Option<Vec<(String, String)>> {
    let decoded =
        |text: &str| Some(percent_decode_str(text.trim()).decode_utf8().ok()?.into_owned());
    let pairs = text.split(',').filter(|pair| !pair.trim().is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=')?;
        Some((decoded(name)?, decoded(value)?)).filter(|(name, _)| !name.is_empty())
    });
    pairs.collect()
}

fn attributes(text: &str) -> Option<BTreeMap<String, String>> {
    Some(list(text)?.into_iter().collect())
}

fn header_list(text: &str) -> Option<HeaderMap> {
    let pairs = list(text)?;
    headers(pairs.iter().map(|(name, value)| (name.as_str(), value.clone())))
}

fn headers<'a>(pairs: impl Iterator<Item = (&'a str, String)>) -> Option<HeaderMap> {
    let headers = pairs.map(|(name, value)| {
        let name: HeaderName = name.to_ascii_lowercase().parse().ok()?;
        let mut value = HeaderValue::try_from(value).ok()?;
        value.set_sensitive(true);
        Some((name, value))
    });
    headers.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Option<Otlp> {
        of_environment(&|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    fn to(way: &Option<Way>) -> String {
        way.as_ref().map_or_else(String::new, |way| way.endpoint.to_string())
    }

    #[test]
    fn without_an_endpoint_nothing_is_sent() {
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[("OTEL_EXPORTER_OTLP_ENDPOINT", " ")]), None);
        assert_eq!(of(&[("OTEL_SERVICE_NAME", "x"), ("OTEL_EXPORTER_OTLP_HEADERS", "a=b")]), None);
        let all = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318");
        assert_eq!(of(&[all, ("OTEL_SDK_DISABLED", "TRUE")]), None);
        let none = of(&[all, ("OTEL_TRACES_EXPORTER", "none")]).unwrap();
        assert_eq!(
            (to(&none.traces).as_str(), to(&none.metrics).as_str()),
            ("", "http://c:4318/v1/metrics")
        );
    }

    #[test]
    fn an_endpoint_of_all_has_the_signals_below_it_and_one_of_a_signal_is_as_it_is() {
        for (all, traces) in [
            ("http://c:4318", "http://c:4318/v1/traces"),
            ("http://c:4318/", "http://c:4318/v1/traces"),
            ("https://c/otel/", "https://c/otel/v1/traces"),
            ("https://c/otel?tenant=1", "https://c/otel/v1/traces?tenant=1"),
        ] {
            let read = of(&[("OTEL_EXPORTER_OTLP_ENDPOINT", all)]).unwrap();
            assert_eq!(to(&read.traces), traces);
            assert_eq!(to(&read.metrics), traces.replace("traces", "metrics"));
        }
        let read = of(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://all:4318"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://own:1/x"),
            ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "grpc"),
        ])
        .unwrap();
        assert_eq!(to(&read.traces), "http://own:1/x");
        assert_eq!(to(&read.metrics), "http://all:4318/");
        assert_eq!(read.metrics.unwrap().protocol, Protocol::Grpc);
        let one = of(&[("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://own:1")]).unwrap();
        assert_eq!((one.traces, to(&one.metrics).as_str()), (None, "http://own:1/"));
    }

    #[test]
    fn the_signals_own_variable_beats_that_of_all() {
        let read = of(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "Api-Key=se%20cret, x=1"),
            ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "api-key=own"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "2500"),
            ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "100"),
            ("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "gzip"),
            ("OTEL_EXPORTER_OTLP_METRICS_CERTIFICATE", "/ca.pem"),
            ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "Delta"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "500"),
        ])
        .unwrap();
        assert_eq!(read.temporality, Temporality::Delta);
        assert_eq!(read.interval, Duration::from_millis(500));
        let (traces, metrics) = (read.traces.unwrap(), read.metrics.unwrap());
        assert_eq!(traces.headers["api-key"], "own");
        assert!(!traces.headers.contains_key("x"));
        assert_eq!(metrics.headers["api-key"], "se cret");
        assert_eq!((traces.timeout.as_millis(), metrics.timeout.as_millis()), (100, 2500));
        assert_eq!((traces.gzip, metrics.gzip), (true, false));
        assert_eq!(metrics.certificate, Some("/ca.pem".into()));
        let shown = format!("{metrics:?} {:?}", metrics.headers);
        assert!(!shown.contains("cret"), "{shown}");
    }

    #[test]
    fn who_it_comes_from_is_named_by_the_service_name_before_the_attributes() {
        let all = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c");
        assert_eq!(of(&[all]).unwrap().resource["service.name"], "coppice");
        let attributes =
            ("OTEL_RESOURCE_ATTRIBUTES", "service.name=a,deployment.environment=x%2Cy");
        let read = of(&[all, attributes]).unwrap().resource;
        assert_eq!((&*read["service.name"], &*read["deployment.environment"]), ("a", "x,y"));
        let read = of(&[all, attributes, ("OTEL_SERVICE_NAME", "b")]).unwrap().resource;
        assert_eq!(read["service.name"], "b");
    }

    #[test]
    fn what_is_not_known_is_ignored_with_a_warning_that_has_no_value_in_it() {
        let all = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c");
        for (name, value) in [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "thrift-secret"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "secret"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "secret"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "secret:4318"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "-1secret"),
            ("OTEL_RESOURCE_ATTRIBUTES", "secret"),
        ] {
            let read = of(&[all, (name, value)]).unwrap();
            let told = read.warnings.join(" ");
            assert!(told.contains(name) && !told.contains("secret"), "{told}");
            assert_eq!(to(&read.traces), "http://c/v1/traces", "{name}");
        }
    }

    #[test]
    fn an_exporter_of_the_file_is_refused_with_what_is_allowed() {
        let table = |text: &str| toml::from_str::<Said>(text).unwrap().settings();
        let read = table(
            "endpoint = \"https://c/x\"\nprotocol = \"http/json\"\nheaders = {api-key = \"k\"}\n\
             timeout_ms = 7\ncompression = \"gzip\"\nmetrics_interval_ms = 9\n\
             resource_attributes = {\"service.name\" = \"mine\"}\n",
        )
        .unwrap();
        assert_eq!(to(&read.traces), "https://c/x/v1/traces");
        assert_eq!(read.resource["service.name"], "mine");
        assert_eq!(read.interval.as_millis(), 9);
        let metrics = table("metrics_endpoint = \"http://c/m\"").unwrap();
        assert_eq!((metrics.traces, to(&metrics.metrics).as_str()), (None, "http://c/m"));
        for (text, allowed) in [
            ("", "endpoint is missing"),
            ("endpoint = \"c:4318\"", "http:// or https://"),
            ("endpoint = \"http://c\"\nprotocol = \"http\"", "http/protobuf, http/json or grpc"),
            ("endpoint = \"http://c\"\ncompression = \"zstd\"", "gzip or none"),
            ("endpoint = \"http://c\"\ntemporality = \"x\"", "cumulative or delta"),
            ("endpoint = \"http://c\"\ntimeout_ms = 0", "at least 1"),
            ("endpoint = \"http://c\"\nheaders = {\"a b\" = \"c\"}", "HTTP does not allow"),
        ] {
            let error = table(text).unwrap_err();
            assert!(error.contains(allowed), "{error}");
        }
        assert!(toml::from_str::<Said>("endpoints = \"http://c\"").is_err());
    }
}
