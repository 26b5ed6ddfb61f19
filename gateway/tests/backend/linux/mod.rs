//! The Linux backend beside its promises: what is seen from the host and from inside, what the
//! packet filter lets through, what the kernel counts for each user.

mod cases;
mod network;
mod quota;

use std::process::ExitCode;

use crate::suite;

pub(crate) fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some(quota::SPEND) {
        quota::spend(&std::env::args().nth(2).expect("a process"));
        return ExitCode::SUCCESS;
    }
    let cases = [suite::cases(), cases::all()].into_iter().flatten().collect();
    suite::main(cases, network::Internet::new)
}
