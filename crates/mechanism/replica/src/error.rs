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
