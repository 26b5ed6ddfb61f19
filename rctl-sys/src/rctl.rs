//! The five system calls of rctl(2).

use std::io;

use crate::{
    Error,
    racct::Usage,
    rule::{Filter, Rule, Subject},
};

fn unsupported<T>(call: &'static str, argument: impl ToString) -> Result<T, Error> {
    Err(Error::new(call, argument.to_string(), io::Error::from_raw_os_error(libc::ENOSYS)))
}

/// The account of one subject: rctl_get_racct(2).
///
/// A jail that is not there has an account all zero, and is no error: the kernel makes one for any
/// name it is asked for.
///
/// # Errors
/// `ENOSYS` where racct is off.
pub fn get_racct(subject: &Subject) -> Result<Usage, Error> {
    unsupported("rctl_get_racct", Filter::of(subject.clone()))
}

/// The rules that match: rctl_get_rules(2).
///
/// # Errors
/// `ENOSYS` where racct is off.
pub fn get_rules(filter: &Filter) -> Result<Vec<Rule>, Error> {
    unsupported("rctl_get_rules", filter)
}

/// The rules that bear on one process, those of its user, class and jail included:
/// rctl_get_limits(2).
///
/// # Errors
/// `ESRCH` when there is no such process; `ENOSYS` where racct is off.
pub fn get_limits(pid: i32) -> Result<Vec<Rule>, Error> {
    unsupported("rctl_get_limits", Filter::of(Subject::Process(pid)))
}

/// Adds a rule: rctl_add_rule(2). A `deny` rule replaces one that differs in the amount only;
/// others stay beside each other.
///
/// # Errors
/// `ENOSYS` where racct is off.
pub fn add_rule(rule: &Rule) -> Result<(), Error> {
    unsupported("rctl_add_rule", rule)
}

/// Removes the rules that match and says whether there were any: rctl_remove_rule(2).
///
/// # Errors
/// `ENOSYS` where racct is off.
pub fn remove_rule(filter: &Filter) -> Result<bool, Error> {
    unsupported("rctl_remove_rule", filter)
}
