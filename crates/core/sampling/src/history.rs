//! What a sequence contains, kept up to date token by token.

use std::collections::HashMap;
use tyndall_types::SamplingParams;

/// How often each token that occurred was output; zero for tokens of the prompt only.
#[derive(Debug)]
pub(crate) struct History {
    repetition: f32,
    frequency: f32,
    presence: f32,
    counts: Vec<(u32, u32)>,
    index: HashMap<u32, usize>,
}

impl History {
    /// `None` when the parameters ask for no penalty: nothing is then counted.
    pub(crate) fn new(params: &SamplingParams, prompt: &[u32]) -> Option<Self> {
        let repeats = params.repetition_penalty != 1.0;
        if !repeats && params.frequency_penalty == 0.0 && params.presence_penalty == 0.0 {
            return None;
        }
        let mut history = Self {
            repetition: params.repetition_penalty,
            frequency: params.frequency_penalty,
            presence: params.presence_penalty,
            counts: Vec::new(),
            index: HashMap::new(),
        };
        // The prompt matters for the repetition penalty only.
        if repeats {
            prompt.iter().for_each(|&token| _ = history.entry(token));
        }
        Some(history)
    }

    /// Counts an output token.
    pub(crate) fn push(&mut self, token: u32) {
        *self.entry(token) += 1;
    }

    /// Lowers the logits of tokens that occurred.
    pub(crate) fn penalise(&self, logits: &mut [f32]) {
        for &(token, count) in &self.counts {
            let Some(logit) = logits.get_mut(token as usize) else { continue };
            *logit = if *logit > 0.0 { *logit / self.repetition } else { *logit * self.repetition };
            *logit -= self.frequency * count as f32;
            *logit -= if count > 0 { self.presence } else { 0.0 };
        }
    }

    fn entry(&mut self, token: u32) -> &mut u32 {
        let index = *self.index.entry(token).or_insert_with(|| {
            self.counts.push((token, 0));
            self.counts.len() - 1
        });
        &mut self.counts[index].1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn penalised(params: &SamplingParams, output: &[u32]) -> Vec<f32> {
        let mut history = History::new(params, &[0, 1, 1, 99]).unwrap();
        output.iter().for_each(|&token| history.push(token));
        let mut logits = vec![2.0, -2.0, 2.0, 2.0];
        history.penalise(&mut logits);
        logits
    }

    #[test]
    fn each_penalty_has_its_own_scope() {
        let none = SamplingParams::default();
        assert!(History::new(&none, &[1]).is_none());
        let repetition = SamplingParams { repetition_penalty: 2.0, ..none.clone() };
        assert_eq!(penalised(&repetition, &[2]), [1.0, -4.0, 1.0, 2.0]);
        let frequency = SamplingParams { frequency_penalty: 0.5, ..none.clone() };
        assert_eq!(penalised(&frequency, &[2, 2, 1]), [2.0, -2.5, 1.0, 2.0]);
        let presence = SamplingParams { presence_penalty: 0.5, ..none.clone() };
        assert_eq!(penalised(&presence, &[2, 2, 1]), [2.0, -2.5, 1.5, 2.0]);
        let all = SamplingParams { repetition_penalty: 2.0, presence_penalty: 0.5, ..frequency };
        assert_eq!(penalised(&all, &[2, 2, 99]), [1.0, -4.0, -0.5, 2.0]);
    }
}
