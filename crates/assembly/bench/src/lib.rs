//! What `tyndall bench` measures: the machine, the engine, quantization, a server, a route, a cold
//! start, memory, and what becomes of requests while processes die, or when there are too many.
//!
//! Each benchmark fills a [`Report`], which is printed, kept as JSON, drawn as a page, and compared
//! with another one. Nothing here asserts a figure, and nothing here reads the environment: what
//! the binary knows comes as a [`Context`].
#![forbid(unsafe_code)]

mod chaos;
mod cold_start;
mod compare;
mod cycles;
mod deployments;
mod engine;
mod error;
mod footprint;
mod goodput;
mod headers;
mod html;
mod http;
mod lengths;
mod loading;
mod loopback;
mod machine;
mod overload;
mod processes;
mod progress;
mod quality;
mod random;
mod report;
mod roofline;
mod scratch;
mod serve;
mod server;
mod stats;
mod text;
mod url;
mod work;

mod args;

pub use args::{BenchArgs, Benchmark, CompareArgs, OutputArgs};
pub use error::BenchError;
pub use machine::Machine;
pub use report::{Better, Chart, Distribution, Metric, Report, Series};
pub use stats::Summary;
pub use text::table;

use ::http::{HeaderMap, Method, Request, header};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::path::PathBuf;
use tyndall_transport::read_body;
use tyndall_types::with_causes;
use url::Url;

/// Most of an answer that is read here.
const MAX_ANSWER: usize = 64 << 20;

/// What the binary knows.
#[derive(Debug, Clone)]
pub struct Context {
    /// Itself, to start servers.
    pub executable: PathBuf,
    /// The process's environment.
    pub env: BTreeMap<String, String>,
    /// The command line, as typed.
    pub command: Vec<String>,
    /// What a model may take, 0 where the machine does not say.
    pub available_memory_bytes: u64,
}

/// What a benchmark came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// All of it, for a terminal.
    pub text: String,
    /// It looked for what must not be, and found it.
    pub is_failure: bool,
}

/// Runs a benchmark to its end and writes the files that were asked for.
///
/// # Errors
/// One line of cause, and where it is known one of cure.
pub fn run(args: &BenchArgs, context: &Context) -> Result<Outcome, BenchError> {
    let (report, output) = match &args.benchmark {
        Benchmark::Machine { args, output } => (roofline::run(args, context)?, output),
        Benchmark::Engine { args, output } => (engine::run(args, context)?, output),
        Benchmark::Quality { args, output } => (quality::run(args, context)?, output),
        Benchmark::Serve { args, output } => (serve::run(args, context)?, output),
        Benchmark::Http { args, output } => (http::run(args, context)?, output),
        Benchmark::ColdStart { args, output } => (cold_start::run(args, context)?, output),
        Benchmark::Idle { args, output } => (footprint::idle(args, context)?, output),
        Benchmark::Memory { args, output } => (footprint::replicas(args, context)?, output),
        Benchmark::Chaos { args, output } => (chaos::run(args, context)?, output),
        Benchmark::Cycles { args, output } => (cycles::run(args, context)?, output),
        Benchmark::Overload { args, output } => (overload::run(args, context)?, output),
        Benchmark::Compare(CompareArgs { a, b }) => {
            let text = compare::compare(&Report::read_json(a)?, &Report::read_json(b)?)?;
            return Ok(Outcome { text, is_failure: false });
        }
    };
    if let Some(path) = &output.json {
        report.write_json(path)?;
    }
    if let Some(path) = &output.html {
        report.write_html(path)?;
    }
    Ok(Outcome { text: text::render(&report), is_failure: !report.failures.is_empty() })
}

/// GETs a path; anything but 200 is an error in words.
async fn fetch(url: &Url, path: &str, headers: &HeaderMap) -> Result<Bytes, String> {
    exchange(url, Method::GET, path, headers, "").await
}

/// POSTs JSON to a path; anything but 200 is an error in words.
async fn post(url: &Url, path: &str, headers: &HeaderMap, body: &str) -> Result<Bytes, String> {
    exchange(url, Method::POST, path, headers, body).await
}

async fn exchange(
    url: &Url,
    method: Method,
    path: &str,
    headers: &HeaderMap,
    body: &str,
) -> Result<Bytes, String> {
    let mut request = Request::new(Bytes::from(body.to_owned()));
    *request.method_mut() = method;
    *request.uri_mut() = path.parse().map_err(|error| format!("{path}: {error}"))?;
    *request.headers_mut() = headers.clone();
    let json = header::HeaderValue::from_static("application/json");
    request.headers_mut().insert(header::CONTENT_TYPE, json);
    let response = url.client().send(request).await;
    let response = response.map_err(|error| with_causes(error.to_string(), &error))?;
    let status = response.status();
    let body = read_body(response.into_body(), MAX_ANSWER).await;
    let body = body.map_err(|error| with_causes(error.to_string(), &error))?;
    if !status.is_success() {
        let said = String::from_utf8_lossy(&body).chars().take(200).collect::<String>();
        return Err(format!("status {}: {}", status.as_u16(), said.trim()));
    }
    Ok(body)
}
