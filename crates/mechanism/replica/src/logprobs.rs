//! Log-probabilities with the names of their tokens.

use serde_json::json;
use tyndall_engine::TokenLogprobs;
use tyndall_openai::{PromptLogprob, TokenLogprob, TopLogprob, floor_logprob};
use tyndall_text::Tokenizer;

/// How tokens are named.
#[derive(Debug, Clone)]
pub(crate) struct TokenNames {
    pub(crate) tokenizer: Tokenizer,
    /// As `token_id:N` instead of text.
    pub(crate) as_ids: bool,
}

impl TokenNames {
    /// A token and its most likely rivals.
    pub(crate) fn scored(&self, id: u32, found: &TokenLogprobs) -> TokenLogprob {
        let top = found.top.iter().map(|&(id, logprob)| TopLogprob {
            token: self.name(id),
            logprob: floor_logprob(logprob),
            bytes: self.bytes(id),
        });
        let logprob = Some(floor_logprob(found.logprob));
        TokenLogprob { logprob, top_logprobs: top.collect(), ..self.unscored(id) }
    }

    /// A token of which nothing is known.
    pub(crate) fn unscored(&self, id: u32) -> TokenLogprob {
        let (token, bytes) = (self.name(id), self.bytes(id));
        TokenLogprob { token, logprob: None, bytes, top_logprobs: Vec::new() }
    }

    /// The tokens of a prompt, of which `scores` are those of the second one and those after it.
    pub(crate) fn prompt(&self, prompt: &[u32], scores: &[TokenLogprobs]) -> Vec<PromptLogprob> {
        let entry = |id: u32, logprob: f32, rank: usize| {
            let logprob = floor_logprob(logprob);
            let token = self.tokenizer.token_text(id);
            let value = json!({"logprob": logprob, "rank": rank, "decoded_token": token});
            (id.to_string(), value)
        };
        let of = |(id, found): (&u32, &TokenLogprobs)| {
            let own = entry(*id, found.logprob, found.rank as usize);
            let top = found.top.iter().zip(1..).filter(|((other, _), _)| other != id);
            let top = top.map(|((id, logprob), rank)| entry(*id, *logprob, rank));
            Some([own].into_iter().chain(top).collect())
        };
        let scored = prompt.iter().skip(1).zip(scores).map(of);
        prompt.first().map(|_| None).into_iter().chain(scored).collect()
    }

    fn name(&self, id: u32) -> String {
        match self.as_ids {
            true => format!("token_id:{id}"),
            false => self.tokenizer.token_text(id),
        }
    }

    fn bytes(&self, id: u32) -> Vec<u8> {
        self.tokenizer.token_bytes(id).unwrap_or_default()
    }
}
