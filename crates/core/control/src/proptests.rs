//! Any sequence of events, in any order, keeps the promises of the module head.

use crate::tests::{application, card, config, name};
use crate::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tyndall_types::protocol::{
    ColdStartPhases, Demand, DemandReport, DeploymentConfig, DeploymentDetails, GangContext,
    PolicyAnswer, ProgramConfig, PythonPolicy, ReplicaReport, RuntimeDir, Workload,
};
use tyndall_types::{DeploymentId, DeploymentName, ReplicaId, ReplicaState};

#[derive(Debug, Clone)]
enum Step {
    Deploy { deployment: usize, min: u32, max: u32, model: u32, warm: u32, gang: u32 },
    Delete(usize),
    Demand { deployment: usize, queued: u32, ongoing: u32 },
    ProxyGone,
    Ready(prop::sample::Index),
    Failed(prop::sample::Index),
    Leaving(prop::sample::Index),
    Exit(prop::sample::Index),
    Refuse(prop::sample::Index),
    Prepared(prop::sample::Index),
    WaitingExit(prop::sample::Index),
    SidecarReady(prop::sample::Index),
    SidecarExit(prop::sample::Index),
    Answer(prop::sample::Index, PolicyOutcome),
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let any_index = any::<prop::sample::Index>;
    let step = prop_oneof![
        1 => (0usize..2, 0u32..3, 0u32..3, 0u32..2, 0u32..3, gang_sizes()).prop_map(
            |(deployment, min, more, model, warm, gang)| {
                Step::Deploy { deployment, min, max: (min + more).max(1), model, warm, gang }
            },
        ),
        1 => (0usize..2).prop_map(Step::Delete),
        4 => (0usize..2, 0u32..5, 0u32..5).prop_map(|(deployment, queued, ongoing)| {
            Step::Demand { deployment, queued, ongoing }
        }),
        1 => Just(Step::ProxyGone),
        6 => any_index().prop_map(Step::Ready),
        1 => any_index().prop_map(Step::Failed),
        1 => any_index().prop_map(Step::Leaving),
        2 => any_index().prop_map(Step::Exit),
        1 => any_index().prop_map(Step::Refuse),
        3 => any_index().prop_map(Step::Prepared),
        1 => any_index().prop_map(Step::WaitingExit),
        3 => any_index().prop_map(Step::SidecarReady),
        1 => any_index().prop_map(Step::SidecarExit),
        3 => (any_index(), outcomes()).prop_map(|(index, outcome)| Step::Answer(index, outcome)),
        4 => (0u64..40_000).prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 1..80)
}

fn gang_sizes() -> impl Strategy<Value = u32> {
    prop_oneof![2 => Just(1), 1 => Just(2), 1 => Just(3)]
}

fn outcomes() -> impl Strategy<Value = PolicyOutcome> {
    prop_oneof![
        4 => (0.0f64..5.0).prop_map(|replicas| {
            let decisions = BTreeMap::from([(deployment(1).deployment, replicas)]);
            PolicyOutcome::Answered(PolicyAnswer { decisions, ..PolicyAnswer::default() })
        }),
        1 => Just(PolicyOutcome::Failed("it raised".to_owned())),
        1 => Just(PolicyOutcome::Silent),
    ]
}

/// The processes as a supervisor would have them; a stopped one exits when time passes.
#[derive(Default)]
struct World {
    processes: BTreeMap<ReplicaId, Option<Duration>>,
    /// What those that were started were told of their gangs.
    gangs: BTreeMap<ReplicaId, Arc<GangContext>>,
    /// Those that wait.
    waiting: BTreeMap<ReplicaId, Waiting>,
    /// Those that answer for policies.
    sidecars: BTreeMap<ReplicaId, Sidecar>,
    num_starts: usize,
}

struct Waiting {
    deployment: DeploymentId,
    is_prepared: bool,
    end: Option<Duration>,
}

#[derive(Default)]
struct Sidecar {
    end: Option<Duration>,
    is_ready: bool,
    /// A policy has been asked and has not answered.
    is_asked: bool,
    /// Of an actor: the code that it is for.
    code: Option<String>,
}

struct Run {
    state: State,
    world: World,
    now: Duration,
    sequence: u64,
    version: u64,
    loads: [(u32, u32); 2],
    /// Bounds that changed in mid-flight, while more may run than the newest allows.
    max_ever: u32,
    models: [u32; 2],
    /// Processes that may wait.
    warm: [u32; 2],
    /// Replicas that fit into the machine's memory.
    most: Option<usize>,
}

/// What each replica takes of memory, where it is accounted.
const BYTES: u64 = 100;

fn deployment(index: usize) -> DeploymentId {
    [name(), DeploymentId::single(DeploymentName::new("second").unwrap())][index].clone()
}

impl Run {
    fn starts(
        &mut self,
        replica: ReplicaId,
        waiting: Option<ReplicaId>,
        config: &DeploymentConfig,
        gang: Option<Arc<GangContext>>,
    ) {
        self.world.num_starts += 1;
        assert_eq!(gang.as_ref().map_or(1, |gang| gang.world_size), config.gang_size());
        self.world.gangs.extend(gang.map(|gang| (replica.clone(), gang)));
        let is_of =
            |one: &&Sidecar| one.is_ready && one.code.as_ref() == Some(&config.code_version);
        let ready = self.world.sidecars.values().filter(is_of).count();
        assert!(ready >= config.deployment_actors.len(), "it came before its actors");
        if let Some(taken) = waiting {
            let taken = self.world.waiting.remove(&taken).expect("takes what waits");
            assert!(taken.is_prepared && taken.end.is_none(), "it cannot be taken");
            assert_eq!(taken.deployment, config.id);
        }
        let before = self.world.processes.insert(replica, None);
        assert!(before.is_none(), "an id was used twice");
    }

    fn apply(&mut self, event: Event) {
        let is_tick = event == Event::DeadlinePassed;
        for action in self.state.apply(event, self.now) {
            match action {
                Action::Start { replica, waiting, config, gang, .. } => {
                    self.starts(replica, waiting, &config, gang);
                }
                Action::StartWaiting { process, config } => {
                    self.world.num_starts += 1;
                    assert_eq!(self.num_starting(&config.id), 0, "it takes the cores from a start");
                    let deployment = config.id.clone();
                    let waiting = Waiting { deployment, is_prepared: false, end: None };
                    let before = self.world.waiting.insert(process, waiting);
                    assert!(before.is_none(), "an id was used twice");
                }
                Action::StartSidecar { process, config, .. } => {
                    self.world.num_starts += 1;
                    let code = config.told.get("code_version").and_then(|code| code.as_str());
                    let code = code.map(ToOwned::to_owned);
                    let is_there = |one: &Sidecar| one.end.is_none() && one.code == code;
                    let is_second = code.is_some() && self.world.sidecars.values().any(is_there);
                    assert!(!is_second, "a version has one of each");
                    let sidecar = Sidecar { code, ..Sidecar::default() };
                    let before = self.world.sidecars.insert(process, sidecar);
                    assert!(before.is_none(), "an id was used twice");
                }
                Action::AskPolicy { process, question, .. } => {
                    let sidecar = self.world.sidecars.get_mut(&process).expect("it was started");
                    assert!(sidecar.is_ready && sidecar.end.is_none(), "nobody would answer");
                    assert!(!std::mem::replace(&mut sidecar.is_asked, true), "one at a time");
                    assert_eq!(question.deployment.as_ref(), Some(&deployment(1).deployment));
                    assert_eq!(question.contexts.len(), 1);
                }
                Action::Stop { replica, grace } if self.world.sidecars.contains_key(&replica) => {
                    let at = self.now + grace;
                    let sidecar = self.world.sidecars.get_mut(&replica).expect("just seen");
                    sidecar.end = Some(sidecar.end.map_or(at, |before| before.min(at)));
                }
                Action::Stop { replica, grace } => {
                    let at = self.now + grace;
                    let waiting = self.world.waiting.get_mut(&replica).map(|one| &mut one.end);
                    let process = self.world.processes.get_mut(&replica).or(waiting);
                    let end = process.expect("stops what was started");
                    *end = Some(end.map_or(at, |before| before.min(at)));
                }
                Action::Publish
                | Action::Reconfigure { .. }
                | Action::Probe { .. }
                | Action::Proven { .. }
                | Action::RolledBack { .. }
                | Action::Forget(_)
                | Action::Notice(_) => {}
            }
        }
        if is_tick {
            let next = self.state.next_deadline();
            assert!(next.is_none_or(|at| at > self.now), "a deadline that does not pass");
        }
        self.check();
    }

    fn num_starting(&self, id: &DeploymentId) -> usize {
        let details = self.state.application(&id.application, self.now).unwrap();
        let replicas = details.deployments.into_values().flat_map(|one| one.replicas);
        replicas.filter(|replica| replica.state == ReplicaState::Starting).count()
    }

    fn check(&self) {
        let details = self.state.details(self.now);
        let known: usize = details
            .applications
            .values()
            .flat_map(|a| a.deployments.values())
            .map(|d| d.replicas.len())
            .sum();
        assert_eq!(known, self.world.processes.len(), "processes and replicas differ");
        for role in ["policies", "router"] {
            let is_one = |(id, one): &(&ReplicaId, &Sidecar)| {
                one.end.is_none() && id.as_str().starts_with(role)
            };
            let of_role = || self.world.sidecars.iter().filter(is_one);
            let is_starting = of_role().any(|(_, one)| !one.is_ready);
            // A router goes on until the next is ready.
            let most = if role == "router" && is_starting { 2 } else { 1 };
            assert!(of_role().count() <= most, "an application has one of them");
        }
        let fits = self.most.is_none_or(|most| known <= most);
        assert!(fits, "{known} replicas in memory for {:?}", self.most);
        for index in 0..2 {
            let of = |one: &&Waiting| one.deployment == deployment(index) && one.end.is_none();
            let waiting = self.world.waiting.values().filter(of).count();
            assert!(waiting <= self.warm[index] as usize, "{waiting} processes wait");
        }
        for replica in self.world.processes.keys().chain(self.world.sidecars.keys()) {
            assert!(self.state.knows(replica), "{replica} was forgotten while it ran");
        }
        let routes = self.state.routes(None).unwrap();
        for route in &routes.deployments {
            let name = route.deployment.deployment.as_str();
            let deployment = &details.applications[name].deployments[name];
            let in_state = |wanted: &[ReplicaState]| {
                deployment.replicas.iter().filter(|r| wanted.contains(&r.state)).count()
            };
            self.check_gangs(deployment);
            let routed: Vec<_> = route.replicas.iter().map(|r| &r.id).collect();
            for replica in &deployment.replicas {
                let is_running = replica.state == ReplicaState::Running;
                assert_eq!(routed.contains(&&replica.replica_id), is_running, "{replica:?}");
                let has_end = is_running || replica.deadline_s.is_some();
                assert!(has_end, "a state without deadline: {replica:?}");
                assert!(is_running || !replica.message.is_empty(), "{replica:?}");
            }
            let active = in_state(&[ReplicaState::Starting, ReplicaState::Running]);
            assert!(active <= 2 * self.max_ever as usize, "{deployment:?}");
            if self.models == [0, 0] {
                assert!(active <= self.max_ever as usize, "{deployment:?}");
            }
            let reason = route.unavailable.as_ref().map(|u| (u.reason.is_empty(), u.retry_after_s));
            assert!(reason.is_none_or(|(is_empty, s)| !is_empty && s > 0.0));
            assert!(route.unavailable.is_none() || active == 0);
        }
    }

    /// Of each gang all members are there or none, and their number is what it shall be.
    fn check_gangs(&self, deployment: &DeploymentDetails) {
        let gang_size = deployment.config.as_ref().expect("it is told").gang_size();
        assert_eq!(deployment.target_num_replicas % gang_size, 0, "{deployment:?}");
        let active = deployment.replicas.iter().filter(|r| r.state != ReplicaState::Stopping);
        let active: BTreeSet<&ReplicaId> = active.map(|replica| &replica.replica_id).collect();
        for gang in active.iter().filter_map(|id| self.world.gangs.get(*id)) {
            assert_eq!(gang.member_replica_ids.len(), gang.world_size as usize);
            let is_there = |id: &ReplicaId| active.contains(id);
            assert!(gang.member_replica_ids.iter().all(is_there), "a part of one: {deployment:?}");
        }
    }

    fn pick(&self, index: prop::sample::Index) -> Option<ReplicaId> {
        let ids: Vec<_> = self.world.processes.keys().collect();
        (!ids.is_empty()).then(|| (*index.get(&ids)).clone())
    }

    fn pick_sidecar(&self, index: prop::sample::Index) -> Option<ReplicaId> {
        let ids: Vec<_> = self.world.sidecars.keys().collect();
        (!ids.is_empty()).then(|| (*index.get(&ids)).clone())
    }

    fn exit(&mut self, replica: ReplicaId, exit: Exit) {
        self.world.processes.remove(&replica);
        self.world.sidecars.remove(&replica);
        self.world.waiting.remove(&replica);
        self.apply(Event::ProcessExited { replica, exit });
    }

    fn pick_waiting(&self, index: prop::sample::Index) -> Option<ReplicaId> {
        let ids: Vec<_> = self.world.waiting.keys().collect();
        (!ids.is_empty()).then(|| (*index.get(&ids)).clone())
    }

    fn wait(&mut self, until: Duration) {
        loop {
            let deadline = self.state.next_deadline();
            let ends = self.world.processes.iter().map(|(id, end)| (id, *end));
            let ends = ends.chain(self.world.sidecars.iter().map(|(id, one)| (id, one.end)));
            let ends = ends.chain(self.world.waiting.iter().map(|(id, one)| (id, one.end)));
            let ended = ends.filter_map(|(id, end)| Some((end?, id.clone()))).min();
            let end = ended.as_ref().map(|(at, _)| *at);
            let Some(at) = deadline.into_iter().chain(end).min().filter(|at| *at <= until) else {
                break;
            };
            self.now = self.now.max(at);
            match ended.filter(|(end, _)| *end <= self.now) {
                Some((_, replica)) => self.exit(replica, Exit { code: Some(0), signal: None }),
                None => self.apply(Event::DeadlinePassed),
            }
        }
        self.now = until;
    }

    fn demand(&mut self) {
        self.sequence += 1;
        let loads = self.loads.iter().enumerate().filter(|(_, load)| load.0 + load.1 > 0);
        let demand = |(i, &(queued, ongoing)): (usize, &(u32, u32))| Demand {
            deployment: deployment(i),
            queued,
            ongoing,
        };
        let report =
            DemandReport { sequence: self.sequence, deployments: loads.map(demand).collect() };
        self.apply(Event::Demand { proxy: "p".into(), report });
    }

    /// The second is a program, whose policy and router are in Python some of the time, and which has
    /// an actor in one of its versions.
    fn config(&self, index: usize, (min, max): (u32, u32), model: u32) -> DeploymentConfig {
        let mut config = config();
        config.id = deployment(index);
        config.autoscaling.min_replicas = min;
        config.autoscaling.max_replicas = max;
        if index == 1 {
            config.workload = Workload::Program(ProgramConfig::default());
            config.code_version = format!("{model}");
            config.resources.memory_bytes = self.most.map(|_| BYTES);
            config.autoscaling.python_policy = (min == 1).then(PythonPolicy::default);
            config.request_router = (max > 1).then(|| crate::tests::router("m:C"));
            // An option that is no code changes nothing of the actors of a version.
            if model == 1 {
                config.deployment_actors = crate::tests::actors_called(&["a"]);
            }
        } else {
            crate::tests::model(&mut config).max_num_seqs += model;
            crate::tests::model(&mut config).memory_budget_bytes = self.most.map(|_| BYTES);
        }
        config
    }

    fn deploy(&mut self, config: DeploymentConfig) {
        self.version += 1;
        let (version, deployed_at) = (self.version, self.now);
        let config = application(vec![config]);
        self.apply(Event::Deploy { config, version, deployed_at, fallback: None });
    }

    fn sidecar_ready(&mut self, index: prop::sample::Index) {
        let Some(process) = self.pick_sidecar(index) else { return };
        if let Some(sidecar) = self.world.sidecars.get_mut(&process) {
            sidecar.is_ready = true;
        }
        let report = ReplicaReport::Ready { phases: ColdStartPhases::default(), card: None };
        self.apply(Event::Report { replica: process, report });
    }

    fn report(&mut self, index: prop::sample::Index, report: ReplicaReport) {
        let Some(replica) = self.pick(index) else { return };
        self.apply(Event::Report { replica, report });
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Deploy { deployment, min, max, model, warm, gang } => {
                let mut config = self.config(deployment, (min, max), model);
                config.warm.processes = warm;
                config.gang_scheduling = (gang > 1).then(|| crate::tests::gangs_of(gang));
                if !config.code_version.is_empty() {
                    config.code_version += &format!(" in gangs of {gang}");
                }
                // An older version may come back.
                self.warm[deployment] = self.warm[deployment].max(warm);
                self.max_ever = self.max_ever.max(max.next_multiple_of(gang));
                // Gangs of another size are another version, too.
                self.models[deployment] |= model | (gang - 1);
                self.deploy(config);
            }
            Step::Delete(index) => self.apply(Event::Delete(deployment(index).application)),
            Step::Demand { deployment, queued, ongoing } => {
                self.loads[deployment] = (queued, ongoing);
                self.demand();
            }
            Step::ProxyGone => {
                self.apply(Event::ProxyGone("p".into()));
                self.apply(Event::ProxyConnected("p".into()));
                self.sequence = 0;
                self.demand();
            }
            Step::Ready(index) => {
                let phases = ColdStartPhases(vec![("config".into(), 0.01)]);
                self.report(index, ReplicaReport::Ready { phases, card: Some(card()) });
            }
            Step::Failed(index) => {
                self.report(index, ReplicaReport::Failed { reason: "no such model".into() });
            }
            Step::Leaving(index) => self.report(index, ReplicaReport::Leaving),
            Step::Exit(index) => {
                let Some(replica) = self.pick(index) else { return };
                self.exit(replica, Exit { code: Some(1), signal: None });
            }
            Step::Refuse(index) => {
                let Some(replica) = self.pick(index) else { return };
                self.world.processes.remove(&replica);
                self.apply(Event::StartRefused { replica, reason: "out of memory".into() });
            }
            Step::Prepared(index) => {
                let Some(process) = self.pick_waiting(index) else { return };
                self.world.waiting.get_mut(&process).expect("it was picked").is_prepared = true;
                self.apply(Event::Prepared { process });
            }
            Step::WaitingExit(index) => {
                let Some(process) = self.pick_waiting(index) else { return };
                self.exit(process, Exit { code: None, signal: Some(15) });
            }
            Step::SidecarReady(index) => self.sidecar_ready(index),
            Step::SidecarExit(index) => {
                let Some(process) = self.pick_sidecar(index) else { return };
                self.exit(process, Exit { code: None, signal: Some(9) });
            }
            Step::Answer(index, outcome) => {
                let Some(process) = self.pick_sidecar(index) else { return };
                let sidecar = self.world.sidecars.get_mut(&process).expect("it was picked");
                if !std::mem::take(&mut sidecar.is_asked) {
                    return;
                }
                let deployment = Some(deployment(1).deployment);
                self.apply(Event::PolicyAnswered { process, deployment, outcome });
            }
            Step::Wait(ms) => self.wait(self.now + Duration::from_millis(ms)),
        }
    }
}

proptest! {
    #[test]
    fn any_history_keeps_the_promises(steps in steps(), most in prop::option::of(1usize..5)) {
        let state = State::new(RuntimeDir("/tmp/t".into()), 5);
        let mut run = Run {
            state,
            world: World::default(),
            now: Duration::from_secs(1000),
            sequence: 0,
            version: 0,
            loads: [(0, 0); 2],
            max_ever: 0,
            models: [0; 2],
            warm: [0; 2],
            most,
        };
        let memory_bytes = most.map(|most| BYTES * most as u64);
        run.state.apply(Event::Capacity(Capacity { memory_bytes, ..Capacity::default() }), run.now);
        run.apply(Event::Snapshot(Vec::new()));
        run.apply(Event::ProxyConnected("p".into()));
        for step in steps {
            run.step(step);
        }
        // Nothing loops: an hour of failed starts is at most one a second at first, then rarer.
        let before = run.world.num_starts;
        run.wait(run.now + Duration::from_secs(3600));
        prop_assert!(run.world.num_starts - before < 3 * 200, "{}", run.world.num_starts - before);
        // Deleted and idle, nothing is left and nothing is due.
        run.loads = [(0, 0); 2];
        run.demand();
        for index in 0..2 {
            run.apply(Event::Delete(deployment(index).application));
        }
        run.wait(run.now + Duration::from_secs(60));
        let World { processes, waiting, sidecars, .. } = &run.world;
        prop_assert!(processes.is_empty() && waiting.is_empty() && sidecars.is_empty());
        prop_assert!(run.state.details(run.now).applications.is_empty());
        prop_assert_eq!(run.state.next_deadline(), None);
    }
}
