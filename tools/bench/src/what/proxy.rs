//! A request to a port of a sandbox, beside nginx proxying to the same server outside.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use http::{Method, Request};

use super::{
    Stage,
    transfer::{Direction, Make, at_once, bytes, clients},
};
use crate::{
    api::Sandbox,
    client::{Client, Keep, Payload},
    load::{Lane, interleave},
    peers::{
        self,
        nginx::{self, Nginx},
    },
    report::{At, Of, Report},
    scratch::Scratch,
};

const PORT: u16 = 8000;
const STARTS: Duration = Duration::from_secs(10);
const KEPT: &str = "nginx, upstream kept open";
const SINGLE: &str = "nginx";

pub(super) async fn measure(stage: &Stage, report: &mut Report) -> anyhow::Result<()> {
    let api = &stage.gateway.api;
    let mut client = api.client();
    let sandbox = api.create(&mut client).await?;
    serve_inside(&sandbox, &mut client).await?;
    let outside = Outside::start()?;
    let dir = Scratch::new()?;
    let peer = if stage.amount.no_peers {
        None
    } else {
        let binary = nginx::binary(stage.amount.nginx.as_deref())?;
        report.note(format!(
            "peer: {}, {} workers; the server proxied to is the same program on both sides",
            peers::version(&binary.display().to_string(), "-v"),
            crate::machine::cores(),
        ));
        Some(Nginx::proxy(&binary, dir.path(), outside.address)?)
    };
    for (size, number, count) in [(1 << 10, 1, 1000), (1 << 10, 10, 2000), (4 << 20, 10, 100)] {
        let (what, how) = (format!("GET of {}", bytes(size)), at_once(number));
        let lane = |who: &str, server, make: &Make| {
            Lane::new(&what, who, &how, clients(number, server, Direction::Down, size, make))
        };
        let ours: Make = {
            let sandbox = sandbox.clone();
            let path = format!("/{size}");
            Arc::new(move |_| {
                Ok(sandbox.to_port(Method::GET, PORT, &path).body(Payload::empty())?)
            })
        };
        let theirs: Make = Arc::new(move |_| {
            let request = Request::get(format!("/{size}")).header("host", "localhost");
            Ok(request.body(Payload::empty())?)
        });
        let mut lanes = vec![lane("coppice", api.address(), &ours)];
        if let Some((_, kept, single)) = &peer {
            lanes.push(lane(SINGLE, *single, &theirs));
            lanes.push(lane(KEPT, *kept, &theirs));
        }
        interleave(&mut lanes, stage.rounds(5, count)).await?;
        report.lanes(&lanes, Of::Throughput);
        for peer in [SINGLE, KEPT] {
            let aim = format!("{what}, {how}, by {peer}");
            report.aim_ratio(&aim, At::Least, 0.7, &lanes[0], peer);
        }
    }
    sandbox.kill(&mut client).await
}

/// Copies this program into the sandbox and has it answer there.
async fn serve_inside(sandbox: &Sandbox, client: &mut Client) -> anyhow::Result<()> {
    let program = std::env::current_exe().and_then(std::fs::read).context("this program")?;
    let upload = sandbox.upload("/home/user/answer", Payload::of(program))?;
    client.send(upload, Keep::Length).await?.successful().context("upload")?;
    let script = format!(
        "chmod +x answer && {{ ./answer answer --listen 127.0.0.1:{PORT} >answer.log 2>&1 & }}"
    );
    sandbox.run(client, "/bin/sh", &["-c", &script]).await?;
    let began = Instant::now();
    loop {
        let request = sandbox.to_port(Method::GET, PORT, "/1").body(Payload::empty())?;
        match client.send(request, Keep::Length).await?.successful() {
            Ok(_) => return Ok(()),
            Err(error) if began.elapsed() > STARTS => {
                return Err(error).context("the server in the sandbox does not answer");
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// The same program, here.
struct Outside {
    process: Child,
    address: SocketAddr,
}

impl Outside {
    fn start() -> anyhow::Result<Self> {
        let mut process = Command::new(std::env::current_exe().context("this program")?)
            .args(["answer", "--listen", "127.0.0.1:0"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("the server outside")?;
        let stdout = process.stdout.take().expect("it is piped");
        let mut outside = Self { process, address: ([127, 0, 0, 1], 0).into() };
        let mut said = String::new();
        BufReader::new(stdout).read_line(&mut said).context("the server outside")?;
        outside.address = said.trim().parse().context("the server outside did not start")?;
        Ok(outside)
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
