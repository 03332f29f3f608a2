//! What the processes of a server are told.

use clap::{Args, Subcommand};
use std::net::SocketAddr;
use std::path::PathBuf;

/// The roles of a server's processes.
#[derive(Debug, Subcommand)]
pub(crate) enum RoleArgs {
    /// Decides what runs
    Controller {
        #[command(flatten)]
        common: CommonRoleArgs,
        /// Where applications are kept
        #[arg(long)]
        state_dir: Option<PathBuf>,
        #[command(flatten)]
        node: NodeArgs,
    },
    /// Makes what the controller can run of an application, from standard input to standard output
    Build {
        /// The process to end with
        #[arg(long)]
        parent_pid: u32,
        /// Bytes of memory for all models
        #[arg(long)]
        memory_bytes: Option<u64>,
        /// Seconds, where an application says nothing
        #[arg(long)]
        request_timeout_s: Option<f64>,
    },
    /// Takes requests from clients
    Proxy {
        #[command(flatten)]
        common: CommonRoleArgs,
        /// Unique among the proxies
        #[arg(long)]
        id: String,
        /// Seconds for running requests after SIGTERM
        #[arg(long, default_value_t = 20.0)]
        drain_s: f64,
        /// Which pages of other origins may use it, as JSON
        #[arg(long)]
        cors: Option<String>,
        /// File with the keys of clients
        #[arg(long)]
        api_keys: Option<PathBuf>,
        /// Seconds that a call of gRPC may take
        #[arg(long)]
        grpc_timeout_s: Option<f64>,
    },
    /// Runs a model
    Replica {
        #[command(flatten)]
        common: CommonRoleArgs,
        /// Unique among all replicas ever
        #[arg(long)]
        id: String,
        /// What to serve, as JSON
        #[arg(long)]
        deployment_config: String,
    },
}

fn amount(text: &str) -> Result<(String, f64), String> {
    let split = text.split_once(' ').and_then(|(amount, name)| Some((name, amount.parse().ok()?)));
    split.map(|(name, amount)| (name.to_owned(), amount)).ok_or_else(|| "not an amount".to_owned())
}

/// What a controller is told of its node.
#[derive(Debug, Args)]
pub(crate) struct NodeArgs {
    /// Where clients are served
    #[arg(long)]
    pub(crate) public: SocketAddr,
    /// The port of gRPC
    #[arg(long)]
    pub(crate) grpc_port: Option<u16>,
    /// What says which methods of gRPC there are
    #[arg(long, value_delimiter = ',')]
    pub(crate) grpc_servicer_functions: Vec<String>,
    /// Seconds that a call of gRPC may take
    #[arg(long)]
    pub(crate) grpc_timeout_s: Option<f64>,
    /// Clients may not ask which methods there are
    #[arg(long)]
    pub(crate) grpc_disable_reflection: bool,
    /// The machine's name
    #[arg(long)]
    pub(crate) node_id: String,
    /// Bytes of memory for all models; absent is not accounted
    #[arg(long)]
    pub(crate) memory_bytes: Option<u64>,
    /// GPUs for replicas, by name
    #[arg(long, value_delimiter = ',')]
    pub(crate) gpus: Vec<String>,
    /// CPUs for replicas; absent is not accounted
    #[arg(long)]
    pub(crate) num_cpus: Option<f64>,
    /// Others: how much of what
    #[arg(long, value_parser = amount)]
    pub(crate) resource: Vec<(String, f64)>,
    /// Seconds, where an application says nothing
    #[arg(long)]
    pub(crate) request_timeout_s: f64,
    /// Where the logs of the node go
    #[arg(long)]
    pub(crate) log_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct CommonRoleArgs {
    /// Where the processes' sockets are
    #[arg(long)]
    pub(crate) runtime_dir: PathBuf,
    /// The process to end with
    #[arg(long)]
    pub(crate) parent_pid: u32,
}
