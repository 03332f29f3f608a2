//! Waiting for facts.

use anyhow::{Result, bail};
use std::time::{Duration, Instant};

/// How long any fact may take on a slow, busy machine.
pub const DEADLINE: Duration = Duration::from_secs(90);

/// Asks until there is an answer.
///
/// # Errors
/// When there is none by the [`DEADLINE`].
pub fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return Ok(answer);
        }
        if start.elapsed() > DEADLINE {
            bail!("{what}: not within {} s", DEADLINE.as_secs());
        }
        pause(Duration::from_millis(10));
    }
}

/// Lets time pass, for tests whose subject is time itself, such as an idle timeout.
#[expect(clippy::disallowed_methods, reason = "the processes under test send no event to wait on")]
pub fn pause(duration: Duration) {
    std::thread::sleep(duration);
}
