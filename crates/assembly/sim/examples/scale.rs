//! A large cluster in virtual time, with faults from a seed.
//!
//! ```text
//! cargo run --release -p tyndall-sim --example scale -- [DEPLOYMENTS] [REPLICAS OF EACH] [NODES] \
//!     [SECONDS] [FAULTS] [SEED]
//! ```

#[path = "support/mod.rs"]
mod support;

use std::io::Write;
use std::time::{Duration, Instant};
use support::application;
use tyndall_sim::{Faults, LatencyModel, SimConfig, Simulation, Time, Trace};

const FAULTS: &str = "crash:20/s,node-loss:5@20,slow-node:5@10,controller-restart:1@40,\
                      proxy-restart:1@30,start-failure:0.001,start-hang:0.0001";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize, default: u32| -> u32 {
        arguments.get(i).map_or(default, |text| text.parse().expect("a number"))
    };
    let (deployments, replicas) = (number(0, 1000), number(1, 100));
    let (nodes, duration_s, seed) = (number(2, 1000), number(3, 60), number(5, 1));
    let mut config =
        SimConfig::new((0..deployments).map(|i| application(&format!("d{i}"), replicas)).collect());
    (config.nodes, config.proxies, config.seed) = (nodes, 4, u64::from(seed));
    config.report_delay = Duration::from_millis(100);
    config.after = Some(Duration::from_secs(30));
    config.latency = LatencyModel {
        service: Time::LogNormal { mean_s: 2.0, sigma: 0.5 },
        start: Time::LogNormal { mean_s: 5.0, sigma: 0.3 },
        ..LatencyModel::default()
    };
    let faults = arguments.get(4).map_or(FAULTS, String::as_str);
    config.faults = Faults::parse(faults).expect("faults");
    // A tenth of a request a second for each replica.
    let rate = 0.1 * f64::from(replicas);
    let lanes: Vec<String> =
        (0..deployments).map(|i| format!("{i}=poisson:{rate}:{duration_s}")).collect();
    let find = |name: &str| name.parse().map_err(|_| "a number".to_owned());
    let trace = Trace::generate(&lanes.join("+"), u64::from(seed), &find).expect("a trace");
    let start = Instant::now();
    let outcome = Simulation::new(config).run(trace);
    let wall_s = start.elapsed().as_secs_f64();
    let running = outcome.deployments.iter().filter_map(|one| one.series.last());
    let running: u32 = running.map(|point| point.running).sum();
    let mut out = std::io::stdout().lock();
    writeln!(out, "{:#?}", outcome.totals).expect("stdout");
    writeln!(
        out,
        "{running} replicas run at the end; {} events ({} decided) of {:.0} virtual seconds in \
         {wall_s:.1} s: {:.0} events/s; anomalies {:?}",
        outcome.num_events,
        outcome.num_decided,
        outcome.duration_s,
        outcome.num_events as f64 / wall_s,
        outcome.anomalies
    )
    .expect("stdout");
}
