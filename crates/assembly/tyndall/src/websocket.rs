//! WebSockets of deployments in other languages: the handshake is checked and answered here, frames
//! are read and written here, and the language gets messages.
//!
//! A task has the socket; a [`Sender`] and a [`Receiver`] are what the language has of it. Both
//! directions have a bound, and who is fast waits for who is slow. It ends
//!
//! 1. when the client closes or is gone: the receiver tells how;
//! 2. when the sender closes it or is dropped: the client has a while to agree;
//! 3. when the drain time of the replica is over: both sides are told 1012, service restart.

use crate::http::MAX_BODY_BYTES;
use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, copy, sink};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error as SocketError, Message as Frame};
use tyndall_transport::Upgrade;
use tyndall_types::HEADER_GRPC;

pub use tokio_tungstenite::tungstenite::Utf8Bytes;

/// Messages that wait in either direction, before whoever makes more waits too.
const MAX_WAITING: usize = 32;

/// Read at once; each socket has such a buffer.
const READ_BYTES: usize = 16 << 10;

/// A client that says nothing for so long is asked whether it is there, and has as long to answer:
/// as with the server that Ray Serve uses.
const SILENCE: Duration = Duration::from_secs(20);

/// A proxy that carries a call of gRPC may say nothing for as long as its client does, and reads
/// nothing meanwhile; when it is gone its connection ends.
const SILENCE_OF_GRPC: Duration = Duration::from_hours(24 * 365);

/// A message of gRPC has a head.
const MAX_MESSAGE_BYTES: usize = MAX_BODY_BYTES + 5;

/// How long a client has to agree to the end.
const FAREWELL: Duration = Duration::from_secs(5);

/// What a client has said before it left is read within such a time.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Bytes of a reason that a frame has room for.
const MAX_REASON_BYTES: usize = 123;

/// A client went away without a word.
const LOST: u16 = 1006;

/// What is said in either direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// A text.
    Text(Utf8Bytes),
    /// Bytes.
    Binary(Bytes),
}

/// How a WebSocket ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Close {
    /// By RFC 6455, section 7.4; 1005 is none, 1006 that the client is gone.
    pub code: u16,
    /// May be empty.
    pub reason: String,
}

impl Close {
    /// With this code, for this reason.
    pub fn new(code: u16, reason: impl Into<String>) -> Self {
        Self { code, reason: reason.into() }
    }

    /// Whether a peer may be told such a code.
    #[must_use]
    pub fn can_be_sent(&self) -> bool {
        CloseCode::from(self.code).is_allowed()
    }

    fn lost() -> Self {
        Self::new(LOST, "")
    }

    fn frame(&self) -> Frame {
        let mut length = self.reason.len().min(MAX_REASON_BYTES);
        while !self.reason.is_char_boundary(length) {
            length -= 1;
        }
        let frame = CloseFrame { code: self.code.into(), reason: self.reason[..length].into() };
        Frame::Close(self.can_be_sent().then_some(frame))
    }
}

impl From<Option<CloseFrame>> for Close {
    fn from(frame: Option<CloseFrame>) -> Self {
        match frame {
            Some(frame) => Self::new(frame.code.into(), frame.reason.as_str()),
            None => Self::new(CloseCode::Status.into(), ""),
        }
    }
}

/// Resolves when the drain time of the replica is over. Among the extensions of requests.
#[derive(Debug, Clone)]
pub(crate) struct Ending(pub(crate) watch::Receiver<bool>);

/// A client's wish to go on with a WebSocket.
#[derive(Debug)]
pub struct Handshake {
    upgrade: Upgrade,
    accept: HeaderValue,
    protocols: Vec<String>,
    ending: Option<Ending>,
    /// After so long without a word the client is asked whether it is there.
    silence: Duration,
}

impl Handshake {
    /// Takes it off a request that has one; an answer where it is not one by RFC 6455.
    pub(crate) fn take(request: &mut Request) -> Option<Result<Self, Response>> {
        let headers = request.headers();
        let wants = has(headers, &header::CONNECTION, "upgrade")
            && has(headers, &header::UPGRADE, "websocket");
        if !wants || request.method() != Method::GET {
            return None;
        }
        if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
            let told = "sec-websocket-version is not 13; use that version";
            let version = [(header::SEC_WEBSOCKET_VERSION, "13")];
            return Some(Err((StatusCode::UPGRADE_REQUIRED, version, told).into_response()));
        }
        let Some(key) = headers.get(header::SEC_WEBSOCKET_KEY) else {
            let told = "sec-websocket-key is missing; send one";
            return Some(Err((StatusCode::BAD_REQUEST, told).into_response()));
        };
        let accept = HeaderValue::try_from(derive_accept_key(key.as_bytes()));
        let protocols =
            words(headers, &header::SEC_WEBSOCKET_PROTOCOL).map(str::to_owned).collect();
        Some(Ok(Self {
            accept: accept.expect("base64 is a header value"),
            protocols,
            ending: request.extensions().get().cloned(),
            silence: if headers.contains_key(HEADER_GRPC) { SILENCE_OF_GRPC } else { SILENCE },
            upgrade: Upgrade::of(request),
        }))
    }

    /// The subprotocols that the client knows, best first.
    #[must_use]
    pub fn protocols(&self) -> &[String] {
        &self.protocols
    }

    /// Accepts: the answer, and the socket, which opens when the answer has left.
    ///
    /// # Panics
    /// Outside of a tokio runtime, in which the socket then lives.
    #[must_use]
    pub fn accept(
        self,
        protocol: Option<HeaderValue>,
        headers: HeaderMap,
    ) -> (Response, Sender, Receiver) {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        *response.headers_mut() = headers;
        let own: [(HeaderName, Option<HeaderValue>); 4] = [
            (header::CONNECTION, Some(HeaderValue::from_static("Upgrade"))),
            (header::UPGRADE, Some(HeaderValue::from_static("websocket"))),
            (header::SEC_WEBSOCKET_ACCEPT, Some(self.accept)),
            (header::SEC_WEBSOCKET_PROTOCOL, protocol),
        ];
        for (name, value) in own {
            if let Some(value) = value {
                response.headers_mut().insert(name, value);
            }
        }
        let (sender, outgoing) = mpsc::channel(MAX_WAITING);
        let (incoming, messages) = mpsc::channel(MAX_WAITING);
        let (upgrade, ending, silence) = (self.upgrade, self.ending, self.silence);
        tokio::spawn(async move {
            let end = match upgrade.stream().await {
                Ok(stream) => run(stream, outgoing, &incoming, ending, silence).await,
                Err(error) => {
                    tracing::debug!(%error, "a client left during its handshake");
                    Close::lost()
                }
            };
            // Nobody is told when nobody listens.
            drop(incoming.send(Err(end)).await);
        });
        (response, Sender(sender), Receiver { messages, end: None })
    }
}

fn words<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim)
}

fn has(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    words(headers, name).any(|found| found.eq_ignore_ascii_case(word))
}

/// What goes to the client.
#[derive(Debug)]
pub enum Outgoing {
    /// Something to say.
    Message(Message),
    /// The end.
    Close(Close),
}

/// Says things to the client. Dropping it closes the WebSocket with 1000.
#[derive(Debug, Clone)]
pub struct Sender(mpsc::Sender<Outgoing>);

impl Sender {
    /// Says something, once there is room for it; false when the client is gone.
    ///
    /// # Cancel safety
    /// It is said or it is not.
    pub async fn send(&self, what: Outgoing) -> bool {
        self.0.send(what).await.is_ok()
    }

    /// Says something if there is room for it now, or gives it back.
    ///
    /// # Errors
    /// What has no room.
    pub fn try_send(&self, what: Outgoing) -> Result<(), Outgoing> {
        match self.0.try_send(what) {
            // Who is gone has all the room there is.
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
            Err(mpsc::error::TrySendError::Full(what)) => Err(what),
        }
    }

    /// Whether the WebSocket is over.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0.is_closed()
    }
}

/// Hears what the client says.
#[derive(Debug)]
pub struct Receiver {
    messages: mpsc::Receiver<Result<Message, Close>>,
    end: Option<Close>,
}

impl Receiver {
    /// What comes next; how it ended, from then on.
    ///
    /// # Errors
    /// [`Close`], by whichever side.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn next(&mut self) -> Result<Message, Close> {
        if let Some(end) = &self.end {
            return Err(end.clone());
        }
        let next = self.messages.recv().await;
        self.took(next)
    }

    /// What has come already.
    pub fn try_next(&mut self) -> Option<Result<Message, Close>> {
        if let Some(end) = &self.end {
            return Some(Err(end.clone()));
        }
        match self.messages.try_recv() {
            Ok(next) => Some(self.took(Some(next))),
            Err(mpsc::error::TryRecvError::Empty) => None,
            Err(mpsc::error::TryRecvError::Disconnected) => Some(self.took(None)),
        }
    }

    fn took(&mut self, next: Option<Result<Message, Close>>) -> Result<Message, Close> {
        let next = next.unwrap_or_else(|| Err(Close::lost()));
        if let Err(end) = &next {
            self.end = Some(end.clone());
        }
        next
    }
}

type Writing<S> = SplitSink<WebSocketStream<S>, Frame>;
type Reading<S> = SplitStream<WebSocketStream<S>>;
type Incoming = mpsc::Sender<Result<Message, Close>>;

/// Has the socket up to its end, which it returns.
async fn run<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    outgoing: mpsc::Receiver<Outgoing>,
    incoming: &Incoming,
    ending: Option<Ending>,
    silence: Duration,
) -> Close {
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BYTES)
        .max_message_size(Some(MAX_MESSAGE_BYTES))
        .max_frame_size(Some(MAX_MESSAGE_BYTES));
    let socket = WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await;
    let (mut writing, mut reading) = socket.split();
    let (pings, asked) = mpsc::channel(1);
    let (end, is_ours) = tokio::select! {
        end = read(&mut reading, incoming, pings, silence) => end,
        end = write(&mut writing, outgoing, asked, ending) => (end, true),
    };
    if is_ours {
        let farewell = async {
            // It fails when the client is gone, and then there is nobody to wait for.
            if writing.send(end.frame()).await.is_ok() {
                leave(writing, reading).await;
            }
        };
        drop(timeout(FAREWELL, farewell).await);
    }
    end
}

/// Waits until the client has agreed. Where it broke the rules nothing of it is understood any more,
/// and its end is waited for: what is not read of a socket that is closed can take with it what the
/// client has not read.
async fn leave<S: AsyncRead + AsyncWrite + Unpin>(writing: Writing<S>, mut reading: Reading<S>) {
    while let Some(Ok(frame)) = reading.next().await {
        if frame.is_close() {
            return;
        }
    }
    if let Ok(socket) = writing.reunite(reading) {
        let mut stream = socket.into_inner();
        tokio::io::AsyncWriteExt::shutdown(&mut stream).await.ok();
        copy(&mut stream, &mut sink()).await.ok();
    }
}

/// Reads up to the end, and says whether the client is still to be told of it.
async fn read<S: AsyncRead + AsyncWrite + Unpin>(
    reading: &mut Reading<S>,
    incoming: &Incoming,
    pings: mpsc::Sender<()>,
    silence: Duration,
) -> (Close, bool) {
    let mut closed = None;
    loop {
        let Ok(room) = incoming.reserve().await else {
            // Nobody hears what the client says; who writes ends it.
            return std::future::pending().await;
        };
        let Some(frame) = heard(reading, &pings, silence).await else {
            return (Close::lost(), false);
        };
        match frame {
            Some(Ok(Frame::Text(text))) => room.send(Ok(Message::Text(text))),
            Some(Ok(Frame::Binary(bytes))) => room.send(Ok(Message::Binary(bytes))),
            // The library answers it while it reads on.
            Some(Ok(Frame::Close(frame))) => closed = Some(Close::from(frame)),
            Some(Ok(Frame::Ping(_) | Frame::Pong(_) | Frame::Frame(_))) => {}
            Some(Err(error)) => return closed.map_or_else(|| failed(&error), |end| (end, false)),
            None => return (closed.unwrap_or_else(Close::lost), false),
        }
    }
}

/// The next frame; nothing of a client that does not even answer a ping.
async fn heard<S: AsyncRead + AsyncWrite + Unpin>(
    reading: &mut Reading<S>,
    pings: &mpsc::Sender<()>,
    silence: Duration,
) -> Option<Option<Result<Frame, SocketError>>> {
    if let Ok(frame) = timeout(silence, reading.next()).await {
        return Some(frame);
    }
    // When there is no room one is on its way.
    pings.try_send(()).ok();
    timeout(silence, reading.next()).await.ok()
}

/// What an error of the client's is called, and whether it is told so.
fn failed(error: &SocketError) -> (Close, bool) {
    let close = |code: CloseCode| (Close::new(code.into(), error.to_string()), true);
    match error {
        SocketError::Protocol(ProtocolError::ResetWithoutClosingHandshake) => {
            (Close::lost(), false)
        }
        SocketError::Protocol(_) => close(CloseCode::Protocol),
        SocketError::Capacity(_) => close(CloseCode::Size),
        SocketError::Utf8(_) => close(CloseCode::Invalid),
        _ => (Close::lost(), false),
    }
}

/// Writes up to the end, which is still to be told to the client.
async fn write<S: AsyncRead + AsyncWrite + Unpin>(
    writing: &mut Writing<S>,
    mut outgoing: mpsc::Receiver<Outgoing>,
    mut pings: mpsc::Receiver<()>,
    ending: Option<Ending>,
) -> Close {
    let ended = async {
        match ending {
            // The sender lives as long as the replica.
            Some(Ending(mut is_over)) => drop(is_over.wait_for(|is_over| *is_over).await),
            None => std::future::pending().await,
        }
    };
    tokio::pin!(ended);
    loop {
        let frame = tokio::select! {
            what = outgoing.recv() => match what {
                Some(Outgoing::Message(Message::Text(text))) => Frame::Text(text),
                Some(Outgoing::Message(Message::Binary(bytes))) => Frame::Binary(bytes),
                Some(Outgoing::Close(close)) => return close,
                None => return Close::new(CloseCode::Normal.into(), ""),
            },
            Some(()) = pings.recv() => Frame::Ping(Bytes::new()),
            () = &mut ended => {
                return Close::new(CloseCode::Restart.into(), "the replica ends");
            }
        };
        if writing.send(frame).await.is_err() {
            // Who reads learns why, unless nobody takes what was read before.
            tokio::time::sleep(LAST_WORDS).await;
            return Close::lost();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncWriteExt, duplex};

    #[tokio::test(start_paused = true)]
    async fn a_client_that_answers_no_ping_is_gone() {
        let (client, server) = duplex(1 << 16);
        let (_sender, outgoing) = mpsc::channel(1);
        let (incoming, _heard) = mpsc::channel(1);
        let running =
            tokio::spawn(async move { run(server, outgoing, &incoming, None, SILENCE).await });
        let mut client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
        for _ in 0..3 {
            // Who reads answers; idle for a minute it is still there.
            assert_eq!(client.next().await.unwrap().unwrap(), Frame::Ping(Bytes::new()));
        }
        assert!(!running.is_finished());
        assert_eq!(running.await.unwrap(), Close::lost());
    }

    #[tokio::test]
    async fn what_is_too_large_is_told_so_before_it_comes() {
        let (client, server) = duplex(1 << 16);
        let (_sender, outgoing) = mpsc::channel(1);
        let (incoming, _heard) = mpsc::channel(1);
        let running =
            tokio::spawn(async move { run(server, outgoing, &incoming, None, SILENCE).await });
        let mut client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
        // The begin of a masked binary frame of that length.
        let length = (MAX_MESSAGE_BYTES as u64 + 1).to_be_bytes();
        let head = [&[0x82, 0xff], &length[..], &[0; 4], &[7; 100]].concat();
        client.get_mut().write_all(&head).await.unwrap();
        let Some(Ok(Frame::Close(Some(told)))) = client.next().await else { panic!("not closed") };
        assert_eq!(u16::from(told.code), 1009);
        drop(client);
        assert_eq!(running.await.unwrap().code, 1009);
    }

    #[test]
    fn reasons_fit_into_a_frame_and_codes_that_nobody_may_send_are_not_sent() {
        let long = Close::new(4000, "ä".repeat(100));
        let Frame::Close(Some(frame)) = long.frame() else { panic!("no code") };
        assert_eq!((u16::from(frame.code), frame.reason.len()), (4000, 122));
        for code in [0, 999, 1005, 1006, 1015, 5000] {
            assert_eq!(Close::new(code, "").frame(), Frame::Close(None), "{code}");
        }
    }
}
