//! Admission, ends, aborts, failures and shutdown.

use crate::fake::{DEADLINE, Then, VOCAB, config, eventually, gated, ids, params, read, request};
use crate::fake::{FakeRunner, start};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tyndall_engine::{AddError, StepReport, StopCause, SubmitError, TokenEvent};
use tyndall_engine::{Engine, EngineConfig, EngineObserver, EngineRequest, Finished};
use tyndall_types::{FinishReason, SamplingParams};

fn start_gated(config: &EngineConfig) -> (Engine, crate::fake::Gate) {
    let (runner, gate) = gated(config);
    (Engine::start(Box::new(runner), config.clone()), gate)
}

#[tokio::test]
async fn unusable_requests_are_refused() {
    let engine = start(&EngineConfig { num_blocks: 5, ..config() });
    assert_eq!(engine.max_model_len(), 20);
    let check = |prompt: &[u32], expected: SubmitError| {
        assert_eq!(engine.submit(request(prompt, params(1))).unwrap_err(), expected);
    };
    check(&[], AddError::EmptyPrompt.into());
    check(&[1; 20], AddError::PromptTooLong { prompt: 20, max_model_len: 20 }.into());
    check(&[1; 21], AddError::PromptTooLong { prompt: 21, max_model_len: 20 }.into());
    let vocab_size = VOCAB;
    check(&[0, 61], SubmitError::TokenOutOfRange { token: 61, vocab_size });
    let (tokens, finished) = read(engine.submit(request(&[1; 19], params(5))).unwrap()).await;
    assert_eq!((tokens.len(), finished.reason), (1, FinishReason::Length));
}

#[tokio::test]
async fn the_queue_is_bounded() {
    let config = EngineConfig { max_num_seqs: 1, max_waiting: 2, ..config() };
    let (engine, gate) = start_gated(&config);
    let submit = || engine.submit(request(&[1, 2], params(3)));
    let running = submit().unwrap();
    gate.wait();
    let (second, third) = (submit().unwrap(), submit().unwrap());
    assert_eq!(submit().unwrap_err(), AddError::QueueFull { waiting: 2, max: 2 }.into());
    assert_eq!((engine.stats().running, engine.stats().waiting), (1, 2));
    // A place in the queue is free again when its request leaves before it ran.
    drop(second);
    gate.go(Then::Compute);
    gate.wait();
    let fourth = submit().unwrap();
    assert!(submit().is_err());
    gate.open();
    for stream in [running, third, fourth] {
        assert_eq!(read(stream).await.0.len(), 3);
    }
    assert_eq!(engine.stats().waiting, 0);
}

#[tokio::test]
async fn a_dropped_stream_is_not_in_the_next_step() {
    let (engine, gate) = start_gated(&config());
    let leaving = engine.submit(request(&[1, 2, 3], params(50))).unwrap();
    assert_eq!(gate.wait(), [3]);
    let staying = engine.submit(request(&[4, 5], params(3))).unwrap();
    gate.go(Then::Compute);
    assert_eq!(gate.wait(), [1, 2]);
    drop(leaving);
    gate.go(Then::Compute);
    assert_eq!(gate.wait(), [1]);
    gate.open();
    assert_eq!(read(staying).await.0.len(), 3);
    eventually("all blocks come back", || engine.stats().kv_usage == 0.0).await;
}

#[tokio::test]
async fn a_request_that_left_at_once_is_never_computed() {
    let (engine, gate) = start_gated(&config());
    let running = engine.submit(request(&[1], params(2))).unwrap();
    gate.wait();
    drop(engine.submit(request(&[2, 3], params(2))).unwrap());
    gate.go(Then::Compute);
    assert_eq!(gate.wait(), [1]);
    gate.open();
    assert_eq!(read(running).await.0.len(), 2);
}

#[tokio::test]
async fn a_reader_that_does_not_read_holds_no_one_up() {
    let engine = start(&config());
    let slow = engine.submit(request(&[1], params(100))).unwrap();
    let quick = engine.submit(request(&[2], params(100))).unwrap();
    assert_eq!(read(quick).await.0.len(), 100);
    eventually("both end", || engine.stats().running == 0).await;
    assert_eq!(read(slow).await.0.len(), 100);
}

/// The token that the fake model gives after a prompt, greedily.
async fn greedy(engine: &Engine, prompt: &[u32], num_tokens: u32) -> Vec<u32> {
    let params = SamplingParams { temperature: 0.0, ..params(num_tokens) };
    ids(&read(engine.submit(request(prompt, params)).unwrap()).await.0)
}

#[tokio::test]
async fn every_way_to_end() {
    let usual = greedy(&start(&config()), &[1, 2], 6).await;
    let (third, fourth) = (usual[2], usual[3]);
    assert!(!usual[..2].contains(&third) && !usual[..3].contains(&fourth));
    let engine = start(&EngineConfig { eos_token_ids: vec![third, fourth], ..config() });
    let base = SamplingParams { temperature: 0.0, ..params(6) };
    let check = async |params: SamplingParams, len: usize, reason, stop_token| {
        let (tokens, finished) = read(engine.submit(request(&[1, 2], params)).unwrap()).await;
        assert_eq!((tokens.len(), finished.reason), (len, reason));
        assert_eq!(finished.stop_token, stop_token);
        assert_eq!(finished.error, None);
        let is_stop = tokens.last().is_some_and(|token| token.is_stop);
        assert_eq!(is_stop, reason == FinishReason::Stop);
        tokens
    };
    let (stop, length) = (FinishReason::Stop, FinishReason::Length);
    check(base.clone(), 3, stop, None).await;
    let ignoring = SamplingParams { ignore_eos: true, ..base.clone() };
    check(ignoring.clone(), 6, length, None).await;
    let secondary = SamplingParams { stop_token_ids: vec![fourth], ..ignoring };
    check(secondary, 4, stop, Some(fourth)).await;
    // A stop token that is also the token limit is a stop.
    check(SamplingParams { max_tokens: Some(3), ..base.clone() }, 3, stop, None).await;
    check(SamplingParams { max_tokens: Some(2), ..base.clone() }, 2, length, None).await;
    check(SamplingParams { max_tokens: Some(0), ..base.clone() }, 0, length, None).await;
    let late = SamplingParams { min_tokens: 4, ..base.clone() };
    let tokens = check(SamplingParams { max_tokens: Some(4), ..late }, 4, length, None).await;
    assert!(tokens.iter().all(|token| token.id != third && token.id != fourth));
    // Without a limit of its own the context ends it.
    let unlimited = SamplingParams { max_tokens: None, ignore_eos: true, ..base };
    check(unlimited, 126, length, None).await;
}

#[tokio::test]
async fn a_failed_step_ends_its_requests_only() {
    let config = EngineConfig { max_num_seqs: 1, ..config() };
    let (engine, gate) = start_gated(&config);
    let failing = engine.submit(request(&[1, 2, 3, 4, 5], params(5))).unwrap();
    gate.wait();
    let waiting = engine.submit(request(&[1, 2, 3, 4, 5], params(5))).unwrap();
    gate.go(Then::Compute);
    gate.wait();
    gate.go(Then::Fail);
    let (tokens, finished) = read(failing).await;
    assert_eq!((tokens.len(), finished.reason), (1, FinishReason::Error));
    assert!(finished.error.unwrap().contains("told to fail"));
    gate.open();
    let (tokens, finished) = read(waiting).await;
    assert_eq!((tokens.len(), finished.reason), (5, FinishReason::Length));
    // Nothing that the failed request left behind was shared.
    assert_eq!(finished.num_cached_tokens, 0);
    assert_eq!(engine.stop_cause(), None);
}

#[tokio::test]
async fn unusable_logits_end_one_request() {
    let (engine, gate) = start_gated(&config());
    let first = engine.submit(request(&[1], params(3))).unwrap();
    gate.wait();
    let second = engine.submit(request(&[2], params(3))).unwrap();
    gate.go(Then::Compute);
    gate.wait();
    gate.go(Then::Nan { row: 0 });
    gate.open();
    let (_, finished) = read(first).await;
    assert_eq!(finished.reason, FinishReason::Error);
    assert!(finished.error.unwrap().contains("not finite"));
    assert_eq!(read(second).await.0.len(), 3);
}

#[tokio::test]
async fn a_panic_ends_everything_with_the_reason() {
    let (engine, gate) = start_gated(&EngineConfig { max_num_seqs: 1, ..config() });
    let running = engine.submit(request(&[1], params(3))).unwrap();
    gate.wait();
    let waiting = engine.submit(request(&[2], params(3))).unwrap();
    gate.go(Then::Panic);
    for stream in [running, waiting] {
        let (_, finished) = read(stream).await;
        assert_eq!(finished.reason, FinishReason::Error);
        assert!(finished.error.unwrap().contains("told to panic"));
    }
    let cause = tokio::time::timeout(DEADLINE, engine.stopped()).await.unwrap();
    assert!(matches!(&cause, StopCause::Failed { reason } if reason.contains("told to panic")));
    let refused = engine.submit(request(&[1], params(3))).unwrap_err();
    assert_eq!(refused, SubmitError::Stopped { cause });
}

#[tokio::test]
async fn shutdown_aborts_and_refuses() {
    let (engine, gate) = start_gated(&config());
    let running = engine.submit(request(&[1], params(3))).unwrap();
    gate.wait();
    engine.shutdown();
    let refused = engine.submit(request(&[1], params(3))).unwrap_err();
    assert_eq!(refused, SubmitError::Stopped { cause: StopCause::Shutdown });
    gate.open();
    let (tokens, finished) = read(running).await;
    assert_eq!((tokens.len(), finished.reason), (1, FinishReason::Abort));
    let cause = tokio::time::timeout(DEADLINE, engine.stopped()).await.unwrap();
    assert_eq!(cause, StopCause::Shutdown);
}

#[tokio::test]
async fn an_idle_engine_can_be_shut_down() {
    let engine = start(&config());
    engine.shutdown();
    let cause = tokio::time::timeout(DEADLINE, engine.stopped()).await.unwrap();
    assert_eq!(cause, StopCause::Shutdown);
}

#[tokio::test]
async fn the_engine_ends_with_its_last_handle() {
    let (engine, gate) = start_gated(&config());
    let clone = engine.clone();
    let running = engine.submit(request(&[1], params(3))).unwrap();
    gate.wait();
    drop(engine);
    gate.go(Then::Compute);
    gate.wait();
    drop(clone);
    gate.go(Then::Compute);
    let (tokens, finished) = read(running).await;
    assert_eq!((tokens.len(), finished.reason), (2, FinishReason::Abort));
    // The runner is dropped, and with it its end of the gate.
    assert_eq!(gate.seen.recv_timeout(DEADLINE), Err(RecvTimeoutError::Disconnected));
}

#[tokio::test]
async fn an_idle_engine_makes_no_steps() {
    let engine = start(&config());
    let (tokens, _) = read(engine.submit(request(&[1], params(4))).unwrap()).await;
    assert_eq!(tokens.len(), 4);
    let stats = engine.stats();
    // Another request adds its own steps and none for the time between.
    read(engine.submit(request(&[2], params(4))).unwrap()).await;
    let later = engine.stats();
    assert_eq!((stats.steps, later.steps), (4, 8));
}

#[tokio::test]
async fn a_hanging_step_ages_and_idleness_does_not() {
    let (engine, gate) = start_gated(&config());
    let age = || engine.stats().step_age;
    assert_eq!(age(), None);
    // Long after its start an engine is as young as its first request.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let submitted = Instant::now();
    let stream = engine.submit(request(&[1], params(2))).unwrap();
    let first = age().unwrap();
    assert!(first <= submitted.elapsed());
    gate.wait();
    let hanging = || age().is_some_and(|age| age > first + Duration::from_millis(50));
    eventually("a step that hangs ages", hanging).await;
    let resumed = Instant::now();
    gate.go(Then::Compute);
    gate.wait();
    assert!(age().unwrap() <= resumed.elapsed(), "the end of a step is a sign of life");
    gate.open();
    read(stream).await;
    eventually("without work there is no age", || age().is_none()).await;
}

#[tokio::test]
async fn tokens_are_counted_where_their_requests_are() {
    let config = EngineConfig { max_num_seqs: 1, ..config() };
    let log = Arc::new(Mutex::new(Log::default()));
    let (runner, gate) = gated(&config);
    let recorder = Box::new(Recorder(Arc::clone(&log)));
    let engine = Engine::start_observed(Box::new(runner), config, recorder);
    let tokens = || {
        let stats = engine.stats();
        (stats.running_tokens, stats.waiting_tokens)
    };
    let running = engine.submit(request(&[1, 2, 3], params(50))).unwrap();
    gate.wait();
    assert_eq!(tokens(), (3, 0));
    let waiting = engine.submit(request(&[4, 5], params(2))).unwrap();
    let leaving = engine.submit(request(&[4, 5, 6, 7], params(2))).unwrap();
    assert_eq!(tokens(), (3, 6));
    gate.go(Then::Compute);
    gate.wait();
    assert_eq!(tokens(), (4, 6));
    drop((running, leaving));
    gate.go(Then::Compute);
    gate.wait();
    assert_eq!(tokens(), (2, 0));
    gate.go(Then::Fail);
    read(waiting).await;
    eventually("nothing is left", || tokens() == (0, 0)).await;
    // Once when it started, and once when everything had ended.
    eventually("it rests", || log.lock().unwrap().rests == 2).await;
}

#[tokio::test]
async fn tokens_of_preempted_requests_stay_counted() {
    // Four blocks of four tokens each: two requests of thirteen tokens do not fit.
    let engine = start(&EngineConfig { num_blocks: 4, enable_prefix_cache: false, ..config() });
    let submit = |first| engine.submit(request(&[first; 5], params(8))).unwrap();
    let streams = [submit(1), submit(2)];
    for stream in streams {
        assert_eq!(read(stream).await.0.len(), 8);
    }
    assert!(engine.stats().num_preemptions > 0);
    eventually("nothing is left", || engine.stats().running_tokens == 0).await;
}

#[derive(Default)]
struct Log {
    steps: Vec<StepReport>,
    rests: usize,
    first_tokens: usize,
    next_tokens: usize,
    finished: Vec<Finished>,
}

struct Recorder(Arc<Mutex<Log>>);

impl EngineObserver for Recorder {
    fn on_step(&mut self, report: &StepReport) {
        self.0.lock().unwrap().steps.push(*report);
    }
    fn on_idle(&mut self) {
        self.0.lock().unwrap().rests += 1;
    }
    fn on_first_token(&mut self, ttft_s: f64) {
        assert!(ttft_s >= 0.0);
        self.0.lock().unwrap().first_tokens += 1;
    }
    fn on_next_token(&mut self, gap_s: f64) {
        assert!(gap_s >= 0.0);
        self.0.lock().unwrap().next_tokens += 1;
    }
    fn on_finished(&mut self, finished: &Finished) {
        self.0.lock().unwrap().finished.push(finished.clone());
    }
}

#[tokio::test]
async fn the_observer_sees_everything_once() {
    let config = config();
    let log = Arc::new(Mutex::new(Log::default()));
    let runner = Box::new(FakeRunner::new(&config));
    let recorder = Box::new(Recorder(Arc::clone(&log)));
    let engine = Engine::start_observed(runner, config, recorder);
    let (_, finished) = read(engine.submit(request(&[1, 2, 3], params(4))).unwrap()).await;
    engine.shutdown();
    engine.stopped().await;
    let log = log.lock().unwrap();
    assert_eq!((log.first_tokens, log.next_tokens), (1, 3));
    assert_eq!(log.finished, [finished]);
    let tokens: Vec<u32> = log.steps.iter().map(|step| step.num_tokens).collect();
    assert_eq!(tokens, [3, 1, 1, 1]);
    assert_eq!((log.steps[0].running, log.steps[3].running), (1, 0));
    assert!(log.steps[0].kv_usage > 0.0 && log.steps[3].kv_usage == 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_clients_at_once() {
    let engine = start(&EngineConfig { max_waiting: 1000, ..config() });
    let mut tasks = tokio::task::JoinSet::new();
    for client in 0..40_u64 {
        let engine = engine.clone();
        tasks.spawn(async move {
            for turn in 0..10_u64 {
                let prompt = [(client % 7) as u32, 1, 2];
                let request = EngineRequest { seed: client, ..request(&prompt, params(8)) };
                let mut stream = engine.submit(request).unwrap();
                if (client + turn) % 3 == 0 {
                    assert!(matches!(stream.next().await, Some(TokenEvent::Prompt(_))));
                    assert!(matches!(stream.next().await, Some(TokenEvent::Token(_))));
                } else {
                    assert_eq!(read(stream).await.0.len(), 8);
                }
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    eventually("nothing is left", || {
        let stats = engine.stats();
        stats.running == 0 && stats.waiting == 0 && stats.kv_usage == 0.0
    })
    .await;
}
