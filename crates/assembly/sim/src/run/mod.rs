//! A run: the world as it is now, and what happens next.
//!
//! Everything is one structure with one agenda, so that an event may touch a proxy, a process and
//! the controller; each of these has its file. An event is dropped when what it is about has ended:
//! requests count their attempts, and processes are never the same twice.

mod controller;
mod faults;
mod processes;
mod proxies;
mod requests;

use crate::agenda::Agenda;
use crate::faults::Fault;
use crate::outcome::{Outcome, Totals};
use crate::random::Random;
use crate::record::Recorder;
use crate::{Arrival, LatencyModel, SimConfig};
use controller::Controller;
use processes::Processes;
use proxies::Proxy;
use requests::Requests;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tyndall_control::{Event as ControlEvent, seconds};
use tyndall_routing::Ticket;
use tyndall_types::DeploymentId;
use tyndall_types::protocol::{DeploymentConfig, ScalingPolicy};

/// Until a new controller or proxy is there.
const RESTART: Duration = Duration::from_secs(1);
/// After the last thing that could be waited for, in case that something never ends.
const MARGIN: Duration = Duration::from_secs(60);
/// Anomalies that are told; one is one too many.
const MAX_ANOMALIES: usize = 20;

/// Something that is going to happen.
pub(crate) enum Event {
    /// A deadline of the controller.
    Tick,
    /// A message arrives at the controller with this number.
    ToController(u32, Box<ControlEvent>),
    /// The next controller is there.
    ControllerUp,
    /// A proxy finds the controller with this number.
    Connect { proxy: usize, controller: u32 },
    /// A proxy reads the route table.
    Routes { proxy: usize },
    /// A proxy tells its load.
    Report { proxy: usize },
    /// The next proxy is there.
    ProxyUp { proxy: usize },
    /// A process is as ready as it will be.
    Ready { process: usize },
    /// A process ends by itself, or at the end of its grace.
    Exit { process: usize, is_killed: bool },
    /// An engine tells how busy it is.
    EngineLoad { process: usize },
    /// An answer is complete.
    Finish { ticket: Ticket, attempt: u32 },
    /// A request was not taken.
    Bounce { ticket: Ticket, attempt: u32 },
    /// A request's time is over.
    Late { ticket: Ticket },
    /// A request no longer minds where it goes.
    Forgive { ticket: Ticket, attempt: u32 },
    /// Something was planned to go wrong.
    Planned { fault: Fault, count: u32 },
    /// Something goes wrong by chance.
    Chance { rate: usize },
}

/// What does not change of a deployment.
pub(crate) struct Known {
    pub(crate) id: DeploymentId,
    pub(crate) model_id: Option<String>,
    pub(crate) latency: LatencyModel,
    pub(crate) request_timeout: Duration,
    /// Its policy looks at what engines say.
    pub(crate) tells_engine_load: bool,
}

/// The world.
pub(crate) struct Run {
    config: SimConfig,
    deployments: Vec<Known>,
    places: HashMap<DeploymentId, usize>,
    now: Duration,
    agenda: Agenda<Event>,
    random: Random,
    controller: Controller,
    proxies: Vec<Proxy>,
    processes: Processes,
    requests: Requests,
    recorders: Vec<Recorder>,
    /// When the run may end, once the last request has arrived.
    end: Option<Duration>,
    /// The longest that a request may take to begin.
    longest_timeout: Duration,
    num_events: u64,
    /// Draws of faults so far.
    num_faults: u64,
    anomalies: Vec<String>,
}

impl Run {
    pub(crate) fn new(config: SimConfig) -> Self {
        let configs = config.applications.iter().flat_map(|app| &app.deployments);
        let deployments: Vec<Known> = configs.map(|one| known(one, &config)).collect();
        let random = Random::new(config.seed);
        let places = deployments.iter().enumerate().map(|(i, one)| (one.id.clone(), i)).collect();
        let num_proxies = config.proxies.max(1) as usize;
        Self {
            places,
            now: Duration::ZERO,
            agenda: Agenda::new(),
            random,
            controller: Controller::default(),
            proxies: (0..num_proxies).map(|i| Proxy::new(i, deployments.len())).collect(),
            processes: Processes::new(config.nodes.max(1) as usize, deployments.len()),
            requests: Requests::default(),
            recorders: vec![Recorder::new(); deployments.len()],
            end: None,
            longest_timeout: deployments
                .iter()
                .map(|one| one.request_timeout)
                .max()
                .unwrap_or_default(),
            num_events: 0,
            num_faults: 0,
            anomalies: Vec::new(),
            deployments,
            config,
        }
    }

    pub(crate) fn run(mut self, trace: impl Iterator<Item = Arrival>) -> Outcome {
        let num_deployments = self.deployments.len();
        let mut trace = trace.filter(|arrival| arrival.deployment < num_deployments).peekable();
        self.plan_faults();
        self.start_controller();
        loop {
            let event_at = self.agenda.next_at();
            let arrival_at = trace.peek().map(|arrival| arrival.at.max(self.now));
            if let Some(at) = arrival_at
                && event_at.is_none_or(|event_at| at <= event_at)
            {
                self.now = at;
                trace.next().into_iter().for_each(|arrival| self.arrive(arrival));
            } else {
                if arrival_at.is_none() && self.end.is_none() {
                    self.end = Some(self.now.saturating_add(self.after()));
                }
                let Some((at, event)) = self.agenda.pop().filter(|(at, _)| self.goes_on(*at))
                else {
                    break;
                };
                self.now = at;
                self.happen(event);
            }
            self.num_events += 1;
        }
        self.finish()
    }

    /// Whether there is anything to wait for until that time.
    fn goes_on(&self, at: Duration) -> bool {
        let Some(end) = self.end else { return true };
        let limit = end.saturating_add(self.longest_timeout).saturating_add(MARGIN);
        at <= end || (!self.requests.is_empty() && at <= limit)
    }

    /// How long idle replicas stay after the last arrival, and a little more.
    fn after(&self) -> Duration {
        let stay_s = |config: &Arc<DeploymentConfig>| {
            let scaling = &config.autoscaling;
            let fewer = scaling.look_back_period_s + scaling.downscale_delay_s;
            fewer.max(scaling.downscale_to_zero_delay_s).min(3600.0)
        };
        let configs = self.config.applications.iter().flat_map(|app| &app.deployments);
        let longest_s = configs.map(stay_s).fold(0.0, f64::max);
        self.config.after.unwrap_or(seconds(longest_s) + MARGIN)
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Tick => self.tick(),
            Event::ToController(controller, event) => self.arrived(controller, *event),
            Event::ControllerUp => self.start_controller(),
            Event::Connect { proxy, controller } => self.connect(proxy, controller),
            Event::Routes { proxy } => self.read_routes(proxy),
            Event::Report { proxy } => self.report(proxy),
            Event::ProxyUp { proxy } => self.proxy_up(proxy),
            Event::Ready { process } => self.ready(process),
            Event::Exit { process, is_killed } => self.exit(process, is_killed),
            Event::EngineLoad { process } => self.tell_engine_load(process),
            Event::Finish { ticket, attempt } => self.finished(ticket, attempt),
            Event::Bounce { ticket, attempt } => self.bounced(ticket, attempt),
            Event::Late { ticket } => self.late(ticket),
            Event::Forgive { ticket, attempt } => self.forgive(ticket, attempt),
            Event::Planned { fault, count } => (0..count).for_each(|_| self.go_wrong(fault)),
            Event::Chance { rate } => self.chance(rate),
        }
    }

    fn anomaly(&mut self, what: String) {
        if self.anomalies.len() < MAX_ANOMALIES {
            self.anomalies.push(format!("at {:.3} s: {what}", self.now.as_secs_f64()));
        }
    }

    fn finish(mut self) -> Outcome {
        self.now = self.now.max(self.end.unwrap_or_default());
        let open = self.requests.open_by_deployment(self.deployments.len());
        let mut totals = Totals::default();
        let mut deployments = Vec::with_capacity(self.deployments.len());
        let recorders = std::mem::take(&mut self.recorders);
        for ((known, mut recorder), open) in self.deployments.iter().zip(recorders).zip(open) {
            recorder.totals.lost = recorder.totals.sent - recorder.totals.ended();
            debug_assert_eq!(
                recorder.totals.lost, open,
                "a request that is neither open nor ended"
            );
            totals.add(&recorder.totals);
            let model_id = known.model_id.clone();
            deployments.push(recorder.finish(known.id.to_string(), model_id, self.now));
        }
        Outcome {
            seed: self.config.seed,
            duration_s: self.now.as_secs_f64(),
            num_events: self.num_events,
            num_decided: self.controller.num_decided,
            totals,
            deployments,
            anomalies: self.anomalies,
        }
    }
}

fn known(config: &DeploymentConfig, sim: &SimConfig) -> Known {
    Known {
        id: config.id.clone(),
        model_id: config.workload.model().map(|model| model.id.clone()),
        latency: sim.latency_of.get(&config.id).copied().unwrap_or(sim.latency),
        request_timeout: seconds(config.request_timeout_s),
        tells_engine_load: match config.autoscaling.policy {
            ScalingPolicy::OngoingRequests | ScalingPolicy::QueueLength { .. } => false,
            ScalingPolicy::Tokens { .. } | ScalingPolicy::TimeToFirstToken { .. } => true,
        },
    }
}
