//! The injector: one fault after another, all decided by a seed.

use super::node::{Node, is_settled, running};
use super::outcome::{App, Gone, Window};
use crate::error::BenchError;
use crate::processes::{is_alive, signal};
use crate::random::Random;
use clap::ValueEnum;
use rustix::process::Signal;
use std::time::{Duration, Instant};

/// After a kill, until the connections of the process are closed and all have noticed.
const AFTER_KILL: Duration = Duration::from_secs(1);
/// Between two faults.
const PAUSE_S: (f64, f64) = (0.2, 1.5);
/// How long a replica is stopped.
const STOP_S: (f64, f64) = (0.3, 2.0);
/// How long an application is deleted.
const GONE_S: (f64, f64) = (0.1, 0.5);
/// Share of the controller's kills that come at rest.
const AT_REST: f64 = 0.5;
/// Most replicas that are asked for.
const MAX_REPLICAS: usize = 3;
/// How long a new controller may take to know its replicas.
const ADOPTION: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(20);

/// What is done to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Fault {
    /// The controller is killed
    Controller,
    /// The proxy is killed
    Proxy,
    /// A replica is killed
    Replica,
    /// Several of them are killed at once
    Several,
    /// The supervisor is killed, and with it everything; it is started again
    All,
    /// A replica is stopped for a while
    Stop,
    /// A new version
    Update,
    /// A version that cannot start
    BadUpdate,
    /// Another number of replicas
    Scale,
    /// The application that sleeps is deleted and deployed again
    Delete,
}

impl Fault {
    /// As flags and reports spell it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Controller => "controller",
            Self::Proxy => "proxy",
            Self::Replica => "replica",
            Self::Several => "several",
            Self::All => "all",
            Self::Stop => "stop",
            Self::Update => "update",
            Self::BadUpdate => "bad-update",
            Self::Scale => "scale",
            Self::Delete => "delete",
        }
    }
}

/// What the injector did and found.
#[derive(Debug, Default)]
pub(super) struct Log {
    /// In order.
    pub(super) faults: Vec<(Fault, Instant)>,
    pub(super) windows: Vec<Window>,
    /// Replicas that a new controller took over, and those that it did not.
    pub(super) num_adopted: usize,
    pub(super) num_not_adopted: usize,
    /// Bad versions that gave way to the one before, as far as that was waited for.
    pub(super) num_rolled_back: usize,
    /// Processes that outlived their supervisor.
    pub(super) num_survivors: usize,
    /// What did not become true in time, or was refused.
    pub(super) problems: Vec<String>,
}

/// Does one fault after another.
#[derive(Debug)]
pub(super) struct Injector<'a> {
    pub(super) node: Node<'a>,
    pub(super) log: Log,
    random: Random,
    kinds: Vec<Fault>,
    /// What is left of a round in which each kind comes once.
    round: Vec<Fault>,
    is_bad_pending: bool,
}

impl<'a> Injector<'a> {
    pub(super) fn new(node: Node<'a>, kinds: Vec<Fault>, random: Random) -> Self {
        let log = Log::default();
        Self { node, log, random, kinds, round: Vec::new(), is_bad_pending: false }
    }

    /// A pause, then the next fault.
    ///
    /// # Errors
    /// The server cannot be started again, or does not answer.
    pub(super) fn next(&mut self) -> Result<Fault, BenchError> {
        self.pause(PAUSE_S);
        if self.round.is_empty() {
            self.round.clone_from(&self.kinds);
        }
        let fault = self.round.swap_remove(self.random.below(self.round.len()));
        self.inject(fault)?;
        Ok(fault)
    }

    /// Waits until the last fault is got over.
    pub(super) fn settle(&mut self) {
        let Some(app) = self.node.settle() else {
            let state = self.node.application(App::Steady).map(|app| (app.status, app.message));
            self.log.problems.push(format!("the server did not come to rest: {state:?}"));
            return;
        };
        if std::mem::take(&mut self.is_bad_pending) {
            if app.message.contains("rolled back") {
                self.log.num_rolled_back += 1;
            } else {
                let message = format!("a bad version was not rolled back: {:?}", app.message);
                self.log.problems.push(message);
            }
        }
    }

    fn inject(&mut self, fault: Fault) -> Result<(), BenchError> {
        // Kills come in the middle of everything, but some of the controller at rest: then it is
        // known which replicas the next one must take over.
        let wants_rest = match fault {
            Fault::Update | Fault::BadUpdate => true,
            Fault::Controller => !self.is_bad_pending && self.random.unit() < AT_REST,
            _ => false,
        };
        if wants_rest {
            self.settle();
        }
        self.log.faults.push((fault, Instant::now()));
        match fault {
            Fault::Controller => self.kill_controller(),
            Fault::Proxy => self.kill("proxy"),
            Fault::Replica => self.kill("replica"),
            Fault::Several => {
                let spared = self.random.below(4);
                let roles = ["controller", "proxy", "replica"].into_iter().enumerate();
                roles.filter(|(index, _)| *index != spared).for_each(|(_, role)| self.kill(role));
            }
            Fault::All => self.kill_all()?,
            Fault::Stop => self.stop(),
            Fault::Update => {
                self.node.update()?;
                self.is_bad_pending = false;
            }
            Fault::BadUpdate => {
                self.node.update_badly()?;
                self.is_bad_pending = true;
            }
            Fault::Scale => {
                let replicas = 1 + self.random.below(MAX_REPLICAS);
                self.node.scale(u32::try_from(replicas).unwrap_or(1))?;
            }
            Fault::Delete => self.delete()?,
        }
        Ok(())
    }

    /// Kills one process of a role, drawn at random.
    fn kill(&mut self, role: &str) {
        let pids = self.node.pids_of(role);
        let Some(&pid) = pids.get(self.random.below(pids.len())) else { return };
        let from = Instant::now();
        signal(pid, Signal::KILL);
        match role {
            "proxy" => self.excuse(Gone::Proxy, from, AFTER_KILL),
            "replica" => self.excuse(Gone::Replica, from, AFTER_KILL),
            _ => {}
        }
    }

    /// Kills the controller and looks whether the next one takes its replicas over.
    fn kill_controller(&mut self) {
        let before = self.node.application(App::Steady).filter(is_settled);
        let before = before.map(|app| running(&app)).unwrap_or_default();
        self.kill("controller");
        let deadline = Instant::now() + ADOPTION;
        let mut left = before.clone();
        while !left.is_empty() && Instant::now() < deadline {
            let known = self.node.application(App::Steady).map(|app| running(&app));
            left.retain(|pid| !known.as_ref().is_some_and(|known| known.contains(pid)));
            if !left.is_empty() {
                self.node.pause(POLL);
            }
        }
        let dead = before.iter().filter(|pid| !left.contains(pid) && !is_alive(**pid)).count();
        let num_not_adopted = left.len() + dead;
        self.log.num_not_adopted += num_not_adopted;
        self.log.num_adopted += before.len() - num_not_adopted;
    }

    fn kill_all(&mut self) -> Result<(), BenchError> {
        let from = Instant::now();
        self.log.num_survivors += self.node.kill_and_start()?;
        self.excuse(Gone::Proxy, from, from.elapsed());
        // What runs now is what the file holds.
        self.is_bad_pending = false;
        Ok(())
    }

    fn stop(&mut self) {
        let pids = self.node.pids_of("replica");
        let Some(&pid) = pids.get(self.random.below(pids.len())) else { return };
        signal(pid, Signal::STOP);
        self.pause(STOP_S);
        signal(pid, Signal::CONT);
    }

    fn delete(&mut self) -> Result<(), BenchError> {
        let from = Instant::now();
        self.node.delete(App::Sleepy)?;
        self.pause(GONE_S);
        self.node.submit_again()?;
        // The file has a good version of the other application.
        self.is_bad_pending = false;
        if !self.node.is_back(App::Sleepy) {
            self.log.problems.push("what was deleted did not come back".to_owned());
        }
        self.excuse(Gone::Application, from, from.elapsed() + AFTER_KILL);
        Ok(())
    }

    fn excuse(&mut self, gone: Gone, from: Instant, time: Duration) {
        self.log.windows.push(Window { gone, from, to: from + time });
    }

    fn pause(&mut self, (least_s, most_s): (f64, f64)) {
        let time_s = least_s + self.random.unit() * (most_s - least_s);
        self.node.pause(Duration::from_secs_f64(time_s));
    }
}
