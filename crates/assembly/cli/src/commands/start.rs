//! `tyndall start`: a server in the background, without applications.

use crate::args::StartArgs;
use crate::commands::keys;
use crate::commands::node::{ControllerExtras, Node, START_DEADLINE};
use crate::failure::Failure;
use crate::output::{look_later, print};
use std::fs::OpenOptions;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};
use tyndall_config::{Environment, RawSettings, RunConfig};

const LOOK_PERIOD: Duration = Duration::from_millis(10);
const LOG_FILE: &str = "tyndall.log";
/// In the foreground, the process says here where it listens.
const READY_FILE: &str = "ready";

pub(crate) fn start(args: StartArgs, env: &Environment) -> Result<ExitCode, Failure> {
    if let Some(pid) = args.owner_pid {
        return owned(&args.settings.0, pid, env).or_else(|failure| failure.tell_owner());
    }
    let mut settings = args.settings.0.clone();
    let has_state = settings.get("state_dir").is_some() || env.contains_key("TYNDALL_STATE_DIR");
    if !has_state {
        let dir = default_state_dir(env)?.display().to_string();
        settings.set("state_dir", dir).expect("a key of the table");
    }
    let config = tyndall_config::resolve(&settings, env)?;
    let state_dir = config.state_dir.clone().expect("it was just set");
    if args.foreground {
        return foreground(&config, &state_dir, env);
    }
    background(settings, &config, &state_dir)
}

/// Where state and log lie, unless the user says otherwise.
fn default_state_dir(env: &Environment) -> Result<PathBuf, Failure> {
    let var = |name: &str| env.get(name).filter(|value| value.starts_with('/')).map(PathBuf::from);
    let base = var("XDG_STATE_HOME").or_else(|| Some(var("HOME")?.join(".local/state")));
    let failure = || {
        Failure::new("there is no place to keep the state: neither HOME nor XDG_STATE_HOME is set")
            .with_cure("name one: --state-dir DIR")
    };
    base.map(|base| base.join("tyndall")).ok_or_else(failure)
}

fn foreground(
    config: &RunConfig,
    state_dir: &Path,
    env: &Environment,
) -> Result<ExitCode, Failure> {
    crate::roles::init_logs("start", &config.log_filter, config.log_format)?;
    let node = Node::new(config)?;
    let told = format!("{}\n{}\n", node.url()?, node.admin_url()?);
    print(&started(&told))?;
    let log_file = state_dir.join(LOG_FILE);
    let log_file = log_file.is_file().then_some(log_file);
    let extras = ControllerExtras { log_file, ..ControllerExtras::default() };
    let ready = state_dir.join(READY_FILE);
    let ended = node.supervise(config, env, &extras, |_| async {
        std::fs::write(&ready, told)?;
        Ok(())
    });
    // One that is gone was never written.
    drop(std::fs::remove_file(state_dir.join(READY_FILE)));
    ended
}

/// A server of another program, which ends with it. It says on standard output where it listens when
/// it does, or why it cannot.
fn owned(settings: &RawSettings, owner_pid: u32, env: &Environment) -> Result<ExitCode, Failure> {
    let config = tyndall_config::resolve(settings, env)?;
    crate::roles::init_logs("start", &config.log_filter, config.log_format)?;
    let node = Node::new(&config)?;
    let told = format!("{}\n{}\n", node.url()?, node.admin_url()?);
    let extras = ControllerExtras { owner_pid: Some(owner_pid), ..ControllerExtras::default() };
    node.supervise(&config, env, &extras, |_| async { print(&told) })
}

/// Starts this program once more, in a session of its own, and returns when it serves.
fn background(
    mut settings: RawSettings,
    config: &RunConfig,
    state_dir: &Path,
) -> Result<ExitCode, Failure> {
    std::fs::create_dir_all(state_dir)?;
    let path = state_dir.join(LOG_FILE);
    let log = OpenOptions::new().create(true).append(true).open(&path)?;
    let begin = log.metadata()?.len();
    let ready = state_dir.join(READY_FILE);
    // What stands in the way is told here; then nothing is left but what a killed one has left.
    drop(Node::new(config)?);
    drop(std::fs::remove_file(&ready));
    let mut command = Command::new(std::env::current_exe()?);
    // Others see the arguments of a process, and not its environment.
    if let Some(secrets) = settings.remove("api_key") {
        command.env(keys::VARIABLE, secrets);
    }
    command.arg("start").arg("--foreground").args(settings.as_flags());
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    // Signals of this terminal are not for it.
    let mut child = command.process_group(0).spawn()?;
    let deadline = Instant::now() + START_DEADLINE;
    loop {
        if let Some(status) = child.try_wait()? {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            let said = text.get(begin as usize..).unwrap_or_default().trim();
            let cause = said.lines().find_map(|line| line.strip_prefix("error: "));
            let cure = said.lines().find_map(|line| line.strip_prefix("help: "));
            let failure = Failure::new(cause.map_or_else(
                || format!("the server ended with {status}; {} says why", path.display()),
                str::to_owned,
            ));
            return Err(match cure {
                Some(cure) => failure.with_cure(cure),
                None => failure,
            });
        }
        if let Ok(told) = std::fs::read_to_string(&ready) {
            print(&started(&told))?;
            print(&format!("logs: {}\n", path.display()))?;
            return Ok(ExitCode::SUCCESS);
        }
        if Instant::now() > deadline {
            let waited_s = START_DEADLINE.as_secs();
            return Err(Failure::new(format!("the server was not ready within {waited_s} s"))
                .with_cure(format!("{} says why", path.display())));
        }
        look_later(LOOK_PERIOD);
    }
}

fn started(told: &str) -> String {
    let mut lines = told.lines();
    let (url, admin) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    format!("serving at {url}  (admin API at {admin})\n")
}
