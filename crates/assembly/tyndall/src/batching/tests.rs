//! Ray's rules of batching, to the instant: time stands still until all tasks wait.

use super::*;
use crate::context::{ReplicaContext, RequestContext, Scope, multiplexed_model_id};
use futures_util::future::join_all;
use proptest::prelude::*;
use std::sync::Mutex;
use tokio::time::{Instant, advance, sleep};

type Seen = Arc<Mutex<Vec<Vec<u32>>>>;

fn options(max_batch_size: usize, wait_s: f64, max_concurrent_batches: usize) -> BatchOptions {
    BatchOptions {
        max_batch_size,
        batch_wait_timeout_s: wait_s,
        max_concurrent_batches,
        ..BatchOptions::default()
    }
}

/// Doubles after some seconds; batches are seen when they begin.
fn doubler(options: BatchOptions, seconds: f64) -> (Arc<Batcher<u32, u32>>, Seen) {
    let seen = Seen::default();
    let log = seen.clone();
    let batcher = Batcher::new(options, move |items: Vec<u32>| {
        log.lock().unwrap().push(items.clone());
        async move {
            sleep(Duration::from_secs_f64(seconds)).await;
            Ok(items.into_iter().map(|item| item * 2).collect())
        }
    });
    (Arc::new(batcher.unwrap()), seen)
}

fn call(batcher: &Arc<Batcher<u32, u32>>, item: u32) -> tokio::task::JoinHandle<Result<u32>> {
    let batcher = batcher.clone();
    tokio::spawn(async move { batcher.call(item).await })
}

/// Lets every task run until it waits.
async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_starts_when_it_is_full_or_its_first_item_has_waited() {
    let (batcher, seen) = doubler(options(3, 10.0, 1), 0.0);
    let start = Instant::now();
    let results = join_all((0..3).map(|item| batcher.call(item))).await;
    assert_eq!(results, [Ok(0), Ok(2), Ok(4)]);
    assert!(start.elapsed() < Duration::from_millis(10), "a full batch does not wait");
    let first = call(&batcher, 7);
    settle().await;
    advance(Duration::from_secs(6)).await;
    let second = call(&batcher, 8);
    settle().await;
    let start = Instant::now();
    assert_eq!((first.await.unwrap(), second.await.unwrap()), (Ok(14), Ok(16)));
    assert_eq!(start.elapsed().as_secs(), 4, "the wait counts from the first item");
    assert_eq!(*seen.lock().unwrap(), [vec![0, 1, 2], vec![7, 8]]);
}

#[tokio::test(start_paused = true)]
async fn a_size_of_one_never_waits() {
    let (batcher, _) = doubler(options(1, 1000.0, 1), 0.0);
    let start = Instant::now();
    assert_eq!(batcher.call(1).await, Ok(2));
    assert!(start.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_wait_of_nothing_takes_what_is_there() {
    let (batcher, seen) = doubler(options(4, 0.0, 1), 1.0);
    let calls: Vec<_> = (0..3).map(|item| call(&batcher, item)).collect();
    for done in join_all(calls).await {
        done.unwrap().unwrap();
    }
    assert_eq!(seen.lock().unwrap().concat(), [0, 1, 2]);
}

#[tokio::test(start_paused = true)]
async fn batches_form_ahead_and_do_not_grow_while_they_wait() {
    let (batcher, seen) = doubler(options(4, 1.0, 1), 100.0);
    let mut calls = vec![call(&batcher, 0)];
    settle().await;
    // The first batch runs from second 1 on; behind it one item per 2 seconds, each a batch.
    sleep(Duration::from_secs(2)).await;
    for item in 1..4 {
        calls.push(call(&batcher, item));
        sleep(Duration::from_secs(2)).await;
    }
    assert_eq!(*seen.lock().unwrap(), [vec![0]]);
    for done in join_all(calls).await {
        done.unwrap().unwrap();
    }
    assert_eq!(*seen.lock().unwrap(), [vec![0], vec![1], vec![2], vec![3]]);
}

#[tokio::test(start_paused = true)]
async fn so_many_batches_run_at_a_time() {
    let (batcher, seen) = doubler(options(1, 0.0, 2), 10.0);
    let calls: Vec<_> = (0..3).map(|item| call(&batcher, item)).collect();
    sleep(Duration::from_secs(5)).await;
    assert_eq!(seen.lock().unwrap().len(), 2);
    join_all(calls).await;
    assert_eq!(seen.lock().unwrap().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn sizes_are_counted_as_the_function_says() {
    let (batcher, seen) = doubler(options(10, 1.0, 1), 0.0);
    let batcher = Arc::into_inner(batcher).unwrap();
    let batcher = batcher.with_batch_size_fn(|items| {
        assert!(!items.contains(&13), "an unlucky item");
        items.iter().sum::<u32>() as usize
    });
    let batcher = Arc::new(batcher);
    let calls: Vec<_> = [11, 4, 13, 5, 3, 2].map(|item| call(&batcher, item)).into();
    let results: Vec<_> = join_all(calls).await.into_iter().map(Result::unwrap).collect();
    let too_large = results[0].clone().unwrap_err().to_string();
    assert!(too_large.starts_with("Size of item is greater than max_batch_size."), "{too_large}");
    assert!(results[2].clone().unwrap_err().to_string().contains("an unlucky item"));
    assert_eq!((&results[1], &results[3..]), (&Ok(8), &[Ok(10), Ok(6), Ok(4)][..]));
    // 4 and 5; 3 would be too much, goes to the back behind 2, and closes the batch.
    assert_eq!(*seen.lock().unwrap(), [vec![4, 5], vec![2, 3]]);
}

#[tokio::test(start_paused = true)]
async fn who_has_gone_is_left_out_before_and_only_before() {
    let (batcher, seen) = doubler(options(2, 5.0, 1), 10.0);
    let gone = call(&batcher, 1);
    settle().await;
    gone.abort();
    assert_eq!(call(&batcher, 2).await.unwrap(), Ok(4));
    assert_eq!(*seen.lock().unwrap(), [vec![2]]);

    let alone = call(&batcher, 3);
    settle().await;
    alone.abort();
    sleep(Duration::from_secs(20)).await;
    assert_eq!(seen.lock().unwrap().len(), 1, "a batch of nobody does not run");

    let (leaves, stays) = (call(&batcher, 4), call(&batcher, 5));
    sleep(Duration::from_secs(1)).await;
    leaves.abort();
    assert_eq!(stays.await.unwrap(), Ok(10), "a batch that runs goes on");
    assert_eq!(batcher.num_queued_requests(), 0);
}

#[tokio::test(start_paused = true)]
async fn errors_reach_every_caller_of_the_batch() {
    let batcher = Batcher::new(options(2, 0.0, 1), |items: Vec<u32>| async move {
        match items[0] {
            0 => Err(Error::user("no")),
            1 => Ok(vec![1, 2, 3]),
            _ => panic!("a bug"),
        }
    });
    let batcher: Batcher<u32, u32> = batcher.unwrap();
    let (a, b) = tokio::join!(batcher.call(0), batcher.call(0));
    assert_eq!((a, b), (Err(Error::user("no")), Err(Error::user("no"))));
    let (a, _) = tokio::join!(batcher.call(1), batcher.call(1));
    assert_eq!(
        a.unwrap_err().to_string(),
        "Batched function doesn't preserve batch size. The input list has length 2 but the \
         returned list has length 3."
    );
    let panicked = batcher.call(2).await.unwrap_err().to_string();
    assert_eq!(panicked, "the deployment panicked: a bug");
}

#[tokio::test(start_paused = true)]
async fn models_do_not_meet_in_a_call() {
    type Parts = Mutex<Vec<(String, Vec<u32>)>>;
    let seen = Arc::<Parts>::default();
    let log = seen.clone();
    let batcher = Batcher::new(options(4, 1.0, 1), move |items: Vec<u32>| {
        log.lock().unwrap().push((multiplexed_model_id(), items.clone()));
        async move { Ok(items) }
    });
    let batcher = batcher.unwrap();
    let of = |model: &str, item| {
        let request =
            RequestContext { multiplexed_model_id: model.into(), ..RequestContext::default() };
        Scope { request: request.into(), replica: None }.run(batcher.call(item))
    };
    let results = tokio::join!(of("a", 1), of("b", 2), of("a", 3), batcher.call(4));
    assert_eq!(results, (Ok(1), Ok(2), Ok(3), Ok(4)));
    let parts = [("a", vec![1, 3]), ("b", vec![2]), ("", vec![4])];
    assert_eq!(*seen.lock().unwrap(), parts.map(|(model, items)| (model.to_owned(), items)));
}

#[tokio::test(start_paused = true)]
async fn setters_hold_from_the_next_batch_on() {
    let (batcher, seen) = doubler(options(2, 10.0, 1), 0.0);
    let first = call(&batcher, 0);
    settle().await;
    batcher.set_max_batch_size(3).unwrap();
    batcher.set_batch_wait_timeout_s(1.0).unwrap();
    assert_eq!((batcher.max_batch_size(), batcher.batch_wait_timeout_s()), (3, 1.0));
    let second = call(&batcher, 1);
    let start = Instant::now();
    assert_eq!((first.await.unwrap(), second.await.unwrap()), (Ok(0), Ok(2)));
    assert!(start.elapsed() < Duration::from_secs(1));
    batcher.call(5).await.unwrap();
    assert_eq!(start.elapsed().as_secs(), 1);
    assert_eq!(*seen.lock().unwrap(), [vec![0, 1], vec![5]]);
    assert!(batcher.set_max_batch_size(0).is_err());
    assert!(batcher.set_batch_wait_timeout_s(-1.0).is_err());
    assert!(batcher.set_batch_wait_timeout_s(f64::NAN).is_err());
}

#[tokio::test(start_paused = true)]
async fn too_many_waiting_items_are_refused() {
    let bounded = BatchOptions { max_queued_requests: 2, ..options(1, 0.0, 1) };
    let (batcher, _) = doubler(bounded, 10.0);
    let running = call(&batcher, 0);
    settle().await;
    // One item in a formed batch, one in the queue or a batch behind it.
    let waiting = [call(&batcher, 1), call(&batcher, 2)];
    settle().await;
    let refused = batcher.call(3).await.unwrap_err();
    assert!(matches!(refused, Error::BackPressure { max_queued_requests: 2, .. }), "{refused}");
    drop(running);
    for done in join_all(waiting).await {
        done.unwrap().unwrap();
    }
    assert_eq!(batcher.num_queued_requests(), 0);
}

#[test]
fn bad_options_are_refused() {
    for bad in
        [options(0, 0.0, 1), options(1, -0.1, 1), options(1, f64::NAN, 1), options(1, 0.0, 0)]
    {
        let batcher = Batcher::new(bad, |items: Vec<u32>| async move { Ok(items) });
        assert!(matches!(batcher, Err(Error::InvalidOptions { .. })), "{bad:?}");
    }
}

#[test]
fn a_batcher_outlives_the_runtime_that_it_began_in() {
    let (batcher, _) = doubler(options(1, 0.0, 1), 0.0);
    for _ in 0..2 {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        assert_eq!(runtime.block_on(batcher.call(4)), Ok(8));
    }
    let error = futures_util::FutureExt::now_or_never(batcher.call(1)).unwrap().unwrap_err();
    assert!(error.to_string().contains("outside of a tokio runtime"), "{error}");
}

type Lists = Vec<Result<Vec<Option<u32>>>>;

fn streamer(lists: impl Fn(&[u32]) -> Lists + Send + Sync + 'static) -> StreamBatcher<u32, u32> {
    let function = move |items: Vec<u32>| stream::iter(lists(&items));
    StreamBatcher::new(options(2, 1.0, 1), function).unwrap()
}

async fn both(batcher: &StreamBatcher<u32, u32>) -> (Vec<Result<u32>>, Vec<Result<u32>>) {
    let (a, b) = (batcher.stream(1).unwrap(), batcher.stream(2).unwrap());
    tokio::join!(a.collect(), b.collect())
}

#[tokio::test(start_paused = true)]
async fn each_caller_of_a_stream_has_its_own_end() {
    let batcher = streamer(|items| {
        assert_eq!(items, [1, 2]);
        vec![Ok(vec![Some(1), Some(2)]), Ok(vec![None, Some(4)]), Ok(vec![Some(9), Some(6)])]
    });
    assert_eq!(both(&batcher).await, (vec![Ok(1)], vec![Ok(2), Ok(4), Ok(6)]));
}

#[tokio::test(start_paused = true)]
async fn errors_end_the_streams_that_are_left() {
    let failing = streamer(|_| {
        vec![Ok(vec![None, Some(2)]), Err(Error::user("no")), Ok(vec![None, Some(3)])]
    });
    assert_eq!(both(&failing).await, (vec![], vec![Ok(2), Err(Error::user("no"))]));
    let wrong = streamer(|_| vec![Ok(vec![Some(1), Some(2)]), Ok(vec![Some(1)])]);
    let (a, b) = both(&wrong).await;
    assert_eq!((a.len(), b.len()), (2, 2));
    assert!(a[1].clone().unwrap_err().to_string().contains("preserve batch size"));
    let panicking = streamer(|_| panic!("a bug"));
    assert!(both(&panicking).await.0[0].clone().unwrap_err().to_string().contains("a bug"));
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_nobody_reads_is_given_up() {
    let endless = StreamBatcher::new(options(2, 1.0, 1), |items: Vec<u32>| {
        stream::iter(0..500).map(move |n| Ok(vec![Some(n); items.len()]))
    });
    let endless = endless.unwrap();
    let unread = endless.stream(0).unwrap();
    let read: Vec<_> = endless.stream(1).unwrap().collect().await;
    assert_eq!(read.len(), 500);
    let unread: Vec<_> = unread.collect().await;
    assert_eq!(unread.len(), MAX_ITEMS_BEHIND + 1);
    assert!(matches!(unread.last(), Some(Err(Error::ReplicaUnavailable { .. }))));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whoever comes when, and whoever goes: each item that stays is answered exactly once with its
    /// own result, no batch is too large, and items keep the order in which they came.
    #[test]
    fn every_item_is_answered_once(
        size in 1_usize..6,
        wait_ms in 0_u32..20,
        concurrent in 1_usize..4,
        busy_ms in 0_u32..30,
        arrivals in prop::collection::vec((0_u64..15, any::<bool>()), 1..40),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let batches = runtime.block_on(async {
            let options = options(size, f64::from(wait_ms) / 1e3, concurrent);
            let (batcher, seen) = doubler(options, f64::from(busy_ms) / 1e3);
            let mut calls = Vec::new();
            for (item, (pause_ms, stays)) in (0_u32..).zip(arrivals) {
                sleep(Duration::from_millis(pause_ms)).await;
                let call = call(&batcher, item);
                tokio::task::yield_now().await;
                if stays { calls.push((item, call)) } else { call.abort() }
            }
            for (item, call) in calls {
                assert_eq!(call.await.unwrap(), Ok(item * 2));
                let times = seen.lock().unwrap().iter().flatten().filter(|n| **n == item).count();
                assert_eq!(times, 1);
            }
            // Whoever has gone is forgotten when the last batches would have run.
            sleep(Duration::from_secs(10)).await;
            assert_eq!(batcher.num_queued_requests(), 0);
            seen.lock().unwrap().clone()
        });
        prop_assert!(batches.iter().all(|batch| (1..=size).contains(&batch.len())));
        prop_assert!(batches.concat().is_sorted(), "{batches:?}");
    }
}

#[test]
fn functions_are_named_by_where_they_stand() {
    for (path, name) in [
        (
            "<app::Embedder as tyndall::deployment::Deployment>::start::{{closure}}",
            "Embedder::start",
        ),
        ("<a::E<b::F> as a::T>::f::{{closure}}::{{closure}}", "E::f"),
        ("app::embed::all", "embed::all"),
        ("app::tests::batches::{{closure}}", "tests::batches"),
        ("embed", "embed"),
    ] {
        assert_eq!(super::former::function_name(path), name, "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn batches_are_counted_in_a_replica() {
    let replica = ReplicaContext::of_tests();
    let scope = Scope { request: Arc::default(), replica: Some(replica.clone()) };
    let options = BatchOptions { max_batch_size: 4, ..BatchOptions::default() };
    let double = |items: Vec<u32>| async move {
        tokio::time::sleep(Duration::from_millis(40)).await;
        Ok(items.iter().map(|item| 2 * item).collect())
    };
    let batcher = scope.run(async { Batcher::new(options, double) }).await.unwrap();
    let (a, b) = tokio::join!(batcher.call(1), batcher.call(2));
    assert_eq!((a, b), (Ok(2), Ok(4)));
    // The batch is counted when its callers have their results.
    tokio::task::yield_now().await;
    let page = replica.facts.metrics.render(0);
    for (name, value) in [
        ("batches_processed_total", "1"),
        ("actual_batch_size_sum", "2.0"),
        ("batch_utilization_percent_sum", "50.0"),
        ("batch_wait_time_ms_sum", "10.0"),
        ("batch_execution_time_ms_sum", "40.0"),
        ("batch_queue_length", "0"),
    ] {
        let is_it = |line: &str| {
            let end =
                format!(",function_name=\"tests::batches_are_counted_in_a_replica\"}} {value}");
            line.starts_with(&format!("ray_serve_{name}{{")) && line.ends_with(&end)
        };
        assert!(page.lines().any(is_it), "{name} is not {value} in\n{page}");
    }
}
