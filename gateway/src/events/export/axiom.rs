//! Axiom's way to take events in, which others have too: `POST {url}/v1/datasets/{dataset}/ingest` with
//! an array of JSON objects, whose time is `_time`.

use std::{path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Uri, header};
use serde::{Deserialize, Serialize};

use super::{
    Exporter, Failure, Secret,
    http::{Http, Speaks, Trust},
};
use crate::events::Event;

const PATIENCE: Duration = Duration::from_secs(30);
const URL: &str = "https://api.axiom.co";

#[derive(Clone, Debug)]
pub struct Settings {
    ingest: Uri,
    token: Secret,
    ca: Option<PathBuf>,
}

/// As it stands in the file of settings.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Said {
    url: Option<String>,
    dataset: String,
    token_file: Option<PathBuf>,
    token_env: Option<String>,
    ca_file: Option<PathBuf>,
}

impl Said {
    pub(crate) fn settings(self) -> Result<Settings, String> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if self.dataset.is_empty() || !self.dataset.chars().all(plain) {
            return Err("dataset is of letters, digits, '-', '_' and '.'".to_owned());
        }
        let url = self.url.as_deref().unwrap_or(URL).trim_end_matches('/');
        let wrong = || format!("url is one such as {URL}, without a query");
        let uri: Uri = url.parse().map_err(|_| wrong())?;
        let known = matches!(uri.scheme_str(), Some("https" | "http"));
        let userless = uri.authority().is_some_and(|authority| !authority.as_str().contains('@'));
        if !known || !userless || uri.query().is_some() {
            return Err(wrong());
        }
        let ingest = format!("{url}/v1/datasets/{}/ingest", self.dataset);
        Ok(Settings {
            ingest: ingest.parse().map_err(|_| wrong())?,
            token: Secret::of("token", self.token_file, self.token_env)?,
            ca: self.ca_file,
        })
    }
}

pub(super) struct Axiom {
    settings: Settings,
    http: Http,
}

/// An event as it is, with its time once more by the name that is looked for.
#[derive(Serialize)]
struct Timed<'a> {
    #[serde(rename = "_time")]
    time: String,
    #[serde(flatten)]
    event: &'a Event,
}

/// What is said of those that came.
#[derive(Deserialize)]
struct Ingested {
    #[serde(default)]
    failed: usize,
    #[serde(default)]
    failures: Vec<Refusal>,
}

#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    error: String,
}

impl Axiom {
    pub(super) fn new(settings: Settings) -> Result<Self, String> {
        let trust = Trust { ca: settings.ca.clone(), ..Trust::default() };
        Ok(Self { http: Http::new(&trust, Speaks::Http1)?, settings })
    }
}

#[async_trait]
impl Exporter for Axiom {
    async fn send(&mut self, events: &[Arc<Event>]) -> Result<(), Failure> {
        let token = self.settings.token.read().await?;
        let mut headers = HeaderMap::new();
        let mut bearer = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| {
            Failure::later(format!("what {:?} has is no token", self.settings.token))
        })?;
        bearer.set_sensitive(true);
        headers.insert(header::AUTHORIZATION, bearer);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let timed: Vec<_> = events.iter().map(|event| timed(event)).collect();
        let body = serde_json::to_vec(&timed).map_err(|error| Failure::refused(error.to_string()));
        let sent = self.http.post(&self.settings.ingest, headers, Bytes::from(body?), PATIENCE);
        let answer = sent.await.map_err(Failure::later)?;
        answer.judged(&[&token])?;
        // Others who take events in the same way may answer as they like.
        match serde_json::from_slice::<Ingested>(&answer.body) {
            Ok(Ingested { failed: refused @ 1.., failures }) => {
                let why = failures.into_iter().map(|it| it.error).find(|error| !error.is_empty());
                let why = why.unwrap_or_else(|| "it does not say why".to_owned());
                let why = why.replace(&token, "***").chars().take(200).collect();
                Err(Failure::Partly { refused, why })
            }
            _ => Ok(()),
        }
    }
}

fn timed(event: &Event) -> Timed<'_> {
    Timed { time: event.timestamp(), event }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(toml: &str) -> Result<Settings, String> {
        toml::from_str::<Said>(toml).map_err(|error| error.to_string())?.settings()
    }

    #[test]
    fn where_events_go_is_made_of_url_and_dataset() {
        let token = "token_env = \"TOKEN\"";
        let settings = said(&format!("dataset = \"a.b-c\"\n{token}")).unwrap();
        assert_eq!(settings.ingest, "https://api.axiom.co/v1/datasets/a.b-c/ingest");
        let own = said(&format!("url = \"http://[::1]:99/x/\"\ndataset = \"d\"\n{token}")).unwrap();
        assert_eq!(own.ingest, "http://[::1]:99/x/v1/datasets/d/ingest");
        for (wrong, why) in [
            ("dataset = \"a/b\"\ntoken_env = \"T\"", "dataset is of letters"),
            ("dataset = \"d\"", "token_file"),
            ("dataset = \"d\"\ntoken = \"xaat-1\"", "unknown field `token`"),
            ("url = \"ftp://x\"\ndataset = \"d\"\ntoken_env = \"T\"", "url is one such as"),
            ("url = \"https://me:pw@x\"\ndataset = \"d\"\ntoken_env = \"T\"", "url is one such as"),
            ("url = \"x\"\ndataset = \"d\"\ntoken_env = \"T\"", "url is one such as"),
        ] {
            let error = said(wrong).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
