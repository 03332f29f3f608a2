//! What a request wants of a model, and whether the model has it.

use crate::ApiError;
use tyndall_types::protocol::ModelTask;

/// What the routes for models want of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Text.
    Generate,
    /// Vectors.
    Embed,
    /// Probabilities of labels.
    Classify,
    /// A number for each of several pairs of texts.
    Score,
}

impl Wanted {
    /// Whether a model that is for `task` has it. Embeddings can be compared, and a model with one
    /// label is a classifier too.
    #[must_use]
    pub fn is_had(self, task: ModelTask) -> bool {
        match self {
            Self::Generate => task == ModelTask::Generate,
            Self::Embed => task == ModelTask::Embed,
            Self::Classify => matches!(task, ModelTask::Classify | ModelTask::Score),
            Self::Score => matches!(task, ModelTask::Embed | ModelTask::Score),
        }
    }

    /// Refuses what the model does not have.
    ///
    /// # Errors
    /// As [`Wanted::refusal`].
    pub fn check(self, model: &str, task: ModelTask) -> Result<(), ApiError> {
        if self.is_had(task) { Ok(()) } else { Err(self.refusal(model, task)) }
    }

    /// 400 with the routes that a model for `task` has.
    #[must_use]
    pub fn refusal(self, model: &str, task: ModelTask) -> ApiError {
        let wanted = match self {
            Self::Generate => "generate",
            Self::Embed => "embed",
            Self::Classify => "classify",
            Self::Score => "score",
        };
        let routes = match task {
            ModelTask::Generate => {
                "/v1/chat/completions, /v1/completions, /v1/responses, /v1/messages and /generate"
            }
            ModelTask::Embed => "/v1/embeddings, /v1/score and /v1/rerank",
            ModelTask::Classify => "/classify",
            ModelTask::Score => "/v1/score, /v1/rerank and /classify",
        };
        let message =
            format!("the model {model} does not support the '{wanted}' task; it has {routes}");
        ApiError::invalid("model", message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_have_what_they_are_for() {
        let all = [ModelTask::Generate, ModelTask::Embed, ModelTask::Classify, ModelTask::Score];
        let check = |wanted: Wanted, expected: [bool; 4]| {
            assert_eq!(all.map(|task| wanted.check("m", task).is_ok()), expected, "{wanted:?}");
        };
        check(Wanted::Generate, [true, false, false, false]);
        check(Wanted::Embed, [false, true, false, false]);
        check(Wanted::Classify, [false, false, true, true]);
        check(Wanted::Score, [false, true, false, true]);
        let error = Wanted::Generate.check("org/m", ModelTask::Embed).unwrap_err();
        assert_eq!(
            (error.status, error.message.as_str()),
            (
                400,
                "the model org/m does not support the 'generate' task; it has /v1/embeddings, \
                   /v1/score and /v1/rerank"
            )
        );
    }
}
