//! The forms of the families, one table.

use crate::calls::{Form, Grammar, Headers, Tags, Values};
use crate::names::ToolFormat;

/// How a format's calls are written; none for Harmony, which is more than calls.
#[expect(clippy::too_many_lines, reason = "one row for each format")]
pub(crate) fn grammar(format: ToolFormat) -> Option<&'static Grammar> {
    use ToolFormat as F;
    Some(match format {
        F::Harmony => return None,
        F::Hermes => &Grammar {
            open: &["<tool_call>"],
            close: &["</tool_call>"],
            form: Form::Listed { is_bare: false },
        },
        F::Longcat => &Grammar {
            open: &["<longcat_tool_call>"],
            close: &["</longcat_tool_call>"],
            form: Form::Listed { is_bare: false },
        },
        F::Jamba => &Grammar {
            open: &["<tool_calls>"],
            close: &["</tool_calls>"],
            form: Form::Listed { is_bare: false },
        },
        F::Internlm => &Grammar {
            open: &["<|action_start|><|plugin|>"],
            close: &["<|action_end|>"],
            form: Form::Listed { is_bare: false },
        },
        F::Granite => &Grammar {
            open: &["<|tool_call|>", "<tool_call>"],
            close: &[],
            form: Form::Listed { is_bare: false },
        },
        F::Granite20bFc => &Grammar {
            open: &["<function_call>"],
            close: &[],
            form: Form::Listed { is_bare: false },
        },
        F::Phi4MiniJson => {
            &Grammar { open: &["functools"], close: &[], form: Form::Listed { is_bare: false } }
        }
        F::Llama3Json => {
            &Grammar { open: &["<|python_tag|>"], close: &[], form: Form::Listed { is_bare: true } }
        }
        F::Mistral => &Grammar {
            open: &["[TOOL_CALLS]"],
            close: &[],
            form: Form::Headed(Headers {
                num_call: 1,
                end: &[],
                name: mistral_name,
                or_list: true,
            }),
        },
        F::DeepseekV3 | F::DeepseekV31 => &Grammar {
            open: &["<｜tool▁call▁begin｜>", "<｜tool▁calls▁begin｜>"],
            close: &["<｜tool▁calls▁end｜>"],
            form: Form::Headed(Headers {
                num_call: 1,
                end: &["<｜tool▁call▁end｜>"],
                name: deepseek_name,
                or_list: false,
            }),
        },
        F::KimiK2 => &Grammar {
            open: &["<|tool_call_begin|>", "<|tool_calls_section_begin|>"],
            close: &["<|tool_calls_section_end|>"],
            form: Form::Headed(Headers {
                num_call: 1,
                end: &["<|tool_call_end|>"],
                name: kimi_name,
                or_list: false,
            }),
        },
        F::Qwen3Coder => &Grammar {
            open: &["<tool_call>", "<function="],
            close: &["</tool_call>"],
            form: Form::Tagged(QWEN_TAGS),
        },
        F::SeedOss => &Grammar {
            open: &["<seed:tool_call>", "<function="],
            close: &["</seed:tool_call>"],
            form: Form::Tagged(QWEN_TAGS),
        },
        F::MinimaxM2 => &Grammar {
            open: &["<minimax:tool_call>", "<invoke name=\""],
            close: &["</minimax:tool_call>"],
            form: Form::Tagged(Tags {
                call: "<invoke name=\"",
                call_name_end: &["\">"],
                call_end: "</invoke>",
                parameter: "<parameter name=\"",
                parameter_name_end: "\">",
                value: "",
                value_end: "</parameter>",
                values: Values::SchemaOrText,
            }),
        },
        F::DeepseekV32 => &Grammar {
            open: &["<｜DSML｜function_calls>", "<｜DSML｜tool_calls>", "<｜DSML｜invoke name=\""],
            close: &["</｜DSML｜function_calls>", "</｜DSML｜tool_calls>"],
            form: Form::Tagged(Tags {
                call: "<｜DSML｜invoke name=\"",
                call_name_end: &["\">"],
                call_end: "</｜DSML｜invoke>",
                parameter: "<｜DSML｜parameter name=\"",
                parameter_name_end: ">",
                value: "",
                value_end: "</｜DSML｜parameter>",
                values: Values::Attribute,
            }),
        },
        F::Glm45 => &Grammar {
            open: &["<tool_call>"],
            close: &["</tool_call>"],
            form: Form::Tagged(Tags {
                call: "<tool_call>",
                call_name_end: &["\n", "<arg_key>", "</tool_call>"],
                call_end: "</tool_call>",
                parameter: "<arg_key>",
                parameter_name_end: "</arg_key>",
                value: "<arg_value>",
                value_end: "</arg_value>",
                values: Values::SchemaOrText,
            }),
        },
        F::Pythonic => &Grammar { open: &[], close: &[], form: Form::Pythonic { is_bare: true } },
        F::Llama4Pythonic => &Grammar {
            open: &["<|python_start|>"],
            close: &["<|python_end|>"],
            form: Form::Pythonic { is_bare: true },
        },
        F::Olmo3 => &Grammar {
            open: &["<function_calls>"],
            close: &["</function_calls>"],
            form: Form::Pythonic { is_bare: false },
        },
        F::Lfm2 => &Grammar {
            open: &["<|tool_call_start|>"],
            close: &["<|tool_call_end|>"],
            form: Form::Pythonic { is_bare: false },
        },
    })
}

/// The array that the text of a required call is, whatever the family.
pub(crate) static REQUIRED: Grammar =
    Grammar { open: &[], close: &[], form: Form::Listed { is_bare: false } };

const QWEN_TAGS: Tags = Tags {
    call: "<function=",
    call_name_end: &[">", "<parameter=", "</function>"],
    call_end: "</function>",
    parameter: "<parameter=",
    parameter_name_end: ">",
    value: "",
    value_end: "</parameter>",
    values: Values::Schema,
};

/// `name[ARGS]`, `name[CALL_ID]id[ARGS]` or `name`.
fn mistral_name(header: &str) -> Option<&str> {
    header.split('[').next()
}

/// `function<sep>name`, a line break and a fence (V3), or `name<sep>` (V3.1).
fn deepseek_name(header: &str) -> Option<&str> {
    let (before, after) = header.split_once("<｜tool▁sep｜>")?;
    match after.trim().lines().next() {
        Some(name) if !name.starts_with("```") => Some(name),
        _ => Some(before),
    }
}

/// `functions.name:0<begin of the arguments>`.
fn kimi_name(header: &str) -> Option<&str> {
    let (id, _) = header.split_once("<|tool_call_argument_begin|>")?;
    let id = id.trim();
    let id = id.strip_prefix("functions.").unwrap_or(id);
    Some(id.rsplit_once(':').map_or(id, |(name, _)| name))
}

/// Texts of a format that must not be lost when special tokens are left out of the text.
pub(crate) fn call_markers(format: ToolFormat) -> Vec<&'static str> {
    let Some(grammar) = grammar(format) else {
        return Vec::new();
    };
    let mut markers: Vec<&'static str> =
        grammar.open.iter().chain(grammar.close).copied().collect();
    match &grammar.form {
        Form::Headed(headers) => markers.extend(headers.end),
        Form::Tagged(tags) => markers.extend([
            tags.call_end,
            tags.parameter,
            tags.parameter_name_end,
            tags.value,
            tags.value_end,
        ]),
        Form::Listed { .. } | Form::Pythonic { .. } => {}
    }
    markers.extend_from_slice(match format {
        ToolFormat::Mistral => &["[ARGS]", "[CALL_ID]"],
        ToolFormat::DeepseekV3 | ToolFormat::DeepseekV31 => &["<｜tool▁sep｜>"],
        ToolFormat::KimiK2 => &["<|tool_call_argument_begin|>"],
        ToolFormat::DeepseekV32 => &["｜DSML｜"],
        ToolFormat::Internlm => &["<|action_start|>", "<|plugin|>"],
        ToolFormat::Glm45 => &["</arg_key>"],
        _ => &[],
    });
    markers.retain(|marker| marker.len() > 2);
    markers
}
