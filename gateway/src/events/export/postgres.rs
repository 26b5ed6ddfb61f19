//! Events as rows of a table in Postgres, which is made where it is missing.
//!
//! ```sql
//! SELECT sandbox_id, data->>'command' FROM sandbox_events WHERE event_type = 'exec.completed'
//! ```
//!
//! A batch is one statement, so it is there as a whole or not at all; an event that is there already
//! stays as it is. There is one connection, which is made anew after whatever fails.

use std::{path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::Value;
use tokio::time::timeout;
use tokio_postgres::{
    Client, Config,
    types::{ToSql, Type},
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    Exporter, Failure, Secret,
    http::{chain, client_config},
    postgres_tls::Tls,
};
use crate::events::Event;

/// For a connection, and then for a batch.
const CONNECT: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(30);
const TABLE: &str = "sandbox_events";
/// Of Postgres (bytes).
const LONGEST_NAME: usize = 63;

#[derive(Clone, Debug)]
pub struct Settings {
    connection: Secret,
    table: Table,
    ca: Option<PathBuf>,
}

/// As it stands in the file of settings.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Said {
    connection_string: Option<String>,
    connection_string_file: Option<PathBuf>,
    connection_string_env: Option<String>,
    table_name: Option<String>,
    ca_file: Option<PathBuf>,
}

impl Said {
    pub(crate) fn settings(self) -> Result<Settings, String> {
        let name = "connection_string";
        let connection = match self.connection_string {
            None => Secret::of(name, self.connection_string_file, self.connection_string_env)?,
            Some(_) if self.connection_string_file.is_some() => {
                return Err(format!("{name} and {name}_file: give one"));
            }
            Some(_) if self.connection_string_env.is_some() => {
                return Err(format!("{name} and {name}_env: give one"));
            }
            Some(text) => {
                let config = config(&text)?;
                if config.get_password().is_some() {
                    return Err(format!(
                        "there is a password in {name}: give {name}_file, a file that has it, or \
                         {name}_env, the name of a variable of the gateway's environment"
                    ));
                }
                Secret::plain(text)
            }
        };
        let table = Table::parse(self.table_name.as_deref().unwrap_or(TABLE))?;
        Ok(Settings { connection, table, ca: self.ca_file })
    }
}

/// What is wrong with it is not said: that may be a part of a password.
fn config(text: &str) -> Result<Config, String> {
    let mut config: Config = text.parse().map_err(|_| {
        "the connection string is one such as postgresql://me@db.example.org/events?sslmode=require \
         or \"host=/run/postgresql user=me dbname=events\""
            .to_owned()
    })?;
    config.connect_timeout(CONNECT);
    if config.get_application_name().is_none() {
        config.application_name("coppice");
    }
    Ok(config)
}

/// A name that means the same with and without quotes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Table {
    schema: Option<String>,
    name: String,
}

impl Table {
    fn parse(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "table_name is of a-z, 0-9 and _, at most {LONGEST_NAME} of them, with or without a \
                 schema before it: {TABLE}, audit.{TABLE}"
            )
        };
        let plain = |name: &str| {
            let letter = |b: u8| b.is_ascii_lowercase() || b == b'_';
            let first = name.bytes().next().is_some_and(letter);
            let rest = name.bytes().all(|b| letter(b) || b.is_ascii_digit());
            (first && rest && name.len() <= LONGEST_NAME).then(|| name.to_owned())
        };
        let (schema, name) = match text.split_once('.') {
            None => (None, text),
            Some((schema, name)) => (Some(plain(schema).ok_or_else(wrong)?), name),
        };
        Ok(Self { schema, name: plain(name).ok_or_else(wrong)? })
    }

    fn quoted(&self) -> String {
        match &self.schema {
            None => format!("\"{}\"", self.name),
            Some(schema) => format!("\"{schema}\".\"{}\"", self.name),
        }
    }

    fn create(&self) -> String {
        let table = self.quoted();
        format!(
            "CREATE TABLE IF NOT EXISTS {table} (\
             event_id uuid PRIMARY KEY, \
             sandbox_id text NOT NULL, \
             event_type text NOT NULL, \
             created_at timestamptz NOT NULL, \
             data jsonb NOT NULL, \
             parent_id uuid, \
             trace_id text, \
             tenant text, \
             template text); \
             CREATE INDEX ON {table} (event_type, created_at); \
             CREATE INDEX ON {table} (sandbox_id, created_at)"
        )
    }

    fn insert(&self) -> String {
        format!(
            "INSERT INTO {} (event_id, sandbox_id, event_type, created_at, data, parent_id, \
             trace_id, tenant, template) \
             SELECT id::uuid, sandbox, type, at::timestamptz, data::jsonb, parent::uuid, trace, \
             tenant, template \
             FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9) \
             AS new (id, sandbox, type, at, data, parent, trace, tenant, template) \
             ON CONFLICT DO NOTHING",
            self.quoted()
        )
    }
}

pub(super) struct Postgres {
    settings: Settings,
    tls: Tls,
    open: Option<Open>,
}

/// A connection, on which the table is there.
struct Open {
    client: Client,
    _connection: AbortOnDropHandle<()>,
}

impl Postgres {
    pub(super) fn new(settings: Settings) -> Result<Self, String> {
        let tls = Tls::new(client_config(settings.ca.as_deref())?);
        Ok(Self { settings, tls, open: None })
    }

    async fn open(&mut self) -> Result<Open, Failure> {
        let text = self.settings.connection.read().await?;
        let config = config(&text).map_err(Failure::later)?;
        let (client, connection) =
            config.connect(self.tls.clone()).await.map_err(|error| failure(&error, true))?;
        let connection = tokio::spawn(async move {
            // Whoever asks next is told as well.
            let _ = connection.await;
        });
        let open = Open { client, _connection: AbortOnDropHandle::new(connection) };
        let table = &self.settings.table;
        let there = "SELECT to_regclass($1) IS NOT NULL";
        let quoted = table.quoted();
        let rows = open.client.query_typed(there, &[(&quoted, Type::TEXT)]).await;
        let rows = rows.map_err(|error| failure(&error, true))?;
        if !rows.first().is_some_and(|row| row.get(0)) {
            let made = open.client.batch_execute(&table.create()).await;
            made.map_err(|error| failure(&error, true))?;
            tracing::info!(table = quoted, "the table for events is made");
        }
        Ok(open)
    }

    async fn insert(&mut self, rows: &Rows) -> Result<(), Failure> {
        let open = match self.open.take() {
            Some(open) if !open.client.is_closed() => open,
            _ => self.open().await?,
        };
        let insert = self.settings.table.insert();
        match open.client.execute_typed(&insert, &rows.parameters()).await {
            Ok(_) => {
                self.open = Some(open);
                Ok(())
            }
            Err(error) => {
                let failure = failure(&error, false);
                if matches!(failure, Failure::Refused { .. }) {
                    self.open = Some(open);
                }
                Err(failure)
            }
        }
    }
}

#[async_trait]
impl Exporter for Postgres {
    async fn send(&mut self, events: &[Arc<Event>]) -> Result<(), Failure> {
        let rows = Rows::of(events)?;
        let late = || Err(Failure::later(format!("not done within {} s", PATIENCE.as_secs())));
        // The connection is gone with whatever does not come back.
        timeout(PATIENCE, self.insert(&rows)).await.unwrap_or_else(|_| late())
    }
}

/// What events themselves are to blame for is not tried again, where it is they that are at issue.
fn failure(error: &tokio_postgres::Error, preparing: bool) -> Failure {
    let Some(said) = error.as_db_error() else { return Failure::later(chain(error)) };
    let code = said.code().code();
    // Its detail may have a row in it.
    let why = format!("{} ({code})", said.message());
    // A value out of range, a constraint that an operator has put on the table, and more than fits.
    match &code[..code.len().min(2)] {
        "22" | "23" | "54" if !preparing => Failure::Refused { why },
        _ => Failure::later(why),
    }
}

/// Column by column.
#[derive(Default)]
struct Rows {
    ids: Vec<String>,
    sandboxes: Vec<String>,
    types: Vec<String>,
    times: Vec<String>,
    data: Vec<String>,
    parents: Vec<Option<String>>,
    traces: Vec<Option<String>>,
    tenants: Vec<String>,
    templates: Vec<String>,
}

impl Rows {
    fn of(events: &[Arc<Event>]) -> Result<Self, Failure> {
        let mut rows = Self::default();
        for event in events {
            let data = data_of(event).map_err(|error| Failure::refused(error.to_string()))?;
            rows.ids.push(event.id.to_string());
            rows.sandboxes.push(event.sandbox.to_string());
            rows.types.push(event.what.kind().to_owned());
            rows.times.push(event.timestamp());
            rows.data.push(data);
            rows.parents.push(event.parent.map(|id| id.to_string()));
            rows.traces.push(event.trace.map(|id| id.to_string()));
            rows.tenants.push(event.tenant.to_string());
            rows.templates.push(event.template.to_string());
        }
        Ok(rows)
    }

    fn parameters(&self) -> [(&(dyn ToSql + Sync), Type); 9] {
        let all: [&(dyn ToSql + Sync); 9] = [
            &self.ids,
            &self.sandboxes,
            &self.types,
            &self.times,
            &self.data,
            &self.parents,
            &self.traces,
            &self.tenants,
            &self.templates,
        ];
        all.map(|column| (column, Type::TEXT_ARRAY))
    }
}

/// As `jsonb` takes it, which knows no character 0. What a sandbox wrote may have some.
fn data_of(event: &Event) -> serde_json::Result<String> {
    let mut whole = serde_json::to_value(event)?;
    let mut data = whole.get_mut("data").map_or(Value::Null, Value::take);
    without_zeros(&mut data);
    serde_json::to_string(&data)
}

fn without_zeros(value: &mut Value) {
    const ZERO: char = '\0';
    const INSTEAD: &str = "\u{fffd}";
    match value {
        Value::String(text) if text.contains(ZERO) => *text = text.replace(ZERO, INSTEAD),
        Value::Array(values) => values.iter_mut().for_each(without_zeros),
        Value::Object(fields) => {
            if fields.keys().any(|key| key.contains(ZERO)) {
                let all = std::mem::take(fields).into_iter();
                *fields = all.map(|(key, value)| (key.replace(ZERO, INSTEAD), value)).collect();
            }
            fields.values_mut().for_each(without_zeros);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn said(toml: &str) -> Result<Settings, String> {
        toml::from_str::<Said>(toml).map_err(|error| error.to_string())?.settings()
    }

    #[test]
    fn a_table_has_a_plain_name_and_no_password_is_in_the_settings() {
        let plain = said("connection_string = \"postgresql://me@db/x\"").unwrap();
        assert_eq!(plain.table.quoted(), "\"sandbox_events\"");
        let other = said("connection_string_env = \"URL\"\ntable_name = \"a1._b\"").unwrap();
        assert_eq!(other.table.quoted(), "\"a1\".\"_b\"");
        for (wrong, why) in [
            ("", "connection_string_file"),
            ("connection_string = \"postgresql://me:hush@db/x\"", "there is a password"),
            ("connection_string = \"host=x password='hush'\"", "there is a password"),
            ("connection_string = \"host=x passwort=hush\"", "is one such as"),
            ("connection_string = \"host=x\"\nconnection_string_env = \"U\"", "give one"),
            ("connection_string_env = \"U\"\ntable_name = \"Events\"", "a-z"),
            ("connection_string_env = \"U\"\ntable_name = \"a.b.c\"", "a-z"),
            ("connection_string_env = \"U\"\ntable_name = \"1a\"", "a-z"),
            ("connection_string_env = \"U\"\ntable_name = \"a\\\"; drop\"", "a-z"),
            ("connection_string_env = \"U\"\ntable = \"a\"", "unknown field"),
        ] {
            let error = said(wrong).unwrap_err();
            assert!(error.contains(why) && !error.contains("hush"), "{error}");
        }
    }

    #[test]
    fn character_0_is_replaced_wherever_it_is_and_nothing_else() {
        let mut data = json!({"a\0": ["x\0y", {"b": "\0"}], "kept": "\\u0000", "n": 1.5});
        without_zeros(&mut data);
        let instead = json!({
            "a\u{fffd}": ["x\u{fffd}y", {"b": "\u{fffd}"}], "kept": "\\u0000", "n": 1.5,
        });
        assert_eq!(data, instead);
    }
}
