//! Applications of code: where it lies, and what is run for it.

use super::*;
use crate::file::{
    CodePaths, DescribedError, DescribedProgram, Launch, PythonCode, sort_as_described,
};
use serde_json::{Value, json};
use std::path::Path;
use tyndall_types::protocol::{DeploymentConfig, ModelTask, ProgramConfig, WarmPool, Workload};

#[test]
fn code_lies_where_the_nearest_runtime_env_says() {
    let app = application(
        "applications:\n- import_path: a:b\n  runtime_env: {working_dir: 'file:///w.zip', \
         py_modules: [/m, 'local:///n/k.py']}\n  deployments:\n  - name: D\n    \
         ray_actor_options: {runtime_env: {working_dir: own}}\n  - name: E\n    \
         ray_actor_options: {runtime_env: {py_modules: []}}",
    );
    let paths = |dir: &str, modules: Option<&[&str]>| CodePaths {
        working_dir: Some(dir.to_owned()),
        py_modules: modules.map(|all| all.iter().map(|one| (*one).to_owned()).collect()),
    };
    assert_eq!(app.paths, paths("/w.zip", Some(&["/m", "/n/k.py"])));
    let ApplicationKind::Python { overrides, .. } = &app.kind else { panic!() };
    let merged = |i: usize| overrides[i].options.actor.as_ref().unwrap().paths.over(&app.paths);
    assert_eq!(merged(0), paths("own", Some(&["/m", "/n/k.py"])));
    assert_eq!(merged(1), paths("/w.zip", Some(&[])));
    assert_eq!(application("applications: [{import_path: a:b}]").paths, CodePaths::default());
}

#[test]
fn nothing_is_fetched_and_the_kinds_have_what_they_can_use() {
    let elsewhere = "is not on this machine, and nothing is fetched\n  help: download it";
    for (app, token, expected) in [
        (
            "import_path: a:b, runtime_env: {working_dir: 'https://e.org/a.zip'}",
            "'https",
            format!(".runtime_env.working_dir: \"https://e.org/a.zip\" {elsewhere}"),
        ),
        (
            "import_path: a:b, runtime_env: {py_modules: [/m, 's3://a/b.zip']}",
            "'s3",
            format!(".runtime_env.py_modules[1]: \"s3://a/b.zip\" {elsewhere}"),
        ),
        (
            "import_path: a:b, deployments: [{name: D, ray_actor_options: {runtime_env: \
             {working_dir: 'gs://a'}}}]",
            "'gs",
            format!(
                ".deployments[0].ray_actor_options.runtime_env.working_dir: \"gs://a\" {elsewhere}"
            ),
        ),
        (
            "program: p, runtime_env: {working_dir: /a.zip}",
            "/a.zip",
            ".runtime_env.working_dir: a program runs in a directory, and this is an archive"
                .to_owned(),
        ),
        (
            "program: p, runtime_env: {py_modules: [a]}",
            "py_mod",
            ".runtime_env.py_modules: py_modules has no effect: a program imports".to_owned(),
        ),
        (
            "model: m, runtime_env: {working_dir: 'https://e.org/a.zip'}",
            "working",
            ".runtime_env.working_dir: working_dir has no effect: a model runs no code".to_owned(),
        ),
        (
            "model: {model_loading_config: {model_id: m}, runtime_env: {py_modules: [x]}}",
            "py_mod",
            ".model.runtime_env.py_modules: py_modules has no effect".to_owned(),
        ),
    ] {
        let text = format!("applications:\n- {{{app}}}");
        assert_one(&text, token, &format!("applications[0]{expected}"));
    }
}

/// What is to wait for the deployment of an application.
fn warm(app: &str, args: &[&str], described: Value) -> WarmPool {
    let app = application(&format!("applications: [{{{app}}}]"));
    let launch = |_: &CodePaths| Launch {
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        working_dir: None,
    };
    let described = json!({"deployments": [described]});
    let program = DescribedProgram {
        executable: Path::new("/p"),
        launch: &launch,
        identity: Value::Null,
        described: &described,
    };
    let overrides = match &app.kind {
        ApplicationKind::Python { overrides, .. } | ApplicationKind::Program { overrides, .. } => {
            overrides
        }
        ApplicationKind::Models(_) => panic!("it is code"),
    };
    let mut deployments = app.deployments(&program, overrides, None).unwrap();
    deployments.remove(0).warm
}

#[test]
fn the_nearest_list_of_modules_is_imported_by_processes_that_wait() {
    let pool = |processes, preload: &[&str]| WarmPool {
        processes,
        preload: preload.iter().map(|one| (*one).to_owned()).collect(),
    };
    let of_code = |tyndall: Value| json!({"name": "D", "tyndall": tyndall});
    let python = "import_path: a:b";
    for (app, code, expected) in [
        (python.to_owned(), json!({"name": "D"}), pool(0, &[])),
        (
            python.to_owned(),
            of_code(json!({"preload": ["torch", "a.b"]})),
            pool(1, &["torch", "a.b"]),
        ),
        (python.to_owned(), of_code(json!({"warm_processes": 2})), pool(2, &[])),
        (
            format!("{python}, tyndall: {{preload: [x], warm_processes: 3}}"),
            of_code(json!({"preload": ["y"]})),
            pool(3, &["y"]),
        ),
        (
            format!(
                "{python}, tyndall: {{preload: [x]}}, deployments: [{{name: D, tyndall: {{preload: []}}}}]"
            ),
            of_code(json!({"preload": ["y"]})),
            pool(0, &[]),
        ),
        (
            format!(
                "{python}, tyndall: {{preload: [x]}}, deployments: [{{name: D, tyndall: {{warm_processes: 0}}}}]"
            ),
            json!({"name": "D"}),
            pool(0, &["x"]),
        ),
    ] {
        assert_eq!(warm(&app, &["-m", "m"], code), expected, "{app}");
    }
    let own = of_code(json!({"preload": ["y"]}));
    assert_eq!(warm("program: p", &[], own), pool(0, &[]), "it is no interpreter");
}

#[test]
fn only_python_has_modules_and_they_have_names() {
    for (app, token, expected) in [
        (
            "import_path: a:b, tyndall: {preload: [torch, 'a,b']}",
            "'a,b'",
            ".tyndall.preload[1]: \"a,b\" is not the name of a module such as torch or a.b",
        ),
        (
            "import_path: a:b, tyndall: {warm_processes: 65}",
            "65",
            ".tyndall.warm_processes: 65 is not a whole number from 0 to 64 or null",
        ),
        (
            "import_path: a:b, tyndall: {pinned: true}",
            "pinned",
            ".tyndall.pinned: \"pinned\" is no field of TyndallApplicationOptions",
        ),
        (
            "program: p, tyndall: {preload: [x]}",
            "preload",
            ".tyndall.preload: preload has no effect: a program imports no modules",
        ),
        (
            "program: p, deployments: [{name: D, tyndall: {warm_processes: 1}}]",
            "warm",
            ".deployments[0].tyndall.warm_processes: warm_processes has no effect: a program",
        ),
        (
            "model: m, deployment_config: {tyndall: {preload: [x]}}",
            "preload",
            ".deployment_config.tyndall.preload: preload has no effect: a model runs no code",
        ),
    ] {
        let text = format!("applications:\n- {{{app}}}");
        assert_one(&text, token, &format!("applications[0]{expected}"));
    }
}

#[test]
fn an_interpreter_is_told_where_the_code_is() {
    let launch = |dir: Option<&str>, modules: &[&str]| {
        let py_modules = modules.iter().map(|one| (*one).to_owned()).collect();
        let paths = CodePaths { working_dir: dir.map(str::to_owned), py_modules: Some(py_modules) };
        PythonCode::ImportPath("a:b").launch(&paths, &["/site".to_owned()])
    };
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let start = "-m tyndall._program --import-path a:b";
    let plain = launch(Some("/w"), &["/m", "/k.whl"]);
    assert_eq!(plain.working_dir.as_deref(), Some(Path::new("/w")));
    assert_eq!(
        plain.args,
        words(&format!("{start} --py-module /m --py-module /k.whl --path /site"))
    );
    let archive = launch(Some("/w.ZIP"), &[]);
    assert_eq!(archive.working_dir, None);
    assert_eq!(archive.args, words(&format!("{start} --working-dir /w.ZIP --path /site")));
    let file = PythonCode::File(Path::new("/c.pkl")).launch(&CodePaths::default(), &[]);
    assert_eq!(file.args, words("-m tyndall._program --code /c.pkl"));
    assert_eq!(file.working_dir, None);
}

/// What `app` is run as, if it describes itself like this.
fn deploy(app: &str, described: &Value) -> Result<Vec<DeploymentConfig>, DescribedError> {
    let app = application(&format!("applications:\n- {app}"));
    let ApplicationKind::Python { overrides, .. } = &app.kind else { panic!() };
    let launch = |paths: &CodePaths| PythonCode::ImportPath("a:b").launch(paths, &[]);
    let program = DescribedProgram {
        executable: Path::new("/python"),
        launch: &launch,
        identity: Value::Null,
        described,
    };
    app.deployments(&program, overrides, None)
}

#[test]
fn a_described_application_is_run_with_the_options_of_the_file_over_its_own() {
    let described = json!({"ingress": "A", "deployments": [
        {"name": "A", "num_replicas": 2, "init": {"args": {"k": "v"}, "init": null},
         "calls": ["B"], "ray_actor_options": {"runtime_env": {"working_dir": "/own"}}},
        {"name": "B", "init": {"args": {"k": "v"}, "init": null}, "calls": []},
    ]});
    let app = "{import_path: a:b, args: {k: v}, runtime_env: {working_dir: /w, env_vars: {X: y}}, \
               deployments: [{name: B, max_ongoing_requests: 7}]}";
    let deployed = deploy(app, &described).unwrap();
    let programs: Vec<&ProgramConfig> = deployed
        .iter()
        .map(|one| match &one.workload {
            Workload::Program(program) => program,
            Workload::Model(_) => panic!(),
        })
        .collect();
    assert_eq!((deployed[0].num_replicas, deployed[1].max_ongoing_requests), (Some(2), 7));
    assert_eq!(programs[0].deployment, "A");
    assert_eq!(programs[0].working_dir.as_deref(), Some(Path::new("/own")));
    assert_eq!(programs[1].working_dir.as_deref(), Some(Path::new("/w")));
    assert_eq!(programs[1].init, json!({"args": {"k": "v"}, "init": null}));
    assert_eq!(programs[1].executable, Path::new("/python"));
    assert_eq!(deployed[1].env_vars["X"], "y");

    // What Ray restarts replicas for, and what it does not.
    let versions = |app: &str, described: &Value| -> Vec<String> {
        deploy(app, described).unwrap().into_iter().map(|one| one.code_version).collect()
    };
    let base = versions(app, &described);
    assert_eq!(base, versions(&app.replace("requests: 7", "requests: 8"), &described));
    for (from, to) in [("k: v", "k: w"), ("a:b", "a:c"), ("/w", "/v"), ("X: y", "X: z")] {
        let other = versions(&app.replace(from, to), &described);
        assert!(base.iter().zip(&other).all(|(one, other)| one != other), "{from} {to}");
    }
    let mut moved = described.clone();
    moved["deployments"][0]["ray_actor_options"]["runtime_env"]["working_dir"] = json!("/new");
    let other = versions(app, &moved);
    assert_ne!(base[0], other[0]);
    assert_eq!(base[1], other[1]);
}

#[test]
fn described_models_are_what_a_file_says_of_these_alone() {
    let described = json!({"ingress": "A", "deployments": [
        {"name": "A", "init": {"args": {}, "init": null}, "calls": ["LLM"]},
        {"name": "LLM", "model": {"model_loading_config": {"model_id": "m", "model_source": "demo"},
         "deployment_config": {"num_replicas": 2}}, "init": {"args": {}, "init": null}, "calls": []},
    ]});
    let text = "applications:\n- {name: app, import_path: a:b, args: {k: v}, deployments: \
                [{name: LLM, max_ongoing_requests: 7}, {name: A, num_replicas: 3}]}";
    let app = application(text);
    let models = app.described_models(&described).unwrap();
    let models = application(&json!({"applications": [models]}).to_string());
    assert_eq!(models.name.as_str(), "app");
    let ApplicationKind::Models(specs) = &models.kind else { panic!() };
    let [model] = &specs[..] else { panic!() };
    assert_eq!((model.name.as_str(), model.model_id.as_str()), ("LLM", "m"));
    assert_eq!(model.options.max_ongoing_requests, Some(7));
    let place = || (Path::new("/m").to_owned(), ModelTask::Generate);
    let built = model.to_deployment(&models.name, place(), None, None, None);
    assert_eq!(built.num_replicas, Some(2));

    // Code has what is left, and the order is the description's.
    let app = "{name: app, import_path: a:b, deployments: [{name: LLM, max_ongoing_requests: 7}]}";
    let mut all = vec![built];
    all.extend(deploy(app, &described).unwrap());
    assert_eq!(all.len(), 2);
    sort_as_described(&mut all, &described);
    assert_eq!(all.iter().map(|one| one.id.to_string()).collect::<Vec<_>>(), ["app#A", "app#LLM"]);
    assert_eq!(application(text).described_models(&json!({"deployments": [{"name": "A"}]})), None);
}

#[test]
fn what_is_wrong_with_a_description_is_told() {
    let named = |name: &str| json!({"deployments": [{"name": name}]});
    let app = "{import_path: a:b, deployments: [{name: nonexistent}]}";
    assert_eq!(
        deploy(app, &named("D")).unwrap_err().to_string(),
        "Deployment 'nonexistent' does not exist. Available: [\"D\"]"
    );
    let app = "{import_path: a:b}";
    for (described, expected) in [
        (json!({}), "it has no deployment"),
        (json!({"deployments": []}), "it has no deployment"),
        (json!({"deployments": [{"name": "D"}, {"name": "D"}]}), "two deployments are called D"),
        (
            json!({"deployments": [{"name": "D", "num_replicas": 0}]}),
            "deployment \"D\": num_replicas: 0 is not ",
        ),
        (
            json!({"deployments": [{"name": "D", "ray_actor_options": {"runtime_env":
                {"working_dir": "https://e.org/a.zip"}}}]}),
            "deployment \"D\": ray_actor_options.runtime_env.working_dir: \"https://e.org/a.zip\" \
             is not on this machine, and nothing is fetched (download it",
        ),
    ] {
        let told = deploy(app, &described).unwrap_err().to_string();
        assert!(told.starts_with(expected), "{told}");
    }
}
