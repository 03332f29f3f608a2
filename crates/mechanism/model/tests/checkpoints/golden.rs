//! Logits and greedy tokens equal those of the reference implementation.

use crate::common::{Golden, Sequence, argmax, cpu, fixtures, isas, load, logits_after, step};
use tyndall_model::Model;

/// All rows of the reference, and ours: prompts in one step, greedy tokens one by one.
fn rows(model: &mut Model, golden: &Golden) -> Vec<(Vec<f32>, Vec<f32>)> {
    let mut pairs = Vec::new();
    for (prompt, expected) in std::iter::zip(&golden.prompts, &golden.logits) {
        pairs.push((logits_after(model, prompt), expected.clone()));
    }
    let prompt = &golden.prompts[golden.greedy_from];
    let mut sequence = Sequence::new(prompt, 1);
    step(model, &mut [&mut sequence], &[prompt.len()]);
    for (&token, expected) in std::iter::zip(&golden.greedy_tokens, &golden.greedy) {
        sequence.tokens.push(token);
        let row = step(model, &mut [&mut sequence], &[1]).remove(0);
        pairs.push((row, expected.clone()));
    }
    pairs
}

fn check_all(suffix: &str, check: impl Fn(&str, &Golden, &[(Vec<f32>, Vec<f32>)])) {
    let names: Vec<String> = fixtures().into_iter().filter(|name| name.ends_with(suffix)).collect();
    assert!(!names.is_empty());
    for name in names {
        let golden = Golden::read(&name);
        for isa in isas() {
            let mut model = load(&name, cpu(1, isa));
            let pairs = rows(&mut model, &golden);
            check(&format!("{name} on {isa}"), &golden, &pairs);
        }
    }
}

#[test]
fn f32_logits_are_those_of_the_reference() {
    check_all("-f32", |name, golden, pairs| {
        for (row, (found, expected)) in pairs.iter().enumerate() {
            let differences = std::iter::zip(found, expected).map(|(a, b)| (a - b).abs());
            let largest = differences.fold(0.0, f32::max);
            assert!(largest <= 2e-4 * golden.sigma, "{name}: row {row} differs by {largest}");
        }
    });
}

#[test]
fn f32_greedy_tokens_are_those_of_the_reference() {
    check_all("-f32", |name, golden, pairs| {
        let after_prompt = &pairs[golden.greedy_from].0;
        let after_tokens = pairs[golden.prompts.len()..].iter().map(|(found, _)| found);
        let picks: Vec<u32> = std::iter::once(after_prompt)
            .chain(after_tokens)
            .map(|row| argmax(row) as u32)
            .take(golden.greedy_tokens.len())
            .collect();
        assert_eq!(picks, golden.greedy_tokens, "{name}");
    });
}

#[test]
fn f16_logits_agree_with_the_reference() {
    check_all("-f16", check_agreement);
}

#[test]
fn bf16_logits_agree_with_the_reference() {
    check_all("-bf16", check_agreement);
}

/// Divergence of the distributions, and the same best token wherever the reference is decided.
fn check_agreement(name: &str, _: &Golden, pairs: &[(Vec<f32>, Vec<f32>)]) {
    let mut divergences = Vec::new();
    let (mut decided, mut agreed) = (0, 0);
    for (found, expected) in pairs {
        divergences.push(divergence(expected, found));
        let best = argmax(expected);
        let others = expected.iter().enumerate().filter(|&(token, _)| token != best);
        let second = others.map(|(_, &logit)| logit).fold(f32::MIN, f32::max);
        if expected[best] - second > 0.05 {
            decided += 1;
            agreed += usize::from(argmax(found) == best);
        }
    }
    let mean = divergences.iter().sum::<f64>() / divergences.len() as f64;
    let largest = divergences.iter().copied().fold(0.0, f64::max);
    // The bound of 1e-3 is for the model; a single row of such a small one may be worse.
    let small = mean <= 1e-3 && largest <= 5e-3;
    assert!(small, "{name}: divergence {mean} in the mean, {largest} at most");
    assert!(decided > pairs.len() / 2, "{name}: the reference decides only {decided} rows");
    assert!(agreed * 100 >= decided * 99, "{name}: {agreed} of {decided} best tokens agree");
}

/// Kullback-Leibler divergence of the softmax of `q` from that of `p`.
fn divergence(p: &[f32], q: &[f32]) -> f64 {
    let (p, q) = (log_softmax(p), log_softmax(q));
    std::iter::zip(p, q).map(|(p, q)| p.exp() * (p - q)).sum()
}

fn log_softmax(row: &[f32]) -> Vec<f64> {
    let largest = f64::from(row[argmax(row)]);
    let sum: f64 = row.iter().map(|&logit| (f64::from(logit) - largest).exp()).sum();
    row.iter().map(|&logit| f64::from(logit) - largest - sum.ln()).collect()
}
