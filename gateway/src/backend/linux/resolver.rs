//! Names, for sandboxes that may reach some: their questions come here wherever they are sent. Of a
//! name that is allowed the address is asked of a resolver, opened and told; nothing else of a
//! question leaves the host, and nothing else of an answer reaches the sandbox.
//!
//! Bounded: questions and connections at once, of one sandbox and of all; the time of each; what is
//! remembered.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4},
    sync::Arc,
    time::{Duration, Instant},
};

use nix::sys::socket::{setsockopt, sockopt::IpFreebind};
use parking_lot::Mutex;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    time::timeout,
};
use tracing::{debug, warn};

use super::{
    fence::{Fences, Named},
    places::Places,
    slot::GATEWAY,
};
use crate::network::{
    dns::{self, Answer, MOST_BYTES, Outcome, Question},
    is_closed,
};

/// Being answered at once: of one sandbox, and of all.
const QUESTIONS: [usize; 2] = [64, 2048];
/// Connections by TCP, likewise.
const CONNECTIONS: [usize; 2] = [8, 256];
/// Of one connection.
const MOST_QUESTIONS: usize = 64;
const IDLE: Duration = Duration::from_secs(10);
/// Until another server is asked.
const PATIENCE: Duration = Duration::from_secs(2);
const ROUNDS: usize = 2;
/// For how long an address stays open that was told and not used yet.
const SHORTEST: Duration = Duration::from_secs(60);
const LONGEST: Duration = Duration::from_secs(3600);
/// Names remembered; all are forgotten when there are more.
const MOST_REMEMBERED: usize = 4096;
const PORT: u16 = 53;

pub(super) struct Resolver {
    fences: Arc<Fences>,
    /// For who names none.
    servers: Vec<IpAddr>,
    remembered: Mutex<HashMap<Asked, (Answer, Instant)>>,
    questions: Places,
    connections: Places,
}

/// Of which servers, and for which name.
type Asked = (Option<Vec<Ipv4Addr>>, String);

impl Resolver {
    pub(super) fn new(fences: Arc<Fences>, servers: Vec<IpAddr>) -> Self {
        let places = |[of_one, of_all]: [usize; 2]| Places::new(of_one, of_all);
        Self {
            fences,
            servers,
            remembered: Mutex::default(),
            questions: places(QUESTIONS),
            connections: places(CONNECTIONS),
        }
    }

    pub(super) async fn serve_udp(self: Arc<Self>, socket: UdpSocket) {
        let socket = Arc::new(socket);
        let mut buffer = [0; 4096];
        loop {
            let (length, SocketAddr::V4(from)) = (match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                // Linux: of an answer that came back.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
                Err(error) => {
                    warn!(%error, "cannot receive questions of sandboxes");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            }) else {
                continue;
            };
            let Some(place) = self.questions.take(*from.ip()) else { continue };
            let (resolver, socket) = (self.clone(), socket.clone());
            let message = buffer[..length].to_vec();
            tokio::spawn(async move {
                let _place = place;
                if let Some(answer) = resolver.answer(*from.ip(), &message).await
                    && let Err(error) = socket.send_to(&answer, from).await
                {
                    debug!(%from, %error, "an answer cannot be sent");
                }
            });
        }
    }

    pub(super) async fn serve_tcp(self: Arc<Self>, listener: TcpListener) {
        loop {
            let Ok((stream, SocketAddr::V4(from))) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            };
            let Some(place) = self.connections.take(*from.ip()) else { continue };
            let resolver = self.clone();
            tokio::spawn(async move {
                let _place = place;
                if let Err(error) = resolver.converse(stream, from).await {
                    debug!(%from, %error, "a conversation about names");
                }
            });
        }
    }

    async fn converse(&self, mut stream: TcpStream, from: SocketAddrV4) -> io::Result<()> {
        for _ in 0..MOST_QUESTIONS {
            let read = async {
                let length = usize::from(stream.read_u16().await?);
                let mut message = vec![0; length];
                stream.read_exact(&mut message).await?;
                io::Result::Ok(message)
            };
            let Ok(message) = timeout(IDLE, read).await else { return Ok(()) };
            let Some(answer) = self.answer(*from.ip(), &message?).await else { return Ok(()) };
            let mut framed = (answer.len() as u16).to_be_bytes().to_vec();
            framed.extend(answer);
            timeout(IDLE, stream.write_all(&framed)).await??;
        }
        Ok(())
    }

    /// `None` to what deserves none.
    async fn answer(&self, source: Ipv4Addr, message: &[u8]) -> Option<Vec<u8>> {
        let named = self.fences.named(source)?;
        let Some(question) = Question::read(message) else {
            return Question::id_of(message).map(dns::refuse);
        };
        let none = Answer::default();
        if !named.allows(question.name()) {
            self.fences.note_refused();
            return Some(question.answer(Outcome::Refused, &none));
        }
        if !question.wants_addresses() {
            // It has none of that kind.
            return Some(question.answer(Outcome::Found, &none));
        }
        match self.open(source, &named, question.name()).await {
            Ok(found) => Some(question.answer(Outcome::Found, &found)),
            Err(outcome) => Some(question.answer(outcome, &none)),
        }
    }

    /// Addresses that are open to that sandbox from here on.
    async fn open(&self, source: Ipv4Addr, named: &Named, name: &str) -> Result<Answer, Outcome> {
        let found = self.look_up(named, name).await?;
        let lasts = Duration::from_secs(found.ttl.into()).clamp(SHORTEST, LONGEST);
        if found.addresses.is_empty() {
            return Ok(found);
        }
        match self.fences.lead(source, name, &found.addresses, lasts).await {
            Ok(true) => Ok(found),
            Ok(false) => Err(Outcome::Refused),
            Err(error) => {
                warn!(%source, name, %error, "a name's addresses cannot be opened");
                Err(Outcome::Failed)
            }
        }
    }

    /// The addresses of a name that a sandbox may reach; none that is closed to all.
    pub(super) async fn look_up(&self, named: &Named, name: &str) -> Result<Answer, Outcome> {
        let asked = (named.servers.clone(), name.to_ascii_lowercase());
        if let Some((answer, until)) = self.remembered.lock().get(&asked)
            && let Some(left) = until.checked_duration_since(Instant::now())
        {
            return Ok(Answer { ttl: left.as_secs() as u32, ..answer.clone() });
        }
        let servers: Vec<IpAddr> = match &named.servers {
            Some(servers) => servers.iter().copied().map(IpAddr::V4).collect(),
            None => self.servers.clone(),
        };
        let mut answer = ask(&servers, name).await?;
        answer.addresses.retain(|address| !is_closed(*address));
        let mut remembered = self.remembered.lock();
        if remembered.len() >= MOST_REMEMBERED {
            remembered.clear();
        }
        let holds = Duration::from_secs(answer.ttl.into()).min(LONGEST);
        remembered.insert(asked, (answer.clone(), Instant::now() + holds));
        Ok(answer)
    }
}

/// The first server that has an answer is believed.
async fn ask(servers: &[IpAddr], name: &str) -> Result<Answer, Outcome> {
    let mut outcome = Outcome::Failed;
    for _ in 0..ROUNDS {
        for server in servers {
            match timeout(PATIENCE, ask_one(*server, name)).await {
                Ok(Ok(answered)) => return answered,
                Ok(Err(error)) => debug!(%server, %error, "a resolver cannot be asked"),
                Err(_) => debug!(%server, "a resolver does not answer"),
            }
            outcome = Outcome::Failed;
        }
    }
    Err(outcome)
}

/// From a port of its own, with an id that nobody can know.
async fn ask_one(server: IpAddr, name: &str) -> io::Result<Result<Answer, Outcome>> {
    let mut id = [0; 2];
    getrandom::fill(&mut id).map_err(io::Error::other)?;
    let question = Question::of(name, u16::from_be_bytes(id));
    let any: SocketAddr = match server {
        IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        IpAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect((server, PORT)).await?;
    socket.send(&question.write()).await?;
    let mut buffer = [0; MOST_BYTES];
    let length = socket.recv(&mut buffer).await?;
    Ok(question.understand(&buffer[..length]))
}

/// At the address that every sandbox's link has here, whether there is a link yet or not; a port
/// that both protocols have.
pub(super) fn listen() -> io::Result<(UdpSocket, TcpListener, u16)> {
    let mut failed = None;
    for _ in 0..16 {
        let tcp = listen_tcp(0)?;
        let port = tcp.local_addr()?.port();
        match bind(Type::DGRAM, Protocol::UDP, port) {
            Ok(udp) => {
                let udp = UdpSocket::from_std(udp.into())?;
                return Ok((udp, tcp, port));
            }
            Err(error) => failed = Some(error),
        }
    }
    Err(failed.unwrap_or_else(|| io::ErrorKind::AddrInUse.into()))
}

pub(super) fn listen_tcp(port: u16) -> io::Result<TcpListener> {
    let socket = bind(Type::STREAM, Protocol::TCP, port)?;
    socket.listen(1024)?;
    TcpListener::from_std(socket.into())
}

fn bind(kind: Type, protocol: Protocol, port: u16) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, kind, Some(protocol))?;
    socket.set_nonblocking(true)?;
    setsockopt(&socket, IpFreebind, &true)?;
    socket.bind(&SocketAddr::from((GATEWAY, port)).into())?;
    Ok(socket)
}
