//! Processes that die.

use crate::{demo_copy, endless, haiku, server};
use anyhow::{Context, Result};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use tyndall_testkit::{Server, Signal, descendants, eventually, is_alive, kill};
use tyndall_types::ReplicaState;

fn kill_role(server: &Server, role: &str) -> Result<u32> {
    let pids = server.pids_of(role);
    let &pid = pids.first().with_context(|| format!("no {role} runs"))?;
    kill(pid, Signal::KILL);
    Ok(pid)
}

/// The process of a replica that takes requests and is alive.
fn running_replica(server: &Server) -> Option<u32> {
    let replicas = server.deployment().ok()?.replicas;
    let mut running = replicas.iter().filter(|replica| replica.state == ReplicaState::Running);
    running.find_map(|replica| replica.pid.filter(|pid| is_alive(*pid)))
}

#[test]
fn requests_of_a_killed_replica_are_answered_by_another() -> Result<()> {
    let server = server().arg("--max-replicas", "1").start("demo")?;
    let expected = server.post("/generate", &haiku())?.json();
    let answered = AtomicUsize::new(0);
    let client = || -> Result<()> {
        for _ in 0..10 {
            let answer = server.post("/generate", &haiku())?;
            assert_eq!(answer.status, 200, "{}", answer.text);
            assert_eq!(answer.json(), expected);
            answered.fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    };
    thread::scope(|scope| {
        let clients: Vec<_> = (0..8).map(|_| scope.spawn(client)).collect();
        for killed in 0..3 {
            // A request that met three deaths would rightly be given up, so some answers come between.
            eventually("some are answered", || {
                (answered.load(Ordering::SeqCst) > killed * 20).then_some(())
            })?;
            let victim = eventually("a replica runs", || running_replica(&server))?;
            kill(victim, Signal::KILL);
        }
        for client in clients {
            client.join().expect("the thread does not panic")?;
        }
        anyhow::Ok(())
    })?;
    assert!(server.metric("tyndall_wakes_total")? >= 2.0);
    Ok(())
}

#[test]
fn a_stream_of_a_killed_replica_ends_with_one_error() -> Result<()> {
    let server = server().start("demo")?;
    let mut stream = server.stream("/v1/completions", &endless(true))?;
    assert!(stream.next().is_some());
    kill_role(&server, "replica")?;
    let rest: Vec<String> = stream.collect();
    assert_eq!(rest.iter().filter(|event| event.contains("\"error\"")).count(), 1, "{rest:?}");
    assert_eq!(rest.last().map(String::as_str), Some("[DONE]"));
    assert_eq!(server.post("/generate", &haiku())?.status, 200);
    Ok(())
}

#[test]
fn traffic_goes_on_without_a_controller() -> Result<()> {
    let server = server().start("demo")?;
    let expected = server.post("/generate", &haiku())?.json();
    let replica = server.pids_of("replica");
    let controller = kill_role(&server, "controller")?;
    assert_eq!(server.post("/generate", &haiku())?.json(), expected);
    eventually("the controller is back", || {
        let pids = server.pids_of("controller");
        (!pids.is_empty() && !pids.contains(&controller)).then_some(())
    })?;
    let known = eventually("it knows its replica", || running_replica(&server))?;
    assert_eq!(known, replica[0], "the replica lived on");
    assert_eq!(server.post("/generate", &haiku())?.json(), expected);
    Ok(())
}

#[test]
fn a_killed_proxy_is_replaced_on_the_same_port() -> Result<()> {
    let server = server().start("demo")?;
    let expected = server.post("/generate", &haiku())?.json();
    kill_role(&server, "proxy")?;
    // The port stays open meanwhile: this request waits for the new proxy.
    assert_eq!(server.post("/generate", &haiku())?.json(), expected);
    Ok(())
}

#[test]
fn a_killed_supervisor_leaves_nothing() -> Result<()> {
    let server = server().arg("--min-replicas", "1").start("demo")?;
    server.wait_for_replicas(1)?;
    let started = descendants(server.pid());
    assert!(started.len() >= 3, "{started:?}");
    server.signal(Signal::KILL);
    eventually("every process is gone", || {
        (!started.iter().any(|&pid| is_alive(pid))).then_some(())
    })
}

#[test]
fn a_model_that_cannot_start_fails_its_requests_with_the_reason() -> Result<()> {
    let (_home, model) = demo_copy()?;
    let server = server().start(&model)?;
    let weights = model.join("model.safetensors");
    let whole = std::fs::read(&weights)?;
    std::fs::write(&weights, &whole[..whole.len() / 2])?;
    let answer = server.post("/generate", &haiku())?;
    assert_eq!(answer.status, 503, "{}", answer.text);
    assert!(answer.text.contains("model.safetensors"), "{}", answer.text);
    assert!(!answer.header("retry-after").is_empty());
    let output = server.output();
    assert_eq!(output.matches("model.safetensors").count(), 1, "told once: {output}");
    assert_eq!(server.get("/healthz")?.status, 200);

    std::fs::write(&weights, &whole)?;
    eventually("it serves again when the file is whole", || {
        server.post("/generate", &haiku()).ok().filter(|answer| answer.status == 200)
    })?;
    Ok(())
}

#[test]
fn a_request_at_zero_replicas_outlives_the_death_of_any_role() -> Result<()> {
    for role in ["controller", "replica"] {
        let server = server().start("demo")?;
        thread::scope(|scope| {
            // The signal comes while the request waits for the wake.
            let waiting = scope.spawn(|| server.post("/generate", &haiku()));
            let first = eventually("a replica is being started", || {
                server.pids_of("replica").first().copied()
            })?;
            let victim = if role == "replica" { first } else { server.pids_of(role)[0] };
            kill(victim, Signal::KILL);
            let answer = waiting.join().expect("the thread does not panic")?;
            // A start that was killed counts as failed, and its reason is told.
            let allowed: &[u16] = if role == "replica" { &[200, 503] } else { &[200] };
            assert!(allowed.contains(&answer.status), "{role}: {}", answer.text);
            anyhow::Ok(())
        })?;
        eventually("it serves", || {
            server.post("/generate", &haiku()).ok().filter(|answer| answer.status == 200)
        })?;
    }
    Ok(())
}

#[test]
fn a_proxy_killed_under_a_waiting_request_leaves_no_demand() -> Result<()> {
    let server = server().arg("--idle-timeout", "0").start("demo")?;
    thread::scope(|scope| {
        let waiting = scope.spawn(|| server.post("/generate", &haiku()));
        eventually("a replica is being started", || server.pids_of("replica").first().copied())?;
        kill_role(&server, "proxy")?;
        // Its connection is gone with the proxy, or it was answered just before.
        if let Ok(answer) = waiting.join().expect("the thread does not panic") {
            assert_eq!(answer.status, 200, "{}", answer.text);
        }
        anyhow::Ok(())
    })?;
    server.wait_for_replicas(0)?;
    assert_eq!(server.post("/generate", &haiku())?.status, 200);
    Ok(())
}

#[test]
fn requests_of_a_stopped_replica_end_by_their_timeout() -> Result<()> {
    let server = server()
        .arg("--request-timeout", "5")
        .arg("--graceful-timeout", "0")
        .arg("--idle-timeout", "0")
        .arg("--max-replicas", "1")
        .start("demo")?;
    let mut request = endless(true);
    request["n"] = 32.into();
    let mut stream = server.stream("/v1/completions", &request)?;
    assert!(stream.next().is_some());
    let replica = server.pids_of("replica");
    kill(replica[0], Signal::STOP);
    let answer = server.post("/generate", &haiku())?;
    assert_eq!(answer.status, 504, "{}", answer.text);
    assert!(answer.text.contains("request_timeout_s"), "{}", answer.text);
    let rest: Vec<String> = stream.collect();
    assert_eq!(rest.iter().filter(|event| event.contains("\"error\"")).count(), 1);
    assert_eq!(rest.last().map(String::as_str), Some("[DONE]"));
    // Nobody asks any more, so it is scaled away, by force.
    eventually("the stopped one is gone", || (!is_alive(replica[0])).then_some(()))?;
    assert_eq!(server.post("/generate", &haiku())?.status, 200);
    Ok(())
}

#[test]
fn a_model_deleted_after_its_first_wake_is_named() -> Result<()> {
    let (_home, model) = demo_copy()?;
    let server = server().arg("--idle-timeout", "0").start(&model)?;
    assert_eq!(server.post("/generate", &haiku())?.status, 200);
    server.wait_for_replicas(0)?;
    std::fs::remove_dir_all(&model)?;
    let answer = server.post("/generate", &haiku())?;
    assert_eq!(answer.status, 503, "{}", answer.text);
    assert!(answer.text.contains(&*model.to_string_lossy()), "{}", answer.text);
    assert_eq!(server.get("/healthz")?.status, 200);
    Ok(())
}

#[test]
fn disconnects_free_the_engine() -> Result<()> {
    let server = server().start("demo")?;
    let streams = (0..4).map(|_| server.stream("/v1/completions", &endless(true)));
    let streams = streams.collect::<Result<Vec<_>>>()?;
    eventually("the requests are counted", || {
        (server.deployment().ok()?.ongoing_requests == 4).then_some(())
    })?;
    drop(streams);
    eventually("no sequence runs", || {
        (server.metric("tyndall_requests_running").ok()? == 0.0).then_some(())
    })?;
    eventually("no request is counted", || {
        (server.deployment().ok()?.ongoing_requests == 0).then_some(())
    })
}
