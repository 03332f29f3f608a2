//! What a decision costs: events of `control::State`, and calls of `routing::Dispatcher`, by the
//! number of deployments and replicas.
//!
//! ```text
//! cargo run --release -p tyndall-sim --example cost -- [DEPLOYMENTS] [REPLICAS OF EACH]
//! ```

#[path = "support/mod.rs"]
mod support;

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::application;
use tyndall_control::{Action, Event, FoundReplica, State};
use tyndall_routing::{Dispatcher, Wish};
use tyndall_types::protocol::{
    ColdStartPhases, Demand, DemandReport, DeploymentConfig, ReplicaReport, ReplicaStatus,
    RuntimeDir,
};
use tyndall_types::{ReplicaId, ReplicaState};

const NOW: Duration = Duration::from_secs(1);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize, default: u32| -> u32 {
        arguments.get(i).map_or(default, |text| text.parse().expect("a number"))
    };
    let (deployments, replicas) = (number(0, 100), number(1, 100));
    let mut state = new_state(1);
    state.apply(Event::Snapshot(Vec::new()), NOW);
    let started = timed("Deploy, which starts all replicas of one", deployments, || {
        deploy(&mut state, deployments, replicas)
    });
    let num = u32::try_from(started.len()).expect("few");
    timed("Report::Ready of a replica", num, || {
        for (replica, _) in &started {
            let report = ReplicaReport::Ready { phases: ColdStartPhases::default(), card: None };
            state.apply(Event::Report { replica: replica.clone(), report }, NOW);
        }
    });
    state.apply(Event::ProxyConnected("p".into()), NOW);
    demand(&mut state, &started, deployments);
    timed("Probed, a health check", 1000.min(num), || {
        for (replica, _) in started.iter().take(1000) {
            state.apply(probed(replica), NOW);
        }
    });
    recovery(&started, deployments, replicas);
    dispatcher(replicas);
}

fn new_state(ms: u64) -> State {
    State::new(RuntimeDir("/sim".into()), ms)
}

fn probed(replica: &ReplicaId) -> Event {
    let status = ReplicaStatus::new(replica.clone(), ReplicaState::Running);
    Event::Probed { replica: replica.clone(), status: Some(status) }
}

fn deploy(
    state: &mut State,
    deployments: u32,
    replicas: u32,
) -> Vec<(ReplicaId, Arc<DeploymentConfig>)> {
    let mut started = Vec::new();
    for i in 0..deployments {
        let config = Arc::new(application(&format!("d{i}"), replicas));
        let event = Event::Deploy { config, version: 1, deployed_at: NOW, fallback: None };
        for action in state.apply(event, NOW) {
            if let Action::Start { replica, config, .. } = action {
                started.push((replica, config));
            }
        }
    }
    started
}

/// Reports of a proxy with load for all deployments, of which one changes.
fn demand(state: &mut State, started: &[(ReplicaId, Arc<DeploymentConfig>)], deployments: u32) {
    let mut ids: Vec<_> = started.iter().map(|(_, config)| config.id.clone()).collect();
    ids.dedup();
    let mut all: Vec<Demand> =
        ids.into_iter().map(|deployment| Demand { deployment, queued: 0, ongoing: 1 }).collect();
    let mut sequence = 0;
    let mut tell = |state: &mut State, all: &[Demand]| {
        sequence += 1;
        let report = DemandReport { sequence, deployments: all.to_vec() };
        state.apply(Event::Demand { proxy: "p".into(), report }, NOW);
    };
    tell(state, &all);
    timed("Demand, nothing changed", 100, || (0..100).for_each(|_| tell(state, &all)));
    timed("Demand, one deployment changed", 100, || {
        for i in 0..100 {
            all[i % deployments as usize].ongoing += 1;
            tell(state, &all);
        }
    });
}

fn recovery(started: &[(ReplicaId, Arc<DeploymentConfig>)], deployments: u32, replicas: u32) {
    let mut state = new_state(1 << 40);
    for i in 0..deployments {
        let config = Arc::new(application(&format!("d{i}"), replicas));
        let event = Event::Deploy { config, version: 1, deployed_at: NOW, fallback: None };
        state.apply(event, NOW);
    }
    let found = |(replica, config): &(ReplicaId, Arc<DeploymentConfig>)| FoundReplica {
        replica: replica.clone(),
        pid: 1,
        config: Some(Box::new((**config).clone())),
        gpus: Vec::new(),
        gang: None,
        actor: None,
    };
    let found: Vec<FoundReplica> = started.iter().map(found).collect();
    timed("Snapshot of all", 1, || state.apply(Event::Snapshot(found), NOW));
    let asked = 200.min(u32::try_from(started.len()).expect("few"));
    timed("Probed, while found replicas have not answered", asked, || {
        for (replica, _) in started.iter().take(asked as usize) {
            state.apply(probed(replica), NOW);
        }
    });
}

fn dispatcher(replicas: u32) {
    let ids: Vec<ReplicaId> = (0..replicas).map(|i| ReplicaId::new(format!("d-{i:08}"))).collect();
    let mut dispatcher = Dispatcher::new(5, 1000, 1);
    dispatcher.update(ids.clone(), 5, 1000);
    timed("Dispatcher::update with the same replicas", 10, || {
        (0..10).for_each(|_| drop(dispatcher.update(ids.clone(), 5, 1000)));
    });
    timed("Dispatcher::arrive", replicas, || {
        (0..u64::from(replicas)).for_each(|ticket| drop(dispatcher.arrive(ticket, None)));
    });
    timed("Dispatcher::release", replicas, || {
        ids.iter().for_each(|id| drop(dispatcher.release(id, &Wish::Any, None)));
    });
}

fn timed<T>(what: &str, times: u32, act: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = act();
    let us = start.elapsed().as_secs_f64() * 1e6 / f64::from(times.max(1));
    writeln!(std::io::stdout(), "{us:>12.1} us  {what}").expect("stdout");
    result
}
