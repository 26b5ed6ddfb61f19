//! What the host's cores may do when they have nothing to do.

use std::{
    fs::File,
    io::{self, Write as _},
};

/// Linux: who has it open says how long a core may take to wake (Documentation/power/
/// pm_qos_interface.rst in the kernel's source).
const LATENCY: &str = "/dev/cpu_dma_latency";

/// Keeps all cores from going to sleep until what it returns is dropped, or this process ends.
///
/// # Errors
/// Where the kernel has no such interface, or not for us.
pub fn keep_cores_awake() -> io::Result<File> {
    let named = |what| {
        move |error: io::Error| {
            io::Error::new(error.kind(), format!("cannot {what} {LATENCY}: {error}"))
        }
    };
    let mut latency = File::options().write(true).open(LATENCY).map_err(named("open"))?;
    let microseconds: i32 = 0;
    latency.write_all(&microseconds.to_ne_bytes()).map_err(named("write 0 to"))?;
    Ok(latency)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;
    use crate::backend::host::require_root;

    #[test]
    fn the_kernel_is_told_for_as_long_as_it_is_to_be() {
        require_root!();
        if !std::path::Path::new(LATENCY).exists() {
            return println!("skipped: this kernel has no {LATENCY}");
        }
        // Others may ask for it too, so that of the end nothing can be said.
        let _kept = keep_cores_awake().unwrap();
        let mut least = [0xff; 4];
        File::open(LATENCY).unwrap().read_exact(&mut least).unwrap();
        assert_eq!(i32::from_ne_bytes(least), 0);
    }
}
