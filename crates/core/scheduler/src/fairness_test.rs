//! Streams beside prompts, in the virtual time of machines of many speeds.

use crate::{Appended, NewSequence, Scheduler, SchedulerConfig, SeqId, Speculation};
use proptest::prelude::*;
use std::collections::HashMap;

fn config() -> SchedulerConfig {
    SchedulerConfig {
        block_size: 32,
        num_blocks: 1024,
        max_model_len: 16384,
        max_num_seqs: 64,
        max_num_batched_tokens: 512,
        max_waiting: 1000,
        enable_prefix_cache: true,
        max_prefill_percent: Some(60),
        speculation: Speculation::Off,
    }
}

/// Seconds that a machine takes.
#[derive(Debug, Clone, Copy)]
struct Machine {
    fixed: f64,
    row: f64,
    token: f64,
    pair: f64,
    /// Steps are off by up to this share, one way and the other.
    noise: f64,
}

/// Two cores that decode from memory and prefill at about 250 tokens per second.
const SMALL: Machine = Machine { fixed: 0.05, row: 0.002, token: 0.004, pair: 5e-7, noise: 0.05 };

struct Run {
    scheduler: Scheduler,
    machine: Machine,
    now: f64,
    steps: u64,
    /// Length of each step, and whether it had tokens of a prompt beside decodes.
    lengths: Vec<(f64, bool)>,
    /// When each sequence got its first token.
    first_tokens: HashMap<SeqId, f64>,
}

impl Run {
    fn new(machine: Machine, config: SchedulerConfig) -> Self {
        let scheduler = Scheduler::new(config);
        let (lengths, first_tokens) = (Vec::new(), HashMap::new());
        Self { scheduler, machine, now: 0.0, steps: 0, lengths, first_tokens }
    }

    fn add(&mut self, first: u32, len: u32, max_new_tokens: u32) -> SeqId {
        let prompt = (0..len).map(|i| first + i).collect();
        let max_new_tokens = Some(max_new_tokens);
        self.scheduler
            .add(NewSequence { prompt, max_new_tokens, ..NewSequence::default() })
            .unwrap()
    }

    fn step(&mut self) {
        self.scheduler.schedule();
        let rows = self.scheduler.output().rows.clone();
        assert!(!rows.is_empty());
        let Machine { fixed, row, token, pair, noise } = self.machine;
        let mut seconds = fixed;
        let (mut decodes, mut prefills) = (0, 0);
        for r in &rows {
            if r.num_tokens == 1 && r.wants_logits {
                decodes += 1;
                seconds += row;
            } else {
                prefills += 1;
                let n = f64::from(r.num_tokens);
                seconds += n * token + n * (f64::from(r.context_len) - n / 2.0) * pair;
            }
        }
        self.steps += 1;
        // Low-discrepancy, so the same run every time.
        let jitter = (self.steps as f64 * 0.618_034).fract() * 2.0 - 1.0;
        seconds *= 1.0 + noise * jitter;
        self.now += seconds;
        self.lengths.push((seconds, decodes > 0 && prefills > 0));
        self.scheduler.complete_step();
        for r in rows.iter().filter(|r| r.wants_logits) {
            self.first_tokens.entry(r.id).or_insert(self.now);
            if self.scheduler.append(r.id, 7) == Some(Appended::Full) {
                self.scheduler.finish(r.id).unwrap();
            }
        }
        self.scheduler.observe_step(seconds);
    }

    /// Steps until a sequence has its first token; the time it took from now.
    fn until_first_token(&mut self, id: SeqId, max_steps: usize) -> f64 {
        let begin = self.now;
        for _ in 0..max_steps {
            self.step();
            if let Some(at) = self.first_tokens.get(&id) {
                return at - begin;
            }
        }
        panic!("the prompt starves");
    }

    /// The length below which 99 of 100 steps are.
    fn p99(&self) -> f64 {
        let mut lengths: Vec<f64> = self.lengths.iter().map(|&(seconds, _)| seconds).collect();
        lengths.sort_by(f64::total_cmp);
        lengths[lengths.len() * 99 / 100]
    }
}

/// The p99 of the gaps of `streams` streams alone and beside a prompt, and the seconds that the
/// prompt took.
fn beside_a_prompt(machine: Machine, streams: u32, prompt: u32) -> (f64, f64, f64) {
    let mut run = Run::new(machine, config());
    for stream in 0..streams {
        run.add(1000 * stream, 20, 16000);
    }
    (0..100).for_each(|_| run.step());
    run.lengths.clear();
    (0..300).for_each(|_| run.step());
    let alone = run.p99();
    run.lengths.clear();
    let long = run.add(1_000_000, prompt, 1);
    let took = run.until_first_token(long, 2 * prompt as usize);
    (alone, run.p99(), took)
}

#[test]
fn an_8k_prompt_does_not_double_the_gaps() {
    for streams in [1, 4, 16] {
        let (alone, beside, took) = beside_a_prompt(SMALL, streams, 8192);
        assert!(beside < 2.0 * alone, "{streams}: {alone} {beside}");
        // Its own work, and the decodes beside it.
        let work = 8192.0 * SMALL.token + 8192.0 * 4096.0 * SMALL.pair;
        assert!(took < 4.0 * work, "{streams}: {took} {work}");
    }
}

#[test]
fn without_streams_a_prompt_gets_whole_steps() {
    let mut run = Run::new(SMALL, config());
    for prompt in 0..3 {
        let id = run.add(10_000 * prompt, 2048, 1);
        let steps = run.steps;
        run.until_first_token(id, 4);
        assert_eq!(run.steps - steps, 4);
    }
}

#[test]
fn short_prompts_pass_a_long_one_and_hold_streams_up_once() {
    let mut run = Run::new(SMALL, config());
    for stream in 0..4 {
        run.add(1000 * stream, 20, 16000);
    }
    (0..100).for_each(|_| run.step());
    let long = run.add(1_000_000, 8192, 1);
    (0..10).for_each(|_| run.step());
    run.lengths.clear();
    let short = run.add(2_000_000, 30, 1);
    let took = run.until_first_token(short, 3);
    assert!(took < 3.0 * 0.25, "{took}");
    assert!(run.lengths.iter().all(|&(seconds, _)| seconds < 0.3), "{:?}", run.lengths);
    run.until_first_token(long, 8192);
}

#[test]
fn many_short_prompts_fill_the_batch_quickly() {
    let mut run = Run::new(SMALL, config());
    let first = run.add(0, 40, 1000);
    run.until_first_token(first, 1);
    let rest: Vec<SeqId> = (1..32).map(|i| run.add(1000 * i, 40, 1000)).collect();
    run.until_first_token(rest[30], 60);
    // 31 prompts take 5 s alone; the decodes beside them some more.
    assert!(run.now < 9.0, "{}", run.now);
}

#[test]
fn decodes_are_in_every_step_whatever_came_before_them() {
    let mut run = Run::new(SMALL, SchedulerConfig { max_num_batched_tokens: 8, ..config() });
    run.add(1_000_000, 500, 5);
    run.step();
    let ids: Vec<SeqId> = (0..4).map(|i| run.add(1000 * i, 2, 400)).collect();
    while ids.iter().any(|id| !run.first_tokens.contains_key(id)) {
        run.step();
    }
    while run.scheduler.tokens(ids[0]).is_some() {
        let decoding = |id: &&SeqId| run.scheduler.tokens(**id).is_some();
        let present = ids.iter().filter(decoding).count();
        run.step();
        let rows = &run.scheduler.output().rows;
        assert_eq!(ids.iter().filter(|id| rows.iter().any(|row| row.id == **id)).count(), present);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn gaps_are_bounded_on_every_machine(
        fixed in 0.001..0.2f64,
        row_share in 0.0..0.2f64,
        token_share in 0.002..0.1f64,
        pair_share in 0.0..1e-5f64,
        streams in 1..12u32,
        prompt in 2000..9000u32,
    ) {
        // A token at the end of the longest prompt takes at most 0.2 of a step: chunks are as fine
        // as that.
        let machine = Machine {
            fixed,
            row: row_share * fixed,
            token: token_share * fixed,
            pair: pair_share * fixed,
            noise: 0.05,
        };
        let (alone, beside, _) = beside_a_prompt(machine, streams, prompt);
        // A prompt that takes no longer than a pause is no long one.
        let work = f64::from(prompt) * machine.token;
        prop_assume!(work > 1.0);
        prop_assert!(beside < 2.0 * alone, "{alone} {beside}");
    }
}
