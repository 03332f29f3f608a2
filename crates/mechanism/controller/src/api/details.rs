//! All that there is to know, written application by application: with thousands of them neither a
//! wake waits for the whole, nor is the whole ever in memory.

use super::{Answer, Api};
use crate::ray;
use crate::service::{Message, PAGE};
use http::{Response, header};
use serde::Serialize;
use serde_json::{Map, Value, json};
use tyndall_transport::{Body, LineSender, full, line_channel};
use tyndall_types::ApplicationName;
use tyndall_types::protocol::{ApplicationDetails, InstanceDetails};

/// The form of an answer.
#[derive(Debug, Clone, Copy)]
pub(super) enum Shape {
    /// Our own.
    Own,
    /// Ray's, with the applications that came by this way; absent is all.
    Ray(Option<&'static str>),
}

impl Api {
    pub(super) async fn details(&self, shape: Shape) -> Answer {
        let overview = self.ask(Message::Overview).await?;
        let mut text = String::from("{");
        let mut fields = self.fields(shape, &overview);
        if let Shape::Ray(_) = shape {
            let health = self.ask(Message::Health).await?;
            fields.insert("controller_health_metrics".to_owned(), health);
        }
        for (key, value) in fields {
            text.push_str(&format!("{}:{value},", Value::from(key)));
        }
        text.push_str("\"applications\":{");
        let mut writer = Writer { api: self.clone(), shape, after: None, is_first: true };
        let is_whole = writer.page(&mut text).await?;
        let body = if is_whole {
            full(text)
        } else {
            let (sender, body) = line_channel(2);
            tokio::spawn(async move { writer.rest(text, &sender).await });
            body
        };
        let mut response = Response::new(body);
        let kind = header::HeaderValue::from_static("application/json");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        Ok(response)
    }

    /// What is beside the applications.
    fn fields(&self, shape: Shape, overview: &InstanceDetails) -> Map<String, Value> {
        let fields = match shape {
            Shape::Own => json!(overview),
            Shape::Ray(_) => ray::instance_details(overview, &self.instance),
        };
        let Value::Object(mut fields) = fields else { return Map::new() };
        fields.remove("applications");
        fields
    }
}

struct Writer {
    api: Api,
    shape: Shape,
    after: Option<ApplicationName>,
    is_first: bool,
}

impl Writer {
    /// Appends the next applications; true at the end of the document.
    async fn page(&mut self, text: &mut String) -> Result<bool, Response<Body>> {
        let after = self.after.clone();
        let page = self.api.ask(|reply| Message::Applications { after, reply }).await?;
        for application in &page {
            match self.shape {
                Shape::Own => self.write(text, &application.name, application),
                Shape::Ray(source) if source.is_none_or(|source| application.source == source) => {
                    let shown = ray::application_details(application, &self.api.instance);
                    self.write(text, &application.name, &shown);
                }
                Shape::Ray(_) => {}
            }
        }
        self.after = page.last().and_then(name_of);
        let is_end = page.len() < PAGE || self.after.is_none();
        if is_end {
            text.push_str("}}");
        }
        Ok(is_end)
    }

    fn write(&mut self, text: &mut String, name: &str, value: &impl Serialize) {
        if !std::mem::take(&mut self.is_first) {
            text.push(',');
        }
        let value = serde_json::to_string(value).expect("wire types have string keys only");
        text.push_str(&format!("{}:{value}", Value::from(name)));
    }

    /// Sends what was written and the pages that follow. Where one cannot be had the document ends
    /// in the middle, and with it the reader's belief in it.
    async fn rest(mut self, mut text: String, sender: &LineSender) {
        loop {
            if !sender.send_bytes(std::mem::take(&mut text)).await {
                return;
            }
            let Ok(is_end) = self.page(&mut text).await else { return };
            if is_end {
                sender.send_bytes(text).await;
                return;
            }
        }
    }
}

fn name_of(application: &ApplicationDetails) -> Option<ApplicationName> {
    ApplicationName::new(application.name.as_str()).ok()
}
