//! For `fuzz/`, in a build with `--cfg fuzzing`: the control plane's private parsers.

use std::time::Duration;

use http::Request;

use crate::control;

/// The longest timeout there may be.
pub const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// The template and the timeout (seconds) that the body of a create asks for.
pub fn create(body: &[u8]) -> Option<(String, u64)> {
    let wanted = control::wanted(body, LONGEST).ok()?;
    Some((wanted.template, wanted.timeout.as_secs()))
}

pub fn list(query: &str) {
    if let Ok(request) = Request::get(format!("/v2/sandboxes?{query}")).body(()) {
        let _ = control::asked(request.into_parts().0);
    }
}
