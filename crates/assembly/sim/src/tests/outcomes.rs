//! Single runs that can be worked out by hand.

use super::*;

#[test]
fn a_wake_a_request_and_the_way_back() {
    let outcome = run(sim(vec![deployment("a", scaling(0, 2))]), "constant:0.1:10s");
    assert_eq!(decisions(&outcome, 0), [(10.001, 0, 1), (43.004, 1, 0)]);
    let one = &outcome.deployments[0];
    // A link to the controller, the start, a link back, a link to the proxy, the service.
    let latency = one.latency.unwrap();
    assert!((latency.max_s - 3.003).abs() < 1e-9, "{latency:?}");
    assert_eq!((one.totals.woken, one.totals.started, one.max_replicas), (1, 1, 1));
    assert!((one.replica_seconds - 33.003).abs() < 0.01, "{}", one.replica_seconds);
    let point = |s: usize| one.series[s];
    assert_eq!((point(9).target, point(10).target, point(10).queued), (0, 1, 1));
    assert_eq!((point(11).starting, point(12).running, point(44).running), (1, 1, 0));
}

#[test]
fn a_full_queue_refuses_and_a_late_request_ends() {
    let mut config = deployment("a", scaling(1, 1));
    (config.max_ongoing_requests, config.max_queued_requests) = (1, 5);
    config.request_timeout_s = 3.5;
    let outcome = run(sim(vec![config]), "pause:5,constant:10:10");
    let totals = outcome.totals;
    assert_eq!(totals.sent, 100);
    assert!(totals.refused_full + totals.refused_late > 70 && totals.late > 0, "{totals:?}");
    assert!(totals.refused_late > 0, "once the pace is known: {totals:?}");
    // A place that a late one held is a place less for others.
    assert!((7..=12).contains(&totals.answered), "{totals:?}");
    assert!(outcome.deployments[0].latency.unwrap().max_s <= 3.6);
}

#[test]
fn a_start_that_never_works_is_told() {
    let mut config = sim(vec![deployment("a", scaling(0, 2))]);
    config.faults.start_failure = 1.0;
    let outcome = run(config, "constant:1:30s");
    assert_eq!(outcome.totals.answered, 0);
    assert_eq!(outcome.totals.refused_unavailable, 30);
    assert!((3..=8).contains(&outcome.totals.start_failures), "{:?}", outcome.totals);
}

#[test]
fn what_had_begun_is_interrupted_and_what_had_not_goes_elsewhere() {
    let crash = |begins_after| {
        let mut config = sim(vec![deployment("a", scaling(2, 2))]);
        config.latency =
            LatencyModel { service: Time::Constant(10.0), begins_after, ..LatencyModel::default() };
        config.faults = Faults::parse("crash:1@19").unwrap();
        run(config, "pause:10s,constant:1:4").totals
    };
    let late = crash(1.0);
    assert_eq!((late.answered, late.interrupted, late.died), (4, 0, 1));
    assert!(late.retried >= 2, "{late:?}");
    let early = crash(0.0);
    assert_eq!((early.answered, early.interrupted), (2, 2));
}

#[test]
fn a_proxy_that_dies_cuts_its_own_alone() {
    let mut config = sim(vec![deployment("a", scaling(2, 2))]);
    (config.proxies, config.latency.service) = (2, Time::Constant(2.0));
    config.faults = Faults::parse("proxy-restart:1@10.05").unwrap();
    let totals = run(config, "constant:2:20s").totals;
    // It has half of the four requests in work.
    assert_eq!((totals.sent, totals.cut, totals.answered), (40, 2, 38));
}

#[test]
fn a_controller_that_dies_costs_nothing() {
    let mut config = sim(vec![deployment("a", scaling(1, 8))]);
    config.faults = Faults::parse("controller-restart:1@20").unwrap();
    let with = run(config, "constant:4:60s");
    assert_eq!((with.totals.answered, with.totals.retried), (240, 0));
    let without = run(sim(vec![deployment("a", scaling(1, 8))]), "constant:4:60s");
    assert_eq!(with.deployments[0].latency, without.deployments[0].latency);
    assert_eq!(with.totals.started, without.totals.started);
}

#[test]
fn policies_on_engines_are_fed() {
    let mut config = deployment("a", scaling(1, 8));
    config.autoscaling.policy =
        tyndall_types::protocol::ScalingPolicy::Tokens { target_tokens: 1000.0, max_kv_use: 1.0 };
    let outcome = run(sim(vec![config]), "constant:4:120s");
    // Four requests of 512 tokens in work.
    let targets: Vec<u32> = decisions(&outcome, 0).iter().map(|one| one.2).collect();
    assert_eq!(targets.first(), Some(&3), "{targets:?}");
}

#[test]
fn the_seed_decides() {
    let of = |seed| {
        let mut config = sim(vec![deployment("a", scaling(0, 8))]);
        config.seed = seed;
        config.latency.service = Time::LogNormal { mean_s: 1.0, sigma: 0.7 };
        config.faults = Faults::parse("crash:0.1/s,start-failure:0.1").unwrap();
        run(config, "poisson:3:2m")
    };
    assert_eq!(of(1), of(1));
    assert_ne!(of(1), of(2));
}

#[test]
fn reports_say_everything() {
    let mut config = sim(vec![deployment("a", scaling(0, 2))]);
    config.seed = 5;
    let mut outcome = run(config, "poisson:1:1m");
    let text = outcome.to_text();
    for part in ["requests", "seed 5", "p99", "decisions", "0 → 1", "autoscaling"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let json: serde_json::Value = serde_json::from_str(&outcome.to_json()).unwrap();
    assert_eq!(json["deployments"][0]["series"][30]["target"], 1);
    assert_eq!(json["totals"]["sent"], outcome.totals.sent);
    outcome.anomalies.push("a<b".to_owned());
    let page = outcome.to_html();
    for part in ["<svg", "prefers-color-scheme", "decisions", "a&lt;b", "0 → 1"] {
        assert!(page.contains(part), "{part}");
    }
    for outside in ["http:", "https:", "<script", "src=", "url(", "NaN", "inf"] {
        assert!(!page.contains(outside), "{outside}");
    }
}

#[test]
fn the_command_writes_what_is_asked_for() {
    use clap::Parser;
    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: SimulateArgs,
    }
    let folder = std::env::temp_dir().join(format!("tyndall-sim-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = |name: &str| folder.join(name).to_string_lossy().into_owned();
    std::fs::write(file("serve.yaml"), "applications: [{model: org/m}]").unwrap();
    std::fs::write(file("trace.csv"), "time_s\n1\n2\n").unwrap();
    let (config, trace, html) = (file("serve.yaml"), file("trace.csv"), file("out.html"));
    let args = |trace: &str, more: &[&str]| {
        let all = ["tyndall", "--config", &config, "--trace", trace, "--html", &html];
        Cli::parse_from(all.iter().chain(more)).args
    };
    let mut out = Vec::new();
    let run = |args: &SimulateArgs, out: &mut Vec<u8>| crate::run(args, out);
    let outcome = run(&args(&trace, &["--service-s", "0.5:0.1", "--memory", "1GiB"]), &mut out);
    assert_eq!(outcome.unwrap().totals.answered, 2);
    assert!(String::from_utf8(out).unwrap().contains("2 requests"));
    assert!(std::fs::read_to_string(&html).unwrap().starts_with("<!doctype html>"));
    for (trace, more, expected) in [
        ("poisson:1:5", &["--service-s", "x"][..], "\"x\" is not usable for --service-s"),
        ("poisson:1:5", &["--faults", "rain:1/s"], "\"rain:1/s\" is not a usable fault"),
        ("poisson:1:5", &["--begins-after", "2"], "\"2\" is not usable for --begins-after"),
        ("none.csv", &[], "failed to read none.csv"),
        ("none", &[], "\"none\" is not a usable generator"),
    ] {
        let error = run(&args(trace, more), &mut Vec::new()).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
    std::fs::remove_dir_all(&folder).unwrap();
}
