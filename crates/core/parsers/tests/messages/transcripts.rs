//! What models of each family write, and what it means.

use crate::support::options;
use tyndall_parsers::{ParserOptions, ReasoningFormat as R, ToolFormat as T};
use tyndall_types::ToolChoice;

/// A text and its deltas, each with a letter for its kind: `R`easoning, `C`ontent, `N`ame,
/// `A`rguments.
#[derive(Debug, Clone)]
pub(crate) struct Transcript {
    pub(crate) options: ParserOptions,
    pub(crate) text: &'static str,
    pub(crate) deltas: &'static [&'static str],
}

fn auto(
    reasoning: Option<R>,
    format: Option<T>,
    text: &'static str,
    deltas: &'static [&'static str],
) -> Transcript {
    Transcript { options: options(reasoning, format), text, deltas }
}

fn calls(format: T, text: &'static str, deltas: &'static [&'static str]) -> Transcript {
    auto(None, Some(format), text, deltas)
}

fn chosen(choice: ToolChoice, transcript: Transcript) -> Transcript {
    Transcript { options: ParserOptions { choice, ..transcript.options }, ..transcript }
}

/// All of them.
pub(crate) fn all() -> Vec<Transcript> {
    let mut all = hermes();
    all.extend(llama());
    all.extend(other_json_families());
    all.extend(header_families());
    all.extend(tag_families());
    all.extend(python_families());
    all.extend(harmony());
    all.extend(reasoning());
    all.extend(choices());
    all
}

fn hermes() -> Vec<Transcript> {
    vec![
        auto(
            Some(R::Qwen3),
            Some(T::Hermes),
            "<think>\nTwo cities, two calls.\n</think>\n\n<tool_call>\n{\"name\": \"weather\", \
             \"arguments\": {\"city\": \"São Paulo }\\\"\", \"days\": 2}}\n</tool_call>\n\
             <tool_call>\n{\"arguments\": {\"query\": \"</tool_call>\", \"filters\": {\"a\": [{}]}}, \
             \"name\": \"search\"}\n</tool_call>",
            &[
                "R\nTwo cities, two calls.\n",
                "Nweather",
                "A{\"city\": \"São Paulo }\\\"\", \"days\": 2}",
                "Nsearch",
                "A{\"query\": \"</tool_call>\", \"filters\": {\"a\": [{}]}}",
            ],
        ),
        calls(
            T::Hermes,
            "I will look.\n<tool_call>{\"name\": \"now\"}</tool_call>\nDone.",
            &["CI will look.\n", "Nnow", "A{}", "C\nDone."],
        ),
        calls(
            T::Hermes,
            "<tool_call>\n{\"name\": \"weather\", \"arguments\": \"{\\\"city\\\": \\\"Rome\\\"}\"}}\n\
             </tool_call>",
            &["Nweather", "A{\"city\": \"Rome\"}"],
        ),
        calls(
            T::Hermes,
            "Use <tool_call>weather</tool_call>, <b>not</b> <tool",
            &["CUse <tool_call>weather</tool_call>, <b>not</b> <tool"],
        ),
        calls(
            T::Hermes,
            "<tool_call>{\"name\": \"weather\", \"arguments\": {\"city\": Rome}}</tool_call>bye",
            &["Nweather", "A{\"city\": ", "CRome}}bye"],
        ),
        calls(
            T::Hermes,
            "<tool_call>{\"name\": \"fly\", \"arguments\": {\"to\": \"Ro",
            &["Nfly", "A{\"to\": \"Ro"],
        ),
    ]
}

fn llama() -> Vec<Transcript> {
    vec![
        calls(
            T::Llama3Json,
            "<|python_tag|>{\"name\": \"weather\", \"parameters\": {\"city\": \"Rome\"}}; \
             {\"type\": \"function\", \"name\": \"now\", \"arguments\": {}}",
            &["Nweather", "A{\"city\": \"Rome\"}", "Nnow", "A{}"],
        ),
        calls(
            T::Llama3Json,
            "{\"name\": \"search\", \"parameters\": {\"query\": \"a; {b}\", \"exact\": true}}",
            &["Nsearch", "A{\"query\": \"a; {b}\", \"exact\": true}"],
        ),
        calls(
            T::Llama3Json,
            "The set {1, 2} and {\"user\": {\"name\": \"weather\", \"parameters\": {}}} are data.",
            &[
                "CThe set {1, 2} and {\"user\": {\"name\": \"weather\", \"parameters\": {}}} are data.",
            ],
        ),
        calls(T::Llama3Json, "<|python_tag|>print(1)", &["C<|python_tag|>print(1)"]),
    ]
}

fn other_json_families() -> Vec<Transcript> {
    vec![
        calls(
            T::Granite,
            "<|tool_call|>[{\"name\": \"weather\", \"arguments\": {\"city\": \"Rome\"}}, \
             {\"name\": \"now\", \"arguments\": {}}]",
            &["Nweather", "A{\"city\": \"Rome\"}", "Nnow", "A{}"],
        ),
        calls(
            T::Granite20bFc,
            "<function_call> {\"name\": \"now\", \"arguments\": {}} <function_call> \
             {\"name\": \"weather\", \"arguments\": {\"days\": 1}}",
            &["Nnow", "A{}", "Nweather", "A{\"days\": 1}"],
        ),
        calls(
            T::Phi4MiniJson,
            "functools[{\"name\": \"weather\", \"arguments\": {\"city\": \"Rome\"}}]",
            &["Nweather", "A{\"city\": \"Rome\"}"],
        ),
        calls(
            T::Jamba,
            "Sure.<tool_calls>[\n{\"name\": \"now\", \"arguments\": {}}\n]</tool_calls>\n",
            &["CSure.", "Nnow", "A{}"],
        ),
        calls(
            T::Internlm,
            "Right.<|action_start|><|plugin|>\n{\"name\": \"weather\", \"parameters\": \
             {\"city\": \"Rome\"}}<|action_end|>\n",
            &["CRight.", "Nweather", "A{\"city\": \"Rome\"}"],
        ),
        calls(
            T::Longcat,
            "<longcat_tool_call>{\"name\": \"now\", \"arguments\": null}</longcat_tool_call>",
            &["Nnow", "A{}"],
        ),
    ]
}

fn header_families() -> Vec<Transcript> {
    vec![
        calls(
            T::Mistral,
            "[TOOL_CALLS] [{\"name\": \"weather\", \"arguments\": {\"city\": \"Rome\"}}, \
             {\"name\": \"now\", \"arguments\": {}}]",
            &["Nweather", "A{\"city\": \"Rome\"}", "Nnow", "A{}"],
        ),
        auto(
            Some(R::Mistral),
            Some(T::Mistral),
            "[THINK]Which one?[/THINK]Let me see.[TOOL_CALLS]weather[ARGS]{\"city\": \"[x]\"}\
             [TOOL_CALLS]search[CALL_ID]a1B2c3D4e[ARGS]{\"query\": \"q\"}[TOOL_CALLS]now{}",
            &[
                "RWhich one?",
                "CLet me see.",
                "Nweather",
                "A{\"city\": \"[x]\"}",
                "Nsearch",
                "A{\"query\": \"q\"}",
                "Nnow",
                "A{}",
            ],
        ),
        auto(
            Some(R::DeepseekR1),
            Some(T::DeepseekV3),
            "I need the weather.\n</think>\n\n<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function\
             <｜tool▁sep｜>weather\n```json\n{\"city\": \"Rome\"}\n```<｜tool▁call▁end｜>\n\
             <｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}\n```<｜tool▁call▁end｜>\
             <｜tool▁calls▁end｜>",
            &["RI need the weather.\n", "Nweather", "A{\"city\": \"Rome\"}", "Nnow", "A{}"],
        ),
        calls(
            T::DeepseekV31,
            "Looking.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>\
             {\"city\": \"Rome\"}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
            &["CLooking.", "Nweather", "A{\"city\": \"Rome\"}"],
        ),
        auto(
            Some(R::KimiK2),
            Some(T::KimiK2),
            "hm<|tool_calls_section_begin|><|tool_call_begin|>functions.weather:0\
             <|tool_call_argument_begin|>{\"city\": \"Rome\"}<|tool_call_end|><|tool_call_begin|>\
             functions.now:1<|tool_call_argument_begin|><|tool_call_end|><|tool_calls_section_end|>",
            &["Rhm", "Nweather", "A{\"city\": \"Rome\"}", "Nnow", "A{}"],
        ),
    ]
}

fn tag_families() -> Vec<Transcript> {
    vec![
        calls(
            T::Qwen3Coder,
            "I'll search.\n<tool_call>\n<function=search>\n<parameter=query>\nfn main() {\n    \
             println!(\"<b>\");\n}\n</parameter>\n<parameter=filters>\n{\"lang\": \"rs\"}\n\
             </parameter>\n<parameter=exact>\nTrue\n</parameter>\n</function>\n</tool_call>\n\
             <tool_call>\n<function=now>\n</function>\n</tool_call>",
            &[
                "CI'll search.\n",
                "Nsearch",
                "A{\"query\": \"fn main() {\\n    println!(\\\"<b>\\\");\\n}\", \
                 \"filters\": {\"lang\": \"rs\"}, \"exact\": true}",
                "Nnow",
                "A{}",
            ],
        ),
        calls(
            T::Qwen3Coder,
            "<function=weather><parameter=city>12</parameter><parameter=days>12</parameter>\
             <parameter=other>12</function></tool_call>",
            &["Nweather", "A{\"city\": \"12\", \"days\": 12, \"other\": \"12\"}"],
        ),
        calls(
            T::SeedOss,
            "<seed:tool_call>\n<function=weather>\n<parameter=days>3</parameter>\n</function>\n\
             </seed:tool_call>",
            &["Nweather", "A{\"days\": 3}"],
        ),
        calls(
            T::MinimaxM2,
            "<minimax:tool_call>\n<invoke name=\"weather\">\n<parameter name=\"city\">Rome\
             </parameter>\n<parameter name=\"tags\">[\"a\"]</parameter>\n</invoke>\n\
             <invoke name=\"now\">\n</invoke>\n</minimax:tool_call>",
            &["Nweather", "A{\"city\": \"Rome\", \"tags\": [\"a\"]}", "Nnow", "A{}"],
        ),
        calls(
            T::DeepseekV32,
            "<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"weather\">\n<｜DSML｜parameter \
             name=\"city\" string=\"true\">\n杭州\n</｜DSML｜parameter>\n<｜DSML｜parameter \
             name=\"days\" string=\"false\">5</｜DSML｜parameter>\n</｜DSML｜invoke>\n\
             </｜DSML｜function_calls>",
            &["Nweather", "A{\"city\": \"\\n杭州\\n\", \"days\": 5}"],
        ),
        auto(
            Some(R::Qwen3),
            Some(T::Glm45),
            "<think>One call.</think>\nChecking.\n<tool_call>weather\n<arg_key>city</arg_key>\n\
             <arg_value>Rome\n</arg_value>\n<arg_key>days</arg_key>\n<arg_value>2</arg_value>\n\
             </tool_call><tool_call>now</tool_call>",
            &[
                "ROne call.",
                "C\nChecking.\n",
                "Nweather",
                "A{\"city\": \"Rome\\n\", \"days\": 2}",
                "Nnow",
                "A{}",
            ],
        ),
    ]
}

fn python_families() -> Vec<Transcript> {
    vec![
        calls(
            T::Pythonic,
            "[weather(city='L\\'Aquila, \"IT\"', days=2), search(query=\"a)\", filters={'n': None, \
             'l': [1, True,]}), now()]",
            &[
                "Nweather",
                "A{\"city\": \"L'Aquila, \\\"IT\\\"\", \"days\": 2}",
                "Nsearch",
                "A{\"query\": \"a)\", \"filters\": {\"n\": null, \"l\": [1, true]}}",
                "Nnow",
                "A{}",
            ],
        ),
        calls(T::Pythonic, "[weather](https://a.b) [now()]", &["C[weather](https://a.b) [now()]"]),
        calls(
            T::Llama4Pythonic,
            "<|python_start|>[weather(city=\"Rome\")]<|python_end|>",
            &["Nweather", "A{\"city\": \"Rome\"}"],
        ),
        calls(
            T::Olmo3,
            "Sure.\n<function_calls>\nweather(city=\"Rome\", days=1)\nnow()\n</function_calls>",
            &["CSure.\n", "Nweather", "A{\"city\": \"Rome\", \"days\": 1}", "Nnow", "A{}"],
        ),
        calls(
            T::Lfm2,
            "<|tool_call_start|>[weather(city = \"Rome\")]<|tool_call_end|>I asked.",
            &["Nweather", "A{\"city\": \"Rome\"}", "CI asked."],
        ),
    ]
}

fn harmony() -> Vec<Transcript> {
    let gpt_oss = |text, deltas| auto(Some(R::Harmony), Some(T::Harmony), text, deltas);
    vec![
        gpt_oss(
            "<|channel|>analysis<|message|>Need the weather.<|end|><|start|>assistant<|channel|>\
             commentary<|message|>I'll check both.<|end|><|start|>assistant<|channel|>commentary \
             to=functions.weather <|constrain|>json<|message|>{\"city\": \"Rome\"}<|call|>\
             <|start|>assistant to=functions.now<|channel|>commentary json<|message|>{}<|call|>",
            &[
                "RNeed the weather.",
                "CI'll check both.",
                "Nweather",
                "A{\"city\": \"Rome\"}",
                "Nnow",
                "A{}",
            ],
        ),
        gpt_oss(
            "analysis<|message|>One.<|end|><|start|>assistant<|channel|>analysis<|message|>Two.\
             <|end|><|start|>assistant<|channel|>final<|message|>2 < 3 and <|x|>.<|return|>",
            &["ROne.\nTwo.", "C2 < 3 and <|x|>."],
        ),
        gpt_oss("<|channel|>analysis to=python code<|message|>1 + 1<|call|>", &["R1 + 1"]),
        gpt_oss(" to=now<|channel|>commentary<|message|><|call|>", &["Nnow", "A{}"]),
        gpt_oss("final words without a channel", &["Cfinal words without a channel"]),
        gpt_oss("<|channel|>final Hello<|message|> there<|end|> ", &["CHello there"]),
        gpt_oss("<|channel|>commentary to=functions.now<|message|>soon<|call|>", &["Csoon"]),
        gpt_oss("<|channel|>final<|message|>cut<|end|><|start|>assi", &["Ccut"]),
    ]
}

fn reasoning() -> Vec<Transcript> {
    let thinks = |reasoning, text, deltas| auto(Some(reasoning), None, text, deltas);
    let off = |transcript: Transcript| Transcript {
        options: ParserOptions { thinking: false, ..transcript.options },
        ..transcript
    };
    let opened = |transcript: Transcript| Transcript {
        options: ParserOptions { prompt_opens_reasoning: true, ..transcript.options },
        ..transcript
    };
    vec![
        thinks(R::DeepseekR1, "<think>\na </thin\n</think>\n\n4", &["R\na </thin\n", "C\n\n4"]),
        thinks(R::DeepseekR1, "never ends </thi", &["Rnever ends </thi"]),
        thinks(R::DeepseekR1, "a</think>", &["Ra"]),
        thinks(R::Qwen3, "a</think></think>b</think>", &["Ra", "Cb"]),
        off(thinks(R::Qwen3, "4 </think>", &["C4 </think>"])),
        off(thinks(R::DeepseekV3, "<b>4</b>", &["C<b>4</b>"])),
        off(opened(thinks(R::DeepseekV3, "a</think>4", &["Ra", "C4"]))),
        thinks(R::Mistral, "[THINK]a[/THINK]b[THINK]c[/THINK]d", &["Ra", "Cb", "Rc", "Cd"]),
        thinks(R::Mistral, " just [this]", &["C just [this]"]),
        opened(thinks(R::Mistral, "a[/THINK]b", &["Ra", "Cb"])),
        thinks(
            R::Granite,
            "Here is my thought process: a. Here is my re. Here is my response: b",
            &["R a. Here is my re. ", "C b"],
        ),
        thinks(R::Granite, "Here is my answer", &["CHere is my answer"]),
        thinks(R::HunyuanA13b, "<think>\na\n</think>\n<answer>\nb\n</answer>", &["Ra", "Cb"]),
        thinks(R::SeedOss, "<seed:think>a</seed:think>b", &["Ra", "Cb"]),
        thinks(R::KimiK2, "a</think>b", &["Ra", "Cb"]),
        opened(thinks(
            R::Harmony,
            "a<|end|><|start|>assistant<|channel|>final<|message|>b",
            &["Ra", "Cb"],
        )),
    ]
}

fn choices() -> Vec<Transcript> {
    let required = |transcript| chosen(ToolChoice::Required, transcript);
    let named = |transcript| chosen(ToolChoice::Named("weather".to_owned()), transcript);
    let single = |transcript: Transcript| Transcript {
        options: ParserOptions { parallel: false, ..transcript.options },
        ..transcript
    };
    let two = "[{\"name\": \"weather\", \"parameters\": {\"city\": \"Rome\"}}, \
               {\"name\": \"now\", \"parameters\": {}}]";
    vec![
        required(calls(T::Qwen3Coder, two, &["Nweather", "A{\"city\": \"Rome\"}", "Nnow", "A{}"])),
        required(single(calls(T::Mistral, two, &["Nweather", "A{\"city\": \"Rome\"}"]))),
        required(auto(
            Some(R::Qwen3),
            None,
            "so</think>\n\n[{\"name\": \"now\", \"parameters\": {}}]\n",
            &["Rso", "Nnow", "A{}"],
        )),
        required(auto(
            Some(R::Harmony),
            None,
            "<|channel|>analysis<|message|>so<|end|><|start|>assistant<|channel|>final<|message|>\
             [{\"name\": \"now\", \"parameters\": {}}]<|return|>",
            &["Rso", "Nnow", "A{}"],
        )),
        required(calls(T::Hermes, "I cannot.", &["CI cannot."])),
        named(calls(
            T::Hermes,
            " {\"city\": \"Rome\", \"days\": 2}\n",
            &["Nweather", "A{\"city\": \"Rome\", \"days\": 2}"],
        )),
        named(auto(
            Some(R::DeepseekR1),
            None,
            "so</think>{\"city\": \"Ro",
            &["Rso", "Nweather", "A{\"city\": \"Ro"],
        )),
        named(calls(T::Hermes, "No.", &["CNo."])),
        chosen(
            ToolChoice::None,
            auto(
                Some(R::Qwen3),
                Some(T::Hermes),
                "so</think> <tool_call>{\"name\": \"now\", \"arguments\": {}}</tool_call>",
                &["Rso", "C <tool_call>{\"name\": \"now\", \"arguments\": {}}</tool_call>"],
            ),
        ),
        single(calls(
            T::Hermes,
            "<tool_call>{\"name\": \"now\", \"arguments\": {}}</tool_call>\n<tool_call>\
             {\"name\": \"weather\", \"arguments\": {\"city\": \"Rome\"}}</tool_call>",
            &["Nnow", "A{}"],
        )),
    ]
}
