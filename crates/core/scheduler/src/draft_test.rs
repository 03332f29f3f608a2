//! Tokens tried in advance: whose blocks they take, and what is left of them.

use crate::cost::StepWork;
use crate::{Appended, NewSequence, Row, Scheduler, SchedulerConfig, SeqId, Speculation};

fn config() -> SchedulerConfig {
    SchedulerConfig {
        block_size: 4,
        num_blocks: 16,
        max_model_len: 64,
        max_num_seqs: 4,
        max_num_batched_tokens: 32,
        max_waiting: 8,
        enable_prefix_cache: true,
        max_prefill_percent: None,
        speculation: Speculation::Auto,
    }
}

/// A scheduler that has learned that a draft costs nothing.
fn scheduler(config: SchedulerConfig) -> Scheduler {
    let mut scheduler = Scheduler::new(config);
    for drafts in [0, 4] {
        scheduler.cost.observe(&StepWork { rows: 1, drafts, ..StepWork::default() }, 1.0);
    }
    scheduler
}

/// Schedules and computes a step.
fn compute(scheduler: &mut Scheduler) -> Vec<Row> {
    scheduler.schedule();
    let rows = scheduler.output().rows.clone();
    scheduler.complete_step();
    scheduler.observe_step(1.0);
    rows
}

/// A sequence `1 2 1 2 … 1` of which everything but the last token is computed.
fn repetitive(scheduler: &mut Scheduler, len: u32, max_new_tokens: u32) -> SeqId {
    let prompt = (0..len - 1).map(|i| 1 + i % 2).collect();
    let max_new_tokens = Some(1 + max_new_tokens);
    let id =
        scheduler.add(NewSequence { prompt, max_new_tokens, ..NewSequence::default() }).unwrap();
    let rows = compute(scheduler);
    assert_eq!((rows.len(), rows[0].num_drafts), (1, 0), "prompts have no drafts");
    scheduler.append(id, 1 + (len - 1) % 2).unwrap();
    id
}

fn next_of(scheduler: &Scheduler, id: SeqId) -> u32 {
    1 + u32::try_from(scheduler.tokens(id).unwrap().len()).unwrap() % 2
}

#[test]
fn a_loop_is_tried_in_advance_and_accepted() {
    let mut scheduler = scheduler(config());
    let id = repetitive(&mut scheduler, 9, 30);
    let rows = compute(&mut scheduler);
    let Row { num_tokens, context_len, num_drafts, .. } = rows[0];
    assert_eq!((num_tokens, context_len, num_drafts, rows[0].num_logits()), (9, 17, 8, 9));
    assert_eq!(scheduler.output().tokens, [1, 2, 1, 2, 1, 2, 1, 2, 1]);
    for _ in 0..8 {
        let next = next_of(&scheduler, id);
        assert_eq!(scheduler.append(id, next), Some(Appended::Accepted));
    }
    let next = next_of(&scheduler, id);
    assert_eq!(scheduler.append(id, next), Some(Appended::Continues));
    assert_eq!((scheduler.num_drafted(), scheduler.num_accepted()), (8, 8));
    // The token after the last draft is the only one that is not computed.
    assert_eq!(compute(&mut scheduler)[0].own_len(), 18);
}

#[test]
fn blocks_of_rejected_drafts_are_given_back() {
    let mut scheduler = scheduler(config());
    let id = repetitive(&mut scheduler, 8, 30);
    compute(&mut scheduler);
    assert_eq!(scheduler.block_table(id).len(), 4, "16 tokens with drafts");
    assert_eq!(scheduler.append(id, 9), Some(Appended::Continues));
    let rows = compute(&mut scheduler);
    assert_eq!((rows[0].num_tokens, rows[0].context_len, rows[0].num_drafts), (1, 9, 0));
    assert_eq!(scheduler.block_table(id).len(), 3);
    assert_eq!(scheduler.pool().num_in_use(), 3);
    scheduler.finish(id).unwrap();
    assert_eq!(scheduler.pool().num_in_use(), 0);
}

/// The tokens of a prompt that are found in the prefix cache.
fn cached(scheduler: &mut Scheduler, prompt: &[u32]) -> u32 {
    let new = NewSequence { prompt: prompt.to_vec(), ..NewSequence::default() };
    let id = scheduler.add(new).unwrap();
    compute(scheduler);
    scheduler.discard(id).unwrap().num_cached_tokens
}

#[test]
fn only_tokens_that_came_are_shared() {
    let loops: Vec<u32> = (0..17).map(|i| 1 + i % 2).collect();
    // Three drafts come true and fill a block, the fourth does not.
    for (accepted, shared) in [(0, 8), (2, 8), (3, 12), (8, 16)] {
        let mut scheduler = scheduler(config());
        let id = repetitive(&mut scheduler, 9, 30);
        compute(&mut scheduler);
        for _ in 0..accepted {
            let next = next_of(&scheduler, id);
            assert_eq!(scheduler.append(id, next), Some(Appended::Accepted));
        }
        scheduler.append(id, 9).unwrap();
        scheduler.finish(id).unwrap();
        assert_eq!(cached(&mut scheduler, &loops), shared, "{accepted}");
    }
}

#[test]
fn no_more_is_tried_than_can_be_output() {
    for (max_new, drafts) in [(1, 0), (2, 1), (5, 4), (30, 8)] {
        let mut scheduler = scheduler(config());
        let id = repetitive(&mut scheduler, 9, max_new);
        let rows = compute(&mut scheduler);
        assert_eq!(rows[0].num_drafts, drafts, "{max_new}");
        let mut last = Appended::Accepted;
        while last == Appended::Accepted {
            last = scheduler.append(id, next_of(&scheduler, id)).unwrap();
        }
        assert_eq!(last == Appended::Full, max_new < 9);
    }
}

#[test]
fn drafts_take_no_block_that_someone_else_needs() {
    let lone = |num_blocks| {
        let mut scheduler = scheduler(SchedulerConfig { num_blocks, ..config() });
        repetitive(&mut scheduler, 9, 30);
        scheduler
    };
    // Three blocks hold nine tokens and three drafts; of those left, one is for the next token.
    for (num_blocks, drafts) in [(3, 2), (4, 3), (5, 7), (6, 8)] {
        let rows = compute(&mut lone(num_blocks));
        assert_eq!(rows[0].num_drafts, drafts, "{num_blocks}");
    }
    // Someone waits who does not fit: drafts stay in the sequence's own blocks.
    let mut scheduler = lone(8);
    scheduler.add(NewSequence { prompt: vec![3; 24], ..NewSequence::default() }).unwrap();
    let rows = compute(&mut scheduler);
    assert_eq!((rows.len(), rows[0].num_drafts), (1, 3));
    assert_eq!(scheduler.pool().num_in_use(), 3);
}

#[test]
fn drafts_stay_within_the_steps_tokens() {
    let mut scheduler = scheduler(SchedulerConfig { max_num_batched_tokens: 12, ..config() });
    let new = |first: u32| NewSequence {
        prompt: (0..6).map(|i| first + i % 2).collect(),
        ..NewSequence::default()
    };
    let ids = [scheduler.add(new(1)).unwrap(), scheduler.add(new(5)).unwrap()];
    for token in 0..20 {
        let rows = compute(&mut scheduler);
        assert!(scheduler.output().tokens.len() <= 12);
        assert_eq!(rows.len(), 2, "{token}");
        for (id, first) in ids.iter().zip([1, 5]) {
            scheduler.append(*id, first + token % 2).unwrap();
        }
    }
    assert!(scheduler.num_drafted() > 0);
}

#[test]
fn a_preempted_sequence_keeps_no_drafts() {
    let limits = SchedulerConfig { num_blocks: 6, enable_prefix_cache: false, ..config() };
    let mut scheduler = scheduler(limits);
    let new = |len: u32| NewSequence {
        prompt: (0..len).map(|i| 1 + i % 2).collect(),
        ..NewSequence::default()
    };
    let (old, young) = (scheduler.add(new(11)).unwrap(), scheduler.add(new(11)).unwrap());
    while scheduler.num_preempted() == 0 {
        for row in compute(&mut scheduler) {
            let mut last = Some(Appended::Accepted);
            while last == Some(Appended::Accepted) {
                last = scheduler.append(row.id, next_of(&scheduler, row.id));
            }
        }
    }
    assert!(scheduler.num_drafted() > 0);
    scheduler.finish(old).unwrap();
    let len = scheduler.tokens(young).unwrap().len() as u32;
    let rows = compute(&mut scheduler);
    assert_eq!((rows[0].id, rows[0].num_tokens, rows[0].num_drafts), (young, len, 0));
    scheduler.finish(young).unwrap();
    assert_eq!(scheduler.pool().num_in_use(), 0);
}

#[test]
fn nothing_is_tried_where_it_is_off() {
    let mut scheduler = scheduler(SchedulerConfig { speculation: Speculation::Off, ..config() });
    repetitive(&mut scheduler, 9, 30);
    assert_eq!(compute(&mut scheduler)[0].num_drafts, 0);
}
