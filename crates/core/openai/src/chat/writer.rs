//! Answers to conversations in OpenAI's words.

use super::response::{
    AssistantMessage, ChatChoice, ChatChunk, ChatChunkChoice, ChatLogprobs, ChatResponse, Delta,
    FunctionDelta, FunctionView, ToolCallDelta, ToolCallView,
};
use crate::message::{Event, EventWriter, Message, MessageEnd, MessagePiece};
use crate::{ApiError, CallIds, PromptDetails, StreamOptions, TokenLogprob, Usage};
use tyndall_types::{FinishReason, MessageDelta};

/// What all parts of one answer have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatHead {
    /// `chatcmpl-…`.
    pub id: String,
    /// Unix seconds.
    pub created: u64,
    /// The public model id.
    pub model: String,
    /// Log-probabilities were asked for.
    pub logprobs: bool,
    /// Token ids were asked for.
    pub token_ids: bool,
    /// The thoughts are told.
    pub reasoning: bool,
    /// The one call was fixed by the request, which then ends with `stop`.
    pub named_call: bool,
    /// How the ids of calls look.
    pub call_ids: CallIds,
}

impl ChatHead {
    fn finish_reason(&self, end: &MessageEnd, has_calls: bool) -> &'static str {
        match end.reason {
            FinishReason::Stop if has_calls && !self.named_call => "tool_calls",
            reason => reason.as_str(),
        }
    }
}

/// The whole answer.
#[must_use]
pub fn chat_response(
    head: ChatHead,
    messages: Vec<Message>,
    prompt: PromptDetails,
    usage: Usage,
) -> ChatResponse {
    let messages = messages.into_iter().enumerate();
    let choices = messages.map(|(index, message)| choice(&head, index, message)).collect();
    ChatResponse {
        id: head.id,
        object: "chat.completion",
        created: head.created,
        model: head.model,
        choices,
        service_tier: None,
        system_fingerprint: None,
        usage,
        prompt_logprobs: prompt.logprobs,
        prompt_token_ids: prompt.token_ids,
    }
}

fn choice(head: &ChatHead, index: usize, message: Message) -> ChatChoice {
    let finish_reason = head.finish_reason(&message.end, !message.tool_calls.is_empty());
    let call = |(number, call): (usize, crate::ToolCall)| ToolCallView {
        id: head.call_ids.id(&head.id, index, number),
        kind: "function",
        function: FunctionView { name: call.name, arguments: call.arguments },
    };
    let reasoning = message.reasoning.filter(|_| head.reasoning);
    // A message that neither thinks nor calls has a content, if an empty one.
    let says_nothing = reasoning.is_none() && message.tool_calls.is_empty();
    ChatChoice {
        index: index as u32,
        message: AssistantMessage {
            role: "assistant",
            content: message.content.or_else(|| says_nothing.then(String::new)),
            refusal: None,
            annotations: None,
            audio: None,
            function_call: None,
            reasoning_content: reasoning.clone(),
            reasoning,
            tool_calls: message.tool_calls.into_iter().enumerate().map(call).collect(),
        },
        logprobs: head.logprobs.then_some(ChatLogprobs { content: message.logprobs }),
        finish_reason: Some(finish_reason),
        stop_reason: message.end.stop,
        token_ids: head.token_ids.then_some(message.token_ids),
    }
}

/// A stream of answers.
#[derive(Debug)]
pub struct ChatWriter {
    head: ChatHead,
    options: StreamOptions,
    /// Whether each answer has called.
    has_calls: Vec<bool>,
}

impl ChatWriter {
    /// Of so many answers.
    #[must_use]
    pub fn new(head: ChatHead, options: StreamOptions, num_answers: usize) -> Self {
        Self { head, options, has_calls: vec![false; num_answers] }
    }

    fn chunk(&self, choices: Vec<ChatChunkChoice>, usage: Option<Usage>) -> Event {
        let ChatHead { id, model, created, .. } = &self.head;
        let object = "chat.completion.chunk";
        Event::of(&ChatChunk { id, object, created: *created, model, choices, usage })
    }

    fn delta(&mut self, index: usize, delta: MessageDelta) -> Option<Delta> {
        let none = Delta::default();
        let call = |index, id, name: Option<String>, arguments| ToolCallDelta {
            index,
            kind: name.as_ref().map(|_| "function"),
            id,
            function: FunctionDelta { name, arguments },
        };
        Some(match delta {
            MessageDelta::Reasoning(text) if self.head.reasoning => {
                Delta { reasoning: Some(text.clone()), reasoning_content: Some(text), ..none }
            }
            MessageDelta::Reasoning(_) => return None,
            MessageDelta::Content(text) => Delta { content: Some(text), ..none },
            MessageDelta::ToolCall { index: number, name } => {
                self.has_calls[index] = true;
                let id = self.head.call_ids.id(&self.head.id, index, number as usize);
                let call = call(number, Some(id), Some(name), String::new());
                Delta { tool_calls: vec![call], ..none }
            }
            MessageDelta::Arguments { index: number, fragment } => {
                Delta { tool_calls: vec![call(number, None, None, fragment)], ..none }
            }
        })
    }
}

fn chunk_choice(index: usize, delta: Delta) -> ChatChunkChoice {
    ChatChunkChoice {
        index: index as u32,
        delta,
        logprobs: None,
        finish_reason: None,
        stop_reason: None,
        token_ids: Vec::new(),
    }
}

impl EventWriter for ChatWriter {
    fn begin(&mut self, _: &Usage) -> Vec<Event> {
        let role = |index| {
            let delta = Delta { role: Some("assistant"), ..Delta::default() };
            let delta = Delta { content: Some(String::new()), ..delta };
            self.chunk(vec![chunk_choice(index, delta)], None)
        };
        (0..self.has_calls.len()).map(role).collect()
    }

    fn piece(&mut self, index: usize, piece: MessagePiece, usage: &Usage) -> Vec<Event> {
        let deltas = piece.deltas.into_iter().filter_map(|delta| self.delta(index, delta));
        let mut choices: Vec<_> = deltas.map(|delta| chunk_choice(index, delta)).collect();
        let logprobs: Vec<TokenLogprob> =
            if self.head.logprobs { piece.logprobs } else { Vec::new() };
        let token_ids = if self.head.token_ids { piece.token_ids } else { Vec::new() };
        if choices.is_empty() && !(logprobs.is_empty() && token_ids.is_empty()) {
            let delta = Delta { content: Some(String::new()), ..Delta::default() };
            choices.push(chunk_choice(index, delta));
        }
        if let Some(first) = choices.first_mut() {
            first.logprobs = (!logprobs.is_empty()).then_some(ChatLogprobs { content: logprobs });
            first.token_ids = token_ids;
        }
        if let Some(end) = piece.end {
            let mut last = chunk_choice(index, Delta::default());
            last.finish_reason = Some(self.head.finish_reason(&end, self.has_calls[index]));
            last.stop_reason = end.stop;
            choices.push(last);
        }
        let usage = self.options.continuous_usage_stats.then_some(usage.so_far());
        choices.into_iter().map(|choice| self.chunk(vec![choice], usage)).collect()
    }

    fn end(&mut self, usage: &Usage) -> Vec<Event> {
        let last = self.options.include_usage.then(|| self.chunk(Vec::new(), Some(*usage)));
        last.into_iter().chain([Event::done()]).collect()
    }

    fn fail(&mut self, error: &ApiError) -> Vec<Event> {
        vec![Event::of(&error.openai_body()), Event::done()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn head() -> ChatHead {
        ChatHead {
            id: "chatcmpl-1".to_owned(),
            created: 1,
            model: "m".to_owned(),
            logprobs: false,
            token_ids: false,
            reasoning: true,
            named_call: false,
            call_ids: CallIds::Mistral,
        }
    }

    fn pieces() -> Vec<MessagePiece> {
        let of = |deltas| MessagePiece { deltas, ..MessagePiece::default() };
        let text = str::to_owned;
        let end = MessageEnd { reason: FinishReason::Stop, stop: None };
        vec![
            of(vec![MessageDelta::Reasoning(text("hm"))]),
            of(vec![
                MessageDelta::Content(text("ok")),
                MessageDelta::ToolCall { index: 0, name: text("f") },
                MessageDelta::Arguments { index: 0, fragment: text("{\"a\":") },
            ]),
            of(vec![MessageDelta::Arguments { index: 0, fragment: text("1}") }]),
            MessagePiece { end: Some(end), ..MessagePiece::default() },
        ]
    }

    fn streamed(head: ChatHead, options: StreamOptions) -> Vec<Value> {
        let mut writer = ChatWriter::new(head, options, 1);
        let usage = Usage::new(3, 4, 2);
        let mut events = writer.begin(&usage);
        for piece in pieces() {
            events.extend(writer.piece(0, piece, &usage));
        }
        events.extend(writer.end(&usage));
        let done = events.pop().unwrap();
        assert_eq!(done.to_wire(), "data: [DONE]\n\n");
        events.iter().map(|event| serde_json::from_str(&event.data).unwrap()).collect()
    }

    #[test]
    fn chunks_leave_out_what_is_not_set() {
        let mut writer = ChatWriter::new(head(), StreamOptions::default(), 1);
        assert_eq!(
            writer.begin(&Usage::default())[0].data,
            r#"{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]}"#
        );
        let error = ApiError::internal("it broke");
        let failed: Vec<_> = writer.fail(&error).iter().map(Event::to_wire).collect();
        assert_eq!(failed.len(), 2);
        assert!(failed[0].contains("it broke") && failed[1] == "data: [DONE]\n\n");
    }

    #[test]
    fn a_stream_says_what_the_whole_answer_says() {
        let options = StreamOptions { include_usage: true, continuous_usage_stats: false };
        let chunks = streamed(head(), options);
        let deltas: Vec<&Value> =
            chunks.iter().filter_map(|chunk| chunk.pointer("/choices/0/delta")).collect();
        let whole = chat_response(
            head(),
            vec![Message::of(pieces())],
            PromptDetails::default(),
            Usage::new(3, 4, 2),
        );
        let whole = serde_json::to_value(whole).unwrap();
        let message = &whole["choices"][0]["message"];
        let id = message["tool_calls"][0]["id"].as_str().unwrap();
        assert_eq!(
            (id.len(), whole["choices"][0]["finish_reason"].as_str()),
            (9, Some("tool_calls"))
        );
        assert_eq!(
            deltas,
            [
                &json!({"role": "assistant", "content": ""}),
                &json!({"reasoning": "hm", "reasoning_content": "hm"}),
                &json!({"content": "ok"}),
                &json!({"tool_calls": [{"index": 0, "id": id, "type": "function",
                        "function": {"name": "f", "arguments": ""}}]}),
                &json!({"tool_calls": [{"index": 0, "function": {"arguments": "{\"a\":"}}]}),
                &json!({"tool_calls": [{"index": 0, "function": {"arguments": "1}"}}]}),
                &json!({}),
            ]
        );
        assert_eq!(message["content"], "ok");
        assert_eq!(
            (&message["reasoning"], &message["reasoning_content"]),
            (&"hm".into(), &"hm".into())
        );
        assert_eq!(
            message["tool_calls"][0]["function"],
            json!({"name": "f", "arguments": "{\"a\":1}"})
        );
        let last = chunks.last().unwrap();
        assert_eq!((&last["choices"], &last["usage"]["total_tokens"]), (&json!([]), &json!(7)));
    }

    #[test]
    fn thoughts_can_be_left_out_and_a_named_call_ends_with_stop() {
        let quiet = ChatHead { reasoning: false, named_call: true, ..head() };
        let chunks = streamed(quiet.clone(), StreamOptions::default());
        assert!(!chunks.iter().any(|chunk| chunk.to_string().contains("hm")));
        assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "stop");
        let nothing = Message::of([]);
        let whole = chat_response(quiet, vec![nothing], PromptDetails::default(), Usage::default());
        assert_eq!(whole.choices[0].message.content.as_deref(), Some(""));
    }
}
