//! Ids, units, statuses and the messages that the processes of a node exchange.
//!
//! Nothing here does anything: every crate of the workspace may depend on it, it depends on none.
#![forbid(unsafe_code)]

mod causes;
mod cors;
mod defaults;
mod ids;
mod message;
pub mod protocol;
mod sampling;
mod status;
mod usage;

pub use causes::with_causes;
pub use cors::{Allowed, CorsConfig};
pub use defaults::SamplingDefaults;
pub use ids::{ApplicationName, DeploymentId, DeploymentName, IdError, ReplicaId, RequestId};
pub use message::{Format, MessageDelta, Structure, StructuredOutput, Tag, Tool, ToolChoice};
pub use sampling::{FinishReason, RepetitionDetection, SamplingParams, StopReason};
pub use status::{ApplicationStatus, DeploymentStatus, ReplicaState};
pub use usage::{HEADER_USAGE, TokenUsage, TokenUsageError, USAGE_NOTE};

/// Header that carries the request's id on every hop and back to the client.
pub const HEADER_REQUEST_ID: &str = "x-request-id";

/// Header by which a replica says that it never started the request, so another may take it.
///
/// Its value is the reason, such as `draining` or `full`.
pub const HEADER_NOT_STARTED: &str = "x-tyndall-not-started";

/// Header that marks a call of gRPC on its way from a proxy to a replica. The path is that of the
/// method; what is said in either direction is told in the proxy's `grpc`.
pub const HEADER_GRPC: &str = "x-tyndall-grpc";
