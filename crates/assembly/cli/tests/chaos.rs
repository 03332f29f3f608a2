//! `tyndall bench chaos`, `cycles`, `overload` and `idle --deployments` with the real binary: nothing is
//! lost and nothing is left, whatever the figures are.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde_json::Value;
use std::process::Command;

/// Runs a benchmark that must find nothing wrong; its result.
fn bench(args: &[&str]) -> Value {
    let home = tempfile::tempdir().unwrap();
    let result = home.path().join("result.json");
    let mut command = Command::new(env!("CARGO_BIN_EXE_tyndall"));
    command.arg("bench").args(args).arg("--json").arg(&result);
    command.env_clear().env("HOME", home.path()).env("HF_HUB_OFFLINE", "1");
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&std::fs::read(&result).unwrap()).unwrap()
}

fn metric(json: &Value, name: &str) -> f64 {
    let metrics = json["metrics"].as_array().unwrap();
    let found = metrics.iter().find(|metric| metric["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {metrics:?}"))["value"].as_f64().unwrap()
}

fn count(json: &Value, name: &str) -> u64 {
    let all = json["distributions"].as_array().unwrap();
    let found = all.iter().find(|distribution| distribution["name"] == name);
    found.map_or(0, |distribution| distribution["summary"]["count"].as_u64().unwrap())
}

#[test]
fn chaos_loses_nothing() {
    // Versions that cannot start have a test of their own: they take long to be rolled back.
    let faults = "controller,proxy,replica,several,all,stop,update,scale,delete";
    let flags = ["--seconds", "10", "--seed", "1", "--clients", "3", "--faults", faults];
    let json = bench(&[&["chaos"][..], &flags[..]].concat());
    assert_eq!(json["settings"]["seed"], "1");
    for name in ["lost", "strays"] {
        assert_eq!(metric(&json, name), 0.0, "{name}: {json:#}");
    }
    assert!(metric(&json, "answered") > 0.0 && metric(&json, "faults") > 0.0);
    let classes = ["answered", "refused", "cut_by_proxy", "broken_streams", "absent", "lost"];
    let sum: f64 = classes.iter().map(|name| metric(&json, name)).sum();
    assert_eq!(sum, metric(&json, "sent"), "each request is one of them");
}

#[test]
fn sleep_and_wake_lose_nothing() {
    let json = bench(&["cycles", "-n", "5"]);
    for (name, expected) in [("cycles", 5.0), ("lost", 0.0), ("strays", 0.0)] {
        assert_eq!(metric(&json, name), expected, "{name}");
    }
    for name in ["to_zero", "e2el", "wake", "control"] {
        assert_eq!(count(&json, name), 5, "{name}");
    }
    assert!(metric(&json, "pss_before") > 0.0 && metric(&json, "pss_after") > 0.0);
}

#[test]
fn overload_loses_nothing() {
    let bounds = ["--max-ongoing-requests", "2", "--max-queued-requests", "8"];
    let load = ["--factors", "1,8", "--seconds", "2", "--clients", "2", "--deadline", "120"];
    let json = bench(&[&["overload", "--output-len", "4"][..], &bounds[..], &load[..]].concat());
    assert_eq!(json["settings"]["max-queued-requests"], "8");
    for name in ["lost", "lost_1x", "lost_8x"] {
        assert_eq!(metric(&json, name), 0.0, "{name}: {json:#}");
    }
    for name in ["peak", "closed_2", "sent_8x", "proxy_anon_start", "proxy_anon_peak"] {
        assert!(metric(&json, name) > 0.0, "{name}");
    }
    assert!(count(&json, "e2el_8x") > 0);
}

#[test]
fn many_deployments_sleep() {
    let json = bench(&["idle", "--deployments", "50", "--seconds", "0.2", "--settle", "0.1"]);
    assert_eq!(json["settings"]["deployments"], "50");
    assert_eq!(metric(&json, "processes"), 3.0);
    for name in ["accepted", "all_running", "pss", "details"] {
        assert!(metric(&json, name) > 0.0, "{name}");
    }
    // How much it is depends on what the allocator had left.
    assert!(metric(&json, "pss_per_deployment").is_finite());
    assert!(count(&json, "details") > 0 && count(&json, "status") > 0);
}
