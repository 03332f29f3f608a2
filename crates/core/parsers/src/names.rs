//! Names of parsers, as configurations write them.

/// The form in which a family of models writes calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ToolFormat {
    /// `<tool_call>{"name": …, "arguments": {…}}</tool_call>`: Qwen 2.5 and 3, Hermes, Granite 4.
    Hermes,
    /// `{"name": …, "parameters": {…}}` alone or after `<|python_tag|>`: Llama 3 and 4.
    Llama3Json,
    /// `[f(a=1)]`, perhaps between `<|python_start|>` and `<|python_end|>`: Llama 4.
    Llama4Pythonic,
    /// `[f(a=1)]` as all of the text: small Llama 3.2 and others.
    Pythonic,
    /// `[TOOL_CALLS][{…}]` or `[TOOL_CALLS]name[ARGS]{…}`: Mistral.
    Mistral,
    /// `<tool_call><function=f><parameter=a>1</parameter></function></tool_call>`: Qwen3-Coder.
    Qwen3Coder,
    /// `<｜tool▁call▁begin｜>function<｜tool▁sep｜>f` and fenced JSON: DeepSeek V3 and R1.
    DeepseekV3,
    /// `<｜tool▁call▁begin｜>f<｜tool▁sep｜>{…}`: DeepSeek V3.1.
    DeepseekV31,
    /// `<｜DSML｜invoke name="f">`: DeepSeek V3.2 and V4.
    DeepseekV32,
    /// Channels and recipients: gpt-oss.
    Harmony,
    /// `<|tool_call|>[{…}]`: Granite 3.
    Granite,
    /// `<function_call>{…}`: Granite 20B FC.
    Granite20bFc,
    /// Lines of `f(a=1)` between `<function_calls>` tags: OLMo 3.
    Olmo3,
    /// `<|tool_call_start|>[f(a=1)]<|tool_call_end|>`: LFM 2.
    Lfm2,
    /// `<tool_call>f`, then `<arg_key>a</arg_key><arg_value>1</arg_value>`: GLM 4.5 and later.
    Glm45,
    /// `<|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{…}`: Kimi K2.
    KimiK2,
    /// `<invoke name="f"><parameter name="a">1</parameter></invoke>`: MiniMax M2.
    MinimaxM2,
    /// As Qwen3-Coder, in `<seed:tool_call>`: Seed-OSS.
    SeedOss,
    /// `<tool_calls>[{…}]</tool_calls>`: Jamba, Hunyuan A13B.
    Jamba,
    /// `<|action_start|><|plugin|>{…}<|action_end|>`: InternLM 2.
    Internlm,
    /// `functools[{…}]`: Phi 4 mini.
    Phi4MiniJson,
    /// `<longcat_tool_call>{…}</longcat_tool_call>`: LongCat.
    Longcat,
}

/// The form in which a family of models writes what it thinks before it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReasoningFormat {
    /// Thoughts from the begin up to `</think>`, always: R1, QwQ, OLMo 3 Think, Step 3, MiniMax M2.
    DeepseekR1,
    /// The same unless thinking is off; `<tool_call>` ends them too: Qwen 3, GLM 4.5, Nemotron 3.
    Qwen3,
    /// The same where thinking is on, which it is not by itself: DeepSeek V3.1.
    DeepseekV3,
    /// As Qwen 3, but the begin of Kimi's calls ends them: Kimi K2.
    KimiK2,
    /// `[THINK]…[/THINK]`, where the model writes it: Magistral.
    Mistral,
    /// The analysis channel: gpt-oss.
    Harmony,
    /// "Here is my thought process:" and "Here is my response:": Granite 3.2.
    Granite,
    /// `<think>` and `<answer>` on lines of their own: Hunyuan A13B.
    HunyuanA13b,
    /// `<seed:think>…</seed:think>`: Seed-OSS.
    SeedOss,
}

/// Each format with its names; the first is its own.
const TOOL_FORMATS: &[(ToolFormat, &[&str])] = &[
    (ToolFormat::Hermes, &["hermes", "qwen3_json", "granite4"]),
    (ToolFormat::Llama3Json, &["llama3_json", "llama4_json"]),
    (ToolFormat::Llama4Pythonic, &["llama4_pythonic"]),
    (ToolFormat::Pythonic, &["pythonic"]),
    (ToolFormat::Mistral, &["mistral"]),
    (ToolFormat::Qwen3Coder, &["qwen3_coder", "qwen3_xml", "mimo"]),
    (ToolFormat::DeepseekV3, &["deepseek_v3"]),
    (ToolFormat::DeepseekV31, &["deepseek_v31"]),
    (ToolFormat::DeepseekV32, &["deepseek_v32", "deepseek_v4"]),
    (ToolFormat::Harmony, &["openai"]),
    (ToolFormat::Granite, &["granite"]),
    (ToolFormat::Granite20bFc, &["granite-20b-fc"]),
    (ToolFormat::Olmo3, &["olmo3"]),
    (ToolFormat::Lfm2, &["lfm2"]),
    (ToolFormat::Glm45, &["glm45", "glm47"]),
    (ToolFormat::KimiK2, &["kimi_k2"]),
    (ToolFormat::MinimaxM2, &["minimax_m2"]),
    (ToolFormat::SeedOss, &["seed_oss"]),
    (ToolFormat::Jamba, &["jamba", "hunyuan_a13b"]),
    (ToolFormat::Internlm, &["internlm"]),
    (ToolFormat::Phi4MiniJson, &["phi4_mini_json"]),
    (ToolFormat::Longcat, &["longcat"]),
];

const REASONING_FORMATS: &[(ReasoningFormat, &[&str])] = &[
    (ReasoningFormat::DeepseekR1, &["deepseek_r1", "olmo3", "step3", "minimax_m2"]),
    (ReasoningFormat::Qwen3, &["qwen3", "glm45", "glm47", "mimo", "holo2", "nemotron_v3"]),
    (ReasoningFormat::DeepseekV3, &["deepseek_v3", "deepseek_v4"]),
    (ReasoningFormat::KimiK2, &["kimi_k2"]),
    (ReasoningFormat::Mistral, &["mistral"]),
    (ReasoningFormat::Harmony, &["openai_gptoss"]),
    (ReasoningFormat::Granite, &["granite"]),
    (ReasoningFormat::HunyuanA13b, &["hunyuan_a13b"]),
    (ReasoningFormat::SeedOss, &["seed_oss"]),
];

/// Names that vLLM has and nothing here reads.
const OTHER_TOOL_PARSERS: &[&str] = &[
    "apertus",
    "beam",
    "cohere_command3",
    "cohere_command4",
    "deepseek_v41",
    "dots",
    "ernie45",
    "functiongemma",
    "gemma4",
    "gigachat3",
    "hf",
    "hy_v3",
    "hy_v4",
    "inkling",
    "k2_horizon",
    "kimi_k3",
    "ling3",
    "minicpm5",
    "minimax_m3",
    "muse",
    "muse_glimmer",
    "musespark1x",
    "plamo3",
    "poolside_v1",
    "solar_open2",
    "step3",
    "step3p5",
    "step5",
    "xlam",
];

const OTHER_REASONING_PARSERS: &[&str] = &[
    "beam",
    "cohere_command3",
    "cohere_command4",
    "deepseek_v41",
    "ernie45",
    "gemma4",
    "granite_thinking_parser",
    "hf",
    "hy_v3",
    "hy_v4",
    "inkling",
    "k2_horizon",
    "kimi_k3",
    "ling3",
    "minicpmv",
    "minimax_m2_append_think",
    "minimax_m3",
    "muse",
    "muse_glimmer",
    "musespark1x",
    "plamo3",
    "poolside_v1",
    "solar_open2",
    "step3p5",
    "step5",
];

/// A name is that of no parser here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnknownParser {
    /// vLLM has it.
    #[error("{kind} parser {name:?} is known, but not implemented; those there are: {}", there.join(", "))]
    NotImplemented {
        /// "tool" or "reasoning".
        kind: &'static str,
        /// As written.
        name: String,
        /// Names that work.
        there: Vec<&'static str>,
    },
    /// Nobody has it.
    #[error("there is no {kind} parser {name:?}; did you mean {nearest}?")]
    Unknown {
        /// "tool" or "reasoning".
        kind: &'static str,
        /// As written.
        name: String,
        /// The name that works and is most like it.
        nearest: &'static str,
    },
}

impl ToolFormat {
    /// The format that a parser of vLLM reads, by the parser's name or one of its aliases.
    ///
    /// # Errors
    /// [`UnknownParser`] says whether the name is known at all, and which ones are there.
    pub fn from_name(name: &str) -> Result<Self, UnknownParser> {
        from_name("tool", TOOL_FORMATS, OTHER_TOOL_PARSERS, name)
    }

    /// Its first name.
    #[must_use]
    pub fn name(self) -> &'static str {
        name_of(TOOL_FORMATS, self)
    }

    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        TOOL_FORMATS.iter().map(|(format, _)| *format)
    }
}

impl ReasoningFormat {
    /// The format that a parser of vLLM reads, by the parser's name or one of its aliases.
    ///
    /// # Errors
    /// [`UnknownParser`] says whether the name is known at all, and which ones are there.
    pub fn from_name(name: &str) -> Result<Self, UnknownParser> {
        from_name("reasoning", REASONING_FORMATS, OTHER_REASONING_PARSERS, name)
    }

    /// Its first name.
    #[must_use]
    pub fn name(self) -> &'static str {
        name_of(REASONING_FORMATS, self)
    }

    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        REASONING_FORMATS.iter().map(|(format, _)| *format)
    }

    /// Whether a model of this format thinks if nothing says whether it should.
    #[must_use]
    pub fn thinks_by_default(self) -> bool {
        self != Self::DeepseekV3
    }

    /// Text that ends reasoning, for those who force its end.
    #[must_use]
    pub fn end_marker(self) -> &'static str {
        match self {
            Self::DeepseekR1 | Self::Qwen3 | Self::DeepseekV3 | Self::KimiK2 => "</think>",
            Self::HunyuanA13b => "\n</think>\n<answer>\n",
            Self::Mistral => "[/THINK]",
            Self::Harmony => "<|end|><|start|>assistant<|channel|>final<|message|>",
            Self::Granite => "Here is my response:",
            Self::SeedOss => "</seed:think>",
        }
    }
}

type Names<F> = [(F, &'static [&'static str])];

fn from_name<F: Copy>(
    kind: &'static str,
    formats: &'static Names<F>,
    others: &[&str],
    name: &str,
) -> Result<F, UnknownParser> {
    if let Some((format, _)) = formats.iter().find(|(_, names)| names.contains(&name)) {
        return Ok(*format);
    }
    let there = formats.iter().flat_map(|(_, names)| names.iter().copied());
    let kind_and_name = (kind, name.to_owned());
    let (kind, name) = kind_and_name;
    if others.contains(&name.as_str()) {
        return Err(UnknownParser::NotImplemented { kind, name, there: there.collect() });
    }
    let distance = |known: &&str| strsim::damerau_levenshtein(known, &name);
    let nearest = there.min_by_key(distance).unwrap_or_default();
    Err(UnknownParser::Unknown { kind, name, nearest })
}

fn name_of<F: Copy + PartialEq>(formats: &'static Names<F>, format: F) -> &'static str {
    let named = formats.iter().find(|(known, _)| *known == format);
    named.and_then(|(_, names)| names.first()).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_to_formats_and_back() {
        for format in ToolFormat::all() {
            assert_eq!(ToolFormat::from_name(format.name()), Ok(format));
        }
        for format in ReasoningFormat::all() {
            assert_eq!(ReasoningFormat::from_name(format.name()), Ok(format));
        }
        assert_eq!(ToolFormat::from_name("qwen3_xml"), Ok(ToolFormat::Qwen3Coder));
        assert_eq!(ReasoningFormat::from_name("glm45"), Ok(ReasoningFormat::Qwen3));
    }

    #[test]
    fn what_is_not_there_says_so() {
        let check = |result: Result<ToolFormat, UnknownParser>, begin: &str, end: &str| {
            let text = result.expect_err("is not there").to_string();
            assert!(text.starts_with(begin) && text.ends_with(end), "{text}");
        };
        let known = "tool parser \"xlam\" is known, but not implemented; those there are: hermes, ";
        check(ToolFormat::from_name("xlam"), known, "longcat");
        let unknown = "there is no tool parser \"hermez\"; ";
        check(ToolFormat::from_name("hermez"), unknown, "did you mean hermes?");
        let error = ReasoningFormat::from_name("qwen4").expect_err("is not there");
        assert!(error.to_string().ends_with("did you mean qwen3?"), "{error}");
    }
}
