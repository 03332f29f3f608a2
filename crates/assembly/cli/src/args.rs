//! The command line. `run`'s flags are rows of the table in `tyndall_config`, so that help,
//! variables, defaults and errors come from one place.

mod roles;

pub(crate) use roles::{CommonRoleArgs, NodeArgs, RoleArgs};

use clap::{Arg, ArgAction, ArgMatches, Args, FromArgMatches, Parser, Subcommand};
use std::marker::PhantomData;
use std::path::PathBuf;
use tyndall_config::{Group, RawSettings, SETTINGS, Setting};

const ABOUT: &str = "Serves language models over HTTP: nothing runs until the first request, \
                     requests are batched, and the model goes away when idle";

const EXAMPLES: &str = "\
Examples:
  tyndall run demo                             serve the model inside this binary; needs no network
  tyndall run Qwen/Qwen2.5-0.5B-Instruct       download once, then serve
  tyndall run ./my-model --name mine           serve a directory
  tyndall plan Qwen/Qwen3-0.6B                 what it would take, without starting it
  tyndall run serve.yaml                       serve the applications of a Ray Serve config file
  tyndall run main:app                         serve the application `app` of main.py
  tyndall status                               what runs, from another terminal
  tyndall bench serve --url http://127.0.0.1:8000   how fast it is

  curl -s http://127.0.0.1:8000/generate -d '{\"prompt\": \"Write a haiku about Ray Serve.\"}'";

const RUN_EXAMPLES: &str = "\
Every flag can also be set by the variable beside it; a flag wins. The variables without TYNDALL_
are those of the Ray Serve examples.

Examples:
  tyndall run demo --port 9000
  tyndall run --min-replicas 1 ./my-model      keep one replica, so that no request waits for a wake
  MODEL_ID=facebook/opt-350m tyndall run
  tyndall run demo --print-config              show every setting and where it came from";

const START_EXAMPLES: &str = "\
Examples:
  tyndall start                                state and log in ~/.local/state/tyndall
  tyndall deploy serve.yaml --wait             a config file of Ray Serve
  tyndall status";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(name = "tyndall", version, about = ABOUT, after_help = EXAMPLES)]
#[command(propagate_version = true, arg_required_else_help = true, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve a model, or applications, in the foreground; Ctrl-C finishes what is running and ends
    /// everything
    #[command(after_help = RUN_EXAMPLES)]
    Run(RunArgs),
    /// Start a server in the background; `deploy` gives it applications
    #[command(after_help = START_EXAMPLES)]
    Start(StartArgs),
    /// Deploy the applications of a config file, as Ray Serve's, a program, or an application in
    /// Python, on a running server
    Deploy(DeployArgs),
    /// Show what runs: applications, deployments, replicas, load
    Status(StatusArgs),
    /// Show how the controller itself is
    ControllerHealth(HealthArgs),
    /// Remove an application; its replicas finish what they have
    Delete(DeleteArgs),
    /// Go back to an older version of an application
    Rollback(RollbackArgs),
    /// Show what happened: deploys, wakes, scaling, failures
    Events(EventsArgs),
    /// Show the log of a server that was started in the background
    Logs(LogsArgs),
    /// End a running server as Ctrl-C would
    Shutdown(ShutdownArgs),
    /// Show what a model takes and what fits, without reading a weight
    Plan(PlanArgs),
    /// Download a model into the Hugging Face cache, or refresh it
    Pull(PullArgs),
    /// Measure the machine, the engine, or a server
    Bench(Box<tyndall_bench::BenchArgs>),
    /// Make, check and watch the API keys of clients
    #[command(subcommand)]
    Keys(KeysArgs),
    /// Show what was deployed from config files, or look at such a file
    Config(ConfigCommand),
    /// Write a config file for models, programs and applications in Python
    Build(BuildArgs),
    /// Try the autoscaling of a config file on a trace of requests, in virtual time
    Simulate(Box<tyndall_sim::SimulateArgs>),
    /// Print a completion script for a shell
    #[command(after_help = "Example:\n  tyndall completions bash > \
                            ~/.local/share/bash-completion/completions/tyndall")]
    Completions(CompletionsArgs),
    /// A process of a running server; started by it, not by hand
    #[command(subcommand, hide = true)]
    Role(RoleArgs),
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) settings: SettingArgs<All>,
    #[command(flatten)]
    pub(crate) application: ApplicationArgs,
    /// Print every setting with its origin, and exit
    #[arg(long)]
    pub(crate) print_config: bool,
}

/// What a command says of an application of code.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Applications of code")]
pub(crate) struct ApplicationArgs {
    /// Arguments of what builds the application
    #[arg(value_name = "KEY=VALUE", help_heading = None)]
    pub(crate) arguments: Vec<String>,
    /// Where an application in Python is found [default: .]
    #[arg(short = 'd', long, value_name = "DIR")]
    pub(crate) app_dir: Option<PathBuf>,
    /// Where its replicas run: a directory or a zip archive [default: that of --app-dir]
    #[arg(long, value_name = "DIR")]
    pub(crate) working_dir: Option<String>,
    /// A YAML file with its runtime_env: env_vars, working_dir, py_modules
    #[arg(long, value_name = "FILE")]
    pub(crate) runtime_env: Option<PathBuf>,
    /// The same as JSON
    #[arg(long, value_name = "JSON", conflicts_with = "runtime_env")]
    pub(crate) runtime_env_json: Option<String>,
    /// Where it is mounted; a config file says that itself [default: /]
    #[arg(long, value_name = "PATH")]
    pub(crate) route_prefix: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    pub(crate) settings: SettingArgs<Planning>,
}

/// Where a running server's admin API is.
#[derive(Debug, Args)]
pub(crate) struct AdminArgs {
    /// Admin URL of the server, as `run` prints it [env: TYNDALL_ADDRESS RAY_DASHBOARD_ADDRESS]
    /// [default: http://127.0.0.1:8265, or the port in TYNDALL_ADMIN_PORT]
    #[arg(short, long, value_name = "URL")]
    pub(crate) address: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
    /// Only this application
    #[arg(short, long)]
    pub(crate) name: Option<String>,
    /// Print the admin API's JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Print what Ray's `serve status` prints; the default when called as `serve`
    #[arg(long, conflicts_with = "json")]
    pub(crate) yaml: bool,
}

#[derive(Debug, Args)]
pub(crate) struct HealthArgs {
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
    /// Print JSON instead of YAML
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct StartArgs {
    #[command(flatten)]
    pub(crate) settings: SettingArgs<Hosting>,
    /// Stay in the foreground, as service managers want it
    #[arg(long)]
    pub(crate) foreground: bool,
    /// End with the program that started it, and keep no state unless told where
    #[arg(long, value_name = "PID", requires = "foreground", hide = true)]
    pub(crate) owner_pid: Option<u32>,
    #[command(flatten)]
    pub(crate) reflection: ReflectionArgs,
}

#[derive(Debug, Args)]
pub(crate) struct DeployArgs {
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
    /// A config file (.yaml, .yml, .json), a program, or an import path such as module:app
    #[arg(value_name = "FILE")]
    pub(crate) source: String,
    #[command(flatten)]
    pub(crate) application: ApplicationArgs,
    /// The name of the application, where no config file says it
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Return when every application runs; fail when one cannot
    #[arg(long)]
    pub(crate) wait: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RollbackArgs {
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
    /// The application's name, as `status` prints it
    pub(crate) name: String,
    /// This version instead of the last one that served
    #[arg(long, value_name = "VERSION", conflicts_with = "list")]
    pub(crate) to: Option<u64>,
    /// Only show the versions that there are
    #[arg(long)]
    pub(crate) list: bool,
}

#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
    /// Only of this application
    pub(crate) application: Option<String>,
    /// How many, the newest
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) limit: u32,
    /// Go on with those that come
    #[arg(short, long)]
    pub(crate) follow: bool,
}

#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
    /// Only lines with this text, such as a replica's id
    pub(crate) filter: Option<String>,
    /// How many lines, the newest
    #[arg(short = 'n', long, default_value_t = 100)]
    pub(crate) lines: u32,
    /// Go on with those that come
    #[arg(short, long)]
    pub(crate) follow: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ShutdownArgs {
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
    /// Taken as Ray's; nothing is asked anyway
    #[arg(short, long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct BuildArgs {
    /// Models, programs and import paths of applications in Python, each an application
    #[arg(required = true, value_name = "TARGET")]
    pub(crate) targets: Vec<String>,
    /// Where applications in Python are found
    #[arg(short = 'd', long, value_name = "DIR", default_value = ".")]
    pub(crate) app_dir: PathBuf,
    /// Write it there instead of to standard output
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output_path: Option<PathBuf>,
    /// Import paths of functions that say which methods of gRPC there are
    #[arg(long, value_name = "PATHS", value_delimiter = ',')]
    pub(crate) grpc_servicer_functions: Vec<String>,
    /// Do not tell clients of gRPC which methods there are
    #[arg(long)]
    pub(crate) grpc_disable_reflection: bool,
    #[command(flatten)]
    pub(crate) reflection: ReflectionArgs,
}

/// Ray's flag for what is so anyway.
#[derive(Debug, Args)]
pub(crate) struct ReflectionArgs {
    #[arg(long, hide = true, conflicts_with = "grpc_disable_reflection")]
    grpc_enable_reflection: bool,
}

/// Without a subcommand: what is deployed.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct ConfigCommand {
    #[command(subcommand)]
    pub(crate) what: Option<ConfigArgs>,
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
    /// Only this application
    #[arg(short, long)]
    pub(crate) name: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
    /// The application's name, as `status` prints it
    pub(crate) name: String,
}

#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    /// A Hugging Face id, such as facebook/opt-125m
    pub(crate) model: String,
    /// A branch, tag or commit
    #[arg(long, default_value = "main")]
    pub(crate) revision: String,
}

/// What to do with keys.
#[derive(Debug, Subcommand)]
pub(crate) enum KeysArgs {
    /// Make a key; it is printed once, and only its hash is kept
    New {
        /// What it is called in metrics and reports
        #[arg(long)]
        name: String,
        /// Add its entry to this file, which is made when missing; else the entry is printed
        #[arg(long)]
        file: Option<PathBuf>,
    },
    /// Tell what is wrong in a key file, with its line
    Check {
        /// TOML
        file: PathBuf,
    },
    /// Show what each key used
    Usage {
        #[command(flatten)]
        admin: AdminArgs,
        /// Up to today, in UTC
        #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=400))]
        days: u32,
        /// Print the admin API's JSON, by day
        #[arg(long)]
        json: bool,
    },
}

/// What to look at.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigArgs {
    /// Tell all that is wrong in files, with line, cause and cure, and what would have no effect
    Check {
        /// YAML or JSON
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Print every value that holds, and the line that says so or that it is a default
    Show {
        /// YAML or JSON
        file: PathBuf,
    },
    /// Print the JSON schema of config files, for editors
    Schema {
        /// Print the tables of the docs instead
        #[arg(long)]
        markdown: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// Which shell
    pub(crate) shell: clap_complete::Shell,
}

/// Which settings a command has.
pub(crate) trait Scope: Clone {
    fn has(row: &Setting) -> bool;
}

/// Every setting.
#[derive(Debug, Clone)]
pub(crate) struct All;

impl Scope for All {
    fn has(_: &Setting) -> bool {
        true
    }
}

/// What a server without applications needs.
#[derive(Debug, Clone)]
pub(crate) struct Hosting;

impl Scope for Hosting {
    fn has(row: &Setting) -> bool {
        let network =
            ["host", "port", "admin_host", "admin_port", "api_keys", "api_key", "insecure"];
        let limits = ["request_timeout", "graceful_timeout"];
        [Group::Grpc, Group::Browsers, Group::Process].contains(&row.group)
            || network.contains(&row.key)
            || limits.contains(&row.key)
    }
}

/// What decides how much memory a model takes.
#[derive(Debug, Clone)]
pub(crate) struct Planning;

impl Scope for Planning {
    fn has(row: &Setting) -> bool {
        let is_planned = row.group == Group::Model && row.key != "num_gpus_per_replica";
        is_planned || ["target", "max_replicas"].contains(&row.key)
    }
}

/// Settings as typed, unchecked.
#[derive(Debug, Clone)]
pub(crate) struct SettingArgs<S>(pub(crate) RawSettings, PhantomData<S>);

impl<S: Scope> Args for SettingArgs<S> {
    fn augment_args(command: clap::Command) -> clap::Command {
        SETTINGS
            .iter()
            .filter(|row| S::has(row))
            .fold(command, |command, row| command.arg(arg(row)))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl<S: Scope> FromArgMatches for SettingArgs<S> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut settings = Self(RawSettings::default(), PhantomData);
        settings.update_from_arg_matches(matches)?;
        Ok(settings)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        for row in SETTINGS.iter().filter(|row| S::has(row)) {
            let text = if row.is_switch() {
                matches.get_flag(row.key).then(|| "true".to_owned())
            } else if REPEATABLE.contains(&row.key) {
                let texts = matches.get_many::<String>(row.key);
                texts.map(|texts| texts.cloned().collect::<Vec<_>>().join(","))
            } else {
                matches.get_one::<String>(row.key).cloned()
            };
            if let Some(text) = text {
                self.0.set(row.key, text).expect("rows of the table are known keys");
            }
        }
        Ok(())
    }
}

/// The settings whose flags may be given several times.
const REPEATABLE: [&str; 2] = ["api_key", "grpc_servicer_functions"];

fn arg(row: &'static Setting) -> Arg {
    let mut notes = vec![format!(
        "[env: {}]",
        [Some(row.env), row.seed_env].map(|name| { name.unwrap_or_default() }).join(" ").trim()
    )];
    if !row.default.is_empty() {
        notes.push(format!("[default: {}]", row.default));
    }
    let arg = Arg::new(row.key)
        .help(format!("{} {}", row.help, notes.join(" ")))
        .help_heading(row.group.heading());
    if row.key == "target" {
        return arg.value_name(row.value_name).help_heading(None);
    }
    let arg = arg.long(row.flag.trim_start_matches('-'));
    // Ray's and vLLM's names of the same.
    let arg = match row.key {
        "host" => arg.alias("http-host"),
        "port" => arg.alias("http-port"),
        "cors_origins" => arg.alias("allowed-origins"),
        "cors_methods" => arg.alias("allowed-methods"),
        "cors_headers" => arg.alias("allowed-headers"),
        "cors_credentials" => arg.alias("allow-credentials"),
        _ => arg,
    };
    if row.is_switch() {
        arg.action(ArgAction::SetTrue)
    } else if REPEATABLE.contains(&row.key) {
        arg.value_name(row.value_name).action(ArgAction::Append)
    } else {
        arg.value_name(row.value_name).allow_negative_numbers(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn only_what_was_typed_is_set() {
        let parse = |args: &[&str]| match Cli::try_parse_from(args).unwrap().command {
            Command::Run(run) => run.settings.0,
            other => panic!("{other:?}"),
        };
        assert!(Cli::try_parse_from(["tyndall", "start", "--grpc-enable-reflection"]).is_ok());
        let both = ["tyndall", "start", "--grpc-enable-reflection", "--grpc-disable-reflection"];
        assert!(Cli::try_parse_from(both).is_err());
        let keys = parse(&["tyndall", "run", "--api-key", "a", "--api-key", "b"]);
        assert_eq!(keys.get("api_key"), Some("a,b"));
        let settings = parse(&["tyndall", "run", "demo", "--port", "-1", "--insecure"]);
        assert_eq!(settings.get("target"), Some("demo"));
        assert_eq!(settings.get("port"), Some("-1"));
        assert_eq!(settings.get("insecure"), Some("true"));
        assert_eq!(settings.get("host"), None);
        assert_eq!(parse(&["tyndall", "run"]), RawSettings::default());
    }
}
