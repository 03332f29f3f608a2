//! Which forms a family of models writes, by what its files say.

use crate::names::{ReasoningFormat, ToolFormat};

/// What tells a family's forms.
#[derive(Clone, Copy)]
pub struct Family<'a> {
    /// `model_type` of `config.json`.
    pub model_type: &'a str,
    /// Source of the chat template.
    pub template: Option<&'a str>,
    /// Whether the tokenizer has a token of exactly this text.
    pub has_token: &'a dyn Fn(&str) -> bool,
}

/// Texts of chat templates that tell a form of calls; the first that fits counts.
const BY_TEMPLATE: &[(&str, ToolFormat)] = &[
    ("<｜DSML｜", ToolFormat::DeepseekV32),
    ("<|tool_calls_section_begin|>", ToolFormat::KimiK2),
    ("<|channel|>", ToolFormat::Harmony),
    ("<seed:tool_call>", ToolFormat::SeedOss),
    ("<minimax:tool_call>", ToolFormat::MinimaxM2),
    ("<longcat_tool_call>", ToolFormat::Longcat),
    ("<arg_key>", ToolFormat::Glm45),
    ("<function=", ToolFormat::Qwen3Coder),
    ("<|action_start|>", ToolFormat::Internlm),
    ("<|tool_call_start|>", ToolFormat::Lfm2),
    ("<function_calls>", ToolFormat::Olmo3),
    ("[TOOL_CALLS]", ToolFormat::Mistral),
    ("functools[", ToolFormat::Phi4MiniJson),
    ("<tool_calls>", ToolFormat::Jamba),
    ("<|tool_call|>", ToolFormat::Granite),
    ("<tool_call>", ToolFormat::Hermes),
];

/// Tokens that tell it where the template says nothing of calls.
const BY_TOKEN: &[(&str, ToolFormat)] = &[
    ("[TOOL_CALLS]", ToolFormat::Mistral),
    ("<｜DSML｜", ToolFormat::DeepseekV32),
    ("<｜tool▁calls▁begin｜>", ToolFormat::DeepseekV3),
    ("<|tool_calls_section_begin|>", ToolFormat::KimiK2),
    ("<|tool_call|>", ToolFormat::Granite),
    ("<tool_call>", ToolFormat::Hermes),
];

impl ToolFormat {
    /// The form of a family's calls; none if nothing tells.
    #[must_use]
    pub fn detect(family: &Family<'_>) -> Option<Self> {
        if family.model_type == "gpt_oss" {
            return Some(Self::Harmony);
        }
        let template = family.template.unwrap_or_default();
        if template.contains("<｜tool▁calls▁begin｜>") {
            let is_fenced = template.contains("```json");
            return Some(if is_fenced { Self::DeepseekV3 } else { Self::DeepseekV31 });
        }
        if let Some((_, format)) = BY_TEMPLATE.iter().find(|(text, _)| template.contains(text)) {
            return Some(*format);
        }
        let is_llama = family.model_type.starts_with("llama") || family.model_type == "mllama";
        if is_llama && family.template.is_none_or(|template| template.contains("tools")) {
            if template.contains("[func_name1(") {
                let is_llama4 = family.model_type.starts_with("llama4");
                return Some(if is_llama4 { Self::Llama4Pythonic } else { Self::Pythonic });
            }
            let has_tag = ["<|python_tag|>", "<|python_start|>"].iter().any(|t| family.has(t));
            return has_tag.then_some(Self::Llama3Json);
        }
        if family.template.is_some_and(|template| !template.contains("tool")) {
            // The template shows the model no tools.
            return None;
        }
        let by_token = BY_TOKEN.iter().find(|(token, _)| family.has(token));
        by_token.map(|(_, format)| *format)
    }
}

impl ReasoningFormat {
    /// The form of a family's reasoning; none if it does not reason or nothing tells.
    #[must_use]
    pub fn detect(family: &Family<'_>) -> Option<Self> {
        let template = family.template.unwrap_or_default();
        let says = |text: &str| template.contains(text);
        if family.model_type == "gpt_oss" || says("<|channel|>analysis") {
            return Some(Self::Harmony);
        }
        if says("[THINK]") || family.model_type.starts_with("mistral") && family.has("[THINK]") {
            return Some(Self::Mistral);
        }
        if says("<seed:think>") {
            return Some(Self::SeedOss);
        }
        if says("Here is my thought process:") || says("Here's my thought process:") {
            return Some(Self::Granite);
        }
        if says("<answer>") && says("<think>") {
            return Some(Self::HunyuanA13b);
        }
        if !says("think>") {
            return None;
        }
        if says("<|tool_calls_section_begin|>") {
            return Some(Self::KimiK2);
        }
        if family.model_type.starts_with("deepseek") && says("thinking") {
            return Some(Self::DeepseekV3);
        }
        if says("enable_thinking") {
            return Some(Self::Qwen3);
        }
        family.opens_reasoning().then_some(Self::DeepseekR1)
    }
}

impl Family<'_> {
    fn has(&self, token: &str) -> bool {
        (self.has_token)(token)
    }

    /// The template begins the model's turn with `<think>`.
    fn opens_reasoning(&self) -> bool {
        let template = self.template.unwrap_or_default();
        let turn = template.rfind("add_generation_prompt").map(|at| &template[at..]);
        turn.is_some_and(|turn| turn.contains("<think>"))
    }
}

impl std::fmt::Debug for Family<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Family").field("model_type", &self.model_type).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_tell_the_forms() {
        use ReasoningFormat as R;
        use ToolFormat as T;
        let check = |model_type: &str, template: Option<&str>, tokens: &[&str], expected| {
            let has_token = |token: &str| tokens.contains(&token);
            let family = Family { model_type, template, has_token: &has_token };
            let found = (T::detect(&family), R::detect(&family));
            assert_eq!(found, expected, "{model_type} {template:?}");
        };
        let qwen3 = "tools <tool_call>{json}</tool_call> {% if add_generation_prompt %}\
                     {% if enable_thinking is false %}<think>\n\n</think>{% endif %}{% endif %}";
        check("qwen3", Some(qwen3), &[], (Some(T::Hermes), Some(R::Qwen3)));
        let qwen3_instruct = "tools <tool_call>{% if add_generation_prompt %}assistant{% endif %}";
        check("qwen3", Some(qwen3_instruct), &["<think>"], (Some(T::Hermes), None));
        let qwq = "<tool_call> {% if add_generation_prompt %}assistant\n<think>\n{% endif %}";
        check("qwen2", Some(qwq), &[], (Some(T::Hermes), Some(R::DeepseekR1)));
        let coder = "<tool_call>\n<function=name>\n<parameter=x>";
        check("qwen3_moe", Some(coder), &[], (Some(T::Qwen3Coder), None));
        let r1 =
            "<｜tool▁calls▁begin｜> '```json' </think> {% if add_generation_prompt %}<think>\n";
        check("deepseek_v3", Some(r1), &[], (Some(T::DeepseekV3), Some(R::DeepseekR1)));
        check("qwen2", Some(r1), &[], (Some(T::DeepseekV3), Some(R::DeepseekR1)));
        let v31 = "<｜tool▁calls▁begin｜> {% if add_generation_prompt %}{% if thinking %}<think>";
        check("deepseek_v3", Some(v31), &[], (Some(T::DeepseekV31), Some(R::DeepseekV3)));
        let llama = "{% if tools %} respond with JSON \"parameters\"";
        check("llama", Some(llama), &["<|python_tag|>"], (Some(T::Llama3Json), None));
        let llama4 = "{% if tools %} [func_name1(params_name1=params_value1)]";
        check("llama4", Some(llama4), &["<|python_start|>"], (Some(T::Llama4Pythonic), None));
        check("llama", Some("no functions here"), &["<|python_tag|>"], (None, None));
        check("mistral", Some("[INST] tools"), &["[TOOL_CALLS]"], (Some(T::Mistral), None));
        let think = (Some(T::Mistral), Some(R::Mistral));
        check("mistral", None, &["[TOOL_CALLS]", "[THINK]"], think);
        check("gpt_oss", None, &[], (Some(T::Harmony), Some(R::Harmony)));
        let granite = "<|tool_call|> Here is my thought process:";
        check("granite", Some(granite), &[], (Some(T::Granite), Some(R::Granite)));
        check("gpt2", None, &[], (None, None));
        check("smollm", Some("{{ messages }}"), &["<tool_call>"], (None, None));
    }
}
