//! Chat templates: any source with any conversation ends, within its fuel and without a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value, json};
use tyndall_fuzz::Choices;
use tyndall_text::{ChatInput, ChatTemplate};

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices::new(data);
    let content = match choices.below(3) {
        0 => json!("hello"),
        1 => json!([{"type": "text", "text": "hello"}]),
        _ => Value::Null,
    };
    let call = json!([{"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}]);
    let messages = vec![
        json!({"role": "system", "content": "s"}),
        json!({"role": "user", "content": content}),
        json!({"role": "assistant", "content": null, "tool_calls": call}),
        json!({"role": "tool", "content": "t", "tool_call_id": "1"}),
        json!({"role": "assistant", "content": "last"}),
    ];
    let first = choices.below(messages.len());
    let input = ChatInput {
        messages: messages[first..].to_vec(),
        add_generation_prompt: choices.flag(),
        continue_final_message: choices.flag(),
        tools: choices.flag().then(|| json!([{"type": "function", "function": {"name": "f"}}])),
        kwargs: Map::from_iter([("enable_thinking".to_owned(), choices.flag().into())]),
    };
    let template =
        ChatTemplate::new(&choices.text(), vec![("bos_token".to_owned(), "<s>".to_owned())]);
    _ = template.content_format();
    if template.check().is_ok() {
        match template.render(&input) {
            Ok(text) => assert!(text.len() < 256 << 20),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
});
