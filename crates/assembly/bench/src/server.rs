//! A `tyndall run` of our own, on free ports, that ends with the benchmark.

use crate::error::BenchError;
use crate::url::Url;
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
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

/// A running server. Dropping it ends it and everything it started.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    log: Arc<Log>,
    /// Where clients go.
    pub(crate) url: Url,
    /// The id under which it serves the model.
    pub(crate) model: String,
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
        let mut child = Command::new(executable)
            .args(["run", target, "--port", "0", "--admin-port", "0"])
            .args(arguments)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| {
                BenchError::of(&format!("failed to start {}", executable.display()), &e)
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
        let admin = admin.client();
        Ok(Self { child, log, url, model, admin })
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
                let details: Result<InstanceDetails, _> =
                    self.admin.get("/api/tyndall/applications/").await;
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
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let asked = pid.is_some_and(|pid| kill_process(pid, Signal::TERM).is_ok());
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

/// Model, public and admin URL of the line `serving M at U  (admin API at A)`.
fn serving(lines: &[String]) -> Option<(String, Url, Url)> {
    lines.iter().find_map(|line| {
        let (model, rest) = line.strip_prefix("serving ")?.split_once(" at ")?;
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
    }

    #[test]
    fn a_server_that_ends_says_why() {
        let error = Server::start(Path::new("/bin/false"), "demo", &[]).unwrap_err();
        assert!(error.to_string().contains("did not start"), "{error}");
        let error = Server::start(Path::new("/not/there"), "demo", &[]).unwrap_err();
        assert!(error.to_string().contains("/not/there"), "{error}");
    }
}
