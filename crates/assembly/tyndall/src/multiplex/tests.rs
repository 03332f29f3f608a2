//! Loads, unloads and their order.

use super::*;
use crate::context::{ReplicaContext, Scope};
use futures_util::future::join_all;
use proptest::prelude::*;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::sync::Notify;

type Log = Arc<Mutex<Vec<String>>>;

/// Models are their ids; loads and unloads are logged.
fn models(limit: i64) -> (Multiplexed<String>, Log) {
    let log = Log::default();
    let (loads, unloads) = (log.clone(), log.clone());
    let load = move |id: String| {
        loads.lock().unwrap().push(format!("+{id}"));
        async move { Ok(id) }
    };
    let unload = move |id: String, _model: Arc<String>| {
        unloads.lock().unwrap().push(format!("-{id}"));
        async { Ok(()) }
    };
    (Multiplexed::with_unload(limit, load, unload).unwrap(), log)
}

#[tokio::test]
async fn the_least_recently_used_model_goes_before_another_comes() {
    let (models, log) = models(2);
    for id in ["a", "b", "a", "c", "b"] {
        assert_eq!(*models.get(id).await.unwrap(), id);
    }
    assert_eq!(*log.lock().unwrap(), ["+a", "+b", "-b", "+c", "-a", "+b"]);
    assert_eq!(models.ids(), ["c", "b"]);
    models.unload_all().await.unwrap();
    assert!(models.ids().is_empty());
    assert_eq!(log.lock().unwrap()[6..], ["-c", "-b"]);
}

#[tokio::test]
async fn many_requests_for_one_model_share_one_load() {
    let (models, log) = models(1);
    let all = join_all((0..8).map(|_| models.get("a"))).await;
    assert!(all.iter().all(Result::is_ok));
    assert_eq!(*log.lock().unwrap(), ["+a"]);
}

#[tokio::test]
async fn ids_are_told_when_a_load_begins() {
    let gate = Arc::new(Notify::new());
    let wait = gate.clone();
    let models = Multiplexed::new(1, move |id: String| {
        let wait = wait.clone();
        async move {
            wait.notified().await;
            Ok(id)
        }
    });
    let models = models.unwrap();
    let mut ids = models.watch_ids();
    let loads: Vec<_> = ["a", "b", "c"]
        .map(|id| {
            let models = models.clone();
            tokio::spawn(async move { models.get(id).await.map(drop) })
        })
        .into();
    let all = ids.wait_for(|ids| ids.len() == 3).await.unwrap().clone();
    assert_eq!(all, ["a", "b", "c"]);
    for load in loads {
        gate.notify_one();
        load.await.unwrap().unwrap();
    }
    assert_eq!(models.ids(), ["c"]);
}

#[tokio::test]
async fn a_load_goes_on_when_its_caller_goes() {
    let (gate, loads) = (Arc::new(Notify::new()), Arc::new(AtomicU32::new(0)));
    let (wait, count) = (gate.clone(), loads.clone());
    let models = Multiplexed::new(1, move |id: String| {
        let wait = wait.clone();
        count.fetch_add(1, Ordering::Relaxed);
        async move {
            wait.notified().await;
            Ok(id)
        }
    });
    let models = models.unwrap();
    let impatient = models.clone();
    let gone = tokio::spawn(async move { impatient.get("a").await.map(drop) });
    models.watch_ids().wait_for(|ids| !ids.is_empty()).await.unwrap();
    gone.abort();
    gate.notify_one();
    models.get("a").await.unwrap();
    assert_eq!(loads.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn failures_reach_who_asked_and_leave_nothing() {
    let models = Multiplexed::<()>::new(1, |id: String| async move {
        if id == "bug" { panic!("a bug") } else { Err(Error::user("no")) }
    });
    let models = models.unwrap();
    assert_eq!(models.get("a").await, Err(Error::user("no")));
    assert!(models.get("bug").await.unwrap_err().to_string().contains("a bug"));
    assert!(matches!(models.get("").await, Err(Error::InvalidRequest { .. })));
    assert!(matches!(models.current().await, Err(Error::InvalidRequest { .. })));
    assert!(models.ids().is_empty());
    for bad in [0, -2] {
        assert!(Multiplexed::new(bad, |_| async { Ok(()) }).is_err());
    }

    let stuck = Multiplexed::with_unload(
        1,
        |_| async { Ok(()) },
        |_, _| async { Err(Error::user("it does not go")) },
    );
    let stuck = stuck.unwrap();
    stuck.get("a").await.unwrap();
    assert_eq!(stuck.get("b").await, Err(Error::user("it does not go")));
}

proptest! {
    /// As a plain list does it: never more than the limit, and the one that was used longest ago
    /// goes.
    #[test]
    fn models_come_and_go_as_in_a_plain_list(
        limit in 1_i64..5,
        asked in prop::collection::vec(0_u8..7, 0..60),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (models, log) = models(limit);
            let (mut list, mut expected): (Vec<String>, Vec<String>) = Default::default();
            for id in asked.iter().map(u8::to_string) {
                assert_eq!(*models.get(&id).await.unwrap(), id);
                if let Some(at) = list.iter().position(|known| *known == id) {
                    list.remove(at);
                } else {
                    if i64::try_from(list.len()).unwrap() == limit {
                        expected.push(format!("-{}", list.remove(0)));
                    }
                    expected.push(format!("+{id}"));
                }
                list.push(id);
                assert_eq!(models.ids(), list);
            }
            assert_eq!(*log.lock().unwrap(), expected);
        });
    }
}

#[tokio::test]
async fn loads_and_unloads_are_counted_in_a_replica() {
    let replica = ReplicaContext::of_tests();
    let scope = Scope { request: Arc::default(), replica: Some(replica.clone()) };
    let (models, _) = scope.run(async { models(1) }).await;
    for id in ["a", "b", "b"] {
        models.get(id).await.unwrap();
    }
    let page = replica.facts.metrics.render(0);
    for (name, count) in [
        ("multiplexed_get_model_requests_counter_total", 3),
        ("multiplexed_models_load_counter_total", 2),
        ("multiplexed_models_unload_counter_total", 1),
        ("num_multiplexed_models", 1),
        ("multiplexed_model_load_latency_ms_count", 2),
    ] {
        let is_it = |line: &str| {
            line.starts_with(&format!("ray_serve_{name}{{")) && line.ends_with(&format!(" {count}"))
        };
        assert!(page.lines().any(is_it), "{name} is not {count} in\n{page}");
    }
}
