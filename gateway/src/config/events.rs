//! `[events]`, which only a file can have: where events are kept, where else they go, and
//! what is taken out of them.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;

use super::{Error, Given, otlp, scrub};
use crate::events::{
    ScrubRules, Types,
    export::{Kind, Settings, axiom, postgres, program},
    store,
    webhooks::{Range, Reach},
};

pub(super) const NAME: &str = "events";
/// Of a spool (MiB), where nothing is said, and at most.
const SPOOL: u64 = 64;
const MOST_SPOOL: u64 = 1 << 20;
const MOST_AT_ONCE: usize = 10_000;
const LONGEST_WAIT: u64 = 3_600_000;
/// Of the exporter that OpenTelemetry's own variables ask for.
const OTEL: &str = "otel";
/// Of a name (bytes).
const LONGEST_NAME: usize = 63;

const MB: u64 = 1_000_000;
/// Of files (MB), and how many of them.
const MOST_SIZE: u64 = 10_000;
const MOST_FILES: usize = 1000;

/// What becomes of events.
#[derive(Clone, Debug)]
pub struct Events {
    /// Where they are kept; `None` is below the data directory.
    dir: Option<PathBuf>,
    /// Of a file (bytes).
    size: u64,
    files: usize,
    types: Types,
    pub exporters: Vec<Settings>,
    pub scrub: ScrubRules,
    /// Where webhooks may lead.
    pub webhooks: Reach,
    /// Nothing that happens is told to anybody where it is false.
    pub enabled: bool,
}

impl Events {
    /// Of a gateway with that data directory.
    pub fn kept(&self, data_dir: &Path) -> store::Settings {
        let dir = self.dir.clone().unwrap_or_else(|| data_dir.join("events"));
        store::Settings { dir, size: self.size, files: self.files, types: self.types.clone() }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Said {
    dir: Option<PathBuf>,
    size_mb: Option<u64>,
    files: Option<usize>,
    enabled: Option<bool>,
    /// Ranges of addresses that are not public, and that webhooks may lead to nevertheless.
    #[serde(default)]
    webhooks_allow: Vec<String>,
    event_types: Option<Vec<String>>,
    #[serde(default)]
    exporters: Vec<SaidExporter>,
    #[serde(default)]
    scrub: scrub::Said,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SaidExporter {
    name: String,
    kind: String,
    event_types: Option<Vec<String>>,
    batch_size: Option<usize>,
    flush_interval_ms: Option<u64>,
    spool_mb: Option<u64>,
    postgres: Option<postgres::Said>,
    axiom: Option<axiom::Said>,
    program: Option<program::Said>,
    otlp: Option<otlp::Said>,
}

impl Given {
    /// The table `events`, and what OpenTelemetry's variables ask for.
    pub(super) fn events(
        &mut self,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Events, Error> {
        let (text, place) = self.0.remove(NAME).unwrap_or_default();
        let mut events = parse(&text).map_err(|why| Error(format!("{place}: {why}")))?;
        if let Some(otlp) = otlp::of_environment(variable) {
            if events.exporters.iter().any(|exporter| exporter.name == OTEL) {
                let why = "has the name of what OTEL_EXPORTER_OTLP_ENDPOINT asks for: take another";
                return Err(Error(format!("{place}: exporter {OTEL:?} {why}")));
            }
            let kind = Kind::Otlp(Box::new(otlp));
            let (batch, interval) = kind.batching();
            let (name, types, spool) = (OTEL.to_owned(), Types::all(), SPOOL << 20);
            events.exporters.push(Settings { name, types, batch, interval, spool, kind });
        }
        Ok(events)
    }
}

/// Fails with what is wrong, and in which of them.
fn parse(text: &str) -> Result<Events, String> {
    let said: Said =
        toml::from_str(text).map_err(|error: toml::de::Error| error.message().to_owned())?;
    let size = said.size_mb.unwrap_or(store::Settings::SIZE / MB);
    if !(1..=MOST_SIZE).contains(&size) {
        return Err(format!("size_mb is a whole number from 1 to {MOST_SIZE}"));
    }
    let files = said.files.unwrap_or(store::Settings::FILES);
    if !(2..=MOST_FILES).contains(&files) {
        return Err(format!("files is a whole number from 2 to {MOST_FILES}"));
    }
    if said.dir.as_ref().is_some_and(|dir| !dir.is_absolute()) {
        return Err("dir is a whole path, such as /var/log/coppice/events".to_owned());
    }
    let types = types(said.event_types)?;
    let (exporters, scrub) = (exporters(said.exporters)?, said.scrub.rules()?);
    Ok(Events {
        dir: said.dir,
        size: size * MB,
        files,
        types,
        exporters,
        scrub,
        webhooks: reach(&said.webhooks_allow)?,
        enabled: said.enabled.unwrap_or(true),
    })
}

fn reach(allowed: &[String]) -> Result<Reach, String> {
    let range = |text: &String| {
        let wrong = |()| format!("webhooks_allow: {text:?} is not a range such as \"10.0.0.0/8\"");
        text.parse::<Range>().map_err(wrong)
    };
    Ok(Reach { allowed: allowed.iter().map(range).collect::<Result<_, _>>()? })
}

fn exporters(said: Vec<SaidExporter>) -> Result<Vec<Settings>, String> {
    let mut names = BTreeSet::new();
    let exporters = said.into_iter().map(|exporter| {
        let name = exporter.name.clone();
        let wrong = |why: String| format!("exporter {name:?}: {why}");
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-".contains(&b);
        if name.is_empty() || name.len() > LONGEST_NAME || !name.bytes().all(plain) {
            let most = LONGEST_NAME;
            return Err(wrong(format!("a name is 1 to {most} of a-z, 0-9, _ and -")));
        }
        if !names.insert(name.clone()) {
            return Err(wrong("there is another one of that name".to_owned()));
        }
        settings(exporter).map_err(wrong)
    });
    exporters.collect()
}

/// All, where nothing is said.
fn types(said: Option<Vec<String>>) -> Result<Types, String> {
    match said {
        None => Ok(Types::all()),
        Some(none) if none.is_empty() => {
            Err("event_types: without any there is nothing to send".to_owned())
        }
        Some(types) => Types::of(types).map_err(|error| format!("event_types: {error}")),
    }
}

fn settings(mut said: SaidExporter) -> Result<Settings, String> {
    let kind = kind(&mut said)?;
    let (batch, interval) = kind.batching();
    let types = types(said.event_types)?;
    let batch = said.batch_size.unwrap_or(batch);
    if !(1..=MOST_AT_ONCE).contains(&batch) {
        return Err(format!("batch_size is a whole number from 1 to {MOST_AT_ONCE}"));
    }
    let interval = match said.flush_interval_ms {
        None => interval,
        Some(millis) if millis <= LONGEST_WAIT => Duration::from_millis(millis),
        Some(_) => return Err(format!("flush_interval_ms is at most {LONGEST_WAIT}")),
    };
    let spool = said.spool_mb.unwrap_or(SPOOL);
    if !(1..=MOST_SPOOL).contains(&spool) {
        return Err(format!("spool_mb is a whole number from 1 to {MOST_SPOOL}"));
    }
    Ok(Settings { name: said.name, types, batch, interval, spool: spool << 20, kind })
}

/// That of the table which its kind asks for; there is no other one.
fn kind(said: &mut SaidExporter) -> Result<Kind, String> {
    let name = said.kind.clone();
    let missing = || format!("kind {name} takes a table [events.exporters.{name}]");
    let of = |error: String| format!("{name}: {error}");
    let kind = match said.kind.as_str() {
        "postgres" => {
            let table = said.postgres.take().ok_or_else(missing)?;
            Kind::Postgres(table.settings().map_err(of)?)
        }
        "axiom" => {
            let table = said.axiom.take().ok_or_else(missing)?;
            Kind::Axiom(table.settings().map_err(of)?)
        }
        "program" => {
            let table = said.program.take().ok_or_else(missing)?;
            Kind::Program(table.settings().map_err(of)?)
        }
        "otlp" => {
            let table = said.otlp.take().ok_or_else(missing)?;
            Kind::Otlp(Box::new(table.settings().map_err(of)?))
        }
        _ => return Err(format!("kind is postgres, axiom, program or otlp, and not {name:?}")),
    };
    let others = [
        ("postgres", said.postgres.is_some()),
        ("axiom", said.axiom.is_some()),
        ("program", said.program.is_some()),
        ("otlp", said.otlp.is_some()),
    ];
    match others.into_iter().find(|(_, given)| *given) {
        Some((other, _)) => Err(format!("it is of kind {name}, and has a table {other}")),
        None => Ok(kind),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{super::tests::config, *};

    fn parsed(toml: &str) -> Result<Vec<super::Settings>, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), toml).unwrap();
        let read = config(&[("config", file.path().to_str().unwrap())], &[]);
        read.map(|config| config.events.exporters).map_err(|error| error.to_string())
    }

    const PROGRAM: &str = "[[events.exporters]]\nname = \"mail\"\nkind = \"program\"\n";
    const TABLE: &str = "[events.exporters.program]\npath = \"/bin/true\"\n";

    #[test]
    fn exporters_are_read_with_what_their_kind_has_as_default() {
        assert!(parsed("").unwrap().is_empty());
        let toml = format!(
            "[[events.exporters]]\nname = \"db\"\nkind = \"postgres\"\n\
             [events.exporters.postgres]\nconnection_string_env = \"URL\"\n\
             [[events.exporters]]\nname = \"ax\"\nkind = \"axiom\"\nevent_types = [\"exec.*\"]\n\
             batch_size = 7\nflush_interval_ms = 0\nspool_mb = 2\n\
             [events.exporters.axiom]\ndataset = \"d\"\ntoken_file = \"/t\"\n{PROGRAM}{TABLE}"
        );
        let all = parsed(&toml).unwrap();
        let of = |n: usize| (&*all[n].name, all[n].batch, all[n].interval.as_millis());
        assert_eq!((of(0), of(1), of(2)), (("db", 100, 5000), ("ax", 7, 0), ("mail", 16, 0)));
        assert_eq!((all[0].spool, all[1].spool), (64 << 20, 2 << 20));
    }

    #[test]
    fn what_is_taken_out_of_events_stands_beside_where_they_go() {
        let scrub = |toml: &str| parse(toml).map(|events| events.scrub);
        assert_eq!(scrub("").unwrap(), ScrubRules::default());
        assert_eq!(scrub("[scrub]\noutput_bytes = 7\n").unwrap().output, 7);
        let wrong = scrub("[scrub]\nwithout = [\"x\"]\n").unwrap_err();
        assert!(wrong.starts_with("scrub: there is no pattern \"x\""), "{wrong}");
    }

    #[test]
    fn events_are_kept_below_the_data_directory_where_nothing_else_is_said() {
        let kept = |toml: &str| {
            let file = tempfile::NamedTempFile::new().unwrap();
            fs::write(file.path(), toml).unwrap();
            let read = config(&[("config", file.path().to_str().unwrap())], &[]);
            read.map(|config| config.events.kept(Path::new("/d")))
                .map_err(|error| error.to_string())
        };
        assert_eq!(kept("").unwrap(), store::Settings::of(Path::new("/d")));
        let toml = "[events]\ndir = \"/e\"\nsize_mb = 7\nfiles = 3\nevent_types = [\"exec.*\"]\n";
        let types = "exec.*".parse().unwrap();
        let own = store::Settings { dir: "/e".into(), size: 7_000_000, files: 3, types };
        assert_eq!(kept(toml).unwrap(), own);
        for wrong in [
            "dir = \"e\"",
            "size_mb = 0",
            "size_mb = 10001",
            "files = 1",
            "files = 1001",
            "event_types = []",
        ] {
            let error = kept(&format!("[events]\n{wrong}\n")).unwrap_err();
            assert!(error.contains(wrong.split(' ').next().unwrap()), "{error}");
        }
    }

    #[test]
    fn whatever_is_not_known_or_not_sound_is_refused_with_its_place() {
        for (toml, why) in [
            ("events = 1".to_owned(), "events in "),
            ("[events]\nexporter = []".to_owned(), "unknown field `exporter`"),
            ("[events]\nwebhooks_allow = [\"10/8\"]".to_owned(), "webhooks_allow: \"10/8\""),
            (format!("{PROGRAM}batchsize = 1\n{TABLE}"), "unknown field `batchsize`"),
            (PROGRAM.to_owned(), "exporter \"mail\": kind program takes a table"),
            (format!("{PROGRAM}{TABLE}{PROGRAM}{TABLE}"), "another one of that name"),
            (format!("{PROGRAM}batch_size = 0\n{TABLE}"), "batch_size"),
            (format!("{PROGRAM}spool_mb = 0\n{TABLE}"), "spool_mb"),
            (format!("{PROGRAM}flush_interval_ms = 3600001\n{TABLE}"), "flush_interval_ms"),
            (format!("{PROGRAM}event_types = []\n{TABLE}"), "event_types"),
            (format!("{PROGRAM}{TABLE}user = 1\n"), "invalid type"),
            (format!("{PROGRAM}{TABLE}at_once = 0\n"), "program: at_once"),
            (
                format!("{PROGRAM}{TABLE}[events.exporters.axiom]\ndataset = \"d\"\n"),
                "it is of kind program, and has a table axiom",
            ),
            (
                PROGRAM.replace("\"program\"", "\"pager\""),
                "kind is postgres, axiom, program or otlp",
            ),
            (PROGRAM.replace("\"mail\"", "\"../x\"") + TABLE, "a name is 1 to 63"),
        ] {
            let error = parsed(&toml).expect_err(&toml);
            assert!(error.contains(why), "{error}");
        }
    }
}
