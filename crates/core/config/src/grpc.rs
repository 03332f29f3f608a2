//! The gRPC listener, by the names of Ray Serve.

use crate::error::ConfigError;
use crate::file::is_import_path;
use crate::origin::Reader;
use crate::parse;
use core::net::{IpAddr, SocketAddr};

/// Where and how gRPC is served.
#[derive(Debug, Clone, PartialEq)]
pub struct GrpcSettings {
    /// For clients.
    pub address: SocketAddr,
    /// Import paths of the functions that say which methods there are.
    pub servicer_functions: Vec<String>,
    /// Seconds to the end of a call; absent is as long as its client waits.
    pub request_timeout_s: Option<f64>,
    /// Whether clients may ask which methods there are.
    pub has_reflection: bool,
}

/// As Ray Serve has it: none without functions, and none on port 0.
pub(crate) fn read(
    reader: &mut Reader<'_>,
    host: IpAddr,
) -> Result<Option<GrpcSettings>, ConfigError> {
    let port = reader.read("grpc_port", parse::port)?.value;
    let functions = reader.read("grpc_servicer_functions", import_paths)?.value;
    let timeout_s = reader.read_optional("grpc_request_timeout", parse::positive_seconds)?;
    let is_hidden = reader.read("grpc_disable_reflection", parse::switch)?.value;
    Ok((port != 0 && !functions.is_empty()).then(|| GrpcSettings {
        address: SocketAddr::new(host, port),
        servicer_functions: functions,
        request_timeout_s: timeout_s,
        has_reflection: !is_hidden,
    }))
}

fn import_paths(text: &str) -> Result<Vec<String>, String> {
    let paths: Vec<String> = text
        .split(',')
        .map(|path| path.trim().to_owned())
        .filter(|path| !path.is_empty())
        .collect();
    if paths.iter().all(|path| is_import_path(path)) {
        return Ok(paths);
    }
    let example = "greeter_pb2_grpc:add_GreeterServicer_to_server";
    Err(format!("import paths of functions with commas between, such as {example}"))
}
