//! Tasks that answer, and are used again.

use super::*;
use tokio::runtime::Handle;

/// Waits until so many tasks are left.
async fn tasks_are(expected: usize) {
    while Handle::current().metrics().num_alive_tasks() != expected {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn one_request_after_the_other_is_answered_by_one_task() {
    let pair = pair();
    let before = Handle::current().metrics().num_alive_tasks();
    for _ in 0..100 {
        assert_eq!(get(&pair.link, "/large").await.1.len(), 300_000);
        assert_eq!(Handle::current().metrics().num_alive_tasks(), before + 1);
    }
}

#[tokio::test]
async fn of_many_tasks_some_are_kept_and_none_outlives_its_link() {
    let pair = pair();
    let before = Handle::current().metrics().num_alive_tasks();
    for _ in 0..3 {
        let many = (0..60).map(|_| get(&pair.link, "/meet"));
        let met = futures_util::future::join_all(many).await;
        assert!(met.iter().all(|answer| answer.0 == StatusCode::OK), "{met:?}");
        tasks_are(before + 32).await;
    }
    drop(pair.link);
    pair.server.await.unwrap().unwrap();
    tasks_are(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_panics_or_is_left_takes_no_other_request_along() {
    async fn asks(link: Arc<Link>, peer: Peer, seed: usize) {
        let no_body = Bytes::new();
        for turn in 0..200 {
            match (seed + turn) % 4 {
                0 => {
                    let lost = ask(&link, Method::GET, "/panics", &no_body).await;
                    assert!(matches!(lost, Err(Unanswered::Broken(_))), "{lost:?}");
                }
                1 => {
                    let asked = ask(&link, Method::GET, "/wait", &no_body);
                    tokio::select! {
                        // One that goes on when another has left is answered.
                        asked = asked => assert_eq!(asked.unwrap().0.status(), StatusCode::OK),
                        () = tokio::task::yield_now() => peer.go_on.add_permits(1),
                    }
                }
                _ => assert_eq!(get(&link, "/large").await.1.len(), 300_000),
            }
        }
    }
    let pair = pair();
    let link = Arc::new(pair.link);
    let all = (0..8).map(|seed| tokio::spawn(asks(link.clone(), pair.peer.clone(), seed)));
    let all: Vec<_> = all.collect();
    for one in all {
        one.await.unwrap();
    }
    drop(link);
    pair.server.await.unwrap().unwrap();
    tasks_are(0).await;
}
