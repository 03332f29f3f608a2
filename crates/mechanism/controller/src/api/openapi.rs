//! The OpenAPI document of the admin API.

use serde_json::{Value, json};

/// Says every path of the admin port, with what goes in and what comes out.
pub(super) fn document() -> Value {
    json!({
        "openapi": "3.1.0",
        "info": {"title": "Tyndall admin API", "version": env!("CARGO_PKG_VERSION")},
        "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        "paths": {
            "/api/serve/applications/": applications(),
            "/api/serve/applications/{application}": delete(),
            "/api/v1/applications/{application}/deployments/{deployment}/scale": scale(),
            "/api/ray/version": read("The versions that Ray's client asks for", json!([])),
            "/api/tyndall/applications/": read("Everything that is deployed", json!([])),
            "/api/tyndall/applications/{application}": application(),
            "/api/tyndall/applications/{application}/versions":
                read("Its versions, newest first", json!([path_name("application")])),
            "/api/tyndall/applications/{application}/rollback": rollback(),
            "/api/tyndall/events": read("What happened, oldest first", json!([
                query("application", "string"), query("after", "integer"), query("limit", "integer"),
            ])),
            "/api/tyndall/node": read("Where its clients' port and its sockets are", json!([])),
            "/api/tyndall/controller-health":
                read("How the controller is: Ray's ControllerHealthMetrics", json!([])),
            "/api/tyndall/logs": read("Lines of the node's log file, and where they end", json!([
                query("lines", "integer"), query("offset", "integer"),
            ])),
            "/api/tyndall/usage": read("Wakes and seconds of replicas, by day", json!([])),
            "/api/tyndall/keys/usage": read("What API keys used, by day", json!([
                query("days", "integer"),
            ])),
            "/api/shutdown": {"post": {
                "summary": "End the server as Ctrl-C would",
                "responses": answers(&[("202", "it ends")]),
            }},
            "/openapi.json": read("This document", json!([])),
            "/metrics": read("Metrics in Prometheus' format", json!([])),
            "/-/healthz": read("Whether the controller answers; wants no token", json!([])),
        },
    })
}

fn applications() -> Value {
    json!({
        "get": {
            "summary": "Everything that is deployed, in Ray Serve's shape",
            "parameters": [query("api_type", "string")],
            "responses": answers(&[("200", "ServeInstanceDetails"), ("400", "unknown api_type")]),
        },
        "put": {
            "summary": "Deploy a config file; applications of the one before that are not in it go",
            "requestBody": body(tyndall_config::file::schema()),
            "responses": answers(&[
                ("200", "accepted; its applications are built and started now"),
                ("400", "what is wrong, one line for each problem"),
                ("507", "the disk is full"),
            ]),
        },
        "delete": {
            "summary": "Delete all applications",
            "responses": answers(&[("200", "they finish what they have and go")]),
        },
    })
}

/// The one path that takes code, or models that are in no config file, beside deleting.
fn application() -> Value {
    let mut path = delete();
    path["put"] = json!({
        "summary": "Add or replace one application, which brings its code or is one of models; others stay",
        "parameters": [path_name("application")],
        "requestBody": body(json!({
            "type": "object",
            "anyOf": [{"required": ["described", "python", "code"]}, {"required": ["application"]}],
            "additionalProperties": false,
            "properties": {
                "application": {
                    "type": "object",
                    "description": "as in a config file, without name; with code also without \
                                    import_path, and alone one of models",
                },
                "described": {"type": "object", "description": "what `role describe` prints"},
                "python": {"type": "string", "description": "path of the interpreter"},
                "sys_path": {"type": "array", "items": {"type": "string"}},
                "code": {
                    "type": "string", "contentEncoding": "base64",
                    "description": "a pickle of the application, made by cloudpickle",
                },
            },
        })),
        "responses": answers(&[
            ("200", "accepted; its replicas are started now"),
            ("400", "what is wrong"),
            ("409", "another application is mounted there"),
            ("403", "the port can be reached from elsewhere, and asks for no token"),
            ("507", "the disk is full"),
        ]),
    });
    path
}

fn scale() -> Value {
    json!({"post": {
        "summary": "Set the number of replicas, where external_scaler_enabled is true",
        "parameters": [path_name("application"), path_name("deployment")],
        "requestBody": body(json!({
            "type": "object",
            "required": ["target_num_replicas"],
            "properties": {"target_num_replicas": {"type": "integer", "minimum": 0}},
        })),
        "responses": answers(&[
            ("200", "accepted"), ("400", "bad body"), ("404", "unknown"), ("412", "not enabled"),
        ]),
    }})
}

fn rollback() -> Value {
    json!({"post": {
        "summary": "Go back to an older version; without one, to the last that served",
        "parameters": [path_name("application")],
        "requestBody": body(json!({
            "type": "object",
            "properties": {"version": {"type": "integer", "minimum": 1}},
        })),
        "responses": answers(&[("200", "the version"), ("404", "unknown")]),
    }})
}

fn delete() -> Value {
    json!({"delete": {
        "summary": "Delete an application",
        "parameters": [path_name("application")],
        "responses": answers(&[("200", "it finishes what it has"), ("404", "unknown")]),
    }})
}

fn read(summary: &str, parameters: Value) -> Value {
    let responses = answers(&[("200", summary)]);
    json!({"get": {"summary": summary, "parameters": parameters, "responses": responses}})
}

fn path_name(name: &str) -> Value {
    json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}})
}

fn query(name: &str, kind: &str) -> Value {
    json!({"name": name, "in": "query", "schema": {"type": kind}})
}

fn body(schema: Value) -> Value {
    json!({"content": {"application/json": {"schema": schema}}})
}

fn answers(of: &[(&str, &str)]) -> Value {
    of.iter().map(|(code, what)| ((*code).to_owned(), json!({"description": what}))).collect()
}
