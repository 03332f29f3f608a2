//! Many replicas on many nodes, with faults; the large one is `examples/scale.rs`.

use super::*;

#[test]
fn two_thousand_replicas_on_fifty_nodes_with_faults() {
    let fixed = |i: u32| {
        let mut config = deployment(&format!("d{i}"), scaling(40, 60));
        config.health_check.period_s = 30.0;
        config
    };
    let mut config = sim((0..50).map(fixed).collect());
    (config.seed, config.nodes, config.proxies) = (11, 50, 2);
    config.report_delay = Duration::from_millis(100);
    config.after = Some(Duration::from_secs(30));
    config.latency.service = Time::LogNormal { mean_s: 2.0, sigma: 0.5 };
    config.faults =
        Faults::parse("crash:0.5/s,node-loss:2@20,controller-restart:1@30,start-failure:0.01")
            .unwrap();
    let lanes: Vec<String> = (0..50).map(|i| format!("{i}=poisson:4:60s")).collect();
    let outcome = run(config, &lanes.join("+"));
    let totals = outcome.totals;
    assert!(totals.sent > 11_000 && totals.started > 2000, "{totals:?}");
    assert_eq!(totals.answered + totals.given_up, totals.sent, "{totals:?}");
    let running: u32 =
        outcome.deployments.iter().filter_map(|one| one.series.last()).map(|p| p.running).sum();
    assert!(running >= 2000, "{running}");
}
