//! `coppice batch`: many sandboxes at once, of a gateway that runs, over its API.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    process::ExitCode,
};

use anyhow::Context;
use chrono::{DateTime, Utc};
use clap::Subcommand;
use http::Method;
use serde_json::{Value, json};

use super::{
    api::{self, Api, Reach},
    columns::{Output, age, field, table},
};

#[derive(Subcommand)]
pub(crate) enum Batch {
    /// Make a batch, and print its id
    Create {
        #[command(flatten)]
        reach: Reach,
        /// How many sandboxes
        #[arg(long, short = 'n', value_name = "NUMBER")]
        replicas: u64,
        /// What they are made from
        #[arg(long, value_name = "NAME", default_value = "base")]
        template: String,
        /// Seconds until all of them end [default: 300]
        #[arg(long, value_name = "SECONDS")]
        timeout: Option<u64>,
        /// A variable of each of them
        #[arg(long = "env", short = 'e', value_name = "NAME=VALUE", value_parser = pair)]
        env_vars: Vec<(String, String)>,
        #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
        metadata: Vec<(String, String)>,
        /// Whether they reach the internet [default: as the gateway is configured]
        #[arg(long, value_name = "BOOL")]
        internet: Option<bool>,
        /// Seconds to wait at most until all of them were made
        #[arg(long, value_name = "SECONDS", default_value_t = 0)]
        wait: u64,
        /// After so many seconds a task is killed
        #[arg(long, value_name = "SECONDS", requires = "task")]
        task_timeout: Option<u64>,
        /// What is run in each of them: a program and its arguments
        #[arg(last = true, value_name = "COMMAND")]
        task: Vec<String>,
    },
    /// What batches there are; of one, with `-o json`, its sandboxes too
    Get {
        #[command(flatten)]
        reach: Reach,
        /// Only these
        ids: Vec<String>,
        /// How they are told; `wide` tells of tasks
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Delete batches, and end what is left of them
    Rm {
        #[command(flatten)]
        reach: Reach,
        #[arg(required = true)]
        ids: Vec<String>,
    },
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("a name and a value: NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

pub(crate) fn run(batch: Batch) -> anyhow::Result<ExitCode> {
    api::run(ask(batch))?;
    Ok(ExitCode::SUCCESS)
}

async fn ask(batch: Batch) -> anyhow::Result<()> {
    match batch {
        Batch::Create {
            reach,
            replicas,
            template,
            timeout,
            env_vars,
            metadata,
            internet,
            wait,
            task_timeout,
            task,
        } => {
            let mut body = json!({
                "replicas": replicas,
                "templateID": template,
                "metadata": metadata.into_iter().collect::<BTreeMap<_, _>>(),
                "envVars": env_vars.into_iter().collect::<BTreeMap<_, _>>(),
            });
            if let Some(timeout) = timeout {
                body["timeout"] = timeout.into();
            }
            if let Some(internet) = internet {
                body["allow_internet_access"] = internet.into();
            }
            if !task.is_empty() {
                body["task"] = json!({ "command": task });
                if let Some(seconds) = task_timeout {
                    body["task"]["timeoutSeconds"] = seconds.into();
                }
            }
            let path = format!("/batches?wait={wait}");
            let made = Api::new(&reach)?.send(Method::POST, &path, Some(&body)).await?;
            println!("{}", field(&made, "/batchID"));
        }
        Batch::Get { reach, ids, output } => {
            let api = Api::new(&reach)?;
            let mut items = Vec::new();
            for id in &ids {
                items.push(api.get::<Value>(&format!("/batches/{id}")).await?);
            }
            if ids.is_empty() {
                let all: Value = api.get("/batches").await?;
                let all = all["items"].as_array().context("/batches: an unexpected answer")?;
                items.clone_from(all);
            }
            tell(&mut io::stdout().lock(), &items, output, Utc::now())?;
        }
        Batch::Rm { reach, ids } => {
            let api = Api::new(&reach)?;
            for id in ids {
                api.send(Method::DELETE, &format!("/batches/{id}"), None).await?;
            }
        }
    }
    Ok(())
}

fn tell(
    out: &mut impl Write,
    items: &[Value],
    output: Output,
    now: DateTime<Utc>,
) -> io::Result<()> {
    if output == Output::Json {
        return writeln!(out, "{:#}", Value::from(items));
    }
    let counts = ["/batchID", "/desired", "/total", "/allocated", "/ready"];
    let tasks = ["/taskRunning", "/taskSucceed", "/taskFailed", "/taskUnknown"];
    let mut heading = vec!["NAME", "DESIRED", "TOTAL", "ALLOCATED", "READY"];
    if output == Output::Wide {
        heading.extend(["TASK_RUNNING", "TASK_SUCCEED", "TASK_FAILED", "TASK_UNKNOWN"]);
    }
    heading.extend(["EXPIRE", "AGE"]);
    let heading = heading.into_iter().map(str::to_owned).collect();
    let rows = items.iter().map(|batch| {
        let mut row: Vec<String> = counts.map(|name| field(batch, name)).into();
        if output == Output::Wide {
            row.extend(tasks.map(|name| field(batch, name)));
        }
        row.push(field(batch, "/expiresAt"));
        row.push(age(batch, "/createdAt", now));
        row
    });
    table(out, &[heading].into_iter().chain(rows).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_the_columns_of_kubectl_get_batchsandbox() {
        let batch = json!({
            "batchID": "b", "desired": 5, "total": 4, "allocated": 3, "ready": 2,
            "taskRunning": 1, "taskSucceed": 2, "taskFailed": 0, "taskUnknown": 9,
            "createdAt": "2026-11-23T11:50:00.000Z", "expiresAt": "2026-11-23T12:05:00.000Z",
        });
        let told = |output| {
            let mut out = Vec::new();
            let now = "2026-11-23T12:00:00Z".parse().unwrap();
            tell(&mut out, std::slice::from_ref(&batch), output, now).unwrap();
            String::from_utf8(out).unwrap()
        };
        let expected = "\
NAME   DESIRED   TOTAL   ALLOCATED   READY   EXPIRE                     AGE
b      5         4       3           2       2026-11-23T12:05:00.000Z   10m
";
        assert_eq!(told(Output::Table), expected);
        let wide = told(Output::Wide);
        let rows: Vec<Vec<&str>> =
            wide.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[0][5..9], ["TASK_RUNNING", "TASK_SUCCEED", "TASK_FAILED", "TASK_UNKNOWN"]);
        assert_eq!(rows[1][5..9], ["1", "2", "0", "9"]);
        assert!(rows.iter().all(|row| row.len() == 11));
    }

    #[test]
    fn a_pair_has_a_name_and_the_rest_is_its_value() {
        assert_eq!(pair("A=b=c"), Ok(("A".to_owned(), "b=c".to_owned())));
        assert!(pair("A").is_err());
    }
}
