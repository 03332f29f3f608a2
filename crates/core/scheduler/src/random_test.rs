//! Random traffic: limits hold, blocks hold the right tokens, everyone finishes in turn.

use crate::speculation::MAX_STEP_DRAFTS;
use crate::{AddError, Appended, NewSequence, Row, Scheduler, SchedulerConfig, SeqId, Speculation};
use proptest::prelude::*;
use std::collections::HashMap;

#[derive(Debug, Clone)]
struct Arrival {
    /// Steps after the previous arrival.
    delay: u8,
    prompt: Vec<u32>,
    outputs: u32,
    /// Output tokens after which the client goes away.
    abort_after: Option<u32>,
}

fn arrival() -> impl Strategy<Value = Arrival> {
    // Two tokens only, so that prompts share prefixes.
    let prompt = prop::collection::vec(0..2u32, 1..40);
    (0..4u8, prompt, 1..30u32, prop::option::weighted(0.2, 0..6u32)).prop_map(
        |(delay, prompt, outputs, abort_after)| Arrival { delay, prompt, outputs, abort_after },
    )
}

fn config() -> impl Strategy<Value = SchedulerConfig> {
    let sizes = (1..6u32, 4..24u32, 8..80u32, 1..6u32, 1..40u32);
    let speculation =
        prop::sample::select(&[Speculation::Off, Speculation::Auto, Speculation::Always][..]);
    let ways = (any::<bool>(), prop::option::of(1..200u32), speculation);
    (sizes, ways).prop_map(
        |((block_size, num_blocks, max_model_len, max_num_seqs, budget), ways)| {
            let (enable_prefix_cache, max_prefill_percent, speculation) = ways;
            SchedulerConfig {
                block_size,
                num_blocks,
                max_model_len,
                max_num_seqs,
                max_num_batched_tokens: budget,
                max_waiting: 1000,
                enable_prefix_cache,
                max_prefill_percent,
                speculation,
            }
        },
    )
}

struct Run {
    scheduler: Scheduler,
    arrivals: Vec<Arrival>,
    ids: HashMap<SeqId, usize>,
    /// What was written to each KV slot.
    kv: Vec<Option<u32>>,
    admitted: Vec<usize>,
    finished: usize,
    num_outputs: Vec<u32>,
    /// Leading tokens of each prompt whose next one was scored.
    scored: Vec<u32>,
}

impl Run {
    fn new(config: SchedulerConfig, arrivals: Vec<Arrival>) -> Self {
        let slots = (config.num_blocks * config.block_size) as usize;
        Self {
            scheduler: Scheduler::new(config),
            num_outputs: vec![0; arrivals.len()],
            scored: vec![0; arrivals.len()],
            arrivals,
            ids: HashMap::new(),
            kv: vec![None; slots],
            admitted: Vec::new(),
            finished: 0,
        }
    }

    fn add(&mut self, index: usize) {
        let arrival = &self.arrivals[index];
        let new = NewSequence {
            prompt: arrival.prompt.clone(),
            max_new_tokens: Some(arrival.outputs),
            cache_salt: Vec::new(),
            scores_prompt: index.is_multiple_of(3),
        };
        match self.scheduler.add(new) {
            Ok(id) => assert_eq!(self.ids.insert(id, index), None),
            Err(AddError::PromptTooLong { prompt, max_model_len }) => {
                assert!(prompt >= max_model_len as usize);
                self.finished += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn step(&mut self) {
        self.scheduler.schedule();
        let output = self.scheduler.output();
        let (rows, tokens) = (output.rows.clone(), output.tokens.clone());
        let config = self.scheduler.config();
        assert!(tokens.len() <= config.max_num_batched_tokens as usize);
        assert!(rows.len() <= config.max_num_seqs as usize);
        assert!(!rows.is_empty() || self.scheduler.is_idle(), "a step without progress");
        assert!(output.preempted.is_empty() || output.admitted.is_empty());
        for admission in output.admitted.iter().filter(|admission| !admission.resumed) {
            self.admitted.push(self.ids[&admission.id]);
        }
        let mut begin = 0;
        for row in &rows {
            self.compute(row, &tokens[begin..begin + row.num_tokens as usize]);
            begin += row.num_tokens as usize;
        }
        assert_eq!(begin, tokens.len());
        // Reading comes after all writing: no row may have overwritten another's tokens.
        for row in &rows {
            self.read_back(row);
        }
        self.scheduler.complete_step();
        let prompt_logits: u32 = rows.iter().map(Row::num_prompt_logits).sum();
        let drafts: u32 = rows.iter().map(|row| row.num_drafts).sum();
        assert!(prompt_logits + drafts <= MAX_STEP_DRAFTS);
        for row in &rows {
            self.score(row);
            self.append(row);
        }
        self.scheduler.observe_step(1.0 + 0.01 * tokens.len() as f64);
    }

    fn slot(&self, id: SeqId, position: usize) -> usize {
        let block_size = self.scheduler.config().block_size as usize;
        let block = self.scheduler.block_table(id)[position / block_size] as usize;
        block * block_size + position % block_size
    }

    fn compute(&mut self, row: &Row, tokens: &[u32]) {
        assert!(row.num_tokens > 0);
        let begin = (row.context_len - row.num_tokens) as usize;
        for (offset, &token) in tokens.iter().enumerate() {
            let slot = self.slot(row.id, begin + offset);
            self.kv[slot] = Some(token);
        }
    }

    fn read_back(&self, row: &Row) {
        let tokens = self.scheduler.tokens(row.id).unwrap();
        for (position, &token) in tokens[..row.own_len() as usize].iter().enumerate() {
            let slot = self.slot(row.id, position);
            assert_eq!(self.kv[slot], Some(token), "position {position}");
        }
        assert_eq!(row.wants_logits, row.own_len() as usize == tokens.len());
        assert!(row.num_drafts == 0 || row.wants_logits);
    }

    /// Takes note of the tokens of a prompt that are scored; a preempted one begins anew.
    fn score(&mut self, row: &Row) {
        if row.wants_prompt_logits {
            let begin = row.context_len - row.num_tokens;
            let scored = &mut self.scored[self.ids[&row.id]];
            assert!(begin == 0 || begin == *scored, "{begin} after {scored}");
            *scored = begin + row.num_prompt_logits();
        }
    }

    /// Samples until a draft is wrong. The output is a loop that stumbles now and then.
    fn append(&mut self, row: &Row) {
        for _ in row.num_prompt_logits()..row.num_logits() {
            let index = self.ids[&row.id];
            self.num_outputs[index] += 1;
            let outputs = self.num_outputs[index];
            let token = if outputs.is_multiple_of(7) { 2 } else { outputs % 2 };
            match self.scheduler.append(row.id, token) {
                Some(Appended::Accepted) => {}
                Some(Appended::Full) => return self.end(row.id),
                Some(Appended::Continues) => return,
                None => panic!("it is there"),
            }
        }
    }

    fn end(&mut self, id: SeqId) {
        let index = self.ids.remove(&id).unwrap();
        let summary = self.scheduler.finish(id).unwrap();
        // Preemption never samples a token again.
        assert_eq!(summary.num_output_tokens, self.num_outputs[index]);
        // The last token of a prompt says nothing of the prompt.
        let to_score = if index.is_multiple_of(3) { summary.num_prompt_tokens - 1 } else { 0 };
        assert!(self.scored[index] == to_score || summary.num_output_tokens == 0);
        let arrival = &self.arrivals[index];
        let room = self.scheduler.config().max_model_len - summary.num_prompt_tokens;
        if arrival.abort_after.is_none() {
            assert_eq!(summary.num_output_tokens, arrival.outputs.min(room));
        }
        self.finished += 1;
    }

    fn abort_leavers(&mut self) {
        let leavers: Vec<SeqId> = self
            .ids
            .iter()
            .filter(|(_, index)| {
                self.arrivals[**index].abort_after.is_some_and(|n| n <= self.num_outputs[**index])
            })
            .map(|(id, _)| *id)
            .collect();
        leavers.into_iter().for_each(|id| self.end(id));
    }

    fn run(&mut self) {
        for index in 0..self.arrivals.len() {
            for _ in 0..self.arrivals[index].delay {
                self.step();
            }
            self.add(index);
            if index % 3 == 0 {
                self.abort_leavers();
            }
        }
        // Alone and one after the other they would need fewer steps than this.
        let limit = self.arrivals.iter().map(|a| a.prompt.len() as u32 + a.outputs).sum::<u32>();
        for _ in 0..10 * limit {
            if self.scheduler.is_idle() {
                break;
            }
            self.step();
        }
        assert_eq!(self.finished, self.arrivals.len(), "someone starves");
        assert_eq!(self.scheduler.pool().num_in_use(), 0);
        assert!(self.admitted.is_sorted(), "first admissions are in the order of arrival");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn random_traffic(config in config(), arrivals in prop::collection::vec(arrival(), 1..40)) {
        Run::new(config, arrivals).run();
    }
}
