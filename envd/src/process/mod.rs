//! The process service: starting programs in the sandbox and talking to them.
//!
//! Request in, one call, reply out; how processes run is [`running`]'s, what clients see of one
//! [`follow`]'s.

mod children;
mod exit;
mod fanout;
mod follow;
mod heard;
mod input;
mod running;
mod start;
mod stream;
mod table;
mod words;

use std::{sync::Arc, time::Instant};

use connectrpc::{
    ConnectError, InboundStream, RequestContext, Response, ServiceRequest, ServiceResult,
    ServiceStream,
};
use futures_util::StreamExt;
use nix::sys::signal::Signal as Kill;

pub(crate) use self::{
    children::CHILDREN,
    exit::{code as exit_code, words as exit_words},
    start::{Program, environment, run},
    table::Processes,
};
use self::{follow::Follow, running::Process, table::Selector};
use crate::{
    auth,
    connect::{
        proto::process::{
            CloseStdinRequest, CloseStdinResponse, ConnectRequest, ConnectResponse, ListRequest,
            ListResponse, Process as ProcessRpc, ProcessInput, ProcessSelector, SendInputRequest,
            SendInputResponse, SendSignalRequest, SendSignalResponse, Signal, StartRequest,
            StartResponse, StreamInputRequest, StreamInputResponse, UpdateRequest, UpdateResponse,
            process_input::Input, process_selector, stream_input_request,
        },
        stream_timeout,
    },
    state::Envd,
    trace::Traceparent,
    users::User,
    wire::{self, Detail, Of, What},
};

pub(crate) struct ProcessService(pub(crate) Arc<Envd>);

#[allow(refining_impl_trait)]
impl ProcessRpc for ProcessService {
    async fn list(
        &self,
        _context: RequestContext,
        _request: ServiceRequest<'_, ListRequest>,
    ) -> ServiceResult<ListResponse> {
        let processes = self.0.processes.list();
        Response::ok(ListResponse { processes, ..ListResponse::default() })
    }

    async fn start(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, StartRequest>,
    ) -> ServiceResult<ServiceStream<StartResponse>> {
        let user = auth::user(&self.0, context.headers())?;
        let starting = begin(self.0.clone(), user, request.to_owned_message(), context);
        // A task of its own: a client that goes away now must not leave a process nobody knows.
        let follow = tokio::spawn(starting).await.map_err(|error| {
            ConnectError::internal(format!("error starting process: {error}"))
        })??;
        Response::stream_ok(follow.events().map(|event| {
            event.map(|event| StartResponse { event: event.into(), ..StartResponse::default() })
        }))
    }

    async fn connect(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, ConnectRequest>,
    ) -> ServiceResult<ServiceStream<ConnectResponse>> {
        let request = request.to_owned_message();
        let selector = selector(&request.process)?;
        let process =
            self.0.processes.living_or_ended(selector).ok_or_else(|| not_found(selector))?;
        let follow = Follow::new(process, &context)?;
        Response::stream_ok(follow.events().map(|event| {
            event.map(|event| ConnectResponse { event: event.into(), ..ConnectResponse::default() })
        }))
    }

    async fn update(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, UpdateRequest>,
    ) -> ServiceResult<UpdateResponse> {
        let request = request.to_owned_message();
        let process = self.living(&request.process)?;
        if request.pty.is_set() {
            let (cols, rows) = start::size(&request.pty);
            process
                .input
                .resize(cols, rows)
                .map_err(|error| ConnectError::internal(format!("error resizing tty: {error}")))?;
        }
        Response::ok(UpdateResponse::default())
    }

    async fn stream_input(
        &self,
        _context: RequestContext,
        mut requests: InboundStream<StreamInputRequest>,
    ) -> ServiceResult<StreamInputResponse> {
        use stream_input_request::Event;
        let mut process = None;
        while let Some(request) = requests.next().await {
            match (request?.to_owned_message().event, &process) {
                (Some(Event::Start(start)), None) => process = Some(self.living(&start.process)?),
                (Some(Event::Start(_)), Some(_)) => {
                    return Err(ConnectError::invalid_argument("a second start event"));
                }
                (Some(Event::Data(data)), Some(process)) => write(process, &data.input).await?,
                (Some(Event::Data(_)), None) => {
                    return Err(ConnectError::invalid_argument("data before the start event"));
                }
                (Some(Event::Keepalive(_)), _) => {}
                (None, _) => return Err(ConnectError::unimplemented("invalid event type")),
            }
        }
        Response::ok(StreamInputResponse::default())
    }

    async fn send_input(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, SendInputRequest>,
    ) -> ServiceResult<SendInputResponse> {
        let request = request.to_owned_message();
        let process = self.living(&request.process)?;
        write(&process, &request.input).await?;
        Response::ok(SendInputResponse::default())
    }

    async fn send_signal(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, SendSignalRequest>,
    ) -> ServiceResult<SendSignalResponse> {
        let request = request.to_owned_message();
        let process = self.living(&request.process)?;
        let signal = match request.signal.as_known() {
            Some(Signal::SIGNAL_SIGKILL) => Kill::SIGKILL,
            Some(Signal::SIGNAL_SIGTERM) => Kill::SIGTERM,
            _ => {
                let error = format!("invalid signal: {:?}", request.signal);
                return Err(ConnectError::unimplemented(error));
            }
        };
        process.signal(signal).map_err(|errno| {
            ConnectError::internal(format!("error sending signal: {}", errno.desc()))
        })?;
        Response::ok(SendSignalResponse::default())
    }

    async fn close_stdin(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, CloseStdinRequest>,
    ) -> ServiceResult<CloseStdinResponse> {
        let request = request.to_owned_message();
        let process = self.living(&request.process)?;
        process
            .input
            .close()
            .await
            .map_err(|error| ConnectError::unknown(format!("error closing stdin: {error}")))?;
        Response::ok(CloseStdinResponse::default())
    }
}

impl ProcessService {
    fn living(&self, wanted: &ProcessSelector) -> Result<Arc<Process>, ConnectError> {
        let selector = selector(wanted)?;
        self.0.processes.living(selector).ok_or_else(|| not_found(selector))
    }
}

/// Starts a process, enters it in the table and sees to it from then on.
async fn begin(
    envd: Arc<Envd>,
    user: User,
    request: StartRequest,
    context: RequestContext,
) -> Result<Follow, ConnectError> {
    let traceparent = Traceparent::of(context.headers());
    let trace = traceparent.map(|traceparent| traceparent.trace);
    let command = words::command(&request.process);
    let cwd = wire::text(&start::directory(&envd, &user, &request.process));
    let started = match start::start(&envd, &user, &request, traceparent).await {
        Ok(started) => started,
        Err(error) => {
            let why = wire::text(error.message.as_deref().unwrap_or("the command cannot be run"));
            let of = Of::NotStarted { command, cwd, error: why };
            envd.reports.tell(What::NOTHING, &Detail { trace, of });
            return Err(error);
        }
    };
    let deadline = stream_timeout(&context).and_then(|timeout| started.at.checked_add(timeout));
    let process = started.process.clone();
    let follow = Follow::new(process.clone(), &context)?.owning(deadline);
    let words = (&request.process.cmd, &request.process.args);
    let repeated = envd.repeats.note(words, Instant::now());
    let of = Of::Started { command, cwd, pty: request.pty.is_set() };
    let what = What::ProcessStarted { pid: process.pid, repeated };
    envd.reports.tell(what, &Detail { trace, of });
    envd.processes.started(process, (*request.process).clone());
    tokio::spawn(running::watch(envd, started, deadline, trace));
    Ok(follow)
}

async fn write(process: &Process, input: &ProcessInput) -> Result<(), ConnectError> {
    let (channel, written) = match &input.input {
        Some(Input::Stdin(bytes)) => ("stdin", process.input.write_stdin(bytes).await),
        Some(Input::Pty(bytes)) => ("tty", process.input.write_terminal(bytes).await),
        None => return Err(ConnectError::unimplemented("invalid input type")),
    };
    written.map_err(|error| {
        let message = format!("error writing to {channel}: {error}");
        match error {
            input::Error::NotRead => ConnectError::deadline_exceeded(message),
            input::Error::TooMany => ConnectError::resource_exhausted(message),
            _ => ConnectError::internal(message),
        }
    })
}

fn selector(selector: &ProcessSelector) -> Result<Selector<'_>, ConnectError> {
    match &selector.selector {
        Some(process_selector::Selector::Pid(pid)) => Ok(Selector::Pid(*pid)),
        Some(process_selector::Selector::Tag(tag)) => Ok(Selector::Tag(tag)),
        None => Err(ConnectError::invalid_argument("no process selected")),
    }
}

fn not_found(selector: Selector<'_>) -> ConnectError {
    ConnectError::not_found(match selector {
        Selector::Pid(pid) => format!("process with pid {pid} not found"),
        Selector::Tag(tag) => format!("process with tag {tag} not found"),
    })
}
