mod actors;
mod code;
mod engine;
mod gangs;
mod models;
mod options;
mod policies;
mod routers;
mod ways;

use super::*;
use proptest::prelude::*;

const GOOD: &str = r#"
proxy_location: EveryNode
http_options: {host: 0.0.0.0, port: 8000}
applications:
- name: text
  route_prefix: /text
  import_path: text.main:app
  runtime_env: {env_vars: {A: "1"}}
  deployments:
  - name: Translator
    num_replicas: auto
    max_ongoing_requests: 10
    autoscaling_config: &scaling
      min_replicas: 0
      max_replicas: 4
      target_ongoing_requests: 2.5
    ray_actor_options: {num_cpus: 0.5, num_gpus: 0}
    user_config: {threshold: 0.5}
  - name: Summarizer
    autoscaling_config:
      <<: *scaling
      max_replicas: 8
- name: models
  import_path: ray.serve.llm:build_openai_app
  args:
    llm_configs:
    - model_loading_config: {model_id: small, model_source: Qwen/Qwen2.5-0.5B-Instruct}
      engine_kwargs: {max_model_len: 4096}
      deployment_config:
        autoscaling_config: {min_replicas: 0, max_replicas: 2, target_ongoing_requests: 32}
    - models/other.yaml
"#;

fn problems(text: &str) -> Vec<String> {
    match ConfigFile::parse(text) {
        Ok(file) => file.problems().iter().map(ToString::to_string).collect(),
        Err(problem) => vec![problem.to_string()],
    }
}

/// A file of one application with these lines below `- import_path: a:b`.
fn with(lines: &str) -> String {
    format!("applications:\n- import_path: a:b\n{lines}")
}

/// The first application of a file without errors.
#[track_caller]
fn application(text: &str) -> ApplicationSpec {
    let file = ConfigFile::parse(text).unwrap();
    file.typed().unwrap_or_else(|problem| panic!("{problem}\n{text}")).applications.remove(0)
}

/// The only problem of a file stands at the last `token` and begins with that.
#[track_caller]
fn assert_one(text: &str, token: &str, expected: &str) {
    let before = &text[..text.rfind(token).unwrap()];
    let (line, column) = (before.matches('\n').count(), before.len() - before.rfind('\n').unwrap());
    let found = problems(text);
    assert_eq!(found.len(), 1, "{found:#?}");
    let expected = format!("{}:{column}: {expected}", line + 1);
    assert!(found[0].starts_with(&expected), "{}\nis not\n{expected}", found[0]);
}

#[test]
fn a_file_that_ray_takes_has_no_problems() {
    let file = ConfigFile::parse(GOOD).unwrap();
    assert_eq!(file.problems(), []);
    assert!(file.is_valid());
    assert_eq!(file.counts(), (2, 2));
}

#[test]
fn json_is_read_alike() {
    let text = r#"{"applications": [{"import_path": "a:b", "deployments": [{"name": "D"}]}]}"#;
    assert_eq!(problems(text), Vec::<String>::new());
}

#[test]
fn every_value_says_where_it_is_from() {
    let file = ConfigFile::parse(GOOD).unwrap();
    let values = file.effective();
    let of = |path: &str| {
        let value = values.iter().find(|value| value.path == path);
        value.map(|value| (value.value.as_str(), value.line))
    };
    assert_eq!(of("http_options.port"), Some(("8000", Some(3))));
    assert_eq!(of("http_options.request_timeout_s"), Some(("null", None)));
    assert_eq!(of("target_capacity"), Some(("null", None)));
    let summarizer = "applications[0].deployments[1]";
    assert_eq!(of(&format!("{summarizer}.num_replicas")), Some(("1", None)));
    let scaling = format!("{summarizer}.autoscaling_config");
    assert_eq!(of(&format!("{scaling}.max_replicas")), Some(("8", Some(22))));
    assert_eq!(of(&format!("{scaling}.min_replicas")), Some(("0", Some(14))));
    assert_eq!(of(&format!("{scaling}.upscale_delay_s")), Some(("30", None)));
    assert_eq!(of("applications[1].route_prefix"), Some(("\"/\"", None)));
}

#[test]
fn what_is_wrong_with_a_deployment_is_told_with_place_and_cure() {
    for (options, token, field, expected) in [
        (
            "num_repicas: 2",
            "num_r",
            ".num_repicas",
            "\"num_repicas\" is no field of \
          DeploymentSchema\n  help: did you mean num_replicas?",
        ),
        (
            "max_concurrent_queries: 2",
            "max_c",
            ".max_concurrent_queries",
            "\"max_concurrent_queries\" \
          is no field of DeploymentSchema\n  help: it is called max_ongoing_requests now",
        ),
        (
            "num_replicas: two",
            "two",
            ".num_replicas",
            "\"two\" is not a whole number from 1 on or \
          \"auto\" or null",
        ),
        ("num_replicas: 0", "0", ".num_replicas", "0 is not"),
        ("max_ongoing_requests: null", "null", ".max_ongoing_requests", "null is not"),
        (
            "num_replicas: 2, autoscaling_config: {}",
            "2, ",
            ".num_replicas",
            "a fixed number and \
          autoscaling_config exclude each other\n  help: leave it out",
        ),
        (
            "autoscaling_config: {min_replicas: 3}",
            "3",
            ".autoscaling_config",
            "min_replicas is 3, more \
          than max_replicas, 1\n  help: raise",
        ),
        (
            "autoscaling_config: {initial_replicas: 3}",
            "3",
            ".autoscaling_config.initial_replicas",
            "3 is \
          not from min_replicas, 1, to max_replicas, 1",
        ),
        (
            "placement_group_bundles: [{CPU: 1}], max_replicas_per_node: 1",
            "1}]",
            ".max_replicas_per_node",
            "it does not go with",
        ),
    ] {
        let text = with(&format!("  deployments: [{{name: D, {options}}}]"));
        assert_one(&text, token, &format!("applications[0].deployments[0]{field}: {expected}"));
    }
    let text = with("  deployments: [{name: D, placement_group_strategy: PACK}]");
    assert!(problems(&text)[1].contains("it speaks of bundles, and there are none"));
}

#[test]
fn what_is_wrong_with_an_application_is_told_with_place_and_cure() {
    for (lines, token, expected) in [
        (
            "  deployments: [{num_replicas: 2}]",
            "{num",
            "applications[0].deployments[0]: `name` is \
          missing: of a deployment in the application\n  help: write name: with a name of 1 to 128",
        ),
        (
            "  deployments: [{name: D}, {name: D}]",
            "D}]",
            "applications[0].deployments[1].name: \
          applications[0].deployments[0] has the same name, \"D\"",
        ),
        ("  route_prefix: text", "text", "applications[0].route_prefix: \"text\" is not a path"),
        (
            "  port: 8000",
            "port",
            "applications[0].port: port cannot be carried out\n  help: write \
          http_options.port at the top",
        ),
        (
            "- import_path: c:d\n  name: other",
            "import_path",
            "applications[1].route_prefix: \
          applications[0] has the same route_prefix, \"/\"",
        ),
        (
            "- import_path: c:d\n  route_prefix: null",
            "import_path",
            "applications[1].name: \
          applications[0] has the same name, \"default\"",
        ),
        (
            "  external_scaler_enabled: true\n  deployments: [{name: D, num_replicas: auto}]",
            "true",
            "applications[0].external_scaler_enabled: applications[0].deployments[0] scales by load",
        ),
        (
            "  logging_config: {encoding: XML}",
            "XML",
            "applications[0].logging_config.encoding: \
          \"XML\" is not \"TEXT\" or \"JSON\"",
        ),
    ] {
        assert_one(&with(lines), token, expected);
    }
}

#[test]
fn what_is_no_configuration_at_all_is_told() {
    for (text, expected) in [
        ("", "1:1: the file is empty"),
        ("- a", "1:1: the file is [\"a\"], which is not a map"),
        ("[1, 2", "2:1: this is no YAML"),
        ("a: 1\na: 2", "2:1: \"a\" stands here again; line 1 has it too"),
        ("applications: []\n---\napplications: []", "2:1: a second document begins here"),
        ("applications: !!python/object:os.system {}", "1:15: the tag"),
    ] {
        let found = problems(text);
        assert!(found.iter().any(|p| p.starts_with(expected)), "{text:?}: {found:?}");
    }
    let old = problems("import_path: a:b");
    assert!(old.iter().any(|p| p.contains("a file of a single application")), "{old:?}");
    let found = problems("applications: 3");
    assert!(found[0].starts_with("1:15: applications: 3 is not a list of"), "{found:?}");
}

#[test]
fn bombs_are_refused() {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for i in 1..9 {
        let before = format!("*a{}", i - 1);
        text += &format!("a{i}: &a{i} [{}]\n", vec![before; 10].join(", "));
    }
    let found = problems(&text);
    assert!(found[0].contains("more than 2000000 values"), "{found:?}");
    let found = problems(&"[".repeat(10_000));
    assert!(found[0].contains("levels") || found[0].contains("this is no YAML"), "{found:?}");
}

#[test]
fn what_has_no_effect_is_told_once_and_only_where_it_says_something() {
    let text = "proxy_location: HeadOnly\napplications:\n- import_path: a:b\n  deployments:\n\
                \x20 - {name: D, graceful_shutdown_wait_loop_s: 1}\n\
                \x20 - {name: E, graceful_shutdown_wait_loop_s: 1}\n\
                \x20 - {name: F, graceful_shutdown_wait_loop_s: 2, max_ongoing_requests: 1,\n\
                \x20    autoscaling_config: {}}\nnew_thing: 1\n";
    let file = ConfigFile::parse(text).unwrap();
    assert!(file.is_valid());
    let found: Vec<&str> = file.problems().iter().map(|p| p.message.as_str()).collect();
    assert_eq!(found.len(), 4, "{found:#?}");
    assert!(found[0].starts_with("proxy_location has no effect"));
    assert!(found[1].starts_with("graceful_shutdown_wait_loop_s has no effect"));
    assert!(found[2].starts_with("a replica takes 1 requests and the target is 2"));
    assert!(found[3].starts_with("\"new_thing\" is no field"));
}

#[test]
fn models_are_checked_where_an_application_is_built_of_them() {
    let app =
        |args: &str| format!("applications:\n- import_path: tyndall.llm:build_openai_app\n{args}");
    for (args, token, expected) in [
        ("", "import_path", "applications[0].args: `args` is missing"),
        ("  args: {llm_configs: []}", "[]", "applications[0].args.llm_configs: there is no model"),
        (
            "  args: {llm_configs: [{model_loading_config: {}}]}",
            "{}",
            "applications[0].args.\
          llm_configs[0].model_loading_config: `model_id` is missing",
        ),
        (
            "  args: {llm_configs: [{model_loading_config: {model_id: a}}, {model_loading_config: \
          {model_id: a}}]}",
            "{model_loading",
            "applications[0].args.llm_configs[1].model_id: \
          applications[0].args.llm_configs[0] has the same model_id, \"a\"",
        ),
        (
            "  args: {llm_configs: [{model_loading_config: {model_id: a}, lora_config: {x: 1}}]}",
            "lora",
            "applications[0].args.llm_configs[0].lora_config: lora_config cannot",
        ),
    ] {
        assert_one(&app(args), token, expected);
    }
}

#[test]
fn the_schema_is_closed_and_has_every_field_that_may_be_written() {
    let schema = schema();
    let definitions = schema["$defs"].as_object().unwrap();
    fn refs(value: &serde_json::Value, found: &mut Vec<String>) {
        match value {
            serde_json::Value::Object(map) => map.iter().for_each(|(key, value)| match value {
                serde_json::Value::String(to) if key == "$ref" => found.push(to.clone()),
                _ => refs(value, found),
            }),
            serde_json::Value::Array(items) => items.iter().for_each(|item| refs(item, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    refs(&schema, &mut found);
    for to in found {
        let name = to.strip_prefix("#/$defs/").unwrap();
        assert!(definitions[name]["properties"].is_object(), "{name}");
    }
    let deployment = definitions["DeploymentSchema"]["properties"].as_object().unwrap();
    assert!(deployment.contains_key("num_replicas"));
    assert!(deployment.contains_key("gang_scheduling_config"));
    assert!(!definitions["HTTPOptionsSchema"]["properties"]["ssl_keyfile"].is_object());
    assert_eq!(definitions["AutoscalingConfig"]["additionalProperties"], false);
}

#[test]
fn the_docs_have_the_tables() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../docs/config.md");
    let docs = std::fs::read_to_string(path).unwrap();
    let (_, told) = docs.split_once("<!-- tables -->\n").unwrap();
    assert!(
        told == table(),
        "docs/config.md differs; `tyndall config schema --markdown` prints it"
    );
}

proptest! {
    #[test]
    fn no_text_makes_a_panic(text in "[a-z0-9:\\-\\[\\]{},&*!<> \"'\n~.|#]{0,200}") {
        drop(problems(&text));
    }

    #[test]
    fn no_cut_of_a_good_file_makes_a_panic(end in 0..GOOD.len(), insert in "[a-z:{}\\[\\]\n -]{0,8}") {
        prop_assume!(GOOD.is_char_boundary(end));
        drop(problems(&format!("{}{insert}{}", &GOOD[..end], &GOOD[end..])));
        drop(problems(&GOOD[..end]));
    }

    #[test]
    fn no_values_of_fields_make_a_panic(fields in prop::collection::vec((0..FIELDS.len(), value()), 0..8)) {
        let line = |(i, value): &(usize, String)| format!("\"{}\": {value}", FIELDS[*i]);
        let map = fields.iter().map(line).collect::<Vec<_>>().join(", ");
        for app in [
            format!("model: m, deployment_config: {{{map}}}"),
            format!("model: m, engine_kwargs: {{{map}}}"),
            format!("program: p, deployments: [{{name: D, {map}}}]"),
            format!("program: p, deployments: [{{name: D, autoscaling_config: {{{map}}}}}]"),
            format!("model: {{model_loading_config: {{model_id: m}}, {map}}}"),
            format!("model: m, deployment_config: {{tyndall: {{{map}}}}}"),
            map.clone(),
        ] {
            deploy_all(&format!("applications: [{{{app}}}]"));
        }
        deploy_all(&format!("{{applications: [{{model: m}}], {map}}}"));
    }
}

/// Of all levels, so that some are right and some are not.
const FIELDS: &[&str] = &[
    "name",
    "num_replicas",
    "max_ongoing_requests",
    "max_queued_requests",
    "user_config",
    "autoscaling_config",
    "min_replicas",
    "max_replicas",
    "initial_replicas",
    "policy",
    "upscale_delay_s",
    "smoothing_factor",
    "ray_actor_options",
    "health_check_period_s",
    "placement_group_bundles",
    "tyndall",
    "priority",
    "request_timeout_s",
    "max_model_len",
    "max_num_seqs",
    "max_num_batched_tokens",
    "speculative_config",
    "quantization",
    "kv_cache_memory_bytes",
    "engine_kwargs",
    "deployment_config",
    "model",
    "program",
    "import_path",
    "args",
    "route_prefix",
    "deployments",
    "http_options",
    "target_capacity",
    "logging_config",
    "placement_group_config",
    "runtime_env",
    "working_dir",
    "py_modules",
    "model_loading_config",
];

fn value() -> impl Strategy<Value = String> {
    let word = prop::sample::select(vec![
        "null",
        "true",
        "auto",
        "0",
        "1",
        "-1",
        "2.5",
        "1e300",
        "-.inf",
        ".nan",
        "7",
        "4k",
        "8GiB",
        "''",
        "a/b",
        "/a",
        "../..",
        "ray.serve.llm:build_openai_app",
        "int8",
        "[]",
        "{}",
        "99999999999",
        "{CPU: 1e300, memory: 1e300}",
        "[{CPU: 1}]",
        "{method: ngram}",
        "[a.yaml]",
        "{policy_function: tyndall.policies:tokens, policy_kwargs: {target_tokens: 1}}",
    ]);
    let word = word.prop_map(str::to_owned);
    word.prop_recursive(3, 8, 3, |inner| {
        let entry = (0..FIELDS.len(), inner.clone());
        let map = prop::collection::vec(entry, 0..3).prop_map(|entries| {
            let entry = |(i, value): &(usize, String)| format!("{}: {value}", FIELDS[*i]);
            format!("{{{}}}", entries.iter().map(entry).collect::<Vec<_>>().join(", "))
        });
        let list =
            prop::collection::vec(inner, 0..3).prop_map(|items| format!("[{}]", items.join(", ")));
        prop_oneof![map, list]
    })
}

/// What a caller does with a file.
fn deploy_all(text: &str) {
    let read = &mut |_: &str| Ok("model_loading_config: {model_id: f}".to_owned());
    let Ok(file) = ConfigFile::parse_with(text, read) else { return };
    drop(file.effective());
    let Ok(config) = file.typed() else { return };
    assert!(file.is_valid());
    for app in config.applications {
        match app.kind {
            ApplicationKind::Models(models) => {
                for model in models {
                    let config = model.to_deployment(
                        &app.name,
                        ("/m".into(), Default::default()),
                        None,
                        None,
                        None,
                    );
                    let scaling = config.autoscaling;
                    assert!(scaling.max_replicas >= scaling.min_replicas.max(1));
                    assert!(config.workload.model().unwrap().max_num_batched_tokens >= 1);
                }
            }
            ApplicationKind::Program { overrides, .. }
            | ApplicationKind::Python { overrides, .. } => {
                for one in overrides {
                    assert_eq!(one.options.over(&DeploymentOptions::default()), one.options);
                    drop(options::deploy(&one.options));
                }
            }
        }
    }
}
