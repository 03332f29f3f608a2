//! Answers that are kept for later, and conversations that go on from them.

use super::input::items;
use crate::ApiError;
use crate::ids::digest;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// An answer with all that it answers.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredResponse {
    /// The items of the input, those of earlier answers included; each with an id.
    pub input: Vec<Value>,
    /// The answer as it was sent.
    pub response: Value,
}

/// In which order items are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ItemOrder {
    /// First to last.
    Ascending,
    /// Last to first.
    Descending,
}

impl StoredResponse {
    /// An answer, and the body that it answers, after [`expand_input`].
    ///
    /// # Errors
    /// 400 where the body has no valid input.
    pub fn new(body: &Map<String, Value>, response: Value) -> Result<Self, ApiError> {
        let mut input = items(body.get("input"))?;
        for (i, item) in input.iter_mut().enumerate() {
            if let Some(object) = item.as_object_mut() {
                object.entry("id").or_insert_with(|| {
                    format!("msg_{}", digest(&(response["id"].as_str(), "input", i))).into()
                });
            }
        }
        Ok(Self { input, response })
    }

    /// The items of the answer.
    #[must_use]
    pub fn output(&self) -> &[Value] {
        self.response.get("output").and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    /// `GET /v1/responses/{id}/input_items`: so many items after the one with this id.
    #[must_use]
    pub fn list_input(&self, order: ItemOrder, after: Option<&str>, limit: usize) -> Value {
        let mut items: Vec<&Value> = self.input.iter().collect();
        if order == ItemOrder::Descending {
            items.reverse();
        }
        let has_id = |item: &&Value| item["id"].as_str() == after;
        let from = after.map_or(0, |_| items.iter().position(has_id).map_or(0, |found| found + 1));
        let page: Vec<&Value> = items.iter().skip(from).take(limit).copied().collect();
        let id = |item: Option<&&Value>| item.map(|item| item["id"].clone());
        json!({
            "object": "list",
            "data": page,
            "first_id": id(page.first()),
            "last_id": id(page.last()),
            "has_more": from + page.len() < items.len(),
        })
    }

    /// Bytes of its JSON text.
    fn num_bytes(&self) -> usize {
        let mut counted = Counter(0);
        let input: Result<(), _> =
            self.input.iter().try_for_each(|item| serde_json::to_writer(&mut counted, item));
        let all = input.and_then(|()| serde_json::to_writer(&mut counted, &self.response));
        all.map_or(usize::MAX, |()| counted.0)
    }
}

struct Counter(usize);

impl std::io::Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The body with the items of an earlier answer, and of all before it, in front of its input. Its
/// `previous_response_id` stays, for the answer to repeat; instructions are not carried over.
///
/// # Errors
/// 400 where the body's input is no string and no list.
pub fn expand_input(
    mut body: Map<String, Value>,
    previous: &StoredResponse,
) -> Result<Map<String, Value>, ApiError> {
    let new = match body.get("input") {
        None | Some(Value::Null) => Vec::new(),
        sent => items(sent)?,
    };
    let all: Vec<Value> =
        previous.input.iter().chain(previous.output()).cloned().chain(new).collect();
    body.insert("input".to_owned(), all.into());
    Ok(body)
}

/// The answer that the last event of a stream holds; none in all other events.
#[must_use]
pub fn finished_response(event: &str, data: &str) -> Option<Value> {
    let last = ["response.completed", "response.incomplete", "response.failed"];
    if !last.contains(&event) {
        return None;
    }
    match serde_json::from_str(data).ok()? {
        Value::Object(mut event) => event.remove("response"),
        _ => None,
    }
}

/// Keeps answers, so many and so large together. Those that were asked for least lately go first.
#[derive(Debug)]
pub struct ResponseStore {
    max_responses: usize,
    max_bytes: usize,
    num_bytes: usize,
    /// Counts uses; the age of an answer is when it was used last.
    now: u64,
    by_id: HashMap<String, Kept>,
    by_age: BTreeMap<u64, String>,
}

#[derive(Debug)]
struct Kept {
    stored: Arc<StoredResponse>,
    num_bytes: usize,
    used: u64,
}

impl ResponseStore {
    /// An empty store. Bytes are those of JSON text.
    #[must_use]
    pub fn new(max_responses: usize, max_bytes: usize) -> Self {
        let (by_id, by_age) = (HashMap::new(), BTreeMap::new());
        Self { max_responses, max_bytes, num_bytes: 0, now: 0, by_id, by_age }
    }

    /// Keeps an answer, in place of one with the same id. False where it is larger than the store.
    pub fn put(&mut self, id: &str, stored: StoredResponse) -> bool {
        self.remove(id);
        let num_bytes = stored.num_bytes();
        if num_bytes > self.max_bytes || self.max_responses == 0 {
            return false;
        }
        let room = self.max_bytes - num_bytes;
        while self.by_id.len() >= self.max_responses || self.num_bytes > room {
            let Some((_, oldest)) = self.by_age.first_key_value() else { break };
            let oldest = oldest.clone();
            self.remove(&oldest);
        }
        self.now += 1;
        let kept = Kept { stored: Arc::new(stored), num_bytes, used: self.now };
        self.num_bytes += num_bytes;
        self.by_age.insert(self.now, id.to_owned());
        self.by_id.insert(id.to_owned(), kept);
        true
    }

    /// The answer, which counts as used now.
    pub fn get(&mut self, id: &str) -> Option<Arc<StoredResponse>> {
        let kept = self.by_id.get_mut(id)?;
        self.now += 1;
        self.by_age.remove(&kept.used);
        self.by_age.insert(self.now, id.to_owned());
        kept.used = self.now;
        Some(Arc::clone(&kept.stored))
    }

    /// Forgets an answer; false where there was none.
    pub fn remove(&mut self, id: &str) -> bool {
        let Some(kept) = self.by_id.remove(id) else { return false };
        self.by_age.remove(&kept.used);
        self.num_bytes -= kept.num_bytes;
        true
    }

    /// Answers that are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// None is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Bytes of all of them.
    #[must_use]
    pub fn num_bytes(&self) -> usize {
        self.num_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse_responses;
    use super::*;
    use proptest::prelude::*;

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    fn stored(text: &str) -> StoredResponse {
        let output = json!([{"type": "message", "id": "msg_o", "role": "assistant",
                             "content": [{"type": "output_text", "text": text}]}]);
        let response = json!({"id": "resp_1", "output": output});
        StoredResponse::new(&object(json!({"input": "q"})), response).unwrap()
    }

    #[test]
    fn conversations_go_on() {
        let previous = stored("a");
        let body = object(json!({"input": "r", "previous_response_id": "resp_1"}));
        let body = expand_input(body, &previous).unwrap();
        let request = parse_responses(Value::from(body.clone()).to_string().as_bytes()).unwrap();
        assert_eq!(
            Value::from(request.chat.messages),
            json!([
                {"role": "user", "content": "q"},
                {"role": "assistant", "content": "a"},
                {"role": "user", "content": "r"},
            ])
        );
        assert_eq!(request.previous_response_id.as_deref(), Some("resp_1"));
        let next = StoredResponse::new(&body, json!({"id": "resp_2", "output": []})).unwrap();
        let ids: Vec<&str> = next.input.iter().map(|item| item["id"].as_str().unwrap()).collect();
        assert_eq!(
            (ids.len(), ids[0], ids[1]),
            (3, previous.input[0]["id"].as_str().unwrap(), "msg_o")
        );
        assert!(ids[2].starts_with("msg_") && ids[2] != ids[0]);
        assert!(expand_input(object(json!({"input": 3})), &previous).is_err());
        assert_eq!(
            expand_input(Map::new(), &previous).unwrap()["input"].as_array().unwrap().len(),
            2
        );
    }

    #[test]
    fn items_are_listed_in_pages() {
        let input = json!({"input": [{"id": "a"}, {"id": "b"}, {"id": "c"}]});
        let stored = StoredResponse::new(&object(input), json!({"id": "r"})).unwrap();
        let check = |order, after, limit, expected: Value, has_more| {
            let list = stored.list_input(order, after, limit);
            let ids: Value =
                list["data"].as_array().unwrap().iter().map(|i| i["id"].clone()).collect();
            assert_eq!((&ids, &list["has_more"]), (&expected, &Value::from(has_more)));
        };
        check(ItemOrder::Ascending, None, 2, json!(["a", "b"]), true);
        check(ItemOrder::Descending, None, 20, json!(["c", "b", "a"]), false);
        check(ItemOrder::Ascending, Some("b"), 2, json!(["c"]), false);
        check(ItemOrder::Descending, Some("c"), 1, json!(["b"]), true);
        assert_eq!(stored.list_input(ItemOrder::Ascending, Some("c"), 1)["first_id"], Value::Null);
        assert!(stored.output().is_empty());
    }

    #[test]
    fn only_the_last_event_holds_the_answer() {
        let data = r#"{"type": "response.completed", "response": {"id": "r"}}"#;
        assert_eq!(finished_response("response.completed", data), Some(json!({"id": "r"})));
        assert_eq!(finished_response("response.created", data), None);
        assert_eq!(finished_response("response.failed", "{"), None);
    }

    #[test]
    fn the_least_lately_used_goes_first() {
        let mut store = ResponseStore::new(2, 10_000);
        assert!(store.put("a", stored("1")) && store.put("b", stored("2")));
        assert!(store.get("a").is_some());
        assert!(store.put("c", stored("3")));
        let has = |store: &mut ResponseStore, id| store.get(id).is_some();
        assert!(has(&mut store, "a") && !has(&mut store, "b") && has(&mut store, "c"));
        assert!(store.remove("a") && !store.remove("a"));
        assert!(!store.put("c", stored(&"x".repeat(10_000))), "it is larger than the store");
        assert!(store.is_empty() && store.num_bytes() == 0);
    }

    proptest! {
        #[test]
        fn the_store_stays_within_its_bounds(
            uses in prop::collection::vec((0u8..3, 0u8..8, 0usize..300), 0..60),
            max_responses in 0usize..5,
            max_bytes in 0usize..1500,
        ) {
            let mut store = ResponseStore::new(max_responses, max_bytes);
            for (kind, id, size) in uses {
                let id = id.to_string();
                match kind {
                    0 => {
                        let kept = store.put(&id, stored(&"x".repeat(size)));
                        prop_assert_eq!(kept, store.get(&id).is_some());
                    }
                    1 => drop(store.get(&id)),
                    _ => {
                        store.remove(&id);
                        prop_assert!(store.get(&id).is_none());
                    }
                }
                prop_assert!(store.len() <= max_responses && store.num_bytes() <= max_bytes);
                prop_assert_eq!(store.len(), store.by_age.len());
                let sum: usize = store.by_id.values().map(|kept| kept.num_bytes).sum();
                prop_assert_eq!(store.num_bytes(), sum);
            }
        }
    }
}
