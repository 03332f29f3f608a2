//! Standard output. A reader that goes away, such as `head`, ends the command quietly.

use crate::failure::Failure;
use std::io::{ErrorKind, Write};

pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::new(format!("failed to write to standard output: {error}")))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Lets time pass until the next look at something that tells no events.
#[expect(clippy::disallowed_methods, reason = "a command that looks again has nothing to wait on")]
pub(crate) fn look_later(period: std::time::Duration) {
    std::thread::sleep(period);
}
