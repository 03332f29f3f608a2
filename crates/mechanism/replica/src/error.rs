//! Why a replica ends other than by being asked to.

/// Why a replica ends.
#[derive(Debug, thiserror::Error)]
pub enum ReplicaError {
    /// Its socket cannot be bound.
    #[error("failed to listen on {path}; check that the runtime directory exists and is short")]
    Listen {
        /// The socket.
        path: String,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// The system refuses a signal handler.
    #[error("failed to listen for signals")]
    Signal(#[source] std::io::Error),
    /// The model cannot be served; the reason was reported to the controller.
    #[error("{reason}")]
    Load {
        /// One line of cause and one of cure.
        reason: String,
    },
    /// The engine died.
    #[error("the engine died: {reason}")]
    Engine {
        /// What it says.
        reason: String,
    },
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Transparent errors repeat their cause.
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text.replace('\n', " ")
}
