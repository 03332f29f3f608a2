//! What can be wrong with a configuration.

/// Why a configuration cannot be used. [`ConfigError::cure`] says what to do next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A value that its setting does not take.
    #[error("{from} is {value:?}, which is not {accepted}")]
    BadValue {
        /// The flag or variable.
        from: &'static str,
        /// As given.
        value: String,
        /// What would be taken.
        accepted: String,
    },
    /// No setting of that key.
    #[error("there is no setting {key:?}")]
    UnknownSetting {
        /// The key.
        key: String,
    },
    /// Others could reach the server, and nothing would ask them who they are.
    #[error("{from} {host} lets other machines in, and nothing asks who they are")]
    Exposed {
        /// The flag or variable of the host.
        from: &'static str,
        /// The address.
        host: String,
        /// API keys would ask.
        takes_keys: bool,
    },
    /// Any site could do what its visitors may.
    #[error(
        "{from} with every origin let in would let any site act with the logins of its visitors"
    )]
    CredentialsForAll {
        /// The flag or variable.
        from: &'static str,
    },
    /// Two listeners want one port.
    #[error("the public and the admin listener both want port {port}")]
    SamePort {
        /// The port.
        port: u16,
    },
    /// A device that this build cannot use.
    #[error("{from} asks for {gpus} GPUs per replica, and this build runs models on CPUs only")]
    NoGpu {
        /// The flag or variable.
        from: &'static str,
        /// As given.
        gpus: String,
    },
    /// A step must have room for one token of each sequence.
    #[error(
        "{tokens_from} is {max_num_batched_tokens}, less than {seqs_from} with {max_num_seqs}: \
         a step could not serve every sequence"
    )]
    StepTooSmall {
        /// Where the tokens came from.
        tokens_from: &'static str,
        /// Tokens in one step.
        max_num_batched_tokens: u32,
        /// Where the sequences came from.
        seqs_from: &'static str,
        /// Sequences in one step.
        max_num_seqs: u32,
    },
}

impl ConfigError {
    /// One line that says what to do next, where the cause does not say it already.
    #[must_use]
    pub fn cure(&self) -> Option<&'static str> {
        match self {
            Self::BadValue { .. } => None,
            Self::UnknownSetting { .. } => Some("see `tyndall run --help`"),
            Self::Exposed { takes_keys: true, .. } => Some(
                "give keys with --api-keys FILE, keep 127.0.0.1, or add --insecure if the network \
                 is trusted",
            ),
            Self::Exposed { .. } => {
                Some("keep 127.0.0.1, or add --insecure if the network is trusted")
            }
            Self::CredentialsForAll { .. } => {
                Some("name the sites in --cors-origins, or leave --cors-credentials out")
            }
            Self::SamePort { .. } => Some("choose another --port or --admin-port; 0 takes any"),
            Self::NoGpu { .. } => Some("unset NUM_GPUS_PER_REPLICA, or set it to 0"),
            Self::StepTooSmall { .. } => Some("raise the tokens or lower the sequences"),
        }
    }
}
