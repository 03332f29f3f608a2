//! Requests in two parts: a head, which the server takes or refuses, and a body when there is one.
//!
//! This is what `expect: 100-continue` is for. A server has said that it works on the request, and
//! keeps for it whatever it keeps for a request, before anybody knows the body.

use super::connection::Connection;
use super::{Client, ClientError, ResponseBody};
use crate::wire::{Head, Outgoing, Said};
use bytes::Bytes;
use http::{HeaderMap, Method, Response, Uri};

/// What a server says to the head of an open request.
#[derive(Debug)]
pub enum Opening {
    /// It takes the request.
    Taken(OpenRequest),
    /// It does not ask for the body: its answer.
    Answered(Response<ResponseBody>),
}

/// A request that the server has taken and that has no body yet. Dropping it closes the connection,
/// so the server sees the disconnect.
#[derive(Debug)]
pub struct OpenRequest {
    client: Client,
    connection: Connection,
    method: Method,
}

impl Client {
    /// Sends the head of a request and waits until the server asks for the body, or answers without
    /// it. The headers say neither `expect` nor a length.
    ///
    /// # Errors
    /// As [`Client::exchange`].
    ///
    /// # Cancel safety
    /// As [`Client::exchange`].
    pub async fn open(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
    ) -> Result<Opening, ClientError> {
        let no_body = Bytes::new();
        let request = Outgoing { is_open: true, ..Outgoing::new(method, uri, headers, &no_body) };
        let (said, connection) = self.reach(&request).await?;
        Ok(match said {
            Said::GoOn => {
                let (client, method) = (self.clone(), method.clone());
                Opening::Taken(OpenRequest { client, connection, method })
            }
            // Whether the server still waits for the body, nobody can say.
            Said::Answer(head) => {
                Opening::Answered(self.answer(Head { keeps: false, ..head }, connection))
            }
        })
    }
}

impl OpenRequest {
    /// Sends the body and waits for the head of the answer.
    ///
    /// # Errors
    /// [`ClientError::Broken`]. Any status is an answer.
    ///
    /// # Cancel safety
    /// As [`Client::exchange`].
    pub async fn send(mut self, body: &[u8]) -> Result<Response<ResponseBody>, ClientError> {
        match self.connection.finish(&self.method, body).await {
            Ok(head) => Ok(self.client.answer(head, self.connection)),
            Err(error) => Err(self.client.broken(error)),
        }
    }
}
