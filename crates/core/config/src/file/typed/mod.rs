//! A file's values in types.
//!
//! What a file does not say is absent in these, so that options can be laid over those of code; the
//! defaults come in with [`DeploymentOptions::to_deployment`] and [`ModelSpec::to_deployment`].
//! Everything here reads a tree that was checked and has no error in it.

mod application;
mod code;
mod deployment;
mod gangs;
mod model;
mod read;
mod resolve;
mod scaling;

pub use application::{ApplicationKind, ApplicationSpec};
pub(super) use code::local_path;
pub use code::{
    CodePaths, DescribedError, DescribedProgram, Launch, PythonCode, is_archive, sort_as_described,
};
pub use deployment::{
    ActorOptions, DeploymentOptions, DeploymentOverride, OwnOptions, ReplicaCount, RouterOption,
    WarmOptions,
};
pub use model::{EngineOptions, ModelSpec, code_version};
pub use scaling::{AutoscalingOption, AutoscalingOptions};

use super::node::Node;
use super::problem::Problem;
use crate::LogFormat;
use crate::parse;
use core::net::IpAddr;
use serde_json::{Map, Value, json};
use std::path::PathBuf;

/// All that a file says.
#[derive(Debug, Clone, PartialEq)]
pub struct ServeConfig {
    /// Where and how HTTP is served, as far as the file says.
    pub http: HttpOptions,
    /// Where and how gRPC is served, as far as the file says.
    pub grpc: GrpcOptions,
    /// Percent of all replica counts.
    pub target_capacity: Option<f64>,
    /// What holds for all applications, as it is written: a map of the fields of the file.
    pub shared: Value,
    /// What is served.
    pub applications: Vec<ApplicationSpec>,
}

/// The HTTP listener; absent is what the file does not say.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct HttpOptions {
    /// Address of the listener.
    pub host: Option<IpAddr>,
    /// 0 takes any free one.
    pub port: Option<u16>,
    /// Prefix that a proxy in front takes off.
    pub root_path: Option<String>,
    /// Seconds to the begin of an answer.
    pub request_timeout_s: Option<f64>,
    /// Seconds that an idle connection stays open.
    pub keep_alive_timeout_s: Option<u32>,
}

impl HttpOptions {
    /// Whether the file says where to listen: a running instance does not change that.
    #[must_use]
    pub fn has_listener(&self) -> bool {
        self.host.is_some() || self.port.is_some()
    }

    fn read(node: &Node) -> Self {
        Self {
            host: read::text(node, "host").and_then(|host| parse::host(host).ok()),
            port: read::whole(node, "port").and_then(|port| port.try_into().ok()),
            root_path: read::text(node, "root_path").map(str::to_owned),
            request_timeout_s: read::seconds(node, "request_timeout_s"),
            keep_alive_timeout_s: read::whole(node, "keep_alive_timeout_s"),
        }
    }
}

/// The gRPC listener; absent is what the file does not say.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GrpcOptions {
    /// Port of the listener; 0 is none.
    pub port: Option<u16>,
    /// Import paths of the functions that say which methods there are.
    pub servicer_functions: Vec<String>,
    /// Seconds to the end of a call.
    pub request_timeout_s: Option<f64>,
    /// Whether clients may ask which methods there are.
    pub enable_reflection: Option<bool>,
}

impl GrpcOptions {
    fn read(node: &Node) -> Self {
        let functions = node.get("grpc_servicer_functions").into_iter().flat_map(Node::items);
        Self {
            port: read::whole(node, "port").and_then(|port| port.try_into().ok()),
            servicer_functions: functions.filter_map(Node::text).map(str::to_owned).collect(),
            request_timeout_s: read::seconds(node, "request_timeout_s"),
            enable_reflection: read::flag(node, "enable_reflection"),
        }
    }
}

/// Logs; absent is what is not said.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LoggingOptions {
    /// Form of the lines.
    pub encoding: Option<LogFormat>,
    /// The least that is written, by Python's names such as `INFO`.
    pub log_level: Option<String>,
    /// Folder of log files.
    pub logs_dir: Option<PathBuf>,
    /// Whether there is a line per request.
    pub enable_access_log: Option<bool>,
    /// Further attributes of Python's log records that lines have.
    pub standard_attributes: Option<Vec<String>>,
}

impl LoggingOptions {
    fn read(node: &Node) -> Self {
        let encoding = |text: &str| {
            if text.eq_ignore_ascii_case("json") { LogFormat::Json } else { LogFormat::Text }
        };
        Self {
            encoding: read::text(node, "encoding").map(encoding),
            log_level: node.get("log_level").map(log_level),
            logs_dir: read::text(node, "logs_dir").map(PathBuf::from),
            enable_access_log: read::flag(node, "enable_access_log"),
            standard_attributes: node.get("additional_log_standard_attrs").map(|list| {
                list.items().iter().filter_map(Node::text).map(str::to_owned).collect()
            }),
        }
    }
}

impl LoggingOptions {
    /// The variables that tell a replica of it.
    pub(super) fn env_vars(&self) -> impl Iterator<Item = (String, String)> {
        let level = self.log_level.as_deref().map(|level| match level {
            "CRITICAL" | "ERROR" => "error",
            "WARNING" => "warn",
            "DEBUG" => "debug",
            _ => "info",
        });
        let format = self.encoding.map(|encoding| match encoding {
            LogFormat::Json => "json",
            LogFormat::Text => "text",
        });
        let variables = [("TYNDALL_LOG", level), ("TYNDALL_LOG_FORMAT", format)];
        let given = variables.into_iter().filter_map(|(name, value)| Some((name, value?)));
        given.map(|(name, value)| (name.to_owned(), value.to_owned()))
    }

    /// Those of a replica of a program: code in Python also reads what is its own.
    pub(super) fn program_env_vars(&self) -> impl Iterator<Item = (String, String)> {
        let whole = ("TYNDALL_LOGGING_CONFIG".to_owned(), self.to_json().to_string());
        self.env_vars().chain([whole])
    }

    /// All that is said, by Ray's names: code in Python has levels and lines of its own.
    fn to_json(&self) -> Value {
        let encoding = self.encoding.map(|encoding| match encoding {
            LogFormat::Json => "JSON",
            LogFormat::Text => "TEXT",
        });
        let given = [
            ("additional_log_standard_attrs", json!(self.standard_attributes)),
            ("enable_access_log", json!(self.enable_access_log)),
            ("encoding", json!(encoding)),
            ("log_level", json!(self.log_level)),
            ("logs_dir", json!(self.logs_dir)),
        ];
        let given = given.into_iter().filter(|(_, value)| !value.is_null());
        given.map(|(name, value)| (name.to_owned(), value)).collect::<Map<_, _>>().into()
    }
}

/// A level's name; a number is the next lower one of Python's.
fn log_level(node: &Node) -> String {
    let name = |number: f64| match number {
        n if n >= 50.0 => "CRITICAL",
        n if n >= 40.0 => "ERROR",
        n if n >= 30.0 => "WARNING",
        n if n >= 20.0 => "INFO",
        _ => "DEBUG",
    };
    node.number().map_or_else(
        || node.text().unwrap_or_default().to_ascii_uppercase(),
        |number| name(number).to_owned(),
    )
}

/// Reads a file that has no errors.
pub(super) fn serve_config(root: &Node) -> Result<ServeConfig, Problem> {
    let applications = root.get("applications").map_or(&[][..], Node::items);
    let logging = root.get("logging_config").map(LoggingOptions::read);
    let of = |(i, app): (usize, &Node)| {
        ApplicationSpec::read(app, logging.as_ref(), &format!("applications[{i}]"))
    };
    Ok(ServeConfig {
        http: root.get("http_options").map(HttpOptions::read).unwrap_or_default(),
        grpc: root.get("grpc_options").map(GrpcOptions::read).unwrap_or_default(),
        target_capacity: read::number(root, "target_capacity"),
        shared: shared(root),
        applications: applications.iter().enumerate().map(of).collect::<Result<_, _>>()?,
    })
}

fn shared(root: &Node) -> Value {
    let mut shared = Map::new();
    if let Some(logging) = root.get("logging_config") {
        shared.insert("logging_config".to_owned(), logging.to_json());
    }
    let http = root.get("http_options");
    if let Some(timeout_s) = http.and_then(|http| http.get("request_timeout_s")) {
        let http = json!({"request_timeout_s": timeout_s.to_json()});
        shared.insert("http_options".to_owned(), http);
    }
    shared.into()
}
