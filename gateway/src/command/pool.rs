//! `coppice pool`: the pools of a gateway that runs, over its API.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use anyhow::Context;
use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Value, json};

use super::{
    api::{self, Api, Reach},
    columns::{Output, age, field, table},
};

#[derive(Subcommand)]
pub(crate) enum Pool {
    /// List all pools, those of the gateway's settings too
    List {
        #[command(flatten)]
        reach: Reach,
        /// How they are told
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Make a pool, which is filled from then on
    Create {
        #[command(flatten)]
        reach: Reach,
        name: String,
        /// What its sandboxes are made from
        #[arg(long, value_name = "NAME", default_value = "base")]
        template: String,
        /// What each of them may use at most: `memory=512,cpus=1`. It is for creates that say the same
        #[arg(long, value_name = "LIMIT=NUMBER,...")]
        limits: Option<String>,
        /// Whether they reach the internet [default: as the gateway is configured]
        #[arg(long, value_name = "BOOL")]
        internet: Option<bool>,
        #[command(flatten)]
        size: Size,
    },
    /// Have a pool be of another size; what is not given stays as it is
    Set {
        #[command(flatten)]
        reach: Reach,
        /// Its name, or its id
        pool: String,
        #[command(flatten)]
        size: Size,
    },
    /// Delete pools and what waits in them; what was taken from them goes on
    Rm {
        #[command(flatten)]
        reach: Reach,
        /// By name, or by id
        #[arg(required = true)]
        pools: Vec<String>,
    },
}

/// As much of a capacity as is said.
#[derive(Args, Clone, Copy, Debug, Default)]
pub(crate) struct Size {
    /// When fewer wait, more are made [default: 1]
    #[arg(long, value_name = "NUMBER")]
    buffer_min: Option<u64>,
    /// More than so many do not wait [default: what --buffer-min is]
    #[arg(long, value_name = "NUMBER")]
    buffer_max: Option<u64>,
    /// So many wait or run [default: 0]
    #[arg(long, value_name = "NUMBER")]
    pool_min: Option<u64>,
    /// None is made while so many wait or run [default: 1000000]
    #[arg(long, value_name = "NUMBER")]
    pool_max: Option<u64>,
}

impl Size {
    /// With what it is now, or would be if nothing is said.
    fn over(self, now: Option<&Value>) -> Value {
        let is = |name: &str| now.and_then(|now| now.get(name)?.as_u64());
        let buffer_min = self.buffer_min.or(is("bufferMin")).unwrap_or(1);
        // Whoever wants more to wait does not mean that fewer may.
        let buffer_max = self.buffer_max.or(is("bufferMax")).unwrap_or(buffer_min);
        let moved = self.buffer_max.is_none() && self.buffer_min.is_some();
        json!({
            "bufferMin": buffer_min,
            "bufferMax": if moved { buffer_max.max(buffer_min) } else { buffer_max },
            "poolMin": self.pool_min.or(is("poolMin")).unwrap_or(0),
            "poolMax": self.pool_max.or(is("poolMax")).unwrap_or(1_000_000),
        })
    }
}

pub(crate) fn run(pool: Pool) -> anyhow::Result<ExitCode> {
    api::run(ask(pool))?;
    Ok(ExitCode::SUCCESS)
}

async fn ask(pool: Pool) -> anyhow::Result<()> {
    match pool {
        Pool::List { reach, output } => {
            let all: Value = Api::new(&reach)?.get("/pools").await?;
            let items = all["items"].as_array().context("/pools: an unexpected answer")?;
            tell(&mut io::stdout().lock(), items, output, Utc::now())?;
        }
        Pool::Create { reach, name, template, limits, internet, size } => {
            let mut body = json!({
                "name": name, "templateID": template, "capacitySpec": size.over(None),
            });
            if let Some(limits) = limits {
                body["limits"] = limits.into();
            }
            if let Some(internet) = internet {
                body["allow_internet_access"] = internet.into();
            }
            let made = Api::new(&reach)?.send(Method::POST, "/pools", Some(&body)).await?;
            println!("{}", field(&made, "/id"));
        }
        Pool::Set { reach, pool, size } => {
            let (api, path) = (Api::new(&reach)?, format!("/pools/{pool}"));
            let now: Value = api.get(&path).await?;
            let body = json!({ "capacitySpec": size.over(now.get("capacitySpec")) });
            api.send(Method::PUT, &path, Some(&body)).await?;
        }
        Pool::Rm { reach, pools } => {
            let api = Api::new(&reach)?;
            for pool in pools {
                api.send(Method::DELETE, &format!("/pools/{pool}"), None).await?;
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
    let status = ["total", "allocated", "available", "updated"];
    let capacity = ["bufferMin", "bufferMax", "poolMin", "poolMax"];
    let heading = ["NAME", "TOTAL", "ALLOCATED", "AVAILABLE", "UPDATED", "AGE"];
    let more =
        ["TEMPLATE", "LIMITS", "BUFFER_MIN", "BUFFER_MAX", "POOL_MIN", "POOL_MAX", "ORIGIN", "ID"];
    let more = if output == Output::Wide { &more[..] } else { &[] };
    let heading = heading.iter().chain(more).map(|&name| name.to_owned()).collect();
    let rows = items.iter().map(|pool| {
        let mut row = vec![field(pool, "/name")];
        row.extend(status.map(|name| field(pool, &format!("/status/{name}"))));
        row.push(age(pool, "/createdAt", now));
        if output == Output::Wide {
            row.extend(["/templateID", "/limits"].map(|name| field(pool, name)));
            row.extend(capacity.map(|name| field(pool, &format!("/capacitySpec/{name}"))));
            row.extend(["/origin", "/id"].map(|name| field(pool, name)));
        }
        row
    });
    table(out, &[heading].into_iter().chain(rows).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool() -> Value {
        json!({
            "id": "0123456789abcdef0123456789abcdef", "name": "mine", "templateID": "base",
            "capacitySpec": {"bufferMin": 2, "bufferMax": 4, "poolMin": 0, "poolMax": 9},
            "status": {"total": 5, "allocated": 2, "available": 3, "updated": 5, "revision": "x"},
            "createdAt": "2026-11-23T11:50:00.000Z", "origin": "api",
        })
    }

    fn told(output: Output) -> String {
        let mut out = Vec::new();
        let now = "2026-11-23T12:00:00Z".parse().unwrap();
        tell(&mut out, &[pool()], output, now).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_list_has_the_columns_of_kubectl_get_pools() {
        let expected = "NAME   TOTAL   ALLOCATED   AVAILABLE   UPDATED   AGE\n\
                        mine   5       2           3           5         10m\n";
        assert_eq!(told(Output::Table), expected);
        let wide = told(Output::Wide);
        let row: Vec<&str> = wide.lines().nth(1).unwrap().split_whitespace().collect();
        let id = "0123456789abcdef0123456789abcdef";
        assert_eq!(row[6..], ["base", "<none>", "2", "4", "0", "9", "api", id]);
        let json: Value = serde_json::from_str(&told(Output::Json)).unwrap();
        assert_eq!(json, json!([pool()]));
    }

    #[test]
    fn what_is_not_said_of_a_size_stays_as_it_is() {
        let said = |buffer_min, buffer_max| Size { buffer_min, buffer_max, ..Size::default() };
        let (pool, none) = (pool(), None);
        let now = pool.get("capacitySpec");
        let buffers = |size: Size, now| {
            let all = size.over(now);
            (all["bufferMin"].as_u64().unwrap(), all["bufferMax"].as_u64().unwrap())
        };
        assert_eq!(buffers(said(None, None), none), (1, 1));
        assert_eq!(buffers(said(Some(5), None), none), (5, 5));
        assert_eq!(buffers(said(None, None), now), (2, 4));
        assert_eq!(buffers(said(Some(9), None), now), (9, 9));
        assert_eq!(buffers(said(None, Some(7)), now), (2, 7));
        assert_eq!(said(None, None).over(now)["poolMax"], 9);
    }
}
