//! From zero replicas and back.

use crate::{endless, haiku, server};
use anyhow::Result;
use std::thread;
use std::time::{Duration, Instant};
use tyndall_testkit::{Signal, descendants, eventually, is_alive, pause};

#[test]
fn the_first_request_wakes_a_replica_and_idleness_ends_it() -> Result<()> {
    let server = server().arg("--idle-timeout", "1").start("demo")?;
    assert_eq!(server.pids_of("replica").len(), 0);
    assert_eq!(server.get("/healthz")?.json()["model"], "demo");
    let models = server.get("/v1/models")?.json();
    assert_eq!(models["data"][0]["id"], "demo");
    assert!(models["data"][0]["max_model_len"].is_u64(), "{models}");
    assert_eq!(server.get("/metrics")?.status, 200);
    assert_eq!(server.pids_of("replica").len(), 0, "looking does not wake");

    let answer = server.post("/generate", &haiku())?;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let text = answer.json()["completions"][0].as_str().unwrap_or_default().to_owned();
    assert_eq!(text.lines().count(), 3, "{text:?}");
    let replica = server.pids_of("replica");
    assert_eq!(replica.len(), 1);
    assert_eq!(server.get("/v1/models")?.json(), models, "a wake changes no fact");

    server.wait_for_replicas(0)?;
    eventually("its process is gone", || (!is_alive(replica[0])).then_some(()))?;
    // The controller hears of the end from the supervisor, after the process is gone.
    eventually("the admin API lists no replica", || {
        let details = server.deployment().ok()?;
        ((details.target_num_replicas, details.replicas.len()) == (0, 0)).then_some(())
    })?;
    assert_eq!(server.post("/generate", &haiku())?.json()["completions"][0], text.as_str());
    Ok(())
}

#[test]
fn four_bits_are_enough_for_a_haiku() -> Result<()> {
    let server = server().arg("--quantization", "int4").start("demo")?;
    let answer = server.post("/generate", &haiku())?;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let text = answer.json()["completions"][0].as_str().unwrap_or_default().to_owned();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines.len() == 3 && lines.iter().all(|line| !line.trim().is_empty()), "{text:?}");
    Ok(())
}

#[test]
fn the_phases_of_a_wake_add_up() -> Result<()> {
    let server = server().start("demo")?;
    let sent = Instant::now();
    let answer = server.post("/generate", &haiku())?;
    let wall_ms = sent.elapsed().as_secs_f64() * 1e3;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let line = eventually("the wake is told", || {
        let output = server.output();
        output.lines().find_map(|line| Some(line.split_once(" woke in ")?.1.to_owned()))
    })?;
    let (total, phases) = line.split_once(" ms: ").expect("a total and its phases");
    let phases =
        phases.split(" · ").map(|phase| phase.split_once(' ').expect("a name and a number"));
    let phases: Vec<(&str, f64)> =
        phases.map(|(name, ms)| Ok((name, ms.trim().parse()?))).collect::<Result<_>>()?;
    let names: Vec<&str> = phases.iter().map(|(name, _)| *name).collect();
    let ends = ["process", "config", "kernels", "weights", "tokenizer", "engine"];
    assert_eq!(names, [&["spawn"], &ends[..], &["handover", "first_step"]].concat(), "{line}");

    // Every number of the line is rounded to a millisecond; the metrics are not.
    let total_ms: f64 = total.parse()?;
    let sum_ms: f64 = phases.iter().map(|(_, ms)| ms).sum();
    assert!((sum_ms - total_ms).abs() <= 0.5 * (phases.len() + 1) as f64, "{line}");
    let exact = |phase: &str| {
        let start = format!("tyndall_cold_start_seconds_sum{{deployment=\"demo\",phase=\"{phase}");
        Ok::<_, anyhow::Error>(server.metric(&start)? * 1e3)
    };
    assert!((exact("")? - total_ms).abs() <= 0.6, "{line}");
    for (name, ms) in &phases {
        assert!((exact(name)? - ms).abs() <= 0.6, "{name} in {line}");
    }

    // All of it lay between the request and its answer, and what led to a replica in `wake`.
    assert!(exact("")? <= wall_ms, "{line} of {wall_ms} ms");
    let timing = answer.header("server-timing");
    let timed = |phase: &str| -> f64 {
        let found =
            timing.split(", ").find_map(|part| part.strip_prefix(phase)?.strip_prefix(";dur="));
        found.and_then(|ms| ms.parse().ok()).expect("every phase is there")
    };
    let to_ready = exact("")? - exact("handover")? - exact("first_step")?;
    assert!(timed("wake") + 0.1 >= to_ready, "{timing} for {line}");
    // Its parts have the same names and fill it; those of the process are the very same.
    let parts = timing.split(", ").filter_map(|part| part.strip_prefix("wake."));
    let parts: Vec<(&str, f64)> = parts
        .map(|part| part.split_once(";dur=").expect("a duration"))
        .map(|(name, ms)| Ok((name, ms.parse()?)))
        .collect::<Result<_>>()?;
    let mut names: Vec<&str> = parts.iter().map(|(name, _)| *name).collect();
    // The way to the replica is in no phase. Where cores are scarce it may take longer than the
    // spawn, which is cut by it, and then the process.
    let mut whole = &ends[..];
    if names.first() != Some(&"spawn") {
        names.insert(0, "spawn");
        whole = &ends[1..];
    }
    assert_eq!(names, [&["spawn"], &ends[..], &["handover"]].concat(), "{timing}");
    let sum_ms: f64 = parts.iter().map(|(_, ms)| ms).sum();
    assert!((sum_ms - timed("wake")).abs() <= 0.05 * (parts.len() + 1) as f64, "{timing}");
    for (name, ms) in parts.iter().filter(|(name, _)| whole.contains(name)) {
        assert!((exact(name)? - ms).abs() <= 0.1, "{name} in {timing} for {line}");
    }
    let told: f64 = ["queue", "wake", "prefill", "decode"].map(timed).iter().sum();
    assert!(told <= wall_ms + 0.4, "{timing} of {wall_ms} ms");
    Ok(())
}

#[test]
fn a_busy_replica_is_not_idle() -> Result<()> {
    let server = server().arg("--idle-timeout", "0.1").start("demo")?;
    let mut request = endless(true);
    request["n"] = 32.into();
    let mut stream = server.stream("/v1/completions", &request)?;
    let replica = server.pids_of("replica");
    assert_eq!(replica.len(), 1);
    pause(Duration::from_millis(400));
    assert_eq!(server.pids_of("replica"), replica);
    assert!(stream.next().is_some_and(|event| !event.contains("[DONE]")));
    drop(stream);
    server.wait_for_replicas(0)
}

#[test]
fn two_hundred_wakes_lose_nothing() -> Result<()> {
    let server = server().arg("--idle-timeout", "0").start("demo")?;
    let roles = descendants(server.pid()).len();
    let expected = server.post("/generate", &haiku())?.json();
    for cycle in 0..200 {
        // Every third request comes while the replica of the one before may still be going.
        if cycle % 3 != 0 {
            server.wait_for_replicas(0)?;
        }
        let answer = server.post("/generate", &haiku())?;
        assert_eq!(answer.status, 200, "cycle {cycle}: {}", answer.text);
        assert_eq!(answer.json(), expected, "cycle {cycle}");
    }
    server.wait_for_replicas(0)?;
    eventually("only the roles are left", || {
        (descendants(server.pid()).len() == roles).then_some(())
    })?;
    assert!(server.metric("tyndall_wakes_total")? >= 100.0);
    Ok(())
}

#[test]
fn load_adds_replicas_and_its_end_removes_them() -> Result<()> {
    let server = server()
        .arg("--max-replicas", "2")
        .arg("--target-ongoing-requests", "1")
        .arg("--upscale-delay", "0")
        .arg("--idle-timeout", "1")
        .start("demo")?;
    let mut request = endless(true);
    request["n"] = 32.into();
    let streams = (0..3).map(|_| server.stream("/v1/completions", &request));
    let streams = streams.collect::<Result<Vec<_>>>()?;
    server.wait_for_replicas(2)?;
    pause(Duration::from_millis(300));
    assert_eq!(server.pids_of("replica").len(), 2, "never more than the maximum");
    drop(streams);
    server.wait_for_replicas(0)
}

#[test]
fn a_minimum_is_kept() -> Result<()> {
    let server = server().arg("--min-replicas", "1").arg("--idle-timeout", "0").start("demo")?;
    server.wait_for_replicas(1)?;
    let replica = server.pids_of("replica");
    assert_eq!(server.post("/generate", &haiku())?.status, 200);
    pause(Duration::from_millis(500));
    assert_eq!(server.pids_of("replica"), replica);
    Ok(())
}

#[test]
fn a_signal_drains_what_was_begun() -> Result<()> {
    let mut server = server().arg("--graceful-timeout", "300").start("demo")?;
    let mut stream = server.stream("/v1/completions", &endless(true))?;
    assert!(stream.next().is_some());
    let started = descendants(server.pid());
    server.signal(Signal::TERM);
    let rest: Vec<String> = stream.collect();
    assert_eq!(rest.last().map(String::as_str), Some("[DONE]"));
    assert!(!rest.iter().any(|event| event.contains("\"error\"")), "{rest:?}");
    assert!(server.wait(&started)?.success());
    Ok(())
}

#[test]
fn a_stream_that_outlasts_the_drain_ends_with_an_error() -> Result<()> {
    let mut server = server().arg("--graceful-timeout", "0.2").start("demo")?;
    let mut slow = endless(true);
    slow["n"] = 64.into();
    let mut stream = server.stream("/v1/completions", &slow)?;
    assert!(stream.next().is_some());
    let started = descendants(server.pid());
    server.signal(Signal::TERM);
    let rest: Vec<String> = stream.collect();
    assert_eq!(rest.iter().filter(|event| event.contains("\"error\"")).count(), 1);
    assert_eq!(rest.last().map(String::as_str), Some("[DONE]"));
    assert!(server.wait(&started)?.success(), "{}", server.output());
    Ok(())
}

#[test]
fn a_second_signal_ends_it_at_once() -> Result<()> {
    let mut server = server().start("demo")?;
    let slow = serde_json::json!({"model": "demo", "prompt": "Hello", "n": 64,
        "max_tokens": 900, "ignore_eos": true, "stream": true});
    let mut stream = server.stream("/v1/completions", &slow)?;
    assert!(stream.next().is_some());
    let started = descendants(server.pid());
    server.signal(Signal::INT);
    eventually("it drains", || server.output().contains("drain").then_some(()))?;
    server.signal(Signal::INT);
    server.wait(&started)?;
    Ok(())
}

#[test]
fn a_shutdown_is_answered_before_it_happens() -> Result<()> {
    for _ in 0..5 {
        let mut server = server().start("demo")?;
        let started = descendants(server.pid());
        assert_eq!(server.shutdown()?.status, 202);
        assert!(server.wait(&started)?.success());
    }
    Ok(())
}

#[test]
fn a_signal_at_any_time_of_the_start_ends_everything() -> Result<()> {
    for wanted in 0..=2 {
        let mut server = server().arg("--min-replicas", "1").launch("demo")?;
        let mut started = Vec::new();
        eventually("so many processes run", || {
            started = descendants(server.pid());
            (started.len() >= wanted).then_some(())
        })?;
        // Not SIGINT: whoever runs this in the background may have left that one ignored, which holds
        // until the server has installed its handlers.
        server.signal(Signal::TERM);
        // What is started while the signal is on its way must end too.
        eventually("the server ends", || {
            started.extend(descendants(server.pid()));
            (!is_alive(server.pid())).then_some(())
        })?;
        server.wait(&started)?;
    }
    Ok(())
}

#[test]
fn two_servers_run_beside_each_other() -> Result<()> {
    let (one, two) = (server().start("demo")?, server().start("demo")?);
    let answer = one.post("/generate", &haiku())?.json();
    assert_eq!(two.pids_of("replica").len(), 0);
    drop(one);
    assert_eq!(two.post("/generate", &haiku())?.json(), answer);
    Ok(())
}

#[test]
fn a_server_on_ipv6_answers() -> Result<()> {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        // This machine has none.
        return Ok(());
    }
    let server = server().arg("--host", "::1").start("demo")?;
    assert!(server.url.starts_with("http://[::1]:"), "{}", server.url);
    assert_eq!(server.post("/generate", &haiku())?.status, 200);
    Ok(())
}

#[test]
fn waiting_requests_survive_the_drain() -> Result<()> {
    let mut server = server().start("demo")?;
    let url = server.url.clone();
    assert!(url.starts_with("http://127.0.0.1:"));
    // The request wakes a replica and the signal comes while it waits for it.
    thread::scope(|scope| {
        let waiting = scope.spawn(|| server.post("/generate", &haiku()));
        eventually("the replica is being started", || {
            (!server.pids_of("replica").is_empty()).then_some(())
        })?;
        server.signal(Signal::TERM);
        let answer = waiting.join().expect("the thread does not panic")?;
        assert_eq!(answer.status, 200, "{}", answer.text);
        anyhow::Ok(())
    })?;
    let started = descendants(server.pid());
    assert!(server.wait(&started)?.success());
    Ok(())
}
