//! What can go wrong between a target and a directory, and what a user can do about it.

use crate::choose::Missing;
use std::path::PathBuf;

/// Why there is no model directory. [`HubError::cure`] says what to do next.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// It is no directory and cannot be a model id.
    #[error("{target:?} is neither a directory nor a Hugging Face model id: {reason}")]
    BadTarget {
        /// As given.
        target: String,
        /// What is wrong with it as an id.
        reason: &'static str,
    },
    /// A revision that could leave the cache or cannot exist.
    #[error("{revision:?} is not a usable revision")]
    BadRevision {
        /// As given.
        revision: String,
    },
    /// The target looks like a path and nothing is there.
    #[error("there is no directory {}", path.display())]
    NoDirectory {
        /// The path.
        path: PathBuf,
    },
    /// The directory lacks a part that every model has.
    #[error("{} is not a model: it has no {missing}", dir.display())]
    NotAModel {
        /// The directory.
        dir: PathBuf,
        /// The part, in words.
        missing: String,
    },
    /// The repository has no weights in a format that is read.
    #[error("{id} has no {missing}")]
    NotAModelRepository {
        /// The repository.
        id: String,
        /// The part, in words.
        missing: String,
    },
    /// Offline by choice, and the cache does not have the model.
    #[error(
        "{id} is {} in the cache at {} and HF_HUB_OFFLINE is set",
        lacking.as_ref().map_or("not".to_owned(), |part| format!("without {part}")),
        cache.display()
    )]
    Offline {
        /// The repository.
        id: String,
        /// What a snapshot that is there lacks.
        lacking: Option<Missing>,
        /// The cache that was looked at.
        cache: PathBuf,
    },
    /// The hub did not answer.
    #[error("{id} is not in the cache and {endpoint} cannot be reached: {reason}")]
    Unreachable {
        /// The repository.
        id: String,
        /// The hub.
        endpoint: String,
        /// What the connection said.
        reason: String,
    },
    /// The hub has no such repository, or does not show it.
    #[error("{endpoint} has no model {id}, or it is private")]
    NotFound {
        /// The repository.
        id: String,
        /// The hub.
        endpoint: String,
        /// A token was sent.
        with_token: bool,
    },
    /// The repository has no such revision.
    #[error("{id} has no revision {revision}")]
    NoRevision {
        /// The repository.
        id: String,
        /// The revision.
        revision: String,
    },
    /// The repository's terms must be accepted first.
    #[error("{id} is gated: its terms have to be accepted first")]
    Gated {
        /// The repository.
        id: String,
        /// The hub.
        endpoint: String,
        /// A token was sent.
        with_token: bool,
    },
    /// The token is wrong or may not read the repository.
    #[error("{endpoint} refused the access token for {id}")]
    TokenRefused {
        /// The repository.
        id: String,
        /// The hub.
        endpoint: String,
    },
    /// A status that is neither success nor one of the above, after every retry.
    #[error("{url} answered {status}")]
    Status {
        /// What was asked for.
        url: String,
        /// The answer.
        status: u16,
    },
    /// An answer that makes no sense.
    #[error("{url} gave an unusable answer: {reason}")]
    BadAnswer {
        /// What was asked for.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// The transfer broke again and again.
    #[error("the download of {file} broke {attempts} times, last at byte {at_byte}: {reason}")]
    Broken {
        /// The file.
        file: String,
        /// Tries without progress.
        attempts: u32,
        /// How much is on disk.
        at_byte: u64,
        /// The last cause.
        reason: String,
    },
    /// Size or hash differ from what the hub announced, twice.
    #[error("{file} arrived damaged: {what} is {got}, expected {expected}")]
    Damaged {
        /// The file.
        file: String,
        /// `size` or the hash's name.
        what: &'static str,
        /// As computed.
        got: String,
        /// As announced.
        expected: String,
    },
    /// Another process holds the download lock.
    #[error("another process has been downloading {file} for {waited_s} s")]
    Locked {
        /// The file.
        file: String,
        /// Seconds waited.
        waited_s: u64,
    },
    /// No place for a cache.
    #[error("there is no place for {what}: neither {variable} nor HOME is set")]
    NoHome {
        /// What for.
        what: &'static str,
        /// The variable that names a place.
        variable: &'static str,
    },
    /// The bundle of trusted authorities holds none.
    #[error("{} holds no certificates", path.display())]
    NoCertificates {
        /// The bundle.
        path: PathBuf,
    },
    /// The file system refused.
    #[error("failed to {action} {}", path.display())]
    Io {
        /// A verb.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The download stopped because another file of it failed.
    #[error("the download was stopped")]
    Stopped,
}

const DEMO_CURE: &str = "or serve the model inside this binary: `tyndall run demo`";

impl HubError {
    /// One line that says what to do next, where a user can do something.
    #[must_use]
    pub fn cure(&self) -> Option<String> {
        let cure = match self {
            Self::BadTarget { .. } => "give `demo`, a directory such as ./my-model, or an id such \
                 as facebook/opt-125m"
                .to_owned(),
            Self::BadRevision { .. } => "give a branch, a tag or a commit, such as main".to_owned(),
            Self::NoDirectory { .. } => format!("check the path, {DEMO_CURE}"),
            Self::NotAModel { .. } => "a model directory holds config.json, *.safetensors or \
                 pytorch_model.bin, and tokenizer.json or vocab.json with merges.txt"
                .to_owned(),
            Self::NotAModelRepository { .. } => "choose a repository in the transformers layout, \
                 with config.json, *.safetensors or pytorch_model.bin, and a tokenizer"
                .to_owned(),
            Self::Offline { id, .. } => {
                format!("unset HF_HUB_OFFLINE and `tyndall pull {id}`, {DEMO_CURE}")
            }
            Self::Unreachable { .. } => format!("check the network and HF_ENDPOINT, {DEMO_CURE}"),
            Self::NotFound { with_token: true, .. } => {
                "check the spelling, and that HF_TOKEN may read it".to_owned()
            }
            Self::NotFound { with_token: false, .. } => {
                "check the spelling; for a private model set HF_TOKEN".to_owned()
            }
            Self::NoRevision { .. } => "leave --revision out to get the main branch".to_owned(),
            Self::Gated { id, endpoint, with_token: true } => {
                format!("accept the terms at {endpoint}/{id} with the account of HF_TOKEN")
            }
            Self::Gated { id, endpoint, with_token: false } => {
                format!("accept the terms at {endpoint}/{id} and set HF_TOKEN")
            }
            Self::TokenRefused { .. } => {
                "make a new token with read access and set HF_TOKEN".to_owned()
            }
            Self::Status { .. } | Self::Broken { .. } => {
                "run the same command again: it goes on where it stopped".to_owned()
            }
            Self::BadAnswer { .. } => "check HF_ENDPOINT".to_owned(),
            Self::Damaged { .. } => "run the same command again; if it stays, the mirror or proxy \
                 in between alters files"
                .to_owned(),
            Self::Locked { .. } => "wait for that process, or end it".to_owned(),
            Self::NoHome { variable, .. } => format!("set {variable} to a writable directory"),
            Self::NoCertificates { .. } => {
                "let SSL_CERT_FILE name a PEM bundle, or unset it".to_owned()
            }
            Self::Io { source, .. } => match source.kind() {
                std::io::ErrorKind::StorageFull => "free some disk space, or set HF_HOME to a \
                     larger disk"
                    .to_owned(),
                std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
                    "set HF_HOME and XDG_CACHE_HOME to writable directories".to_owned()
                }
                _ => return None,
            },
            Self::Stopped => return None,
        };
        Some(cure)
    }

    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
        source: std::io::Error,
    ) -> Self {
        Self::Io { action, path: path.into(), source }
    }
}
