//! Chat templates: Jinja programs that write a conversation as a prompt.
//!
//! The result equals transformers' `apply_chat_template(tokenize=False)` byte for byte. What a
//! serving layer adds on top of that (and vLLM does too): lists of text parts are joined for
//! templates that expect strings, arguments of tool calls are parsed, and the role `developer`
//! becomes `system` for templates that do not know it.

mod content;
mod environment;
mod json;
mod methods;
mod strftime;

use std::path::Path;
use std::sync::OnceLock;

use minijinja::value::Serde;
use minijinja::{Environment, ErrorKind};
use serde_json::{Map, Value};

pub use content::ContentFormat;

use crate::config::{invalid, read_object, read_optional};
use crate::{TemplateError, TokenizerError};

/// Marks the place where a continued message ends; the space tells whether the template trims.
/// Private-use characters, which no template changes and no conversation contains.
const CONTINUE_MARK: &str = "\u{e000}\u{e0ff}\u{e000}\u{e0fe} ";

/// What a chat template is rendered with.
#[derive(Debug, Clone, Default)]
pub struct ChatInput {
    /// The messages, as objects with `role` and `content`. Keys whose value is null are dropped.
    pub messages: Vec<Value>,
    /// End with the header of an assistant message.
    pub add_generation_prompt: bool,
    /// Leave the final message open so that the model goes on with it.
    pub continue_final_message: bool,
    /// Tool definitions, a list of JSON schemas.
    pub tools: Option<Value>,
    /// More variables for the template, `documents` among them. They come before the special
    /// tokens and after the fields above.
    pub kwargs: Map<String, Value>,
}

/// The chat template of a model, or several by name.
#[derive(Debug)]
pub struct ChatTemplate {
    templates: Vec<Named>,
    /// `bos_token` and the other special tokens.
    variables: Vec<(String, String)>,
}

#[derive(Debug)]
struct Named {
    name: String,
    source: String,
    format: ContentFormat,
    /// Compiled when first used: a model that only completes prompts never pays for it.
    compiled: OnceLock<Result<Environment<'static>, TemplateError>>,
}

impl ChatTemplate {
    /// A template from its source, with the special tokens it may name (`bos_token`, …).
    #[must_use]
    pub fn new(source: &str, variables: Vec<(String, String)>) -> Self {
        Self { templates: vec![Named::new("default", source)], variables }
    }

    /// Whether content reaches the template as a string or as a list of parts.
    #[must_use]
    pub fn content_format(&self) -> ContentFormat {
        self.select(false).map_or(ContentFormat::String, |template| template.format)
    }

    /// The source of the template that is taken when there are tools.
    #[must_use]
    pub fn source(&self) -> &str {
        self.select(true).map_or("", |template| &template.source)
    }

    /// Whether the template mentions `word`, for example a variable like `enable_thinking`.
    #[must_use]
    pub fn mentions(&self, word: &str) -> bool {
        self.templates.iter().any(|template| template.source.contains(word))
    }

    /// Compiles the templates, which otherwise happens at first use.
    ///
    /// # Errors
    /// [`TemplateError::Syntax`].
    pub fn check(&self) -> Result<(), TemplateError> {
        self.templates.iter().try_for_each(|template| template.environment().map(drop))
    }

    /// Writes the conversation as the model's prompt.
    ///
    /// With several templates, `tool_use` is taken when there are tools, else `default`.
    ///
    /// # Errors
    /// The conversation does not fit the template, or the template is broken; see
    /// [`TemplateError`]. A template's own `raise_exception` gives [`TemplateError::Raised`].
    pub fn render(&self, input: &ChatInput) -> Result<String, TemplateError> {
        let template = self.select(input.tools.is_some())?;
        if input.messages.is_empty() {
            return Err(TemplateError::EmptyConversation);
        }
        if input.continue_final_message && input.add_generation_prompt {
            return Err(TemplateError::ConflictingEnd);
        }
        let mut messages = content::prepare(&input.messages, template.format, &template.source)?;
        let mut ending = None;
        if input.continue_final_message {
            ending = Some(mark_final_message(&mut messages, &template.source)?);
        }
        let mut context: Map<String, Value> = self
            .variables
            .iter()
            .map(|(name, text)| (name.clone(), text.as_str().into()))
            .collect();
        context.insert("documents".into(), Value::Null);
        context.extend(input.kwargs.clone());
        context.insert("messages".into(), Value::Array(messages));
        context.insert("tools".into(), input.tools.clone().unwrap_or_default());
        context.insert("add_generation_prompt".into(), input.add_generation_prompt.into());
        let rendered = template
            .environment()?
            .get_template(environment::NAME)
            .and_then(|template| template.render(Serde(&context)))
            .map_err(|error| render_error(&error))?;
        match ending {
            Some(text) => cut_at_mark(rendered, &text),
            None => Ok(rendered),
        }
    }

    fn select(&self, has_tools: bool) -> Result<&Named, TemplateError> {
        if let [only] = self.templates.as_slice() {
            return Ok(only);
        }
        let named = |name: &str| self.templates.iter().find(|template| template.name == name);
        let tool_use = if has_tools { named("tool_use") } else { None };
        tool_use.or_else(|| named("default")).ok_or_else(|| {
            let names: Vec<_> = self.templates.iter().map(|t| t.name.as_str()).collect();
            TemplateError::NoDefault { names: names.join(", ") }
        })
    }
}

impl Named {
    fn new(name: &str, source: &str) -> Self {
        Self {
            name: name.to_owned(),
            source: source.to_owned(),
            format: ContentFormat::of(source),
            compiled: OnceLock::new(),
        }
    }

    fn environment(&self) -> Result<&Environment<'static>, TemplateError> {
        let compiled = self.compiled.get_or_init(|| {
            environment::compile(&self.source)
                .map_err(|error| TemplateError::Syntax { reason: error.to_string() })
        });
        compiled.as_ref().map_err(Clone::clone)
    }
}

/// Finds the chat template of a model directory.
///
/// `chat_template.jinja` (with `additional_chat_templates/NAME.jinja`) comes before
/// `chat_template.json` before the key in `tokenizer_config.json`.
pub(crate) fn load_template(
    dir: &Path,
    configured: Option<Value>,
    variables: Vec<(String, String)>,
) -> Result<Option<ChatTemplate>, TokenizerError> {
    let mut templates = Vec::new();
    if let Some(source) = read_optional(&dir.join("chat_template.jinja"))? {
        templates.push(Named::new("default", &source));
    }
    for (name, path) in additional_files(dir) {
        if let Some(source) = read_optional(&path)? {
            templates.push(Named::new(&name, &source));
        }
    }
    if templates.is_empty() {
        let path = dir.join("chat_template.json");
        let from_file = read_object(&path)?.and_then(|mut keys| keys.remove("chat_template"));
        let (path, value) = match from_file {
            Some(value) => (path, Some(value)),
            None => (dir.join("tokenizer_config.json"), configured),
        };
        if let Some(value) = value {
            let reason = "\"chat_template\" is neither a string nor a list of named templates";
            templates = parse_templates(&value).ok_or_else(|| invalid(&path, reason.to_owned()))?;
        }
    }
    Ok(if templates.is_empty() { None } else { Some(ChatTemplate { templates, variables }) })
}

fn additional_files(dir: &Path) -> Vec<(String, std::path::PathBuf)> {
    let entries = std::fs::read_dir(dir.join("additional_chat_templates"));
    let paths = entries.into_iter().flatten().flatten().map(|entry| entry.path());
    let named = paths.filter(|path| path.extension().is_some_and(|extension| extension == "jinja"));
    let mut files: Vec<_> =
        named.filter_map(|path| Some((path.file_stem()?.to_str()?.to_owned(), path))).collect();
    files.sort();
    files
}

fn parse_templates(value: &Value) -> Option<Vec<Named>> {
    match value {
        Value::String(source) => Some(vec![Named::new("default", source)]),
        Value::Array(items) => items
            .iter()
            .map(|item| {
                Some(Named::new(item.get("name")?.as_str()?, item.get("template")?.as_str()?))
            })
            .collect(),
        Value::Object(items) => {
            items.iter().map(|(name, source)| Some(Named::new(name, source.as_str()?))).collect()
        }
        _ => None,
    }
}

/// Puts the mark at the end of the final message and returns the text before it.
fn mark_final_message(messages: &mut [Value], source: &str) -> Result<String, TemplateError> {
    let fail = |reason| TemplateError::Continue { reason };
    if !source.contains("content") {
        return Err(fail("the chat template does not use \"content\""));
    }
    let content = messages.last_mut().and_then(|message| message.get_mut("content"));
    let text = match content.ok_or_else(|| fail("the final message has no \"content\""))? {
        text @ Value::String(_) => text,
        Value::Array(parts) => parts
            .iter_mut()
            .rev()
            .find_map(|part| part.get_mut("text"))
            .ok_or_else(|| fail("the final message has no text to continue"))?,
        _ => return Err(fail("the content of the final message is no text")),
    };
    let original = text.as_str().unwrap_or_default().to_owned();
    *text = Value::String(format!("{original}{CONTINUE_MARK}"));
    Ok(original)
}

/// Ends the prompt where the final message ended; where the template trims it, trimmed too.
fn cut_at_mark(mut rendered: String, text: &str) -> Result<String, TemplateError> {
    let mark = CONTINUE_MARK.trim_end();
    let at = rendered.rfind(mark).filter(|_| rendered.contains(text.trim()));
    let Some(at) = at else {
        return Err(TemplateError::Continue {
            reason: "the chat template changes the final message",
        });
    };
    let keeps_spaces = rendered[at..].starts_with(CONTINUE_MARK);
    rendered.truncate(at);
    if !keeps_spaces {
        rendered.truncate(rendered.trim_end().len());
    }
    Ok(rendered)
}

fn render_error(error: &minijinja::Error) -> TemplateError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(current) = cause {
        if let Some(raised) = current.downcast_ref::<environment::Raised>() {
            return TemplateError::Raised { message: raised.0.clone() };
        }
        if let Some(inner) = current.downcast_ref::<minijinja::Error>()
            && inner.kind() == ErrorKind::OutOfFuel
        {
            return TemplateError::OutOfFuel;
        }
        cause = current.source();
    }
    TemplateError::Render { reason: error.to_string() }
}

#[cfg(test)]
mod tests;
