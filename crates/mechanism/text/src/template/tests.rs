use serde_json::json;

use super::*;

fn template(source: &str) -> ChatTemplate {
    ChatTemplate::new(source, vec![("bos_token".into(), "<s>".into())])
}

fn user(text: &str) -> ChatInput {
    ChatInput { messages: vec![json!({"role": "user", "content": text})], ..ChatInput::default() }
}

fn check(source: &str, input: &ChatInput, expected: Result<&str, TemplateError>) {
    assert_eq!(template(source).render(input), expected.map(str::to_owned), "{source}");
}

const SIMPLE: &str = "{% for m in messages %}[{{ m.role }}]{{ m.content }}</s>\n{% endfor %}";

#[test]
fn special_tokens_and_kwargs_are_variables() {
    let mut input = user("hi");
    let source =
        "{{ bos_token }}{{ eos_token }}{{ mood }}{{ tools is none }}{{ messages[0].content }}";
    check(source, &input, Ok("<s>Truehi"));
    input.kwargs.insert("mood".into(), "calm".into());
    input.kwargs.insert("bos_token".into(), "<b>".into());
    input.kwargs.insert("messages".into(), json!([]));
    check(source, &input, Ok("<b>calmTruehi"));
}

#[test]
fn a_template_can_refuse() {
    let source = "{{ raise_exception('roles must alternate') }}";
    let raised = TemplateError::Raised { message: "roles must alternate".into() };
    check(source, &user("hi"), Err(raised.clone()));
    let silent = template("{{ raise_exception(' ') }}").render(&user("hi")).unwrap_err();
    assert!(silent.to_string().contains("does not say why"), "{silent}");
    let nested =
        "{% macro f() %}{{ raise_exception('roles must alternate') }}{% endmacro %}{{ f() }}";
    check(nested, &user("hi"), Err(raised));
}

#[test]
fn a_template_cannot_run_forever() {
    let source =
        "{% for a in range(9999) %}{% for b in range(9999) %}{{ b }}{% endfor %}{% endfor %}";
    check(source, &user("hi"), Err(TemplateError::OutOfFuel));
    let source = "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}";
    assert!(matches!(template(source).render(&user("hi")), Err(TemplateError::Render { .. })));
}

#[test]
fn broken_templates_and_conversations_are_told_apart() {
    let broken = template("{% for m in messages %}");
    let error = broken.render(&user("hi")).unwrap_err();
    assert!(matches!(&error, TemplateError::Syntax { .. }) && !error.is_client_error(), "{error}");
    assert_eq!(broken.check(), Err(error));
    let error = template("{{ messages[0].a.b }}").render(&user("hi")).unwrap_err();
    assert!(matches!(&error, TemplateError::Render { .. }) && error.is_client_error(), "{error}");
    check(SIMPLE, &ChatInput::default(), Err(TemplateError::EmptyConversation));
}

#[test]
fn the_final_message_can_stay_open() {
    let mut input = user(" hello ");
    input.continue_final_message = true;
    check(SIMPLE, &input, Ok("[user] hello "));
    check("{{ messages[0].content | trim }}</s>", &input, Ok("hello"));
    let lost = TemplateError::Continue { reason: "the chat template changes the final message" };
    check("{{ messages[0].content | upper }}", &input, Err(lost));
    input.add_generation_prompt = true;
    check(SIMPLE, &input, Err(TemplateError::ConflictingEnd));
    input.add_generation_prompt = false;
    input.messages = vec![json!({"role": "assistant", "content": null})];
    let none = TemplateError::Continue { reason: "the final message has no \"content\"" };
    check(SIMPLE, &input, Err(none));
    let unused = TemplateError::Continue { reason: "the chat template does not use \"content\"" };
    check("{{ messages[0].role }}", &input, Err(unused));
}

#[test]
fn generation_tags_vanish_with_their_whitespace() {
    let source = "a\n  {% generation %}\nb  \n{%- endgeneration -%}\n c";
    check(source, &user("hi"), Ok("a\nbc"));
    check("{%-generation-%}x{% endgeneration %}{{ '{% x' }}", &user("hi"), Ok("x{% x"));
    // A tag that is none, and one without an end.
    for broken in ["{%}", "{%}{% %i ", "{% generation"] {
        assert!(template(broken).check().is_err(), "{broken}");
    }
}

fn load(files: &[(&str, &str)]) -> Result<Option<ChatTemplate>, TokenizerError> {
    let dir = tempfile::tempdir().unwrap();
    let mut configured = None;
    for (name, text) in files {
        if *name == "key" {
            configured = Some(serde_json::from_str(text).unwrap());
            continue;
        }
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    load_template(dir.path(), configured, Vec::new())
}

#[test]
fn files_come_before_the_configured_key() {
    let check = |files: &[(&str, &str)], tools: bool, expected: &str| {
        let tools = tools.then(|| json!([]));
        let rendered = load(files).unwrap().unwrap().render(&ChatInput { tools, ..user("hi") });
        assert_eq!(rendered.as_deref(), Ok(expected));
    };
    let key = ("key", r#""from key""#);
    let json = ("chat_template.json", r#"{"chat_template": "from json"}"#);
    let jinja = ("chat_template.jinja", "from jinja");
    check(&[key], false, "from key");
    check(&[key, json], false, "from json");
    check(&[key, json, jinja], false, "from jinja");
    let extra = ("additional_chat_templates/tool_use.jinja", "with tools");
    check(&[jinja, extra], false, "from jinja");
    check(&[jinja, extra], true, "with tools");
    let list = r#"[{"name":"default","template":"plain"},{"name":"tool_use","template":"tools"}]"#;
    check(&[("key", list)], false, "plain");
    check(&[("key", list)], true, "tools");
    assert!(load(&[]).unwrap().is_none());
}

#[test]
fn unusable_template_files_are_errors() {
    let error = load(&[("chat_template.json", r#"{"chat_template": 3}"#)]).unwrap_err().to_string();
    assert!(error.contains("chat_template.json"), "{error}");
    let list = r#"[{"name":"a","template":"x"},{"name":"b","template":"y"}]"#;
    let error = load(&[("key", list)]).unwrap().unwrap().render(&user("hi")).unwrap_err();
    assert_eq!(error, TemplateError::NoDefault { names: "a, b".into() });
}
