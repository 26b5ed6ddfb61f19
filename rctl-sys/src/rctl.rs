//! The five system calls of rctl(2).
//!
//! Root only, and not from within a jail. They may be called from any thread; they allocate, so
//! not between fork(2) and execve(2) of a process of several threads, nor in a signal handler.

use std::{ffi::CString, io};

use crate::{
    Error,
    racct::Usage,
    rule::{Filter, Rule, Subject},
    sys::{self, Rctl},
};

/// Where an answer begins to be asked for; an account is 400 bytes, a jail's rules as many.
const FIRST: usize = 4 << 10;

/// `kern.racct.rctl.maxbufsize` as the kernel comes: it refuses a larger buffer.
const MOST: usize = 16 << 20;

/// The account of one subject: rctl_get_racct(2).
///
/// A jail that is not there has an account all zero, and is no error: the kernel makes an account
/// for any name that it is asked for. That of a removed jail stays as it was as long as there are
/// rules for its name.
///
/// # Errors
/// `ENOSYS` where racct is off, `ESRCH` when there is no such process, `EPERM` for who is not root.
pub fn get_racct(subject: &Subject) -> Result<Usage, Error> {
    let filter = Filter::of(subject.clone());
    let line = ask(Rctl::GetRacct, &filter)?;
    Usage::parse(&line).map_err(|error| unreadable(Rctl::GetRacct, &filter, error))
}

/// The rules that match: rctl_get_rules(2).
///
/// # Errors
/// `ENOSYS` where racct is off, `ERANGE` when they take more than 16 MiB.
pub fn get_rules(filter: &Filter) -> Result<Vec<Rule>, Error> {
    let list = ask(Rctl::GetRules, filter)?;
    Rule::parse_list(&list).map_err(|error| unreadable(Rctl::GetRules, filter, error))
}

/// The rules that bear on one process, those of its user, class and jail included:
/// rctl_get_limits(2).
///
/// # Errors
/// `ESRCH` when there is no such process; else as [`get_rules`].
pub fn get_limits(pid: i32) -> Result<Vec<Rule>, Error> {
    let filter = Filter::of(Subject::Process(pid));
    let list = ask(Rctl::GetLimits, &filter)?;
    Rule::parse_list(&list).map_err(|error| unreadable(Rctl::GetLimits, &filter, error))
}

/// Adds a rule: rctl_add_rule(2). It bears at once on the processes that are there, too. A `deny`
/// rule replaces the one that differs in the amount only; others stay beside each other, except the
/// very same.
///
/// # Errors
/// `ENOSYS` where racct is off.
pub fn add_rule(rule: &Rule) -> Result<(), Error> {
    tell(Rctl::AddRule, &rule.to_string())
}

/// Removes the rules that match and says whether there were any: rctl_remove_rule(2).
///
/// # Errors
/// `ENOSYS` where racct is off.
pub fn remove_rule(filter: &Filter) -> Result<bool, Error> {
    let text = checked(Rctl::RemoveRule, filter)?;
    match tell(Rctl::RemoveRule, &text) {
        Ok(()) => Ok(true),
        // FreeBSD: none was found.
        Err(error) if error.errno() == Some(libc::ESRCH) => Ok(false),
        Err(error) => Err(error),
    }
}

fn checked(call: Rctl, filter: &Filter) -> Result<String, Error> {
    let text = filter.to_string();
    match filter.check() {
        Ok(()) => Ok(text),
        Err(error) => {
            let error = io::Error::new(io::ErrorKind::InvalidInput, error);
            Err(Error::new(call.name(), text.escape_debug().to_string(), error))
        }
    }
}

fn tell(call: Rctl, text: &str) -> Result<(), Error> {
    let text = input(call, text)?;
    sys::rctl(call, &text, &mut []).map_err(|error| refused(call, &text, error))
}

fn ask(call: Rctl, filter: &Filter) -> Result<String, Error> {
    let text = input(call, &checked(call, filter)?)?;
    let answer = growing(|buffer| sys::rctl(call, &text, buffer));
    answer.map_err(|error| refused(call, &text, error))
}

/// Asks with larger and larger buffers while the kernel says ERANGE.
fn growing(mut ask: impl FnMut(&mut [u8]) -> io::Result<()>) -> io::Result<String> {
    let mut size = FIRST;
    loop {
        let mut buffer = vec![0; size];
        match ask(&mut buffer) {
            Ok(()) => {
                let text = crate::options::until_nul(&buffer);
                return Ok(String::from_utf8_lossy(text).into_owned());
            }
            Err(error) if error.raw_os_error() == Some(libc::ERANGE) && size < MOST => size *= 4,
            Err(error) => return Err(error),
        }
    }
}

fn input(call: Rctl, text: &str) -> Result<CString, Error> {
    let nul = |error| {
        let error = io::Error::new(io::ErrorKind::InvalidInput, error);
        Error::new(call.name(), text.escape_debug().to_string(), error)
    };
    CString::new(text).map_err(nul)
}

fn refused(call: Rctl, text: &CString, error: io::Error) -> Error {
    let off = error.raw_os_error() == Some(libc::ENOSYS) && cfg!(target_os = "freebsd");
    let why = off.then(|| "racct is off, see kern.racct.enable in loader.conf(5)".to_owned());
    Error::new(call.name(), text.to_string_lossy(), error).with_message(why)
}

fn unreadable(
    call: Rctl,
    filter: &Filter,
    why: impl std::error::Error + Send + Sync + 'static,
) -> Error {
    let error = io::Error::new(io::ErrorKind::InvalidData, why);
    Error::new(call.name(), filter.to_string(), error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_buffer_grows_until_the_answer_fits() {
        let mut sizes = Vec::new();
        let answer = growing(|buffer| {
            sizes.push(buffer.len());
            if buffer.len() < 40_000 {
                return Err(io::Error::from_raw_os_error(libc::ERANGE));
            }
            buffer[..3].copy_from_slice(b"yes");
            Ok(())
        });
        assert_eq!(
            (answer.unwrap().as_str(), sizes.as_slice()),
            ("yes", &[4096, 16384, 65536][..])
        );
    }

    #[test]
    fn the_buffer_does_not_grow_for_ever_nor_for_other_errors() {
        let mut asked = 0;
        let always = |errno| {
            move |buffer: &mut [u8]| {
                assert!(buffer.len() <= MOST);
                Err(io::Error::from_raw_os_error(errno))
            }
        };
        assert_eq!(growing(always(libc::ERANGE)).unwrap_err().raw_os_error(), Some(libc::ERANGE));
        let once = growing(|_| {
            asked += 1;
            Err(io::Error::from_raw_os_error(libc::ESRCH))
        });
        assert_eq!((once.unwrap_err().raw_os_error(), asked), (Some(libc::ESRCH), 1));
    }

    #[test]
    fn a_bad_name_is_refused_before_the_kernel_is_asked() {
        let filter = Filter::of(Subject::Jail("a\0b".to_owned()));
        let error = remove_rule(&filter).unwrap_err();
        assert_eq!(error.errno(), None);
        assert_eq!(
            error.to_string(),
            r#"rctl_remove_rule(jail:a\0b:): "a\0b": '\0' in the name of a jail would end it"#
        );
    }

    #[cfg(not(target_os = "freebsd"))]
    #[test]
    fn elsewhere_the_error_names_call_argument_and_errno() {
        let jail = Subject::jail("j").unwrap();
        let error = get_racct(&jail).unwrap_err();
        assert_eq!((error.call(), error.errno()), ("rctl_get_racct", Some(libc::ENOSYS)));
        assert!(error.to_string().starts_with("rctl_get_racct(jail:j:): "), "{error}");
    }
}
