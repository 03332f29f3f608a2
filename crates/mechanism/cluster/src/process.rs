//! What a child process does first.

use rustix::process::{Signal, getppid, set_parent_process_death_signal};

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_of_somebody_else_is_refused() {
        let error = prepare_child(u32::MAX).unwrap_err();
        assert!(matches!(error, PrepareError::Orphan { parent_pid: u32::MAX }), "{error}");
        set_parent_process_death_signal(None).unwrap();
    }
}
