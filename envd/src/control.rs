//! Both ends of the control socket: how the gateway tells a fresh envd where it is, and how envd
//! says that it serves; and of the socket by which the gateway asks for a fresh envd.
//!
//! Blocking; the caller sets the socket's timeouts.

use std::{
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    os,
    wire::{Attached, Descriptor, MAX_FRAME, Spec},
};

/// The descriptors that came with a [`Spec`], by role.
#[derive(Debug, Default)]
pub struct Descriptors(Vec<(Descriptor, OwnedFd)>);

impl Descriptors {
    /// Takes the first that is left of that role.
    pub fn take(&mut self, role: Descriptor) -> Option<OwnedFd> {
        let at = self.0.iter().position(|(of, _)| *of == role)?;
        Some(self.0.remove(at).1)
    }

    /// Takes all that are left of that role, in the order they came.
    pub fn take_all(&mut self, role: Descriptor) -> Vec<OwnedFd> {
        let (taken, left) =
            std::mem::take(&mut self.0).into_iter().partition(|(of, _)| *of == role);
        self.0 = left;
        let taken: Vec<(Descriptor, OwnedFd)> = taken;
        taken.into_iter().map(|(_, descriptor)| descriptor).collect()
    }
}

/// What a fresh envd is given, and in whose name its user namespace is made.
pub struct ChildRequest<Fd = OwnedFd> {
    pub owner: u32,
    /// Its end of the control socket.
    pub control: Fd,
    /// Its standard output and error.
    pub log: Fd,
    /// The v2 cgroup to be made in.
    pub cgroup: Option<Fd>,
}

/// The gateway's side: asks for a first process of a sandbox, and hears its pid. It waits for one
/// byte on its control socket before it does anything.
///
/// # Errors
/// What the socket says; the inner one is what kept the process from being made.
pub fn request_child(
    mut socket: &UnixStream,
    request: &ChildRequest<BorrowedFd<'_>>,
) -> io::Result<io::Result<i32>> {
    let mut descriptors = vec![request.control, request.log];
    descriptors.extend(request.cgroup);
    os::send(socket.as_fd(), 0, &descriptors)?;
    socket.write_all(&request.owner.to_be_bytes())?;
    let mut answer = [0; 4];
    socket.read_exact(&mut answer)?;
    Ok(match i32::from_be_bytes(answer) {
        pid @ 1.. => Ok(pid),
        errno => Err(io::Error::from_raw_os_error(errno.saturating_neg())),
    })
}

/// The other side.
///
/// # Errors
/// What the socket says, which is the end of the file when the gateway is gone, or descriptors
/// that are too few.
pub fn receive_child_request(socket: BorrowedFd<'_>) -> io::Result<ChildRequest> {
    let (_, descriptors) = os::receive(socket)?;
    let mut owner = [0; 4];
    stream(socket)?.read_exact(&mut owner)?;
    let mut descriptors = descriptors.into_iter();
    match (descriptors.next(), descriptors.next(), descriptors.next()) {
        (Some(control), Some(log), cgroup) => {
            Ok(ChildRequest { owner: u32::from_be_bytes(owner), control, log, cgroup })
        }
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// A step of the start that failed.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {message}")]
pub struct Failure {
    /// E.g. `mount overlay at /`.
    pub step: String,
    pub errno: Option<i32>,
    pub message: String,
}

impl Failure {
    pub fn new(step: impl Into<String>, source: &io::Error) -> Self {
        Self { step: step.into(), errno: source.raw_os_error(), message: source.to_string() }
    }
}

/// The gateway's side: `descriptors` in the order of `spec.descriptors`.
///
/// # Errors
/// What the socket says, or a frame that is too long.
pub fn send_spec(
    socket: BorrowedFd<'_>,
    spec: &Spec,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    if spec.descriptors.len() != descriptors.len() {
        return Err(io::Error::other("as many roles as descriptors are needed"));
    }
    let frame = frame(spec)?;
    os::send(socket, frame[0], descriptors)?;
    stream(socket)?.write_all(&frame[1..])
}

/// envd's side.
///
/// # Errors
/// What the socket says, a frame that is too long or not a [`Spec`], or another number of
/// descriptors than it names.
pub fn receive_spec(socket: BorrowedFd<'_>) -> io::Result<(Spec, Descriptors)> {
    let (first, descriptors) = os::receive(socket)?;
    let mut length = [first, 0, 0, 0];
    let mut stream = stream(socket)?;
    stream.read_exact(&mut length[1..])?;
    let spec: Spec = body(&mut stream, length)?;
    if spec.descriptors.len() != descriptors.len() {
        return Err(io::Error::other(format!(
            "{} descriptors came, {} were named",
            descriptors.len(),
            spec.descriptors.len()
        )));
    }
    let descriptors = Descriptors(spec.descriptors.iter().copied().zip(descriptors).collect());
    Ok((spec, descriptors))
}

/// The step that [`await_link`] is.
pub const AWAIT_LINK: &str = "wait for the link";

/// envd's side: one byte says that the sandbox's end of its link is there.
///
/// # Errors
/// What the socket says.
pub fn await_link(socket: BorrowedFd<'_>) -> io::Result<()> {
    stream(socket)?.read_exact(&mut [0])
}

/// envd's side.
///
/// # Errors
/// What the socket says.
pub fn send_attached(socket: BorrowedFd<'_>, attached: &Attached) -> io::Result<()> {
    stream(socket)?.write_all(&frame(attached)?)
}

/// The gateway's side. What comes may be written by hostile code.
///
/// # Errors
/// What the socket says, a frame that is too long or not an [`Attached`].
pub fn receive_attached(socket: BorrowedFd<'_>) -> io::Result<Attached> {
    let mut stream = stream(socket)?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    body(&mut stream, length)
}

fn stream(socket: BorrowedFd<'_>) -> io::Result<UnixStream> {
    Ok(UnixStream::from(socket.as_fd().try_clone_to_owned()?))
}

fn frame(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, message)?;
    let length = u32::try_from(frame.len() - 4).ok().filter(|length| *length <= MAX_FRAME);
    let length = length.ok_or_else(|| too_long(frame.len() - 4))?;
    frame[..4].copy_from_slice(&length.to_be_bytes());
    Ok(frame)
}

fn body<T: DeserializeOwned>(stream: &mut UnixStream, length: [u8; 4]) -> io::Result<T> {
    let length = u32::from_be_bytes(length);
    if length > MAX_FRAME {
        return Err(too_long(length as usize));
    }
    // Grows with what really comes.
    let mut body = Vec::new();
    stream.take(u64::from(length)).read_to_end(&mut body)?;
    Ok(serde_json::from_slice(&body)?)
}

fn too_long(length: usize) -> io::Error {
    io::Error::other(format!("a frame of {length} bytes, at most {MAX_FRAME}"))
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Seek};

    use proptest::prelude::*;

    use super::*;
    use crate::wire::{Attach, Init, LinuxAttach, PROTOCOL};

    fn spec(descriptors: Vec<Descriptor>) -> Spec {
        Spec {
            protocol: PROTOCOL,
            sandbox_id: "0".repeat(32),
            template_id: "base".into(),
            descriptors,
            attach: Attach::Linux(LinuxAttach {
                hostname: "sandbox".into(),
                memory_bytes: 1 << 30,
                shm_bytes: 0,
                cpus: vec![0],
                processes: 1024,
                open_files: None,
                network: None,
            }),
            init: Init::default(),
        }
    }

    #[test]
    fn a_spec_arrives_with_its_descriptors_by_role() {
        let (gateway, envd) = UnixStream::pair().unwrap();
        let files: Vec<File> = (0..3)
            .map(|number| {
                let mut file = tempfile::tempfile().unwrap();
                write!(file, "file {number}").unwrap();
                file.rewind().unwrap();
                file
            })
            .collect();
        let roles = vec![Descriptor::UserCgroup, Descriptor::MemoryUsage, Descriptor::UserCgroup];
        let borrowed: Vec<_> = files.iter().map(AsFd::as_fd).collect();
        send_spec(gateway.as_fd(), &spec(roles), &borrowed).unwrap();

        let (received, mut descriptors) = receive_spec(envd.as_fd()).unwrap();
        assert_eq!(received.template_id, "base");
        let text = |fd: OwnedFd| io::read_to_string(File::from(fd)).unwrap();
        assert_eq!(text(descriptors.take(Descriptor::MemoryUsage).unwrap()), "file 1");
        let cgroups = descriptors.take_all(Descriptor::UserCgroup);
        assert_eq!(cgroups.into_iter().map(text).collect::<Vec<_>>(), ["file 0", "file 2"]);
        assert!(descriptors.take(Descriptor::EnvdListener).is_none());
    }

    #[test]
    fn the_answer_arrives() {
        let (gateway, envd) = UnixStream::pair().unwrap();
        send_attached(envd.as_fd(), &Attached::Ready { protocol: PROTOCOL }).unwrap();
        let answer = receive_attached(gateway.as_fd()).unwrap();
        assert!(matches!(answer, Attached::Ready { protocol: PROTOCOL }));
    }

    #[test]
    fn an_absurd_length_is_refused() {
        let (gateway, mut envd) = UnixStream::pair().unwrap();
        envd.write_all(&u32::MAX.to_be_bytes()).unwrap();
        assert!(receive_attached(gateway.as_fd()).is_err());
    }

    fn attached() -> impl Strategy<Value = Attached> {
        prop_oneof![
            any::<u32>().prop_map(|protocol| Attached::Ready { protocol }),
            ("\\PC{0,40}", any::<Option<i32>>(), "\\PC{0,40}")
                .prop_map(|(step, errno, message)| Attached::Failed { step, errno, message }),
        ]
    }

    proptest! {
        #[test]
        fn an_answer_is_read_as_it_was_written_and_never_from_a_part_of_it(
            answer in attached(),
            cut in 0..200_usize,
        ) {
            let frame = frame(&answer).unwrap();
            for length in [frame.len(), cut.min(frame.len() - 1)] {
                let (gateway, mut envd) = UnixStream::pair().unwrap();
                envd.write_all(&frame[..length]).unwrap();
                drop(envd);
                let read = receive_attached(gateway.as_fd()).ok().map(|read| format!("{read:?}"));
                prop_assert_eq!(read, (length == frame.len()).then(|| format!("{answer:?}")));
            }
        }

        #[test]
        fn no_bytes_of_envd_break_or_hold_up_the_gateway(bytes: Vec<u8>, honest: bool) {
            let (gateway, mut envd) = UnixStream::pair().unwrap();
            if honest {
                envd.write_all(&u32::try_from(bytes.len()).unwrap().to_be_bytes()).unwrap();
            }
            envd.write_all(&bytes).unwrap();
            drop(envd);
            prop_assert!(receive_attached(gateway.as_fd()).is_err());
        }
    }
}
