//! Ids of what an answer consists of: functions of the answer's id, so that a stream and a whole
//! answer agree.

use std::hash::{DefaultHasher, Hash, Hasher};

/// How the ids of calls look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CallIds {
    /// A prefix that each API has its own of, and 32 hexadecimal digits: `chatcmpl-tool-…` as of
    /// vLLM, `toolu_…` as of Anthropic, `call_…` as of OpenAI's responses.
    #[default]
    Long,
    /// Nine letters and digits: the templates of Mistral's models refuse all others.
    Mistral,
}

impl CallIds {
    /// Of a call in `/v1/chat/completions`; the same for the same arguments.
    #[must_use]
    pub fn id(self, answer: &str, choice: usize, call: usize) -> String {
        self.prefixed("chatcmpl-tool-", answer, choice, call)
    }

    /// The same in another API.
    pub(crate) fn prefixed(self, prefix: &str, answer: &str, choice: usize, call: usize) -> String {
        match self {
            Self::Long => format!("{prefix}{}", digest(&(answer, choice, call))),
            Self::Mistral => {
                let digits = b"abcdefghijklmnopqrstuvwxyz0123456789";
                let mut left = hash(&(answer, choice, call), 0);
                let mut next = || {
                    let digit = digits[(left % 36) as usize];
                    left /= 36;
                    char::from(digit)
                };
                (0..9).map(|_| next()).collect()
            }
        }
    }
}

/// 32 hexadecimal digits that are the same for the same value.
pub(crate) fn digest<T: Hash>(value: &T) -> String {
    format!("{:016x}{:016x}", hash(value, 0), hash(value, 1))
}

fn hash<T: Hash>(value: &T, salt: u8) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    salt.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_where_calls_do() {
        let long = CallIds::Long.prefixed("toolu_", "a", 0, 1);
        assert_eq!((long.len(), long.starts_with("toolu_")), (38, true));
        assert_eq!(long, CallIds::Long.prefixed("toolu_", "a", 0, 1));
        let all = [
            CallIds::Mistral.id("a", 0, 0),
            CallIds::Mistral.id("a", 0, 1),
            CallIds::Mistral.id("a", 1, 0),
            CallIds::Mistral.id("b", 0, 0),
        ];
        assert!(all.iter().all(|id| id.len() == 9 && id.is_ascii()));
        assert!((1..4).all(|i| !all[..i].contains(&all[i])));
    }
}
