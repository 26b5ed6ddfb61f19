//! `filesystem.Filesystem`: the tree inside the sandbox, and what changes in it.
//!
//! Works as root on behalf of a user whom everything created is given to. Contents of files are
//! not here but in [`crate::files`].

pub(crate) mod entry;
mod error;
mod list;
pub(crate) mod metadata;
mod permissions;
mod remove;
pub(crate) mod tree;
mod watch;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use axum::http::HeaderMap;
use connectrpc::{
    ConnectError, Encodable, RequestContext, Response, ServiceRequest, ServiceResult, ServiceStream,
};

use self::{
    entry::Describe,
    error::Error,
    watch::{Polled, Wanted, Watch},
};
use crate::{
    auth,
    connect::proto::filesystem::{
        CreateWatcherRequest, CreateWatcherResponse, EntryInfo, Filesystem,
        GetWatcherEventsRequest, GetWatcherEventsResponse, ListDirRequest, ListDirResponse,
        MakeDirRequest, MakeDirResponse, MoveRequest, MoveResponse, RemoveRequest, RemoveResponse,
        RemoveWatcherRequest, RemoveWatcherResponse, StatRequest, StatResponse, WatchDirRequest,
        WatchDirResponse,
    },
    paths,
    state::Envd,
    trace::Traceparent,
    users::User,
    wire::{self, Detail, Of, What},
};

pub(crate) struct FilesystemService {
    envd: Arc<Envd>,
    watches: watch::Allowance,
    polled: Polled,
}

impl FilesystemService {
    pub(crate) fn new(envd: Arc<Envd>) -> Self {
        Self { envd, watches: watch::Allowance::default(), polled: Polled::default() }
    }

    /// Whom a call is made for: HTTP basic authentication without a password, else the default.
    fn user(&self, headers: &HeaderMap) -> Result<User, Error> {
        self.envd.user(auth::user_name(headers).as_deref()).map_err(Error::User)
    }

    fn resolve(&self, path: &str, user: &User) -> Result<PathBuf, Error> {
        let settings = self.envd.settings();
        Ok(paths::resolve(path, user, settings.default_workdir.as_deref())?)
    }

    fn tell(&self, headers: &HeaderMap, of: Of) {
        let trace = Traceparent::of(headers).map(|traceparent| traceparent.trace);
        self.envd.reports.tell(What::NOTHING, &Detail { trace, of });
    }

    async fn open(&self, ctx: &RequestContext, path: &str, want: Wanted) -> Result<Watch, Error> {
        let user = self.user(ctx.headers())?;
        let path = self.resolve(path, &user)?;
        Watch::open(&self.watches, path, want).await
    }
}

fn told(path: &Path) -> String {
    wire::text(&path.to_string_lossy())
}

/// Disks wait; the threads that serve requests do not.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, ConnectError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => Ok(done?),
        Err(error) => Err(ConnectError::internal(error.to_string())),
    }
}

fn entry_at(path: &Path) -> Result<EntryInfo, Error> {
    Describe::new().entry(path, path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => {
            Error::NotFound(format!("file not found: {}", path.display()))
        }
        _ => Error::io(format!("looking at '{}'", path.display()), error),
    })
}

#[allow(refining_impl_trait)]
impl Filesystem for FilesystemService {
    async fn stat(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, StatRequest>,
    ) -> ServiceResult<impl Encodable<StatResponse> + Send + use<>> {
        let path = self.resolve(request.path, &self.user(ctx.headers())?)?;
        let entry = blocking(move || entry_at(&path)).await?;
        Response::ok(StatResponse { entry: entry.into(), ..Default::default() })
    }

    async fn make_dir(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, MakeDirRequest>,
    ) -> ServiceResult<impl Encodable<MakeDirResponse> + Send + use<>> {
        let user = self.user(ctx.headers())?;
        let path = self.resolve(request.path, &user)?;
        let of = Of::DirectoryMade { path: told(&path) };
        let made = move || {
            tree::make_dir(&path, &user)?;
            entry_at(&path)
        };
        let entry = blocking(made).await?;
        self.tell(ctx.headers(), of);
        Response::ok(MakeDirResponse { entry: entry.into(), ..Default::default() })
    }

    async fn r#move(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, MoveRequest>,
    ) -> ServiceResult<impl Encodable<MoveResponse> + Send + use<>> {
        let user = self.user(ctx.headers())?;
        let source = self.resolve(request.source, &user)?;
        let destination = self.resolve(request.destination, &user)?;
        let (from, to) = (told(&source), told(&destination));
        let moved = move || {
            tree::rename(&source, &destination, &user)?;
            entry_at(&destination)
        };
        let entry = blocking(moved).await?;
        let size = u64::try_from(entry.size).unwrap_or_default();
        self.tell(ctx.headers(), Of::Moved { from, to, size });
        Response::ok(MoveResponse { entry: entry.into(), ..Default::default() })
    }

    async fn list_dir(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, ListDirRequest>,
    ) -> ServiceResult<impl Encodable<ListDirResponse> + Send + use<>> {
        let path = self.resolve(request.path, &self.user(ctx.headers())?)?;
        let depth = request.depth;
        let entries = blocking(move || list::list(&path, depth)).await?;
        Response::ok(ListDirResponse { entries, ..Default::default() })
    }

    async fn remove(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, RemoveRequest>,
    ) -> ServiceResult<impl Encodable<RemoveResponse> + Send + use<>> {
        let path = self.resolve(request.path, &self.user(ctx.headers())?)?;
        let of = Of::Removed { path: told(&path) };
        if blocking(move || remove::remove(&path)).await? {
            self.tell(ctx.headers(), of);
        }
        Response::ok(RemoveResponse::default())
    }

    async fn watch_dir(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, WatchDirRequest>,
    ) -> ServiceResult<ServiceStream<WatchDirResponse>> {
        let want = Wanted {
            recursive: request.recursive,
            entries: request.include_entry,
            network_mounts: request.allow_network_mounts,
        };
        let watch = self.open(&ctx, request.path, want).await?;
        Ok(Response::stream(watch::stream(watch, &ctx)))
    }

    async fn create_watcher(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, CreateWatcherRequest>,
    ) -> ServiceResult<impl Encodable<CreateWatcherResponse> + Send + use<>> {
        let want = Wanted {
            recursive: request.recursive,
            entries: request.include_entry,
            network_mounts: request.allow_network_mounts,
        };
        let watch = self.open(&ctx, request.path, want).await?;
        let watcher_id = self.polled.add(watch);
        Response::ok(CreateWatcherResponse { watcher_id, ..Default::default() })
    }

    async fn get_watcher_events(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, GetWatcherEventsRequest>,
    ) -> ServiceResult<impl Encodable<GetWatcherEventsResponse> + Send + use<>> {
        let events = self.polled.drain(request.watcher_id)?;
        Response::ok(GetWatcherEventsResponse { events, ..Default::default() })
    }

    async fn remove_watcher(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, RemoveWatcherRequest>,
    ) -> ServiceResult<impl Encodable<RemoveWatcherResponse> + Send + use<>> {
        self.polled.remove(request.watcher_id)?;
        Response::ok(RemoveWatcherResponse::default())
    }
}

#[cfg(test)]
pub(crate) mod tests;
