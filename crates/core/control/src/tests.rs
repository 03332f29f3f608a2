//! Lives of deployments, told as events and the actions that follow.

mod actors;
mod applications;
mod failures;
mod gangs;
mod policies;
mod recovery;
mod rollouts;
mod room;
mod routers;
mod warm;

pub(crate) use self::actors::actors_called;
pub(crate) use self::gangs::gangs_of;
use self::room::{ask, crowded};
pub(crate) use self::routers::router;
use super::*;
use std::sync::Arc;
use std::time::Duration;
use tyndall_types::protocol::{
    Aggregation, ApplicationConfig, ApplicationSource, AutoscalingConfig, ColdStartPhases, Demand,
    DemandReport, DeploymentConfig, DeploymentDetails, GenerateDefaults, HealthCheck, JsonText,
    ModelCard, ModelConfig, ReplicaDetails, ReplicaReport, ReplicaStatus, RuntimeDir,
    ScalingPolicy, Workload,
};
use tyndall_types::{
    ApplicationName, ApplicationStatus, DeploymentId, DeploymentName, DeploymentStatus, ReplicaId,
    ReplicaState,
};

pub(crate) fn name() -> DeploymentId {
    DeploymentId::single(DeploymentName::new("org/demo").unwrap())
}

/// An application of these deployments, mounted at the root.
pub(crate) fn application(deployments: Vec<DeploymentConfig>) -> Arc<ApplicationConfig> {
    Arc::new(ApplicationConfig {
        name: deployments[0].id.application.clone(),
        route_prefix: Some("/".into()),
        source: ApplicationSource::Imperative,
        external_scaler_enabled: false,
        autoscaling_policy: None,
        submitted: Default::default(),
        deployments: deployments.into_iter().map(Arc::new).collect(),
    })
}

pub(crate) fn model(config: &mut DeploymentConfig) -> &mut ModelConfig {
    match &mut config.workload {
        Workload::Model(model) => model,
        Workload::Program(program) => panic!("{program:?}"),
    }
}

pub(crate) fn config() -> DeploymentConfig {
    DeploymentConfig {
        id: name(),
        workload: Workload::Model(ModelConfig {
            id: "demo".into(),
            aliases: Vec::new(),
            task: Default::default(),
            sampling: Default::default(),
            path: "/models/demo".into(),
            max_model_len: None,
            memory_budget_bytes: None,
            max_num_seqs: 8,
            max_num_batched_tokens: 512,
            num_threads: None,
            speculation: true,
            quantization: Default::default(),
            chat: Default::default(),
            generate: GenerateDefaults { max_new_tokens: 16, temperature: 0.0, top_p: 1.0 },
        }),
        code_version: String::new(),
        num_replicas: None,
        autoscaling: AutoscalingConfig {
            min_replicas: 0,
            initial_replicas: None,
            max_replicas: 3,
            target_ongoing_requests: 2.0,
            look_back_period_s: 0.0,
            aggregation_function: Aggregation::Mean,
            upscale_delay_s: 1.0,
            downscale_delay_s: 10.0,
            downscale_to_zero_delay_s: 30.0,
            upscaling_factor: 1.0,
            downscaling_factor: 1.0,
            policy: ScalingPolicy::OngoingRequests,
            python_policy: None,
        },
        max_ongoing_requests: 4,
        max_queued_requests: 100,
        backpressure: Default::default(),
        request_timeout_s: 60.0,
        graceful_shutdown_timeout_s: 20.0,
        startup_timeout_s: 120.0,
        // Checks have a test of their own; here they would only be in the way.
        health_check: HealthCheck { period_s: 1e9, timeout_s: 30.0 },
        max_constructor_retry_count: 20,
        rollout: Default::default(),
        resources: Default::default(),
        residency: Default::default(),
        env_vars: Default::default(),
        user_config: Default::default(),
        warm: Default::default(),
        deployment_actors: Vec::new(),
        request_router: None,
        gang_scheduling: None,
        prefix_affinity: None,
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
    version: u64,
    last: Vec<Action>,
}

impl Sim {
    fn new() -> Self {
        let state = State::new(RuntimeDir("/tmp/t".into()), 1_700_000_000_000);
        Self { state, now: Duration::from_secs(1000), sequence: 0, version: 0, last: Vec::new() }
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
        self.deploy_all(vec![config])
    }

    fn deploy_all(&mut self, configs: Vec<DeploymentConfig>) -> &[Action] {
        self.version += 1;
        let (version, deployed_at) = (self.version, self.now);
        let config = application(configs);
        self.apply(Event::Deploy { config, version, deployed_at, fallback: None })
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
        let report = ReplicaReport::Ready { phases, card: Some(card()) };
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
        let table = self.state.routes(None).unwrap();
        table.deployments.iter().flat_map(|d| &d.replicas).map(|r| r.id.clone()).collect()
    }

    fn unavailable(&self) -> Option<String> {
        self.state.routes(None).unwrap().deployments[0].unavailable.clone().map(|u| u.reason)
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
    assert!(ids.iter().all(|id| id.as_str().starts_with("demo-") && id.as_str().len() == 16));
    let again = Sim::deployed(with_min(1)).started();
    assert!(ids.contains(&again[0]), "the same seed gives the same ids");
    sim.state = State::new(RuntimeDir("/tmp/t".into()), 1_700_000_000_007);
    sim.apply(Event::Snapshot(Vec::new()));
    sim.deploy(with_min(3));
    assert!(sim.started().iter().all(|id| !ids.contains(id)));
    // More than one a millisecond was started before the controller ended.
    sim.state = State::new(RuntimeDir("/tmp/t".into()), 1_700_000_000_001);
    sim.apply(Event::Snapshot(Vec::new()));
    sim.deploy(with_min(3));
    assert!(sim.started().iter().all(|id| !ids.contains(id)));
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
    assert_eq!(sim.state.routes(None).unwrap().deployments[0].max_queued_requests, 7);
    let again = sim.deploy(changed.clone()).to_vec();
    assert!(matches!(again[..], [Action::Proven { .. }]), "{again:?}");
    model(&mut changed).path = "/models/better".into();
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
    model(&mut broken).path = "/models/broken".into();
    sim.deploy(broken);
    let [new] = sim.started().try_into().unwrap();
    sim.failed(&new, "truncated weights");
    assert_eq!(sim.status().0, DeploymentStatus::Updating);
    assert_eq!((sim.routed(), sim.unavailable()), (vec![old], None));
}

#[test]
fn deleting_drains_and_forgets() {
    let (mut sim, replica) = Sim::running(with_min(1));
    sim.apply(Event::Delete(name().application));
    assert_eq!(stops(&sim.last), [(replica.clone(), 20)]);
    assert_eq!(sim.state.routes(None).unwrap().deployments, []);
    assert_eq!(sim.state.application_names(), []);
    let app = &sim.state.details(sim.now).applications["org/demo"];
    assert_eq!(app.status, ApplicationStatus::Deleting);
    assert_eq!(sim.exited(&replica).last(), Some(&Action::Forget(name())));
    assert!(sim.state.details(sim.now).applications.is_empty());
    assert_eq!(sim.apply(Event::Delete(name().application)), []);
}

#[test]
fn a_deploy_overtakes_a_delete() {
    let (mut sim, replica) = Sim::running(with_min(1));
    sim.apply(Event::Delete(name().application));
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

/// Lets every replica that starts become ready, and every one that stops end, until nothing moves.
fn settle(sim: &mut Sim, actions: Vec<Action>) {
    settle_with(sim, actions, |_, _| {});
}

/// The same, with a look at each state on the way.
fn settle_with(sim: &mut Sim, actions: Vec<Action>, mut look: impl FnMut(&Sim, &Action)) {
    let mut actions = std::collections::VecDeque::from(actions);
    while let Some(action) = actions.pop_front() {
        look(sim, &action);
        match action {
            Action::Start { replica, .. } => actions.extend(sim.ready(&replica).to_vec()),
            Action::Stop { replica, .. } => actions.extend(sim.exited(&replica).to_vec()),
            _ => {}
        }
    }
}

fn fixed(number: u32) -> DeploymentConfig {
    DeploymentConfig { num_replicas: Some(number), ..config() }
}

fn settled(config: DeploymentConfig) -> Sim {
    let mut sim = Sim::deployed(config);
    let actions = sim.last.clone();
    settle(&mut sim, actions);
    sim
}

#[test]
fn ranks_are_dense_and_free_again() {
    let mut sim = settled(fixed(3));
    let ranks = |sim: &Sim| {
        let mut ranks: Vec<_> = sim.details().replicas.iter().filter_map(|r| r.rank).collect();
        ranks.sort_unstable();
        ranks
    };
    assert_eq!(ranks(&sim), [0, 1, 2]);
    let middle = sim.details().replicas.iter().find(|r| r.rank == Some(1)).unwrap().clone();
    sim.exited(&middle.replica_id);
    assert_eq!(ranks(&sim), [0, 1, 2]);
    let actions = sim.deploy(fixed(2)).to_vec();
    settle(&mut sim, actions);
    assert_eq!(ranks(&sim).len(), 2);
}

#[test]
fn a_new_user_config_is_handed_over_without_a_restart() {
    let mut sim = settled(fixed(3));
    let mut changed = fixed(3);
    changed.user_config = serde_json::json!({"temperature": 1});
    let mut actions = sim.deploy(changed.clone()).to_vec();
    let mut handed = Vec::new();
    loop {
        let next = actions.iter().find_map(|action| match action {
            Action::Reconfigure { replica, config } => Some((replica.clone(), config.clone())),
            _ => None,
        });
        let Some((replica, config)) = next else { break };
        assert_eq!(config.user_config, changed.user_config);
        assert_eq!(sim.status().0, DeploymentStatus::Updating);
        assert_eq!(sim.routed().len(), 3, "it goes on serving");
        handed.push(replica.clone());
        actions = sim.apply(Event::Reconfigured { replica, refusal: None }).to_vec();
    }
    assert_eq!(handed.len(), 3);
    assert_eq!(sim.status(), (DeploymentStatus::Healthy, "CONFIG_UPDATE_COMPLETED".into()));
    changed.user_config = serde_json::json!("bad");
    sim.deploy(changed);
    let replica = handed[0].clone();
    let actions = sim.apply(Event::Reconfigured { replica, refusal: Some("no".into()) }).to_vec();
    assert_eq!(stops(&actions).len(), 1);
}

#[test]
fn counts_that_somebody_sets_are_told_as_such() {
    let mut sim = settled(fixed(2));
    sim.deploy(fixed(3));
    assert_eq!(sim.status(), (DeploymentStatus::Upscaling, "CONFIG_UPDATE_STARTED".into()));
    let app = &sim.state.details(sim.now).applications["org/demo"];
    assert_eq!(app.status, ApplicationStatus::Deploying);
    let actions = sim.last.clone();
    settle(&mut sim, actions);
    assert_eq!(sim.status(), (DeploymentStatus::Healthy, "UPSCALE_COMPLETED".into()));
    let actions = sim.apply(Event::Scale { deployment: name(), target: 1 }).to_vec();
    assert_eq!(sim.status(), (DeploymentStatus::Downscaling, "CONFIG_UPDATE_STARTED".into()));
    settle(&mut sim, actions);
    assert_eq!(sim.routed().len(), 1);
    let actions = sim.deploy(fixed(4)).to_vec();
    settle(&mut sim, actions);
    assert_eq!(sim.routed().len(), 4, "a deploy overwrites it");
    for (capacity, expected) in [(Some(50.0), 2), (Some(1.0), 1), (Some(0.0), 0), (None, 4)] {
        let actions = sim.apply(Event::TargetCapacity { capacity, direction: None }).to_vec();
        settle(&mut sim, actions);
        assert_eq!(sim.routed().len(), expected, "{capacity:?}");
    }
}

#[test]
fn deltas_of_the_route_table_name_what_changed() {
    let mut sim = crowded(&["a", "b"]);
    let all = sim.state.routes(None).unwrap();
    assert!(all.is_complete && all.deployments.len() == 2);
    let actions = ask(&mut sim, &[("b", 1)]);
    settle(&mut sim, actions);
    let news = sim.state.routes(Some(all.version)).unwrap();
    let names: Vec<_> = news.deployments.iter().map(|r| r.deployment.to_string()).collect();
    assert_eq!((news.is_complete, names, news.removed.len()), (false, vec!["b".to_owned()], 0));
    let name = ApplicationName::new("a").unwrap();
    sim.apply(Event::Delete(name));
    let news = sim.state.routes(Some(news.version)).unwrap();
    assert_eq!((news.deployments.len(), news.removed.len()), (0, 1));
    assert!(sim.state.routes(Some(0)).unwrap().version == news.version);
    assert!(sim.state.routes(Some(u64::MAX)).unwrap().is_complete, "of another controller");
}
