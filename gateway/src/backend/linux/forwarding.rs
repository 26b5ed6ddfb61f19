//! `net.ipv4.ip_forward`, and what it was before.

use std::{fs, path::Path};

use super::{error::Call, slot::RUN};
use crate::backend::Error;

pub(super) const SETTING: &str = "/proc/sys/net/ipv4/ip_forward";

fn remembered() -> std::path::PathBuf {
    Path::new(RUN).join("ip_forward")
}

pub(super) fn turn_on() -> Result<(), Error> {
    let before = fs::read_to_string(SETTING).call("read", SETTING)?;
    if before.trim() == "1" {
        return Ok(());
    }
    let path = remembered();
    fs::write(&path, before).call("write", path.display())?;
    fs::write(SETTING, "1").call("write 1 to", SETTING)
}

/// Only what we turned on is turned off.
pub(super) fn restore() -> Result<(), Error> {
    let path = remembered();
    let Ok(before) = fs::read_to_string(&path) else { return Ok(()) };
    fs::write(SETTING, before).call("write", SETTING)?;
    fs::remove_file(&path).call("unlink", path.display())
}
