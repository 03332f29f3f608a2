//! Prompts that go where their beginning is.

use super::*;
use tyndall_types::protocol::PrefixAffinity;

fn conversation(number: usize, turns: usize) -> Vec<Value> {
    let say = |turn| json!({"role": "user", "content": format!("{number}: turn {turn} {}", "of many ".repeat(20))});
    (0..=turns).map(say).collect()
}

/// Who answers.
async fn asked(client: &Client, path: &str, sent: &Value) -> String {
    let response = post(client, path, &sent.to_string()).await;
    assert_eq!(response.status(), StatusCode::OK, "{sent}");
    json_body(response).await["replica"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn conversations_stay_with_their_replicas_on_every_route() {
    let node = Node::start(route("demo")).await;
    let replicas = ["r0", "r1", "r2"].map(|id| Replica::start(&node, id, Behaviour::Echo));
    node.edit(|demo| {
        demo.replicas = replicas.iter().map(Replica::route).collect();
        demo.model.as_mut().unwrap().prefix_affinity = Some(PrefixAffinity::default());
    })
    .await;
    let client = &node.client;
    let chat = |number, turns| json!({"messages": conversation(number, turns)});
    let mut homes = Vec::new();
    for number in 0..3 {
        homes.push(asked(client, "/v1/chat/completions", &chat(number, 0)).await);
    }
    // Each began at one that had nothing.
    assert_eq!(homes.iter().collect::<std::collections::BTreeSet<_>>().len(), 3, "{homes:?}");
    for turns in 1..4 {
        for (number, home) in homes.iter().enumerate() {
            assert_eq!(asked(client, "/v1/chat/completions", &chat(number, turns)).await, *home);
            let mut messages = chat(number, turns);
            messages["max_tokens"] = 5.into();
            assert_eq!(asked(client, "/v1/messages", &messages).await, *home);
        }
    }
    // The parts of a message are what it says.
    for (number, home) in homes.iter().enumerate() {
        let mut parts = chat(number, 3);
        for message in parts["messages"].as_array_mut().unwrap() {
            message["content"] = json!([{"type": "text", "text": message["content"].clone()}]);
        }
        assert_eq!(asked(client, "/v1/chat/completions", &parts).await, *home);
    }
    let text = "once upon a time ".repeat(30);
    let home = asked(client, "/v1/completions", &json!({"prompt": text.clone()})).await;
    for path in ["/v1/completions", "/generate"] {
        let longer = json!({"prompt": format!("{text} there was")});
        assert_eq!(asked(client, path, &longer).await, home, "{path}");
    }
}
