//! Engines of models that read whole texts, over a reader that adds.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tyndall_engine::{
    EncoderEngine, EncoderText, EngineObserver, ReadError, StopCause, SubmitError, TextReader,
};
use tyndall_model::{EncoderInput, StepError};

/// No wait of a test is longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// The first tokens of each step.
type Steps = Arc<Mutex<Vec<Vec<u32>>>>;

/// Tokens in a step.
const ROOM: usize = 8;

/// The row of a text is the sum of its ids. Text 13 is an error, text 99 a panic.
struct Adder {
    steps: Steps,
    /// A step says that it begins, and waits for leave.
    gate: Option<(Sender<()>, Receiver<()>)>,
}

impl TextReader for Adder {
    fn step_len(&self, texts: &[EncoderInput<'_>]) -> usize {
        let mut tokens = 0;
        let fits = |text: &&EncoderInput<'_>| {
            tokens += text.ids.len();
            tokens <= ROOM
        };
        texts.iter().take_while(fits).count().max(usize::from(!texts.is_empty()))
    }

    fn read(&mut self, texts: &[EncoderInput<'_>]) -> Result<Vec<Vec<f32>>, StepError> {
        assert_eq!(self.step_len(texts), texts.len(), "a step holds what fits");
        if let Some((begins, leave)) = &self.gate {
            begins.send(()).expect("the test listens");
            leave.recv().expect("the test gives leave");
        }
        let first = |text: &EncoderInput<'_>| text.ids[0];
        self.steps.lock().expect("no panic inside").push(texts.iter().map(first).collect());
        if texts.iter().any(|text| text.ids[0] == 13) {
            return Err(StepError::Batch { reason: "thirteen".to_owned() });
        }
        assert!(texts.iter().all(|text| text.ids[0] != 99), "ninety-nine");
        let sum = |text: &EncoderInput<'_>| vec![text.ids.iter().sum::<u32>() as f32];
        Ok(texts.iter().map(sum).collect())
    }
}

fn text(ids: &[u32]) -> EncoderText {
    EncoderText { ids: ids.to_vec(), types: Vec::new() }
}

fn adder() -> (Adder, Steps) {
    let steps = Steps::default();
    (Adder { steps: steps.clone(), gate: None }, steps)
}

async fn rows(engine: &EncoderEngine, texts: Vec<EncoderText>) -> Result<Vec<f32>, ReadError> {
    let read = tokio::time::timeout(PATIENCE, engine.read(texts)).await.expect("an answer");
    read.map(|read| read.rows.into_iter().flatten().collect())
}

#[tokio::test]
async fn each_request_gets_its_rows_in_order() {
    let (reader, _) = adder();
    let engine = EncoderEngine::start(Box::new(reader), 64);
    // Beyond what is an error to this reader.
    let asked = (20..60u32).map(|request| {
        let engine = engine.clone();
        tokio::spawn(async move {
            let ids = |i: u32| vec![request; (1 + (request + i) % 5) as usize];
            let texts = (0..1 + request % 7).map(|i| text(&ids(i))).collect();
            let expected: Vec<f32> =
                (0..1 + request % 7).map(|i| ids(i).iter().sum::<u32>() as f32).collect();
            assert_eq!(rows(&engine, texts).await, Ok(expected));
        })
    });
    for asked in asked.collect::<Vec<_>>() {
        asked.await.expect("no panic");
    }
    assert_eq!(rows(&engine, Vec::new()).await, Ok(Vec::new()));
    let stats = engine.stats();
    assert_eq!((stats.running, stats.waiting, stats.running_tokens), (0, 0, 0));
    assert!(stats.step_age.is_none() && stats.steps > 0);
}

/// An engine whose steps wait for leave.
fn gated() -> (EncoderEngine, Steps, Receiver<()>, Sender<()>) {
    let (mut reader, steps) = adder();
    let ((begins, begun), (leave, given)) = (channel(), channel());
    reader.gate = Some((begins, given));
    (EncoderEngine::start(Box::new(reader), 4), steps, begun, leave)
}

#[tokio::test(flavor = "multi_thread")]
async fn many_texts_hold_up_a_short_request_by_one_step() {
    let (engine, steps, begun, leave) = gated();
    let long = tokio::spawn({
        let engine = engine.clone();
        async move { rows(&engine, vec![text(&[1, 1, 1, 1]); 9]).await }
    });
    begun.recv_timeout(PATIENCE).expect("the first step");
    let short = tokio::spawn({
        let engine = engine.clone();
        async move { rows(&engine, vec![text(&[2, 2])]).await }
    });
    while engine.stats().waiting == 0 {
        tokio::task::yield_now().await;
    }
    leave.send(()).expect("it waits");
    begun.recv_timeout(PATIENCE).expect("the second step");
    leave.send(()).expect("it waits");
    assert_eq!(short.await.expect("no panic"), Ok(vec![4.0]));
    // Who gives up is forgotten before the next step.
    begun.recv_timeout(PATIENCE).expect("the third step");
    long.abort();
    assert!(long.await.expect_err("aborted").is_cancelled());
    leave.send(()).expect("it waits");
    drop(leave);
    engine.shutdown();
    assert_eq!(engine.stopped().await, StopCause::Shutdown);
    let steps = steps.lock().expect("no panic inside");
    assert_eq!(*steps, [vec![1, 1], vec![1, 2], vec![1, 1]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_queue_is_bounded() {
    let (engine, _, begun, leave) = gated();
    let ask = |ids: u32| {
        let engine = engine.clone();
        tokio::spawn(async move { rows(&engine, vec![text(&[ids; ROOM])]).await })
    };
    let mut asked = vec![ask(1)];
    begun.recv_timeout(PATIENCE).expect("the first step");
    asked.extend((2..6).map(ask));
    while engine.stats().waiting < 4 {
        tokio::task::yield_now().await;
    }
    let refused = rows(&engine, vec![text(&[6])]).await.expect_err("four wait");
    assert!(matches!(refused, ReadError::Submit(SubmitError::Add(_))), "{refused}");
    (0..5).for_each(|_| leave.send(()).expect("it waits"));
    for asked in asked {
        assert!(asked.await.expect("no panic").is_ok());
    }
}

#[tokio::test]
async fn a_failed_step_fails_its_requests_and_no_other() {
    let (reader, _) = adder();
    let engine = EncoderEngine::start(Box::new(reader), 4);
    let error = rows(&engine, vec![text(&[13])]).await.expect_err("it fails");
    assert!(error.to_string().contains("thirteen"), "{error}");
    assert_eq!(rows(&engine, vec![text(&[1, 2])]).await, Ok(vec![3.0]));
    assert_eq!(engine.stats().running, 0);
}

#[tokio::test]
async fn a_panic_ends_the_engine_and_every_request() {
    let (reader, _) = adder();
    let engine = EncoderEngine::start(Box::new(reader), 4);
    let error = rows(&engine, vec![text(&[99])]).await.expect_err("it panics");
    assert!(error.to_string().contains("ninety-nine"), "{error}");
    let StopCause::Failed { reason } = engine.stopped().await else { panic!("it failed") };
    assert!(reason.contains("ninety-nine"), "{reason}");
    let refused = rows(&engine, vec![text(&[1])]).await.expect_err("it is gone");
    assert!(matches!(refused, ReadError::Submit(SubmitError::Stopped { .. })), "{refused}");
}

#[tokio::test]
async fn who_watches_hears_of_requests_and_of_rest() {
    struct Watch(Sender<&'static str>);
    impl EngineObserver for Watch {
        fn on_idle(&mut self) {
            _ = self.0.send("idle");
        }
        fn on_first_token(&mut self, seconds: f64) {
            assert!(seconds >= 0.0);
            _ = self.0.send("read");
        }
    }
    let (reader, _) = adder();
    let (sender, heard) = channel();
    let engine = EncoderEngine::start_observed(Box::new(reader), 4, Box::new(Watch(sender)));
    assert!(rows(&engine, vec![text(&[1]), text(&[2])]).await.is_ok());
    drop(engine);
    let heard: Vec<_> = heard.iter().collect();
    assert_eq!(heard, ["idle", "read", "idle"]);
}
