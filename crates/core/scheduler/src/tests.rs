//! Rules of the scheduler, one situation each.

use crate::{AddError, Appended, NewSequence, Scheduler, SchedulerConfig, SeqId, Speculation};

fn config() -> SchedulerConfig {
    SchedulerConfig {
        block_size: 4,
        num_blocks: 16,
        max_model_len: 64,
        max_num_seqs: 4,
        max_num_batched_tokens: 16,
        max_waiting: 8,
        enable_prefix_cache: true,
        max_prefill_percent: None,
        speculation: Speculation::Off,
    }
}

fn prompt(first: u32, len: u32) -> NewSequence {
    NewSequence { prompt: (0..len).map(|i| first + i).collect(), ..NewSequence::default() }
}

/// Schedules and computes a step, appends a token to every row with logits, and returns
/// (slot, tokens, has logits) of each row.
fn step(scheduler: &mut Scheduler) -> Vec<(usize, u32, bool)> {
    scheduler.schedule();
    let rows = scheduler.output().rows.clone();
    scheduler.complete_step();
    for row in rows.iter().filter(|row| row.wants_logits) {
        scheduler.append(row.id, 7);
    }
    rows.iter().map(|row| (row.id.slot(), row.num_tokens, row.wants_logits)).collect()
}

#[test]
fn a_long_prompt_is_cut_and_decodes_ride_along() {
    let mut scheduler = Scheduler::new(config());
    scheduler.add(prompt(0, 3)).unwrap();
    scheduler.add(prompt(100, 20)).unwrap();
    assert_eq!(step(&mut scheduler), [(0, 3, true), (1, 13, false)]);
    assert_eq!(step(&mut scheduler), [(0, 1, true), (1, 7, true)]);
    assert_eq!(step(&mut scheduler), [(0, 1, true), (1, 1, true)]);
}

#[test]
fn the_batch_has_at_most_max_num_seqs() {
    let mut scheduler = Scheduler::new(SchedulerConfig { max_num_seqs: 2, ..config() });
    let ids: Vec<SeqId> = (0..3).map(|i| scheduler.add(prompt(i * 100, 2)).unwrap()).collect();
    assert_eq!(step(&mut scheduler).len(), 2);
    assert_eq!((scheduler.num_running(), scheduler.num_waiting()), (2, 1));
    scheduler.finish(ids[0]).unwrap();
    assert_eq!(step(&mut scheduler), [(1, 1, true), (2, 2, true)]);
}

#[test]
fn admission_waits_for_the_blocks_of_the_whole_prompt() {
    let mut scheduler = Scheduler::new(SchedulerConfig { num_blocks: 8, ..config() });
    let first = scheduler.add(prompt(0, 16)).unwrap();
    scheduler.add(prompt(100, 20)).unwrap();
    scheduler.add(prompt(200, 2)).unwrap();
    assert_eq!(step(&mut scheduler), [(0, 16, true)]);
    // Four blocks are left and the second needs five; the third does not overtake it.
    assert_eq!(step(&mut scheduler), [(0, 1, true)]);
    scheduler.finish(first).unwrap();
    assert_eq!(step(&mut scheduler), [(1, 16, false)]);
    assert_eq!(step(&mut scheduler), [(1, 4, true), (2, 2, true)]);
}

#[test]
fn the_last_one_is_preempted_and_resumes_with_its_output() {
    let mut scheduler = Scheduler::new(SchedulerConfig { num_blocks: 4, ..config() });
    let old = scheduler.add(prompt(0, 7)).unwrap();
    let new = scheduler.add(prompt(100, 7)).unwrap();
    assert_eq!(step(&mut scheduler), [(0, 7, true), (1, 7, true)]);
    assert_eq!(step(&mut scheduler), [(0, 1, true), (1, 1, true)]);
    // Both are at nine tokens now and no block is free.
    assert_eq!(step(&mut scheduler), [(0, 1, true)]);
    assert_eq!(scheduler.output().preempted, [new]);
    assert_eq!((scheduler.num_waiting(), scheduler.num_preempted()), (1, 1));
    assert!(scheduler.block_table(new).is_empty());
    assert_eq!(scheduler.tokens(new).unwrap().len(), 9);
    // Its nine tokens need three blocks; one is left while the older one runs.
    assert_eq!(step(&mut scheduler), [(0, 1, true)]);
    let summary = scheduler.finish(old).unwrap();
    assert_eq!((summary.num_output_tokens, summary.num_preemptions), (4, 0));
    scheduler.schedule();
    let admitted = scheduler.output().admitted[0];
    assert!(admitted.resumed);
    assert_eq!((admitted.num_tokens, admitted.num_cached_tokens), (9, 4));
    assert_eq!(scheduler.output().tokens, [104, 105, 106, 7, 7]);
    scheduler.complete_step();
    assert_eq!(scheduler.finish(new).unwrap().num_preemptions, 1);
}

#[test]
fn a_cached_prompt_still_computes_its_last_token() {
    for (len, cached) in [(3, 0), (4, 0), (5, 4), (8, 4), (9, 8)] {
        let mut scheduler = Scheduler::new(config());
        let first = scheduler.add(prompt(0, len)).unwrap();
        step(&mut scheduler);
        scheduler.finish(first).unwrap();
        let second = scheduler.add(prompt(0, len)).unwrap();
        assert_eq!(step(&mut scheduler), [(0, len - cached, true)], "{len} tokens");
        assert_eq!(scheduler.finish(second).unwrap().num_cached_tokens, cached);
    }
}

#[test]
fn equal_prompts_in_one_step_are_computed_once() {
    let mut scheduler = Scheduler::new(SchedulerConfig { max_num_batched_tokens: 64, ..config() });
    for _ in 0..3 {
        scheduler.add(prompt(0, 10)).unwrap();
    }
    assert_eq!(step(&mut scheduler), [(0, 10, true)]);
    assert_eq!(step(&mut scheduler), [(0, 1, true), (1, 2, true), (2, 2, true)]);
}

#[test]
fn salts_keep_caches_apart() {
    let mut scheduler = Scheduler::new(config());
    let first = scheduler.add(prompt(0, 9)).unwrap();
    step(&mut scheduler);
    scheduler.finish(first).unwrap();
    scheduler.add(NewSequence { cache_salt: b"other".to_vec(), ..prompt(0, 9) }).unwrap();
    assert_eq!(step(&mut scheduler), [(0, 9, true)]);
}

#[test]
fn a_sequence_is_full_at_its_own_limit_or_the_contexts() {
    let limits = [(Some(1), 1), (Some(3), 3), (Some(0), 1), (Some(99), 54), (None, 54)];
    for (max_new_tokens, expected) in limits {
        let mut scheduler = Scheduler::new(config());
        let new = NewSequence { max_new_tokens, ..prompt(0, 10) };
        let id = scheduler.add(new).unwrap();
        let mut outputs = 0;
        loop {
            scheduler.schedule();
            assert_eq!(scheduler.output().rows.len(), 1);
            scheduler.complete_step();
            outputs += 1;
            if scheduler.append(id, 1) == Some(Appended::Full) {
                break;
            }
        }
        assert_eq!(outputs, expected, "{max_new_tokens:?}");
        assert_eq!(scheduler.finish(id).unwrap().num_output_tokens, expected);
    }
}

#[test]
fn what_can_never_run_is_refused() {
    let check = |config: SchedulerConfig, len: u32, expected: Result<(), AddError>| {
        let mut scheduler = Scheduler::new(config);
        assert_eq!(scheduler.add(prompt(0, len)).map(|_| ()), expected, "{len} tokens");
    };
    let too_long = |prompt, max_model_len| Err(AddError::PromptTooLong { prompt, max_model_len });
    check(config(), 0, Err(AddError::EmptyPrompt));
    check(config(), 63, Ok(()));
    check(config(), 64, too_long(64, 64));
    // The cache is the limit where it is smaller than the context.
    check(SchedulerConfig { num_blocks: 3, ..config() }, 11, Ok(()));
    check(SchedulerConfig { num_blocks: 3, ..config() }, 12, too_long(12, 12));
    check(SchedulerConfig { num_blocks: 0, ..config() }, 1, too_long(1, 0));
    let full = Err(AddError::QueueFull { waiting: 0, max: 0 });
    check(SchedulerConfig { max_waiting: 0, ..config() }, 1, full);
}

#[test]
fn the_queue_is_bounded_and_preempted_sequences_do_not_count() {
    let limits = SchedulerConfig { num_blocks: 4, max_waiting: 1, ..config() };
    let mut scheduler = Scheduler::new(limits);
    let mut ids = Vec::new();
    for first in [0, 100] {
        ids.push(scheduler.add(prompt(first, 7)).unwrap());
        step(&mut scheduler);
    }
    step(&mut scheduler);
    step(&mut scheduler);
    assert_eq!(scheduler.num_preempted(), 1);
    ids.push(scheduler.add(prompt(200, 1)).unwrap());
    let error = scheduler.add(prompt(300, 1)).unwrap_err();
    assert_eq!(error, AddError::QueueFull { waiting: 1, max: 1 });
    for id in ids {
        assert!(scheduler.finish(id).is_some());
        assert!(scheduler.finish(id).is_none());
    }
    assert!(scheduler.is_idle());
    assert_eq!((scheduler.num_preempted(), scheduler.pool().num_in_use()), (0, 0));
}

#[test]
fn an_old_id_does_not_touch_the_slots_new_user() {
    let mut scheduler = Scheduler::new(config());
    let old = scheduler.add(prompt(0, 2)).unwrap();
    scheduler.finish(old).unwrap();
    let new = scheduler.add(prompt(10, 2)).unwrap();
    assert_eq!(old.slot(), new.slot());
    assert_eq!(scheduler.append(old, 1), None);
    assert_eq!(scheduler.discard(old), None);
    assert_eq!(scheduler.tokens(new), Some(&[10, 11][..]));
}

#[test]
fn blocks_of_a_failed_step_are_not_shared() {
    let mut scheduler = Scheduler::new(config());
    let bad = scheduler.add(prompt(0, 9)).unwrap();
    step(&mut scheduler);
    scheduler.schedule();
    scheduler.discard(bad).unwrap();
    scheduler.add(prompt(0, 9)).unwrap();
    assert_eq!(step(&mut scheduler), [(0, 9, true)]);
}

#[test]
fn every_running_sequence_can_have_a_token() {
    let limits = SchedulerConfig { max_num_seqs: 100, max_num_batched_tokens: 3, ..config() };
    let scheduler = Scheduler::new(limits);
    assert_eq!(scheduler.config().max_num_seqs, 3);
}
