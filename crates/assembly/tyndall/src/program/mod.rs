//! A program that is an application: what its `main` does.
//!
//! | started as | it |
//! |---|---|
//! | `PROGRAM` | says how it is served |
//! | `PROGRAM role describe [--args JSON]` | prints [`Described`](crate::Described) as one line of JSON |
//! | `PROGRAM role replica --runtime-dir DIR --id ID --deployment-config JSON --parent-pid PID` | is a replica until it gets SIGTERM |
//!
//! Arguments of a role come in any order, as `--name value` or `--name=value`. The exit status is 0
//! after an orderly end, 1 after a failure, which standard error tells, and 2 for arguments that are
//! not understood.

mod args;
mod host;
mod life;
mod ongoing;
mod reserved;
mod routes;
mod standby;

pub use life::ReplicaStart;
pub(crate) use routes::Routes;

use crate::application::Application;
use crate::error::{Error, Result};
use args::{Args, Role};
use life::Start;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::io::Write;
use std::process::ExitCode;
use std::time::Instant;
use tyndall_cluster::process::prepare_child;
use tyndall_telemetry::{LogFormat, LogOptions, init_logs};

/// What builds an application: a function without arguments, or with one that is read from the
/// application's `args`.
///
/// It runs in every replica again, so it should be quick and give the same deployments for the same
/// arguments.
pub trait Builder<Kind>: Send + 'static {
    /// Builds it; `args` is an object.
    ///
    /// # Errors
    /// [`Error::InvalidOptions`] for arguments that do not fit, or what the function says.
    fn build(&self, args: Value) -> Result<Application>;
}

impl<F: Fn() -> Result<Application> + Send + 'static> Builder<()> for F {
    fn build(&self, args: Value) -> Result<Application> {
        if args.as_object().is_some_and(Map::is_empty) {
            return self();
        }
        Err(Error::options(format!(
            "the application takes no arguments, and got {args}; leave `args` out"
        )))
    }
}

impl<A, F> Builder<(A,)> for F
where
    A: DeserializeOwned,
    F: Fn(A) -> Result<Application> + Send + 'static,
{
    fn build(&self, args: Value) -> Result<Application> {
        let read = serde_json::from_value(args.clone());
        let read = read.or_else(|error| serde_json::from_value(untyped(args)).map_err(|_| error));
        self(read.map_err(|error| {
            Error::options(format!("the arguments are not those of the application: {error}"))
        })?)
    }
}

/// Arguments whose texts are read as numbers, truths and so on: a command line has only texts.
fn untyped(mut args: Value) -> Value {
    for value in args.as_object_mut().into_iter().flat_map(Map::values_mut) {
        if let Some(read) = value.as_str().and_then(|text| serde_json::from_str(text).ok()) {
            *value = read;
        }
    }
    args
}

/// A program's `main`: carries out the role that its arguments name.
///
/// ```no_run
/// use std::process::ExitCode;
/// use tyndall::{Application, Deployment, ReplicaContext, Result};
///
/// struct Echo;
///
/// impl Deployment for Echo {
///     type Init = ();
///     type Request = String;
///     type Response = String;
///
///     async fn start(_init: (), _context: ReplicaContext) -> Result<Self> {
///         Ok(Self)
///     }
///
///     async fn call(&self, request: String) -> Result<String> {
///         Ok(request)
///     }
/// }
///
/// fn main() -> ExitCode {
///     tyndall::main(|| Ok(Application::new(Echo::bind(()))))
/// }
/// ```
pub fn main<Kind>(builder: impl Builder<Kind>) -> ExitCode {
    let started_at = Instant::now();
    let mut words = std::env::args();
    let program = words.next().unwrap_or_else(|| "PROGRAM".to_owned());
    let outcome = match args::parse(words) {
        Ok(Args::None) => print(&usage(&program)),
        Ok(Args::Role(Role::Describe { args })) => describe(&builder, args),
        Ok(Args::Role(Role::Replica(replica))) => {
            let start = life::from_application(move |args| builder.build(args)?.build());
            replica_role(*replica, life::Threads::Shared, start, started_at)
        }
        Err(message) => {
            eprintln!("{message}\n{}", usage(&program));
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Told) => ExitCode::FAILURE,
        Err(Failure::Untold(message)) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

/// Why the program ends with an error.
enum Failure {
    /// The log, or the controller, has it.
    Told,
    Untold(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Untold(error.to_string())
    }
}

fn usage(program: &str) -> String {
    format!(
        "This program is an application for Tyndall. To serve it:\n\n    tyndall run {program}\n"
    )
}

fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(|error| Failure::Untold(format!("failed to write to standard output: {error}")))
}

fn describe<Kind>(builder: &impl Builder<Kind>, args: Value) -> Result<(), Failure> {
    open_log("describe")?;
    let described = builder.build(args.clone())?.describe(args)?;
    let line = serde_json::to_string(&described)
        .map_err(|error| Failure::Untold(format!("the application cannot be JSON: {error}")))?;
    print(&format!("{line}\n"))
}

/// Is a replica whose value runs on threads of its own: `words` are those after the program's name.
pub(crate) fn replica(
    words: impl Iterator<Item = String>,
    start: impl Start,
) -> Result<(), Option<String>> {
    let started_at = Instant::now();
    let replica = match args::parse(words).map_err(Some)? {
        Args::Role(Role::Replica(replica)) => replica,
        Args::None | Args::Role(Role::Describe { .. }) => {
            return Err(Some("the role is not that of a replica".to_owned()));
        }
    };
    replica_role(*replica, life::Threads::Apart, start, started_at).map_err(|failure| match failure
    {
        Failure::Told => None,
        Failure::Untold(message) => Some(message),
    })
}

fn replica_role(
    replica: args::ReplicaArgs,
    threads: life::Threads,
    start: impl Start,
    started_at: Instant,
) -> Result<(), Failure> {
    prepare_child(replica.parent_pid).map_err(|error| Failure::Untold(error.to_string()))?;
    open_log(replica.id.as_str())?;
    let options = life::ReplicaOptions {
        runtime_dir: replica.runtime_dir,
        id: replica.id,
        config: replica.config,
        gang: replica.gang,
        rank: variable("TYNDALL_REPLICA_RANK").and_then(|rank| rank.parse().ok()).unwrap_or(0),
        started_at,
    };
    life::block_on(options, threads, start).map_err(|error| {
        // A failed start was reported to the controller, which tells it.
        if !matches!(error, life::ReplicaError::Start { .. }) {
            tracing::error!(
                error = tyndall_types::with_causes(error.to_string(), &error),
                "the replica ends"
            );
        }
        Failure::Told
    })
}

/// Opens the log as `TYNDALL_LOG` and `TYNDALL_LOG_FORMAT` say, which the server hands on to all of
/// its processes.
fn open_log(role: &str) -> Result<(), Failure> {
    let untold = |error: tyndall_telemetry::LogError| Failure::Untold(error.to_string());
    let format: Option<LogFormat> =
        variable("TYNDALL_LOG_FORMAT").map(|word| word.parse()).transpose().map_err(untold)?;
    let filter = variable("TYNDALL_LOG").unwrap_or_else(|| "info".to_owned());
    init_logs(LogOptions { role: role.to_owned(), filter, format: format.unwrap_or_default() })
        .map_err(untold)
}

#[expect(clippy::disallowed_methods, reason = "a program is a binary, and this is its edge")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn builders_take_what_their_type_says() {
        fn build<Kind>(builder: &impl Builder<Kind>, args: Value) -> String {
            builder.build(args).unwrap_err().to_string()
        }
        let none = || Err(Error::user("none"));
        assert_eq!(build(&none, json!({})), "none");
        assert!(build(&none, json!({"a": 1})).contains("takes no arguments"));

        #[derive(serde::Deserialize)]
        struct Typed {
            word: String,
            #[serde(default)]
            number: u32,
        }
        let typed = |args: Typed| Err(Error::user(format!("{}{}", args.word, args.number)));
        assert_eq!(build(&typed, json!({"word": "w"})), "w0");
        assert_eq!(build(&typed, json!({"word": "1"})), "10");
        assert_eq!(build(&typed, json!({"word": "w", "number": "1"})), "w1");
        assert!(build(&typed, json!({})).contains("missing field `word`"));
        let wrong = build(&typed, json!({"word": "w", "number": "x"}));
        assert!(wrong.contains("invalid type: string \"x\""), "{wrong}");
    }
}
