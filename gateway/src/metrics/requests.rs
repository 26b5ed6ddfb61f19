//! Requests by what they asked for. A route is what the gateway calls it, never a path that was
//! sent: there are as many series as there are routes, methods and kinds of answers.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::RwLock;

use super::{counts::Histogram, text::Text};

const METHODS: [&str; 7] = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"];
const CODES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// What no route is for.
pub(crate) const NONE: &str = "none";

/// By method and kind of answer.
type Series = BTreeMap<(&'static str, &'static str), Arc<Histogram>>;

#[derive(Debug, Default)]
pub(super) struct Requests(RwLock<BTreeMap<String, Series>>);

impl Requests {
    pub(super) fn observe(&self, route: &str, method: &str, status: u16, took: Duration) {
        let method = METHODS.into_iter().find(|known| *known == method).unwrap_or("other");
        let code = usize::from(status / 100).checked_sub(1).and_then(|kind| CODES.get(kind));
        let kind = (method, *code.unwrap_or(&"other"));
        let known = self.0.read().get(route).and_then(|series| series.get(&kind)).cloned();
        let histogram = known.unwrap_or_else(|| {
            let mut all = self.0.write();
            let series = all.entry(route.to_owned()).or_default();
            series.entry(kind).or_default().clone()
        });
        histogram.observe(took);
    }

    pub(super) fn tell(&self, text: &mut Text) {
        let name = "coppice_http_request_duration_seconds";
        let help = "How long requests took to be answered, up to the body.";
        text.histograms(name, help);
        for (route, series) in self.0.read().iter() {
            for ((method, code), histogram) in series {
                let labels = [("route", route.as_str()), ("method", method), ("code", code)];
                text.buckets(name, &labels, histogram);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Format, text::Text},
        *,
    };

    #[test]
    fn requests_are_told_by_route_method_and_kind_of_answer() {
        let requests = Requests::default();
        for (route, method, status) in [
            ("/a/{id}", "GET", 200),
            ("/a/{id}", "GET", 204),
            ("/a/{id}", "GET", 404),
            ("none", "BREW", 999),
        ] {
            requests.observe(route, method, status, Duration::from_millis(7));
        }
        let mut text = Text::new(Format::Plain, 0);
        requests.tell(&mut text);
        let text = text.finish();
        let name = "coppice_http_request_duration_seconds";
        for line in [
            format!(
                "{name}_bucket{{route=\"/a/{{id}}\",method=\"GET\",code=\"2xx\",le=\"0.005\"}} 0"
            ),
            format!(
                "{name}_bucket{{route=\"/a/{{id}}\",method=\"GET\",code=\"2xx\",le=\"+Inf\"}} 2"
            ),
            format!("{name}_sum{{route=\"/a/{{id}}\",method=\"GET\",code=\"4xx\"}} 0.007"),
            format!("{name}_count{{route=\"none\",method=\"other\",code=\"other\"}} 1"),
        ] {
            assert!(text.lines().any(|it| it == line), "{line} is not in\n{text}");
        }
    }
}
