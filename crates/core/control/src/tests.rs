//! Lives of deployments, told as events and the actions that follow.

use super::*;
use std::time::Duration;
use tyndall_types::protocol::{
    AutoscalingConfig, ColdStartPhases, Demand, DemandReport, DeploymentConfig, DeploymentDetails,
    GenerateDefaults, ModelCard, ModelConfig, ReplicaReport, ReplicaStatus, RuntimeDir,
};
use tyndall_types::{ApplicationStatus, DeploymentName, DeploymentStatus, ReplicaId, ReplicaState};

pub(crate) fn name() -> DeploymentName {
    DeploymentName::new("org/demo").unwrap()
}

pub(crate) fn config() -> DeploymentConfig {
    DeploymentConfig {
        name: name(),
        model: ModelConfig {
            id: "demo".into(),
            path: "/models/demo".into(),
            max_model_len: None,
            memory_budget_bytes: None,
            max_num_seqs: 8,
            max_num_batched_tokens: 512,
            num_threads: None,
            speculation: true,
            quantization: Default::default(),
            generate: GenerateDefaults { max_new_tokens: 16, temperature: 0.0, top_p: 1.0 },
        },
        autoscaling: AutoscalingConfig {
            min_replicas: 0,
            max_replicas: 3,
            target_ongoing_requests: 2.0,
            upscale_delay_s: 1.0,
            downscale_delay_s: 10.0,
            downscale_to_zero_delay_s: 30.0,
        },
        max_ongoing_requests: 4,
        max_queued_requests: 100,
        request_timeout_s: 60.0,
        graceful_shutdown_timeout_s: 20.0,
        startup_timeout_s: 120.0,
    }
}

fn with_min(min_replicas: u32) -> DeploymentConfig {
    let mut config = config();
    config.autoscaling.min_replicas = min_replicas;
    config
}

pub(crate) fn card() -> ModelCard {
    ModelCard { max_model_len: 128, num_kv_blocks: 64, block_size: 16 }
}

/// A state in virtual time, with the actions of the last event.
struct Sim {
    state: State,
    now: Duration,
    sequence: u64,
    last: Vec<Action>,
}

impl Sim {
    fn new() -> Self {
        let state = State::new(RuntimeDir("/tmp/t".into()), 1_700_000_000_000);
        Self { state, now: Duration::from_secs(1000), sequence: 0, last: Vec::new() }
    }

    /// A controller that has seen that nothing runs, with this deployment.
    fn deployed(config: DeploymentConfig) -> Self {
        let mut sim = Self::new();
        sim.apply(Event::Snapshot(Vec::new()));
        sim.apply(Event::ProxyConnected("proxy-0".into()));
        sim.deploy(config);
        sim
    }

    fn apply(&mut self, event: Event) -> &[Action] {
        self.last = self.state.apply(event, self.now);
        &self.last
    }

    fn deploy(&mut self, config: DeploymentConfig) -> &[Action] {
        self.apply(Event::Deploy { config: Box::new(config), deployed_at: self.now })
    }

    fn demand(&mut self, queued: u32, ongoing: u32) -> &[Action] {
        self.sequence += 1;
        let deployments = vec![Demand { deployment: name(), queued, ongoing }];
        let report = DemandReport { sequence: self.sequence, deployments };
        self.apply(Event::Demand { proxy: "proxy-0".into(), report })
    }

    /// Lets time go on, deadline by deadline; all actions on the way.
    fn wait(&mut self, s: f64) -> Vec<Action> {
        let until = self.now + seconds(s);
        let mut actions = Vec::new();
        while let Some(at) = self.state.next_deadline().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            actions.extend(self.state.apply(Event::DeadlinePassed, self.now));
        }
        self.now = until;
        actions
    }

    /// The replicas that the last event started.
    fn started(&self) -> Vec<ReplicaId> {
        starts(&self.last)
    }

    fn ready(&mut self, replica: &ReplicaId) -> &[Action] {
        let phases = ColdStartPhases(vec![("config".into(), 0.01), ("weights".into(), 0.02)]);
        let report = ReplicaReport::Ready { phases, card: card() };
        self.apply(Event::Report { replica: replica.clone(), report })
    }

    fn exited(&mut self, replica: &ReplicaId) -> &[Action] {
        let exit = Exit { code: None, signal: Some(9) };
        self.apply(Event::ProcessExited { replica: replica.clone(), exit })
    }

    fn failed(&mut self, replica: &ReplicaId, reason: &str) -> &[Action] {
        let report = ReplicaReport::Failed { reason: reason.into() };
        self.apply(Event::Report { replica: replica.clone(), report })
    }

    /// A deployment with one running replica.
    fn running(config: DeploymentConfig) -> (Self, ReplicaId) {
        let mut sim = Self::deployed(config);
        let mut started = sim.started();
        sim.demand(1, 0);
        started.extend(sim.started());
        let [replica] = started.try_into().unwrap();
        sim.ready(&replica);
        (sim, replica)
    }

    fn details(&self) -> DeploymentDetails {
        let details = self.state.details(self.now);
        details.applications["org/demo"].deployments["org/demo"].clone()
    }

    fn status(&self) -> (DeploymentStatus, String) {
        let details = self.details();
        (details.status, details.status_trigger)
    }

    /// The replicas in the route table.
    fn routed(&self) -> Vec<ReplicaId> {
        let table = self.state.routes().unwrap();
        table.deployments.into_iter().flat_map(|d| d.replicas).map(|r| r.id).collect()
    }

    fn unavailable(&self) -> Option<String> {
        self.state.routes().unwrap().deployments[0].unavailable.clone().map(|u| u.reason)
    }
}

fn starts(actions: &[Action]) -> Vec<ReplicaId> {
    let start = |action: &Action| match action {
        Action::Start { replica, .. } => Some(replica.clone()),
        _ => None,
    };
    actions.iter().filter_map(start).collect()
}

fn stops(actions: &[Action]) -> Vec<(ReplicaId, u64)> {
    let stop = |action: &Action| match action {
        Action::Stop { replica, grace } => Some((replica.clone(), grace.as_secs())),
        _ => None,
    };
    actions.iter().filter_map(stop).collect()
}

#[test]
fn from_zero_to_one_and_back() {
    let mut sim = Sim::deployed(config());
    assert_eq!(sim.status(), (DeploymentStatus::Healthy, "CONFIG_UPDATE_COMPLETED".into()));
    sim.demand(1, 0);
    let [replica] = sim.started().try_into().unwrap();
    assert!(matches!(sim.last[0], Action::Start { .. }), "the start goes first: {:?}", sim.last);
    assert!(sim.last.iter().any(|a| matches!(a, Action::Notice(Notice::Waking { .. }))));
    assert_eq!(sim.status(), (DeploymentStatus::Upscaling, "AUTOSCALING".into()));
    assert_eq!(sim.routed(), []);
    sim.apply(Event::ProcessStarted { replica: replica.clone(), pid: 42 });
    sim.now += Duration::from_millis(50);
    let ready = sim.ready(&replica);
    assert_eq!(ready[0], Action::Publish);
    let Action::Notice(Notice::Ready { phases, .. }) = &ready[1] else { panic!("{ready:?}") };
    assert_eq!(phases.0[0].0, "spawn");
    assert!((phases.0[0].1 - 0.02).abs() < 1e-9, "{phases:?}");
    assert_eq!(sim.routed(), std::slice::from_ref(&replica));
    assert_eq!(sim.status(), (DeploymentStatus::Healthy, "UPSCALE_COMPLETED".into()));
    assert_eq!(sim.details().replicas[0].pid, Some(42));
    sim.demand(0, 0);
    assert_eq!(sim.wait(29.9), []);
    let gone = sim.wait(0.2);
    let publish = gone.iter().position(|a| *a == Action::Publish).unwrap();
    let stop = gone.iter().position(|a| matches!(a, Action::Stop { .. })).unwrap();
    assert!(publish < stop, "routes first: {gone:?}");
    assert_eq!(sim.routed(), []);
    assert_eq!(sim.status().0, DeploymentStatus::Downscaling);
    sim.exited(&replica);
    assert_eq!(sim.status(), (DeploymentStatus::Healthy, "DOWNSCALE_COMPLETED".into()));
    assert!(!sim.state.knows(&replica));
    assert_eq!(sim.state.next_deadline(), None);
}

#[test]
fn the_replicas_id_is_a_file_name_of_its_own() {
    let mut sim = Sim::deployed(with_min(3));
    let ids = sim.started();
    assert_eq!(ids.len(), 3);
    assert!(ids.iter().all(|id| id.as_str().starts_with("demo-") && id.as_str().len() == 13));
    let again = Sim::deployed(with_min(1)).started();
    assert!(ids.contains(&again[0]), "the same seed gives the same ids");
    sim.state = State::new(RuntimeDir("/tmp/t".into()), 1_700_000_000_007);
    sim.apply(Event::Snapshot(Vec::new()));
    sim.deploy(with_min(3));
    assert!(sim.started().iter().all(|id| !ids.contains(id)));
}

#[test]
fn a_model_that_cannot_start_fails_its_requests_and_is_tried_again_on_demand() {
    let mut sim = Sim::deployed(config());
    sim.demand(3, 0);
    let [first] = sim.started().try_into().unwrap();
    let actions = sim.failed(&first, "no config.json in /models/demo").to_vec();
    assert_eq!(stops(&actions), [(first.clone(), 1)]);
    assert_eq!(sim.unavailable().unwrap(), "no config.json in /models/demo");
    assert_eq!(sim.status(), (DeploymentStatus::DeployFailed, "REPLICA_STARTUP_FAILED".into()));
    sim.exited(&first);
    // The proxies have failed what waited: nothing is started without a request.
    sim.demand(0, 0);
    let later = sim.wait(100.0);
    assert_eq!((starts(&later), sim.unavailable()), (vec![], None));
    assert_eq!(sim.status().0, DeploymentStatus::DeployFailed);
    // The next request tries again, and a second failure waits longer, also a silent one.
    sim.demand(1, 0);
    let [second] = sim.started().try_into().unwrap();
    sim.exited(&second);
    assert!(sim.unavailable().unwrap().contains("killed by signal 9"));
    assert_eq!(starts(&sim.wait(1.9)), []);
    assert_eq!(starts(&sim.wait(0.2)).len(), 1);
    // Success clears it.
    let third = sim.details().replicas[0].replica_id.clone();
    sim.ready(&third);
    assert_eq!(sim.unavailable(), None);
    assert_eq!(sim.status().0, DeploymentStatus::Healthy);
    assert_eq!(sim.details().message, "");
}

#[test]
fn a_start_that_was_killed_once_is_tried_again_at_once() {
    let mut sim = Sim::deployed(config());
    sim.demand(3, 0);
    let [first] = sim.started().try_into().unwrap();
    let [second] = starts(sim.exited(&first)).try_into().unwrap();
    assert_eq!(sim.unavailable(), None, "the waiting requests go on waiting");
    assert_eq!(starts(sim.exited(&second)), []);
    assert!(sim.unavailable().unwrap().contains("killed by signal 9"));
}

#[test]
fn a_minimum_is_tried_again_with_growing_waits_and_not_for_ever() {
    let mut sim = Sim::deployed(with_min(1));
    let mut tries = 0;
    let mut waited = Duration::ZERO;
    while let Some(replica) = sim.details().replicas.first().map(|r| r.replica_id.clone()) {
        tries += 1;
        sim.exited(&replica);
        let before = sim.now;
        if let Some(at) = sim.state.next_deadline() {
            sim.wait((at - before).as_secs_f64());
            waited += sim.now - before;
        }
    }
    assert_eq!(tries, 20);
    assert!(waited > Duration::from_secs(60 * 10), "{waited:?}");
    assert_eq!(sim.state.next_deadline(), None);
    sim.demand(1, 0);
    assert_eq!(sim.started().len(), 1, "a request still tries");
    let failing = sim.started().remove(0);
    sim.exited(&failing);
    sim.deploy(with_min(1));
    assert_eq!(sim.started().len(), 1, "a deploy starts anew");
}

#[test]
fn a_start_that_takes_too_long_fails() {
    let mut sim = Sim::deployed(config());
    sim.demand(1, 0);
    let [replica] = sim.started().try_into().unwrap();
    assert_eq!(sim.details().replicas[0].deadline_s, Some(120.0));
    let actions = sim.wait(120.0);
    assert_eq!(stops(&actions), [(replica.clone(), 1)]);
    assert!(sim.unavailable().unwrap().starts_with("not ready within 120 s"));
    // One that does not end is killed again and again.
    sim.demand(0, 0);
    assert_eq!(stops(&sim.wait(6.0)), [(replica.clone(), 0)]);
    assert_eq!(stops(&sim.wait(5.0)), [(replica.clone(), 0)]);
    sim.exited(&replica);
    assert_eq!(sim.wait(1000.0).iter().filter(|a| **a != Action::Publish).count(), 0);
}

#[test]
fn a_start_that_is_refused_fails() {
    let mut sim = Sim::deployed(config());
    sim.demand(1, 0);
    let [replica] = sim.started().try_into().unwrap();
    sim.apply(Event::StartRefused { replica, reason: "no memory".into() });
    assert_eq!(sim.unavailable().unwrap(), "no memory");
    assert!(sim.details().replicas.is_empty());
}

#[test]
fn a_replica_that_dies_is_replaced_while_it_is_wanted() {
    let (mut sim, replica) = Sim::running(config());
    sim.demand(0, 1);
    let actions = sim.exited(&replica).to_vec();
    let [next] = starts(&actions).try_into().unwrap();
    assert_eq!(sim.status(), (DeploymentStatus::Unhealthy, "HEALTH_CHECK_FAILED".into()));
    assert_eq!((sim.routed(), sim.unavailable()), (vec![], None));
    sim.ready(&next);
    assert_eq!(sim.status().0, DeploymentStatus::Healthy);
    // The third one in a row has to wait.
    let [third] = starts(sim.exited(&next)).try_into().unwrap();
    sim.ready(&third);
    assert_eq!(starts(sim.exited(&third)), []);
    assert_eq!(starts(&sim.wait(0.25)).len(), 1);
    // Nobody asks: nothing is replaced.
    let (mut sim, replica) = Sim::running(config());
    sim.demand(0, 0);
    assert_eq!(starts(sim.exited(&replica)), []);
    assert_eq!(sim.status().0, DeploymentStatus::Healthy);
    assert_eq!(starts(&sim.wait(100.0)), []);
}

#[test]
fn replicas_that_serve_before_they_die_are_replaced_without_end() {
    let mut sim = Sim::deployed(config());
    sim.demand(1, 0);
    for _ in 0..50 {
        let replica = sim.details().replicas[0].replica_id.clone();
        sim.ready(&replica);
        let phases = ColdStartPhases::default();
        let report = ReplicaReport::FirstToken { phases };
        sim.apply(Event::Report { replica: replica.clone(), report });
        assert_eq!(starts(sim.exited(&replica)).len(), 1);
        assert_eq!(sim.unavailable(), None);
    }
}

#[test]
fn a_replica_that_keeps_dying_makes_requests_fail_with_the_reason() {
    let mut sim = Sim::deployed(config());
    sim.demand(1, 0);
    for round in 0.. {
        assert!(round < 10, "never gave up");
        let replica = sim.details().replicas[0].replica_id.clone();
        sim.ready(&replica);
        sim.exited(&replica);
        if sim.unavailable().is_some() {
            assert_eq!(round, 5);
            break;
        }
        sim.wait(1.0);
    }
    sim.wait(2.0);
    assert_eq!(sim.unavailable(), None);
    assert_eq!(sim.details().replicas.len(), 1);
}

#[test]
fn load_scales_up_and_the_youngest_goes_first() {
    let (mut sim, first) = Sim::running(config());
    sim.demand(4, 2);
    assert_eq!(sim.started(), []);
    let [second, third] = starts(&sim.wait(1.0)).try_into().unwrap();
    assert_eq!(sim.status().0, DeploymentStatus::Upscaling);
    sim.ready(&second);
    assert_eq!(sim.routed(), [first.clone(), second.clone()]);
    // The third is not ready yet: it is the one to go.
    sim.demand(0, 4);
    assert_eq!(stops(&sim.wait(10.0)), [(third.clone(), 20)]);
    sim.exited(&third);
    sim.demand(0, 1);
    assert_eq!(stops(&sim.wait(10.0)), [(second, 20)]);
    assert_eq!(sim.routed(), [first]);
}

#[test]
fn only_another_model_replaces_replicas_and_never_before_the_new_one_is_ready() {
    let (mut sim, old) = Sim::running(config());
    let mut changed = config();
    changed.max_queued_requests = 7;
    changed.autoscaling.max_replicas = 9;
    let actions = sim.deploy(changed.clone()).to_vec();
    assert_eq!((starts(&actions), stops(&actions)), (vec![], vec![]));
    assert!(actions.contains(&Action::Publish));
    assert_eq!(sim.state.routes().unwrap().deployments[0].max_queued_requests, 7);
    assert_eq!(sim.deploy(changed.clone()), []);
    changed.model.path = "/models/better".into();
    sim.deploy(changed);
    let [new] = sim.started().try_into().unwrap();
    assert_eq!((sim.routed(), stops(&sim.last)), (vec![old.clone()], vec![]));
    assert_eq!(sim.status(), (DeploymentStatus::Updating, "CONFIG_UPDATE_STARTED".into()));
    let actions = sim.ready(&new).to_vec();
    assert_eq!(stops(&actions), [(old.clone(), 20)]);
    assert_eq!(sim.routed(), [new]);
    sim.exited(&old);
    assert_eq!(sim.status(), (DeploymentStatus::Healthy, "CONFIG_UPDATE_COMPLETED".into()));
}

#[test]
fn a_new_version_that_fails_leaves_the_old_one_serving() {
    let (mut sim, old) = Sim::running(config());
    let mut broken = config();
    broken.model.path = "/models/broken".into();
    sim.deploy(broken);
    let [new] = sim.started().try_into().unwrap();
    sim.failed(&new, "truncated weights");
    assert_eq!(sim.status().0, DeploymentStatus::DeployFailed);
    assert_eq!((sim.routed(), sim.unavailable()), (vec![old], None));
}

#[test]
fn deleting_drains_and_forgets() {
    let (mut sim, replica) = Sim::running(with_min(1));
    sim.apply(Event::Delete(name()));
    assert_eq!(stops(&sim.last), [(replica.clone(), 20)]);
    assert_eq!(sim.state.routes().unwrap().deployments, []);
    assert_eq!(sim.state.deployment_names(), []);
    let app = &sim.state.details(sim.now).applications["org/demo"];
    assert_eq!(app.status, ApplicationStatus::Deleting);
    assert_eq!(sim.exited(&replica).last(), Some(&Action::Forget(name())));
    assert!(sim.state.details(sim.now).applications.is_empty());
    assert_eq!(sim.apply(Event::Delete(name())), []);
}

#[test]
fn a_deploy_overtakes_a_delete() {
    let (mut sim, replica) = Sim::running(with_min(1));
    sim.apply(Event::Delete(name()));
    sim.deploy(with_min(1));
    let [next] = sim.started().try_into().unwrap();
    sim.ready(&next);
    sim.exited(&replica);
    assert_eq!((sim.routed(), sim.status().0), (vec![next], DeploymentStatus::Healthy));
}

#[test]
fn demand_is_summed_ordered_and_dropped_with_its_proxy() {
    let mut sim = Sim::deployed(config());
    let report = |sequence, queued| DemandReport {
        sequence,
        deployments: vec![Demand { deployment: name(), queued, ongoing: 1 }],
    };
    let from = |proxy: &str, report| Event::Demand { proxy: proxy.into(), report };
    sim.apply(from("proxy-0", report(2, 3)));
    sim.apply(from("proxy-0", report(1, 9)));
    sim.apply(from("proxy-1", report(1, 2)));
    let load = |sim: &Sim| (sim.details().queued_requests, sim.details().ongoing_requests);
    assert_eq!(load(&sim), (5, 2));
    // proxy-1 never reads the routes: it is not believed for long.
    sim.wait(10.0);
    assert_eq!(load(&sim), (3, 1));
    // Another process of the same name starts anew.
    sim.apply(Event::ProxyConnected("proxy-0".into()));
    assert_eq!(load(&sim), (0, 0));
    sim.apply(from("proxy-0", report(1, 4)));
    assert_eq!(load(&sim), (4, 1));
    sim.apply(Event::ProxyGone("proxy-0".into()));
    assert_eq!(load(&sim), (0, 0));
}

#[test]
fn a_new_controller_finds_what_runs() {
    let mut sim = Sim::new();
    sim.deploy(with_min(2));
    assert_eq!((sim.started(), sim.state.routes()), (vec![], None));
    let found = |id: &str, config: Option<DeploymentConfig>| FoundReplica {
        replica: ReplicaId::new(id),
        pid: 7,
        config: config.map(Box::new),
    };
    let mut other = config();
    other.name = DeploymentName::new("other").unwrap();
    let mut old = config();
    old.model.path = "/models/old".into();
    let snapshot = vec![
        found("good", Some(config())),
        found("slow", Some(config())),
        found("old", Some(old)),
        found("stray", Some(other)),
        found("garbled", None),
    ];
    let actions = sim.apply(Event::Snapshot(snapshot)).to_vec();
    let stray = [(ReplicaId::new("stray"), 5), (ReplicaId::new("garbled"), 5)];
    assert_eq!(stops(&actions), stray);
    assert!(actions.contains(&Action::Probe(ReplicaId::new("good"))));
    assert_eq!((starts(&actions), sim.state.routes()), (vec![], None));
    let status = |id: &str, state, card| {
        let replica = ReplicaId::new(id);
        let status = ReplicaStatus { replica_id: replica.clone(), state, ongoing: 1, card };
        Event::Probed { replica, status: Some(status) }
    };
    sim.apply(status("good", ReplicaState::Starting, None));
    let again = sim.wait(0.5);
    assert!(again.contains(&Action::Probe(ReplicaId::new("good"))), "{again:?}");
    sim.apply(status("good", ReplicaState::Running, Some(card())));
    assert_eq!(sim.state.routes(), None);
    // Another one does not answer: routes are not held back for it longer than this.
    assert!(sim.wait(2.0).contains(&Action::Publish));
    assert_eq!(sim.routed(), [ReplicaId::new("good")]);
    assert_eq!((starts(&sim.wait(10.0)), sim.details().target_num_replicas), (vec![], 2));
}

#[test]
fn reports_about_unknown_replicas_change_nothing() {
    let mut sim = Sim::deployed(config());
    let stranger = ReplicaId::new("stranger");
    assert_eq!(sim.ready(&stranger), []);
    assert_eq!(sim.exited(&stranger), []);
    let pid = Event::ProcessStarted { replica: stranger.clone(), pid: 1 };
    assert_eq!(sim.apply(pid), []);
    assert_eq!(sim.apply(Event::Probed { replica: stranger, status: None }), []);
}

#[test]
fn a_first_token_closes_the_wake() {
    let phases = [("config", 0.01), ("handover", 0.02), ("first_step", 0.03)];
    let phases = ColdStartPhases(phases.map(|(name, s)| (name.to_owned(), s)).to_vec());
    let reported = |sim: &mut Sim, replica: &ReplicaId| {
        let report = ReplicaReport::FirstToken { phases: phases.clone() };
        sim.apply(Event::Report { replica: replica.clone(), report });
        let [Action::Notice(Notice::FirstToken { phases, .. })] = &sim.last[..] else {
            panic!("{:?}", sim.last)
        };
        phases.0.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>()
    };
    let (mut sim, replica) = Sim::running(config());
    assert_eq!(reported(&mut sim, &replica), ["spawn", "config", "handover", "first_step"]);

    // Nobody waited for this one.
    let mut config = config();
    config.autoscaling.min_replicas = 1;
    let mut sim = Sim::deployed(config);
    let [replica] = sim.started().try_into().unwrap();
    sim.ready(&replica);
    assert_eq!(reported(&mut sim, &replica), ["spawn", "config", "first_step"]);
}
