//! What the processes of a node do first.

use crate::processes::async_pidfd;
use rustix::io::Errno;
use rustix::process::{
    Pid, Resource, Rlimit, Signal, getppid, getrlimit, set_parent_process_death_signal, setrlimit,
};

/// Why a child must not go on.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// The parent died before the child could ask to be told.
    #[error("the supervisor {parent_pid} is gone; roles are started by `tyndall run` only")]
    Orphan {
        /// The parent that was expected.
        parent_pid: u32,
    },
    /// The system refused.
    #[error("failed to tie this process to its supervisor")]
    System(#[source] rustix::io::Errno),
}

/// Makes the kernel kill this process when its parent dies. To be called first of all in every
/// role, on the main thread; `parent_pid` is the supervisor's.
///
/// # Errors
/// [`PrepareError::Orphan`] when the parent is not that one (any more).
pub fn prepare_child(parent_pid: u32) -> Result<(), PrepareError> {
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(PrepareError::System)?;
    // The parent may have died before the call; then nobody would ever send the signal.
    let parent = getppid().map(|pid| pid.as_raw_nonzero().get());
    if parent.and_then(|pid| u32::try_from(pid).ok()) == Some(parent_pid) {
        Ok(())
    } else {
        Err(PrepareError::Orphan { parent_pid })
    }
}

/// Resolves when another process has ended; at once when it is not there.
///
/// # Errors
/// [`PrepareError::System`] when the system cannot tell.
pub async fn ended(pid: u32) -> Result<(), PrepareError> {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(()) };
    let watched = match async_pidfd(pid) {
        Ok(watched) => watched,
        Err(error) if error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => return Ok(()),
        Err(error) => return Err(PrepareError::System(errno(&error))),
    };
    watched.readable().await.map(drop).map_err(|error| PrepareError::System(errno(&error)))
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

/// Lets this process, and those that it starts, open as many files as the system allows. A client is
/// one, and one at work at a replica two; the usual 1024 would stand below the bounds of the queues.
pub fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!(%error, ?limit, "failed to raise the limit of open files");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_files_may_be_open_as_the_system_allows() {
        let limit = getrlimit(Resource::Nofile);
        let low = limit.maximum.map_or(1024, |maximum| maximum / 2);
        setrlimit(Resource::Nofile, Rlimit { current: Some(low), ..limit }).unwrap();
        raise_file_limit();
        assert_eq!(getrlimit(Resource::Nofile).current, limit.maximum);
    }

    #[tokio::test]
    async fn the_end_of_another_process_is_seen() {
        let mut child = tokio::process::Command::new("/bin/cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let pid = child.id().unwrap();
        let mut end = std::pin::pin!(ended(pid));
        tokio::select! {
            biased;
            _ = &mut end => panic!("it runs"),
            () = std::future::ready(()) => {}
        }
        drop(child.stdin.take());
        end.await.unwrap();
        child.wait().await.unwrap();
        ended(pid).await.unwrap();
        ended(0).await.unwrap();
    }

    #[test]
    fn a_child_of_somebody_else_is_refused() {
        let error = prepare_child(u32::MAX).unwrap_err();
        assert!(matches!(error, PrepareError::Orphan { parent_pid: u32::MAX }), "{error}");
        set_parent_process_death_signal(None).unwrap();
    }
}
