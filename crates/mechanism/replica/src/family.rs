//! How a model's family writes thoughts and calls.

use serde_json::{Map, Value};
use std::path::Path;
use std::sync::Arc;
use tyndall_openai::{CallIds, ChatRequest};
use tyndall_parsers::{
    MessageParser, ParserOptions, ReasoningFormat, ToolFormat, UnknownParser, markers,
};
use tyndall_text::Tokenizer;

/// The forms of one model.
#[derive(Debug, Clone)]
pub(crate) struct Family {
    pub(crate) tools: Option<ToolFormat>,
    pub(crate) reasoning: Option<ReasoningFormat>,
    /// Special tokens that parsers must see, ascending.
    pub(crate) shown: Arc<[u32]>,
}

/// The parsers that a configuration names, by vLLM's names.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ParserNames<'a> {
    pub(crate) tools: Option<&'a str>,
    pub(crate) reasoning: Option<&'a str>,
}

impl Family {
    /// The forms that a configuration names, or else those that the model's files tell.
    ///
    /// # Errors
    /// A name that no parser has.
    pub(crate) fn of(
        dir: &Path,
        tokenizer: &Tokenizer,
        names: ParserNames<'_>,
    ) -> Result<Self, UnknownParser> {
        let model_type = model_type(dir);
        let template = tokenizer.chat_template().map(|template| template.source().to_owned());
        let family = tyndall_parsers::Family {
            model_type: &model_type,
            template: template.as_deref(),
            has_token: &|text| tokenizer.token_id(text).is_some(),
        };
        let tools = match names.tools {
            Some(name) => Some(ToolFormat::from_name(name)?),
            None => ToolFormat::detect(&family),
        };
        let reasoning = match names.reasoning {
            Some(name) => Some(ReasoningFormat::from_name(name)?),
            None => ReasoningFormat::detect(&family),
        };
        let ids = markers(reasoning, tools).into_iter().filter_map(|text| tokenizer.token_id(text));
        let mut shown: Vec<u32> = ids.filter(|id| tokenizer.is_special(*id)).collect();
        shown.sort_unstable();
        Ok(Self { tools, reasoning, shown: shown.into() })
    }

    /// A reader of one answer to a request whose prompt ended like this.
    pub(crate) fn parser(&self, request: &ChatRequest, prompt_opens: bool) -> MessageParser {
        MessageParser::new(ParserOptions {
            reasoning: self.reasoning,
            thinking: self.thinks(&request.template_kwargs),
            prompt_opens_reasoning: prompt_opens,
            tools: request.tools.clone(),
            choice: request.tool_choice.clone(),
            format: self.tools,
            parallel: request.parallel_tool_calls,
        })
    }

    /// Whether a request lets the model think.
    pub(crate) fn thinks(&self, kwargs: &Map<String, Value>) -> bool {
        let sent = ["enable_thinking", "thinking"].iter().find_map(|name| kwargs.get(*name));
        let default = self.reasoning.is_some_and(ReasoningFormat::thinks_by_default);
        sent.and_then(Value::as_bool).unwrap_or(default)
    }

    /// How the ids of calls look.
    pub(crate) fn call_ids(&self) -> CallIds {
        match self.tools {
            Some(ToolFormat::Mistral) => CallIds::Mistral,
            _ => CallIds::Long,
        }
    }
}

/// `model_type` of a model's configuration; empty where it has none.
fn model_type(dir: &Path) -> String {
    let config = std::fs::read(dir.join("config.json")).unwrap_or_default();
    let config: Value = serde_json::from_slice(&config).unwrap_or_default();
    config.get("model_type").and_then(Value::as_str).unwrap_or_default().to_owned()
}
