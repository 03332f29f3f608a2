//! Links, over pairs of sockets and over real servers.

mod properties;
mod workers;

use super::client::Unanswered;
use super::frame::{self, Frame, Kind};
use super::*;
use crate::wire::Outgoing;
use crate::{
    Body, BoxError, Client, Handler, Listener, RequestBody, ServeOptions, empty, full,
    line_channel, read_body, text,
};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, StreamBody};
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{Barrier, Notify, Semaphore, oneshot, watch};

/// What the handler's side of a test can see and do.
#[derive(Clone)]
struct Peer {
    meeting: Arc<Barrier>,
    dropped: Arc<Notify>,
    begun: Arc<AtomicUsize>,
    produced: Arc<AtomicUsize>,
    go_on: Arc<Semaphore>,
}

impl Default for Peer {
    fn default() -> Self {
        Self {
            meeting: Arc::new(Barrier::new(20)),
            dropped: Arc::default(),
            begun: Arc::default(),
            produced: Arc::default(),
            go_on: Arc::new(Semaphore::new(0)),
        }
    }
}

impl Peer {
    /// Waits for the first request.
    async fn has_begun(&self) {
        while self.begun.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

struct OnDrop(Arc<Notify>);
impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

fn stream(items: impl IntoIterator<Item = Result<http_body::Frame<Bytes>, BoxError>>) -> Body {
    let items: Vec<_> = items.into_iter().collect();
    StreamBody::new(futures_util::stream::iter(items)).boxed_unsync()
}

fn data(bytes: &'static str) -> Result<http_body::Frame<Bytes>, BoxError> {
    Ok(http_body::Frame::data(Bytes::from_static(bytes.as_bytes())))
}

impl Handler for Peer {
    async fn handle(&self, request: Request<RequestBody>) -> Response<Body> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        let (parts, body) = request.into_parts();
        match parts.uri.path() {
            "/echo" => {
                let mut response = Response::new(full(read_body(body, 1 << 20).await.unwrap()));
                *response.headers_mut() = parts.headers;
                response.headers_mut().remove(header::CONTENT_LENGTH);
                let target = HeaderValue::from_str(&parts.uri.to_string()).unwrap();
                response.headers_mut().insert("x-target", target);
                response
            }
            "/meet" => {
                self.meeting.wait().await;
                text(StatusCode::OK, "met")
            }
            "/hang" => {
                let _guard = OnDrop(self.dropped.clone());
                std::future::pending().await
            }
            "/wait" => {
                self.go_on.acquire().await.unwrap().forget();
                text(StatusCode::OK, "went on")
            }
            "/endless" => {
                let guard = OnDrop(self.dropped.clone());
                let produced = self.produced.clone();
                let items = futures_util::stream::repeat_with(move || {
                    let _ = &guard;
                    produced.fetch_add(1000, Ordering::SeqCst);
                    Ok::<_, BoxError>(http_body::Frame::data(Bytes::from(vec![b'x'; 1000])))
                });
                Response::new(StreamBody::new(items).boxed_unsync())
            }
            "/lines" => {
                let (sender, body) = line_channel(1);
                tokio::spawn(async move { while sender.send(&"line").await {} });
                Response::new(body)
            }
            path => made(path),
        }
    }
}

/// An answer that is there.
fn made(path: &str) -> Response<Body> {
    match path {
        "/large" => Response::new(full(vec![b'y'; 300_000])),
        "/trailers" => {
            let trailers = HeaderMap::from_iter([(
                header::HeaderName::from_static("x-sum"),
                HeaderValue::from_static("6"),
            )]);
            let trailers = Ok(http_body::Frame::trailers(trailers));
            Response::new(stream([data("one "), data("two"), trailers]))
        }
        "/only-trailers" => {
            let trailers = HeaderMap::from_iter([(
                header::HeaderName::from_static("x-sum"),
                HeaderValue::from_static("0"),
            )]);
            Response::new(stream([Ok(http_body::Frame::trailers(trailers))]))
        }
        "/breaks" => Response::new(stream([data("before"), Err("it broke".into())])),
        "/breaks-at-length" => Response::new(stream([Err("é".repeat(1 << 20).into())])),
        "/long-trailers" => {
            let name = header::HeaderName::from_static("x-long");
            let value = HeaderValue::from_str(&"x".repeat(2 << 20)).unwrap();
            Response::new(stream([Ok(http_body::Frame::trailers(
                [(name, value)].into_iter().collect(),
            ))]))
        }
        "/breaks-at-once" => Response::new(stream([Err("it broke".into())])),
        "/panics" => panic!("as a test does"),
        "/empty" => empty(StatusCode::NO_CONTENT),
        "/not-modified" => {
            let mut response = text(StatusCode::NOT_MODIFIED, "nobody reads it");
            response.headers_mut().insert(header::ETAG, HeaderValue::from_static("\"1\""));
            response
        }
        "/none" => {
            let mut response = empty(StatusCode::OK);
            response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(9));
            response
        }
        "/short" => {
            let mut response = text(StatusCode::OK, "four");
            response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(9));
            response
        }
        "/long" => {
            let mut response = text(StatusCode::OK, "four");
            response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(2));
            response
        }
        _ => empty(StatusCode::NOT_FOUND),
    }
}

/// Both ends of one link.
struct Pair {
    link: Link,
    peer: Peer,
    stop: watch::Sender<bool>,
    server: tokio::task::JoinHandle<std::io::Result<()>>,
}

fn pair() -> Pair {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (link, drive) = Link::new(ours);
    tokio::spawn(drive);
    let (stop, stopped) = watch::channel(false);
    let peer = Peer::default();
    let server = tokio::spawn(serve(theirs, peer.clone(), stopped));
    Pair { link, peer, stop, server }
}

/// Sends a request over a link.
async fn ask(
    link: &Link,
    method: Method,
    path: &'static str,
    body: &Bytes,
) -> Result<(Response<()>, LinkedBody), Unanswered> {
    let (uri, headers) = (Uri::from_static(path), HeaderMap::new());
    link.exchange(&Outgoing::new(&method, &uri, &headers, body)).await
}

/// What comes of a body: its text, its trailers, and why it ended early.
async fn collect(mut body: LinkedBody) -> (String, Option<HeaderMap>, Option<String>) {
    let (mut whole, mut trailers) = (Vec::new(), None);
    while let Some(frame) = poll_fn(|cx| body.poll_frame(cx)).await {
        match frame.map(http_body::Frame::into_data) {
            Ok(Ok(data)) => whole.extend_from_slice(&data),
            Ok(Err(frame)) => trailers = frame.into_trailers().ok(),
            Err(error) => {
                return (String::from_utf8(whole).unwrap(), trailers, Some(error.to_string()));
            }
        }
    }
    (String::from_utf8(whole).unwrap(), trailers, None)
}

async fn get(link: &Link, path: &'static str) -> (StatusCode, String) {
    let (response, body) = ask(link, Method::GET, path, &Bytes::new()).await.unwrap();
    (response.status(), collect(body).await.0)
}

#[tokio::test]
async fn requests_are_under_way_at_a_time() {
    let pair = pair();
    let met = futures_util::future::join_all((0..20).map(|_| get(&pair.link, "/meet"))).await;
    assert!(met.iter().all(|answer| *answer == (StatusCode::OK, "met".to_owned())), "{met:?}");
}

#[tokio::test]
async fn an_answer_in_pieces_is_whole_in_the_end() {
    let pair = pair();
    let (status, large) = get(&pair.link, "/large").await;
    assert_eq!((status, large.len()), (StatusCode::OK, 300_000));
    assert!(large.bytes().all(|byte| byte == b'y'));
    for (path, text, sum) in [("/trailers", "one two", "6"), ("/only-trailers", "", "0")] {
        let (_, body) = ask(&pair.link, Method::GET, path, &Bytes::new()).await.unwrap();
        let (whole, trailers, error) = collect(body).await;
        assert_eq!((whole.as_str(), error), (text, None));
        assert_eq!(trailers.unwrap()["x-sum"], sum);
    }
}

#[tokio::test]
async fn heads_tell_lengths_as_http_does() {
    let pair = pair();
    let no_body = Bytes::new();
    let (head, body) = ask(&pair.link, Method::HEAD, "/large", &no_body).await.unwrap();
    assert_eq!(head.headers()[header::CONTENT_LENGTH], "300000");
    assert!(body.is_end_stream());
    let (head, body) = ask(&pair.link, Method::GET, "/large", &no_body).await.unwrap();
    assert_eq!(head.headers()[header::CONTENT_LENGTH], "300000");
    assert_eq!(body.size_hint().exact(), Some(300_000));
    let (head, body) = ask(&pair.link, Method::GET, "/empty", &no_body).await.unwrap();
    assert_eq!(head.status(), StatusCode::NO_CONTENT);
    assert!(!head.headers().contains_key(header::CONTENT_LENGTH) && body.is_end_stream());
    let (head, body) = ask(&pair.link, Method::GET, "/not-modified", &no_body).await.unwrap();
    assert_eq!(head.status(), StatusCode::NOT_MODIFIED);
    assert_eq!(head.headers()[header::ETAG], "\"1\"");
    assert_eq!(collect(body).await.0, "");
    let (head, body) = ask(&pair.link, Method::GET, "/lines", &no_body).await.unwrap();
    assert!(!head.headers().contains_key(header::CONTENT_LENGTH));
    assert_eq!(body.size_hint().exact(), None);
}

#[tokio::test]
async fn an_answer_that_is_not_as_long_as_it_says_is_an_error() {
    let pair = pair();
    for (path, came, why) in [
        ("/short", "four", "the answer is shorter than it said"),
        ("/none", "", "the answer is shorter than it said"),
        ("/long", "", "the answer is longer than it said"),
    ] {
        let (_, body) = ask(&pair.link, Method::GET, path, &Bytes::new()).await.unwrap();
        let (whole, _, error) = collect(body).await;
        assert_eq!((whole.as_str(), error.as_deref()), (came, Some(why)), "{path}");
    }
    assert_eq!(get(&pair.link, "/echo").await.0, StatusCode::OK);
}

#[tokio::test]
async fn what_came_before_a_failure_comes_and_others_go_on() {
    let pair = pair();
    let no_body = Bytes::new();
    for (path, came) in [("/breaks", "before"), ("/breaks-at-once", "")] {
        let (_, body) = ask(&pair.link, Method::GET, path, &no_body).await.unwrap();
        let (whole, _, error) = collect(body).await;
        assert_eq!((whole.as_str(), error.as_deref()), (came, Some("it broke")));
    }
    for (path, words) in [("/breaks-at-length", "éé"), ("/long-trailers", "the trailers are too")]
    {
        let (_, body) = ask(&pair.link, Method::GET, path, &no_body).await.unwrap();
        let error = collect(body).await.2.unwrap();
        assert!(error.starts_with(words) && error.len() <= 4096, "{path}: {} bytes", error.len());
    }
    let lost = ask(&pair.link, Method::GET, "/panics", &no_body).await;
    assert!(matches!(lost, Err(Unanswered::Broken(_))), "{lost:?}");
    assert_eq!(get(&pair.link, "/large").await.1.len(), 300_000);
}

#[tokio::test]
async fn nobody_waits_any_more() {
    let pair = pair();
    {
        let no_body = Bytes::new();
        let hanging = ask(&pair.link, Method::GET, "/hang", &no_body);
        tokio::select! {
            _ = hanging => panic!("it hangs"),
            () = pair.peer.has_begun() => {}
        }
    }
    pair.peer.dropped.notified().await;
    let (_, body) = ask(&pair.link, Method::GET, "/endless", &Bytes::new()).await.unwrap();
    drop(body);
    pair.peer.dropped.notified().await;
    assert_eq!(get(&pair.link, "/large").await.1.len(), 300_000);
}

#[tokio::test]
async fn an_answer_that_nobody_reads_holds_up_no_other() {
    let pair = pair();
    let (_, mut slow) = ask(&pair.link, Method::GET, "/endless", &Bytes::new()).await.unwrap();
    for _ in 0..10 {
        assert_eq!(get(&pair.link, "/large").await.1.len(), 300_000);
    }
    // What is under way, and the piece for which there was no room.
    let produced = pair.peer.produced.load(Ordering::SeqCst);
    assert!(produced <= WINDOW + 1000, "{produced}");
    let mut read = 0;
    while read < 20 * WINDOW {
        let frame = poll_fn(|cx| slow.poll_frame(cx)).await.unwrap().unwrap();
        read += frame.data_ref().unwrap().len();
    }
    let produced = pair.peer.produced.load(Ordering::SeqCst);
    assert!(produced <= read + WINDOW + 1000, "{produced} of {read}");
}

#[tokio::test]
async fn a_server_that_leaves_answers_what_it_has_and_refuses_the_rest() {
    let pair = pair();
    let no_body = Bytes::new();
    let waiting = ask(&pair.link, Method::GET, "/wait", &no_body);
    let leaving = async {
        pair.peer.has_begun().await;
        pair.stop.send_replace(true);
        while pair.link.is_open() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let late = ask(&pair.link, Method::GET, "/echo", &no_body).await;
        assert!(matches!(late, Err(Unanswered::Unsent)), "{late:?}");
        pair.peer.go_on.add_permits(1);
    };
    let (answered, ()) = tokio::join!(waiting, leaving);
    let (_, body) = answered.unwrap();
    assert_eq!(collect(body).await.0, "went on");
    // The client ends the connection when all is answered.
    pair.server.await.unwrap().unwrap();
    assert_eq!(pair.peer.begun.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_client_that_leaves_gets_its_answers() {
    let Pair { link, peer, server, stop: _stop } = pair();
    let (_, body) = ask(&link, Method::GET, "/large", &Bytes::new()).await.unwrap();
    drop(link);
    assert_eq!(collect(body).await.0.len(), 300_000);
    server.await.unwrap().unwrap();
    assert_eq!(peer.begun.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_server_that_is_lost_breaks_what_it_may_have_begun() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (link, drive) = Link::new(ours);
    let no_body = Bytes::new();
    let sent = ask(&link, Method::GET, "/", &no_body);
    let lost = async move {
        let mut theirs = theirs;
        assert!(theirs.read(&mut [0; 8]).await.unwrap() > 0);
    };
    let (answer, (), ()) = tokio::join!(sent, lost, drive);
    assert!(matches!(answer, Err(Unanswered::Broken(_))), "{answer:?}");
    let late = ask(&link, Method::GET, "/", &no_body).await;
    assert!(matches!(late, Err(Unanswered::Unsent)), "{late:?}");
}

#[tokio::test]
async fn what_never_left_is_unsent() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    drop(theirs);
    let (link, drive) = Link::new(ours);
    let no_body = Bytes::new();
    let (answer, ()) = tokio::join!(ask(&link, Method::GET, "/", &no_body), drive);
    assert!(matches!(answer, Err(Unanswered::Unsent)), "{answer:?}");
}

#[tokio::test]
async fn a_driver_that_is_dropped_breaks_its_link() {
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let (link, drive) = Link::new(ours);
    let no_body = Bytes::new();
    let asking = async { ask(&link, Method::GET, "/", &no_body).await };
    let task = tokio::spawn(drive);
    let ending = async {
        tokio::task::yield_now().await;
        task.abort();
    };
    let (answer, ()) = tokio::join!(asking, ending);
    assert!(matches!(answer, Err(Unanswered::Broken(_))), "{answer:?}");
}

#[tokio::test]
async fn a_peer_that_breaks_the_protocol_is_left() {
    let mut answers = BytesMut::new();
    frame::put(&mut answers, Kind::Request, 0, |_| {});
    let mut long = BytesMut::new();
    frame::put(&mut long, Kind::Data, 0, |_| {});
    long[0] = 0xff;
    for nonsense in [&answers[..], &long, &[0, 0, 0, 0, 99, 0, 0, 0, 0, 0, 0, 0, 0]] {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (link, drive) = Link::new(ours);
        let no_body = Bytes::new();
        let nonsense = theirs.write_all(nonsense);
        let (answer, written, ()) =
            tokio::join!(ask(&link, Method::GET, "/", &no_body), nonsense, drive);
        written.unwrap();
        assert!(matches!(answer, Err(Unanswered::Broken(_))), "{answer:?}");
    }
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    ours.write_all(&[0, 0, 0, 0, Kind::Whole as u8, 0, 0, 0, 0, 0, 0, 0, 0]).await.unwrap();
    let (_stop, stopped) = watch::channel(false);
    assert!(serve(theirs, Peer::default(), stopped).await.is_err());
}

#[tokio::test]
async fn a_request_that_is_none_is_answered_with_400_and_others_go_on() {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let (_stop, stopped) = watch::channel(false);
    let server = tokio::spawn(serve(theirs, Peer::default(), stopped));
    let mut sent = BytesMut::new();
    frame::put(&mut sent, Kind::Request, 7, |out| out.extend_from_slice(b"no head"));
    frame::put(&mut sent, Kind::Request, 8, |out| {
        out.extend_from_slice(b"GET /empty HTTP/1.1\r\nhost: x\r\n\r\n");
    });
    // Of a request that is over, or never was.
    frame::put(&mut sent, Kind::Cancel, 99, |_| {});
    frame::put(&mut sent, Kind::Credit, 99, |out| out.extend_from_slice(&[0, 0, 0, 1]));
    ours.write_all(&sent).await.unwrap();
    let mut read = BytesMut::new();
    let mut answers = Vec::new();
    while answers.len() < 2 {
        assert!(ours.read_buf(&mut read).await.unwrap() > 0);
        while let Some(Frame { kind, id, payload }) = frame::take(&mut read).unwrap() {
            assert_eq!(kind, Kind::Whole);
            answers.push((id, head::answer(&payload).unwrap().0.status().as_u16()));
        }
    }
    answers.sort_unstable();
    assert_eq!(answers, [(7, 400), (8, 204)]);
    drop(ours);
    server.await.unwrap().unwrap();
}

/// A real server, and a client that is linked to it.
struct Served {
    client: Client,
    peer: Peer,
    _stop: oneshot::Sender<()>,
    dir: tempfile::TempDir,
}

fn served() -> Served {
    let dir = tempfile::tempdir().unwrap();
    let listener = Listener::bind_unix(&dir.path().join("s")).unwrap();
    let peer = Peer::default();
    let (stop, stopped) = oneshot::channel();
    let (handler, options) = (peer.clone(), ServeOptions::default());
    tokio::spawn(crate::serve(listener, handler, options, async { drop(stopped.await) }));
    let client = Client::unix(dir.path().join("s")).linked();
    Served { client, peer, _stop: stop, dir }
}

fn request(path: &str, body: Bytes) -> Request<Bytes> {
    Request::post(path).body(body).unwrap()
}

#[tokio::test]
async fn requests_that_meet_share_a_connection() {
    let served = served();
    let ask = async |path: &str| {
        let response = served.client.send(request(path, Bytes::new())).await.unwrap();
        response.into_body().collect().await.unwrap().to_bytes()
    };
    // Two meet, so that a link is opened.
    let waiting = ask("/wait");
    let other = async {
        served.peer.has_begun().await;
        while !served.client.has_link() {
            ask("/empty").await;
        }
        served.peer.go_on.add_permits(1);
    };
    assert_eq!(&tokio::join!(waiting, other).0[..], b"went on");
    // Nobody else finds the server any more: these go by what is open.
    std::fs::remove_file(served.dir.path().join("s")).unwrap();
    let met = futures_util::future::join_all((0..20).map(|_| ask("/meet"))).await;
    assert!(met.iter().all(|answer| &answer[..] == b"met"));
}

#[tokio::test]
async fn a_server_without_links_is_asked_once() {
    let dir = tempfile::tempdir().unwrap();
    let listener = tokio::net::UnixListener::bind(dir.path().join("s")).unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let counted = counted.clone();
            tokio::spawn(async move {
                let mut head = Vec::new();
                while let Ok(1..) = stream.read_buf(&mut head).await {
                    if !head.ends_with(b"\r\n\r\n") {
                        continue;
                    }
                    if head.windows(PROTOCOL.len()).any(|window| window == PROTOCOL.as_bytes()) {
                        counted.fetch_add(1, Ordering::SeqCst);
                    }
                    head.clear();
                    tokio::time::sleep(Duration::from_millis(2)).await;
                    stream
                        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                        .await
                        .unwrap();
                }
            });
        }
    });
    let client = Client::unix(dir.path().join("s")).linked();
    for _ in 0..5 {
        let sent = (0..8).map(|_| client.send(request("/", Bytes::new())));
        for answer in futures_util::future::join_all(sent).await {
            let body = answer.unwrap().into_body().collect().await.unwrap().to_bytes();
            assert_eq!(&body[..], b"ok");
        }
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

/// A server that ends while requests come one after the other from many.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_leaves_under_load_loses_nothing() {
    for _ in 0..20 {
        let Pair { link, peer, stop, server } = pair();
        let (link, answered) = (Arc::new(link), Arc::new(AtomicUsize::new(0)));
        let callers: Vec<_> = (0..16)
            .map(|_| {
                let (link, answered) = (link.clone(), answered.clone());
                tokio::spawn(async move {
                    let body = Bytes::from_static(b"body");
                    loop {
                        match ask(&link, Method::POST, "/echo", &body).await {
                            Ok((_, body)) => assert_eq!(collect(body).await.0, "body"),
                            // Another server could have it.
                            Err(Unanswered::Unsent) => return,
                            Err(Unanswered::Broken(error)) => panic!("{error}"),
                        }
                        answered.fetch_add(1, Ordering::SeqCst);
                    }
                })
            })
            .collect();
        drop(link);
        while answered.load(Ordering::SeqCst) < 200 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        stop.send_replace(true);
        for caller in callers {
            caller.await.unwrap();
        }
        server.await.unwrap().unwrap();
        assert_eq!(answered.load(Ordering::SeqCst), peer.begun.load(Ordering::SeqCst));
    }
}
