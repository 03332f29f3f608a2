//! The line to a process that waits to become another one.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use tokio::io::{AsyncBufReadExt, BufReader};
use tyndall_types::protocol::{Handover, PREPARED};

/// The supervisor's end; the other one is the standard input of the process.
#[derive(Debug)]
pub(crate) struct Line {
    stream: UnixStream,
}

/// Why a process did not take what it was handed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandoverError {
    /// It is gone.
    #[error("it does not read any more")]
    Broken(#[source] std::io::Error),
    /// It would have to be waited for.
    #[error("only {written} of {length} bytes fit into its line")]
    Full { written: usize, length: usize },
}

impl Line {
    /// A line and the descriptor for the process.
    pub(crate) fn new() -> std::io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        Ok((Self { stream: ours }, theirs.into()))
    }

    /// What resolves when the process has said that it is prepared: true; or that it never will.
    pub(crate) fn prepared(&self) -> std::io::Result<impl Future<Output = bool> + Send + use<>> {
        let stream = tokio::net::UnixStream::from_std(self.stream.try_clone()?)?;
        Ok(async move {
            let mut lines = BufReader::new(stream).lines();
            matches!(lines.next_line().await, Ok(Some(line)) if line == PREPARED)
        })
    }

    /// Hands over what it is from now on. Nothing is waited for: what is handed over is shorter than
    /// what the system keeps, as a process can be started with no more either.
    pub(crate) fn hand_over(mut self, handover: &Handover) -> Result<(), HandoverError> {
        let mut line = serde_json::to_vec(handover).expect("wire types have string keys only");
        line.push(b'\n');
        let mut written = 0;
        while written < line.len() {
            match self.stream.write(&line[written..]) {
                Ok(more @ 1..) => written += more,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => {
                    return Err(HandoverError::Broken(error));
                }
                Ok(0) | Err(_) => {
                    return Err(HandoverError::Full { written, length: line.len() });
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, Read};

    fn handover(bytes: usize) -> Handover {
        Handover { args: vec!["x".repeat(bytes)], env: Default::default() }
    }

    #[tokio::test]
    async fn what_waits_says_so_and_gets_one_line() {
        let (line, theirs) = Line::new().unwrap();
        let prepared = line.prepared().unwrap();
        let mut theirs = UnixStream::from(theirs);
        theirs.write_all(b"prepared\n").unwrap();
        assert!(prepared.await);
        // As much as a process can be started with.
        line.hand_over(&handover(128 << 10)).unwrap();
        let mut read = String::new();
        let mut theirs = std::io::BufReader::new(theirs);
        theirs.read_line(&mut read).unwrap();
        assert_eq!(serde_json::from_str::<Handover>(&read).unwrap(), handover(128 << 10));
        assert_eq!(theirs.read_to_string(&mut read).unwrap(), 0, "the line ends with it");
    }

    #[tokio::test]
    async fn what_is_gone_or_says_something_else_is_not_prepared() {
        for said in ["", "prepare\n", "prepared"] {
            let (line, theirs) = Line::new().unwrap();
            let prepared = line.prepared().unwrap();
            UnixStream::from(theirs).write_all(said.as_bytes()).unwrap();
            assert_eq!(prepared.await, said == "prepared", "{said:?}");
            let refused = line.hand_over(&handover(10));
            assert!(matches!(refused, Err(HandoverError::Broken(_))), "{refused:?}");
        }
    }

    #[tokio::test]
    async fn what_does_not_fit_is_not_waited_for() {
        let (line, _theirs) = Line::new().unwrap();
        let refused = line.hand_over(&handover(16 << 20));
        assert!(matches!(refused, Err(HandoverError::Full { .. })), "{refused:?}");
    }
}
