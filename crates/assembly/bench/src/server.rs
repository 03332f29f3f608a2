//! A `tyndall run` of our own, on free ports, that ends with the benchmark.

use crate::error::BenchError;
use crate::processes;
use crate::url::Url;
use rustix::process::Signal;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use tyndall_transport::Client;
use tyndall_types::protocol::{DeploymentDetails, InstanceDetails};

/// How long a server may take to be ready, and a fact about it to become true.
const DEADLINE: Duration = Duration::from_secs(300);
/// How long a server may take to end before it is killed.
const END_DEADLINE: Duration = Duration::from_secs(30);
/// Between two questions to the admin API.
const POLL: Duration = Duration::from_millis(5);
/// All that the admin API shows.
pub(crate) const APPLICATIONS: &str = "/api/tyndall/applications/";
/// Where config files go.
pub(crate) const SUBMISSIONS: &str = "/api/serve/applications/";
/// Lines of its output that are kept.
const MAX_LINES: usize = 10_000;

/// What a server prints, line by line, from both of its outputs.
#[derive(Debug, Default)]
struct Log {
    state: Mutex<LogState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct LogState {
    lines: Vec<String>,
    /// Outputs at their end.
    ended: usize,
}

impl Log {
    fn state(&self) -> MutexGuard<'_, LogState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn follow(self: &Arc<Self>, output: impl Read + Send + 'static) -> std::io::Result<()> {
        let log = Arc::clone(self);
        let read = move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let mut state = log.state();
                if state.lines.len() < MAX_LINES {
                    state.lines.push(line);
                }
                log.changed.notify_all();
            }
            log.state().ended += 1;
            log.changed.notify_all();
        };
        thread::Builder::new().name("server output".to_owned()).spawn(read).map(drop)
    }

    /// Waits until `find` finds something; none when both outputs end or time is over.
    fn wait<T>(&self, within: Duration, find: impl Fn(&LogState) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + within;
        let mut state = self.state();
        loop {
            if let Some(found) = find(&state) {
                return Some(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if state.ended == 2 || left.is_zero() {
                return None;
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// How a server is started.
#[derive(Debug, Clone)]
pub(crate) struct Launch {
    /// The binary.
    pub(crate) executable: PathBuf,
    /// A model, or a config file.
    pub(crate) target: String,
    /// Further arguments of `tyndall run`.
    pub(crate) arguments: Vec<String>,
    /// The public and the admin port; 0 takes any.
    pub(crate) ports: (u16, u16),
    /// Where its sockets lie; absent leaves it to the server.
    pub(crate) runtime_base: Option<PathBuf>,
}

/// A running server. Dropping it ends it and everything it started.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    log: Arc<Log>,
    /// Where clients go.
    pub(crate) url: Url,
    /// The id under which it serves the model; for a config file, what it says of its applications.
    pub(crate) model: String,
    /// Where the admin API is.
    pub(crate) admin_url: Url,
    admin: Client,
}

impl Server {
    /// Starts `executable run target` with further arguments and waits until it is ready.
    ///
    /// # Errors
    /// It ends before, with the last that it said.
    pub(crate) fn start(
        executable: &Path,
        target: &str,
        arguments: &[String],
    ) -> Result<Self, BenchError> {
        Self::launch(&Launch {
            executable: executable.to_owned(),
            target: target.to_owned(),
            arguments: arguments.to_vec(),
            ports: (0, 0),
            runtime_base: None,
        })
    }

    /// Starts a server and waits until it is ready.
    ///
    /// # Errors
    /// It ends before, with the last that it said.
    pub(crate) fn launch(launch: &Launch) -> Result<Self, BenchError> {
        let executable = &launch.executable;
        let (public, admin) = launch.ports;
        let mut command = Command::new(executable);
        command
            .args(["run", &launch.target])
            .args(["--port", &public.to_string(), "--admin-port", &admin.to_string()])
            .args(&launch.arguments)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some(base) = &launch.runtime_base {
            command.env("XDG_RUNTIME_DIR", base);
        }
        let mut child = command.spawn().map_err(|error| {
            BenchError::of(&format!("failed to start {}", executable.display()), &error)
        })?;
        let log = Arc::new(Log::default());
        let followed = child.stdout.take().map_or(Ok(()), |output| log.follow(output));
        let followed = followed.and(child.stderr.take().map_or(Ok(()), |e| log.follow(e)));
        let ready = log.wait(DEADLINE, |state| {
            state.lines.iter().any(|line| line.starts_with("ready")).then(|| serving(&state.lines))
        });
        let (model, url, admin) = match (followed, ready.flatten()) {
            (Ok(()), Some(serving)) => serving,
            (followed, _) => {
                end(&mut child, &log);
                return Err(not_ready(followed.err(), &log));
            }
        };
        Ok(Self { child, log, url, model, admin: admin.client(), admin_url: admin })
    }

    /// Everything that it said, up to a bound.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.log.state().lines.clone()
    }

    /// Ends it and everything it started, and returns what it said.
    pub(crate) fn end(mut self) -> Vec<String> {
        end(&mut self.child, &self.log);
        self.lines()
    }

    /// A client of the admin API.
    pub(crate) fn admin(&self) -> &Client {
        &self.admin
    }

    /// Kills the foreground process and waits for its end.
    pub(crate) fn kill(&mut self) {
        // One that is gone already is as good.
        drop(self.child.kill());
        drop(self.child.wait());
    }

    /// The foreground process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The first line from `from` on that contains `part`, and the place after it.
    pub(crate) fn line_with(&self, part: &str, from: usize) -> Option<(String, usize)> {
        self.log.wait(END_DEADLINE, |state| {
            let mut lines = state.lines.iter().enumerate().skip(from);
            let (place, line) = lines.find(|(_, line)| line.contains(part))?;
            Some((line.clone(), place + 1))
        })
    }

    /// Waits until the admin API shows a deployment that is as wanted.
    ///
    /// # Errors
    /// That does not happen in time.
    pub(crate) async fn wait_for(
        &self,
        what: &str,
        is_so: impl Fn(&DeploymentDetails) -> bool,
    ) -> Result<DeploymentDetails, BenchError> {
        let look = async {
            loop {
                let details: Result<InstanceDetails, _> = self.admin.get(APPLICATIONS).await;
                let applications = details.map(|details| details.applications).unwrap_or_default();
                let all = applications.into_values().flat_map(|app| app.deployments.into_values());
                if let Some(found) = all.into_iter().find(|deployment| is_so(deployment)) {
                    return found;
                }
                tokio::time::sleep(POLL).await;
            }
        };
        tokio::time::timeout(DEADLINE, look).await.map_err(|_| {
            let waited_s = DEADLINE.as_secs();
            BenchError::new(format!("the server: {what}: not within {waited_s} s"))
                .with_cure(format!("its last words: {}", last_words(&self.log)))
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        end(&mut self.child, &self.log);
    }
}

/// Asks for the end, waits for it, and kills what does not come to it.
fn end(child: &mut Child, log: &Log) {
    if child.try_wait().is_ok_and(|ended| ended.is_some()) {
        // Its number may be another process's by now.
        return;
    }
    let asked = processes::signal(child.id(), Signal::TERM);
    let ended = asked && log.wait(END_DEADLINE, |state| (state.ended == 2).then_some(())).is_some();
    if !ended {
        // It is gone already, which is as good.
        drop(child.kill());
    }
    drop(child.wait());
}

fn not_ready(follow: Option<std::io::Error>, log: &Log) -> BenchError {
    if let Some(error) = follow {
        return BenchError::of("failed to start a thread", &error);
    }
    let state = log.state();
    let said = |mark: &str| {
        let line = state.lines.iter().find_map(|line| line.strip_prefix(mark));
        line.map(str::to_owned)
    };
    let cause = said("error: ").unwrap_or_else(|| "it said nothing".to_owned());
    let error = BenchError::new(format!("the server did not start: {cause}"));
    match said("help: ") {
        Some(cure) => error.with_cure(cure),
        None => error.with_cure("see what `tyndall run` says of the same model"),
    }
}

fn last_words(log: &Log) -> String {
    log.state().lines.last().cloned().unwrap_or_else(|| "none".to_owned())
}

/// What is served, public and admin URL of the line `serving M at U  (admin API at A)`, or of a
/// config file `2 applications at …`.
fn serving(lines: &[String]) -> Option<(String, Url, Url)> {
    lines.iter().find_map(|line| {
        let (model, rest) = line.split_once(" at ")?;
        let is_applications =
            || model.ends_with(" application") || model.ends_with(" applications");
        let model =
            model.strip_prefix("serving ").or_else(|| is_applications().then_some(model))?;
        let (url, rest) = rest.split_once(' ')?;
        let admin = rest.trim().strip_prefix("(admin API at ")?.strip_suffix(')')?;
        Some((model.to_owned(), url.parse().ok()?, admin.parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_urls_are_found_in_what_it_says() {
        let lines =
            ["model  demo", "serving a/b at http://127.0.0.1:9  (admin API at http://127.0.0.1:8)"];
        let lines = lines.map(str::to_owned);
        let (model, url, admin) = serving(&lines).unwrap();
        assert_eq!(model, "a/b");
        assert_eq!(
            (url.to_string(), admin.to_string()),
            ("http://127.0.0.1:9".to_owned(), "http://127.0.0.1:8".to_owned(),)
        );
        assert!(serving(&lines[..1]).is_none());
        let line = "2 applications at http://127.0.0.1:9  (admin API at http://127.0.0.1:8)";
        assert_eq!(serving(&[line.to_owned()]).unwrap().0, "2 applications");
    }

    #[test]
    fn a_server_that_ends_says_why() {
        let error = Server::start(Path::new("/bin/false"), "demo", &[]).unwrap_err();
        assert!(error.to_string().contains("did not start"), "{error}");
        let error = Server::start(Path::new("/not/there"), "demo", &[]).unwrap_err();
        assert!(error.to_string().contains("/not/there"), "{error}");
    }
}
