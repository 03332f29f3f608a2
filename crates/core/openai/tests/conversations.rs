//! Conversations as Claude Code and Codex send them, and what is asked of the model.

use serde_json::{Value, json};
use tyndall_openai::{parse_count_tokens, parse_messages, parse_responses};
use tyndall_types::ToolChoice;

fn call(id: &str, name: &str, arguments: &str) -> Value {
    json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}})
}

#[test]
fn claude_code() {
    let body = include_bytes!("fixtures/claude_code.json");
    let request = parse_messages(body).unwrap();
    assert_eq!(
        Value::from(request.messages.clone()),
        json!([
            {"role": "system", "content": "You are a command line tool.\nAnswer briefly."},
            {"role": "user", "content": [
                {"type": "text", "text": "<system-reminder>\nToday is a Monday.\n</system-reminder>"},
                {"type": "text", "text": "What does main.rs print?"},
            ]},
            {"role": "assistant", "content": "I look.",
             "reasoning": "I read the file and look around.",
             "tool_calls": [
                call("toolu_1", "Read", r#"{"file_path":"/src/main.rs"}"#),
                call("toolu_2", "Bash", r#"{"command":"ls","timeout":5}"#),
             ]},
            {"role": "tool", "tool_call_id": "toolu_1",
             "content": "fn main() { println!(\"hi\"); }"},
            {"role": "tool", "tool_call_id": "toolu_2",
             "content": "Error: ls: not found\n\nThe file was changed since."},
            {"role": "assistant", "content": "It prints hi."},
            {"role": "user", "content": "Thanks. And lib.rs?"},
        ])
    );
    let names: Vec<&str> = request.tools.iter().map(|tool| tool.name.as_str()).collect();
    assert_eq!((names, &request.tool_choice), (vec!["Read", "Bash"], &ToolChoice::Auto));
    let shown = request.template_tools.as_ref().unwrap();
    assert_eq!(shown[1]["function"]["parameters"]["required"], json!(["command"]));
    assert_eq!(shown[1].get("cache_control"), None);
    assert_eq!(request.overrides.max_tokens, Some(32000));
    assert_eq!(request.thinking_token_budget, Some(31999));
    assert_eq!(Value::from(request.template_kwargs.clone()), json!({"enable_thinking": true}));
    assert!(request.stream && request.add_generation_prompt);
    let counted = parse_count_tokens(body).unwrap();
    assert_eq!(counted.messages, request.messages);
    assert_eq!(counted.template_tools, request.template_tools);
}

#[test]
fn the_bill_does_not_change_the_prompt() {
    let body = include_str!("fixtures/claude_code.json");
    let next = body.replace("cch=8d1c0", "cch=00000");
    assert_ne!(body, next);
    let messages = |body: &str| parse_messages(body.as_bytes()).unwrap().messages;
    assert_eq!(messages(body), messages(&next));
}

#[test]
fn codex() {
    let request = parse_responses(include_bytes!("fixtures/codex.json")).unwrap();
    let chat = &request.chat;
    assert_eq!(
        Value::from(chat.messages.clone()),
        json!([
            {"role": "system", "content": "You run in a terminal.\n\nThe file system is read-only."},
            {"role": "user",
             "content": "<environment_context><cwd>/src</cwd></environment_context>"},
            {"role": "user", "content": "Fix the typo in README.md."},
            {"role": "assistant", "content": "I search.", "reasoning": "I search it.",
             "tool_calls": [
                call("call_1", "shell", r#"{"command":["cat","README.md"]}"#),
                call("call_2", "mcp__notes__find", r#"{"text":"typo"}"#),
             ]},
            {"role": "tool", "tool_call_id": "call_1",
             "content": "{\"output\":\"teh\\n\",\"metadata\":{\"exit_code\":0}}"},
            {"role": "tool", "tool_call_id": "call_2", "content": "none"},
            {"role": "assistant", "content": null, "tool_calls": [
                call("call_3", "apply_patch",
                     r#"{"input":"*** Begin Patch\n-teh\n+the\n*** End Patch"}"#),
            ]},
            {"role": "tool", "tool_call_id": "call_3", "content": "Done"},
        ])
    );
    let names: Vec<&str> = chat.tools.iter().map(|tool| tool.name.as_str()).collect();
    assert_eq!(names, ["shell", "apply_patch", "mcp__notes__find"]);
    assert_eq!(
        Value::from(chat.template_kwargs.clone()),
        json!({"reasoning_effort": "medium", "enable_thinking": true})
    );
    assert!(chat.stream && !request.store && chat.parallel_tool_calls);
    assert_eq!((&chat.tool_choice, chat.overrides.max_tokens), (&ToolChoice::Auto, None));
}
