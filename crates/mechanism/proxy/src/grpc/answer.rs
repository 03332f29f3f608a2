//! An answer on its way to the client: messages as they come, and trailers at the end of each.

use crate::body::{Cut, Lost, Observer, cut};
use crate::grpc::ENCODING;
use crate::grpc::frames::{MAX_BYTES, Splitter, Told, take_first, told};
use crate::grpc::status::{CONTENT_TYPE, Code, Status};
use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, Stream, StreamExt};
use http::{HeaderValue, Response, header};
use http_body::{Body as HttpBody, Frame};
use http_body_util::BodyExt;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error as SocketError, Message};
use tyndall_router::ReplicaStream;
use tyndall_transport::{Body, BoxError, RequestBody};

/// Where messages of a replica come from.
enum Source {
    /// The body of its answer.
    Body { body: Body, part: Bytes, splitter: Splitter },
    /// A WebSocket, because the client goes on; each message is one.
    Socket { from: Pin<Box<dyn Stream<Item = Told> + Send>>, _up: JoinSet<()> },
}

/// The body of an answer. Whatever happens, it ends with trailers.
pub(super) struct Answer {
    /// Gone when it is over, and with it the permit.
    source: Option<Source>,
    id: HeaderValue,
    until: Option<(Pin<Box<Sleep>>, Status)>,
    is_cut: Cut,
    observer: Option<Observer>,
}

/// When a call is over, and what it is told then.
pub(super) struct Bounds {
    pub(super) until: Option<(Instant, Status)>,
    pub(super) is_cut: watch::Receiver<bool>,
}

impl Answer {
    fn new(source: Source, id: HeaderValue, bounds: Bounds) -> Self {
        let until = bounds.until.map(|(until, status)| (Box::pin(sleep_until(until)), status));
        Self { source: Some(source), id, until, is_cut: cut(bounds.is_cut), observer: None }
    }

    /// Of the answer to a call that came whole.
    pub(super) fn of_body(body: Body, id: HeaderValue, bounds: Bounds) -> Self {
        let source = Source::Body { body, part: Bytes::new(), splitter: Splitter::default() };
        Self::new(source, id, bounds)
    }

    /// Of a call whose client goes on: what it tells is passed on meanwhile.
    pub(super) async fn of_socket(
        replica: ReplicaStream,
        (begun, rest): (BytesMut, RequestBody),
        id: HeaderValue,
        bounds: Bounds,
    ) -> Self {
        let limits = WebSocketConfig::default()
            .max_message_size(Some(MAX_BYTES + 16))
            .max_frame_size(Some(MAX_BYTES + 16));
        let socket = WebSocketStream::from_raw_socket(replica, Role::Client, Some(limits)).await;
        let (to, from) = socket.split();
        let mut up = JoinSet::new();
        up.spawn(pass_on(begun, rest, to));
        let from = from.filter_map(|message| std::future::ready(said(message)));
        Self::new(Source::Socket { from: Box::pin(from), _up: up }, id, bounds)
    }

    /// The answer with its head; `observer` counts it when it is over.
    pub(super) fn into_response(
        mut self,
        encoding: Option<HeaderValue>,
        observer: Option<Observer>,
    ) -> Response<Body> {
        self.observer = observer;
        let mut response = Response::new(self.boxed_unsync());
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, CONTENT_TYPE);
        encoding.into_iter().for_each(|encoding| drop(headers.insert(&ENCODING, encoding)));
        response
    }

    fn poll_told(&mut self, cx: &mut Context<'_>) -> Poll<Told> {
        let Some(source) = &mut self.source else { return Poll::Pending };
        if let Poll::Ready(told) = source.poll(cx) {
            return Poll::Ready(told);
        }
        if let Some((until, status)) = &mut self.until
            && until.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Told::End(status.clone()));
        }
        self.is_cut.as_mut().poll(cx).map(|()| {
            let details = "the server shut down in the middle of the answer";
            Told::End(Status::new(Code::UNAVAILABLE, details))
        })
    }
}

impl Source {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Told> {
        loop {
            match self {
                Self::Body { body, part, splitter } => {
                    match splitter.next(part) {
                        Ok(Some(told)) => return Poll::Ready(told),
                        Ok(None) => {}
                        Err(()) => return Poll::Ready(Told::End(broken("no message of gRPC"))),
                    }
                    match std::task::ready!(Pin::new(body).poll_frame(cx)) {
                        Some(Ok(frame)) => *part = frame.into_data().unwrap_or_default(),
                        Some(Err(error)) => return Poll::Ready(Told::End(lost(&error))),
                        None => return Poll::Ready(Told::End(broken("no end"))),
                    }
                }
                Self::Socket { from, .. } => {
                    let said = from.as_mut().poll_next(cx);
                    return said.map(|said| said.unwrap_or_else(|| Told::End(broken("no end"))));
                }
            }
        }
    }
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        if this.source.is_none() {
            return Poll::Ready(None);
        }
        let frame = match std::task::ready!(this.poll_told(cx)) {
            Told::Data(data) => Frame::data(data),
            Told::End(status) => {
                this.source = None;
                if let Some(mut observer) = this.observer.take() {
                    observer.status = status.code.http();
                }
                Frame::trailers(status.headers(&this.id))
            }
        };
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.source.is_none()
    }
}

/// What a replica left out.
fn broken(what: &str) -> Status {
    let details = format!("the replica's answer has {what}; its lines in the log say why");
    Status::new(Code::INTERNAL, details)
}

fn lost(error: &BoxError) -> Status {
    let code = match error.downcast_ref::<Lost>() {
        Some(Lost::Cut) => Code::UNAVAILABLE,
        _ => Code::INTERNAL,
    };
    Status::new(code, error.to_string())
}

/// What a replica says by a WebSocket; nothing where that is not for the client.
fn said(message: Result<Message, SocketError>) -> Option<Told> {
    match message {
        // The library answers pings.
        Ok(Message::Ping(_) | Message::Pong(_)) => None,
        Ok(Message::Binary(frame)) => {
            Some(told(frame).unwrap_or_else(|| Told::End(broken("no end"))))
        }
        Ok(Message::Close(Some(close))) if close.code == CloseCode::Restart => {
            let details = "the replica ended before the call was over; call again";
            Some(Told::End(Status::new(Code::UNAVAILABLE, details)))
        }
        Ok(Message::Text(_) | Message::Close(_) | Message::Frame(_)) => {
            Some(Told::End(broken("no end")))
        }
        Err(error) => {
            tracing::debug!(%error, "the way to a replica broke in a call");
            Some(Told::End(broken("no end")))
        }
    }
}

/// Tells a replica what the client tells. One that breaks off is not passed on as an end: the
/// connection closes instead, which cancels the call.
async fn pass_on<S: SinkExt<Message> + Unpin>(begun: BytesMut, rest: RequestBody, mut to: S) {
    // The call may be over without waiting for this.
    if pass_messages(begun, rest, &mut to).await {
        drop(to.send(Message::Text(super::INPUT_ENDS.into())).await);
    } else {
        drop(to.close().await);
    }
}

/// Whether the client has told everything.
async fn pass_messages<S>(mut begun: BytesMut, mut rest: RequestBody, to: &mut S) -> bool
where
    S: SinkExt<Message> + Unpin,
{
    loop {
        match take_first(&mut begun) {
            Ok(Some(frame)) => {
                if to.send(Message::Binary(frame)).await.is_err() {
                    return false;
                }
                continue;
            }
            Ok(None) => {}
            Err(status) => {
                tracing::warn!("a call is cancelled: {}", status.details);
                return false;
            }
        }
        match rest.frame().await {
            Some(Ok(frame)) => begun.extend_from_slice(&frame.into_data().unwrap_or_default()),
            Some(Err(_)) => return false,
            None => return begun.is_empty(),
        }
    }
}
