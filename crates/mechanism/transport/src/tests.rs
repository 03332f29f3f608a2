//! Client and server together, over real sockets.

use super::*;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, oneshot};

/// More than the system keeps of what nobody reads.
const LONG: usize = 4 << 20;

#[derive(Clone, Default)]
struct Echo {
    dropped: Arc<Notify>,
    served: Arc<AtomicUsize>,
}

struct OnDrop(Arc<Notify>);
impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

impl Handler for Echo {
    async fn handle(&self, mut request: Request<RequestBody>) -> Response<Body> {
        self.served.fetch_add(1, Ordering::SeqCst);
        match request.uri().path() {
            "/echo" => match read_body(request.into_body(), 16).await {
                Ok(body) => {
                    let value: serde_json::Value = serde_json::from_slice(&body).unwrap();
                    json(StatusCode::OK, &value)
                }
                Err(error) => text(StatusCode::PAYLOAD_TOO_LARGE, error.to_string()),
            },
            "/hang" => {
                let _guard = OnDrop(self.dropped.clone());
                std::future::pending().await
            }
            "/endless" => {
                let (sender, body) = line_channel(1);
                let guard = OnDrop(self.dropped.clone());
                tokio::spawn(async move {
                    let _guard = guard;
                    while sender.send(&"x".repeat(1 << 16)).await {}
                });
                Response::new(body)
            }
            "/fails" => {
                let parts = ["one ", "two "].map(|part| Ok(Frame::data(Bytes::from(part))));
                let all = parts.into_iter().chain([Err(BoxError::from("halfway"))]);
                Response::new(StreamBody::new(futures_util::stream::iter(all)).boxed_unsync())
            }
            "/upgrade" => {
                let life = request.extensions().get::<ConnectionLife>().unwrap();
                life.keep(OnDrop(self.dropped.clone()));
                let upgrade = Upgrade::of(&mut request);
                tokio::spawn(async move {
                    let (mut read, mut write) = tokio::io::split(upgrade.stream().await.unwrap());
                    tokio::io::copy(&mut read, &mut write).await.unwrap();
                });
                let mut response = empty(StatusCode::SWITCHING_PROTOCOLS);
                for (name, value) in [("connection", "upgrade"), ("upgrade", "echo")] {
                    response.headers_mut().insert(name, HeaderValue::from_static(value));
                }
                response
            }
            "/long" => text(StatusCode::OK, "x".repeat(LONG)),
            "/slower" => {
                tokio::time::sleep(Duration::from_millis(500)).await;
                text(StatusCode::OK, "later")
            }
            "/slow" => {
                tokio::time::sleep(Duration::from_millis(50)).await;
                text(StatusCode::OK, "late")
            }
            _ => empty(StatusCode::NOT_FOUND),
        }
    }
}

struct Running {
    client: Client,
    echo: Echo,
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<usize>,
    dir: tempfile::TempDir,
}

fn start() -> Running {
    start_with(Duration::ZERO)
}

fn start_with(linger: Duration) -> Running {
    let write_timeout = Duration::from_millis(50);
    start_by(ServeOptions { linger, write_timeout, ..Default::default() })
}

fn start_by(options: ServeOptions) -> Running {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = Listener::bind_unix(&path).unwrap();
    let echo = Echo::default();
    let (stop, stopped) = oneshot::channel();
    let options = ServeOptions { drain: Duration::from_secs(5), ..options };
    let task = tokio::spawn(serve(listener, echo.clone(), options, async {
        stopped.await.unwrap();
    }));
    Running { client: Client::unix(path), echo, stop, task, dir }
}

#[tokio::test]
async fn a_value_goes_there_and_back_over_one_connection() {
    let s = start();
    for i in 0..3 {
        let back: u32 = s.client.call(Method::POST, "/echo", &i).await.unwrap();
        assert_eq!(back, i);
    }
    let error = s.client.call::<_, u32>(Method::POST, "/echo", &"x".repeat(99)).await.unwrap_err();
    assert!(error.to_string().contains("larger than 16 bytes"), "{error}");
    assert!(matches!(
        s.client.get::<u32>("/nowhere").await,
        Err(ClientError::Status { status: StatusCode::NOT_FOUND, .. })
    ));
    s.stop.send(()).unwrap();
    assert_eq!(s.task.await.unwrap(), 0);
}

#[tokio::test]
async fn who_sends_no_request_is_left_and_who_waits_for_an_answer_is_not() {
    let header_timeout = Duration::from_millis(300);
    let s = start_by(ServeOptions { header_timeout, ..Default::default() });
    let path = s.dir.path().join("s");
    for half in ["", "GET /slow HTTP/1.1\r\nhost"] {
        let mut stream = tokio::net::UnixStream::connect(&path).await.unwrap();
        stream.write_all(half.as_bytes()).await.unwrap();
        assert_eq!(stream.read(&mut [0; 9]).await.unwrap(), 0, "{half}");
    }
    let mut stream = tokio::net::UnixStream::connect(&path).await.unwrap();
    let mut whole = Vec::new();
    // Each answer takes longer than a head may.
    for _ in 0..2 {
        stream.write_all(b"GET /slower HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        while !whole.ends_with(b"later") {
            assert_ne!(stream.read_buf(&mut whole).await.unwrap(), 0);
        }
        whole.clear();
    }
    assert_eq!(stream.read(&mut [0; 9]).await.unwrap(), 0);
    // Nor who takes an answer slowly.
    let mut stream = tokio::net::UnixStream::connect(&path).await.unwrap();
    stream.write_all(b"GET /long HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    tokio::time::sleep(3 * header_timeout).await;
    let mut whole = Vec::new();
    stream.read_to_end(&mut whole).await.unwrap();
    assert!(whole.len() > LONG, "{}", whole.len());
}

#[test]
fn a_listener_that_listens_everywhere_is_reached_on_the_loopback() {
    let check = |from: &str, to: &str| {
        assert_eq!(reachable(from.parse().unwrap()).to_string(), to);
    };
    check("0.0.0.0:80", "127.0.0.1:80");
    check("[::]:80", "[::1]:80");
    check("10.0.0.1:80", "10.0.0.1:80");
}

#[tokio::test]
async fn dropping_a_request_drops_its_handler() {
    let s = start();
    let request = Request::post("/hang").body(Bytes::new()).unwrap();
    let sent = tokio::time::timeout(Duration::from_millis(30), s.client.send(request)).await;
    assert!(sent.is_err());
    tokio::time::timeout(Duration::from_secs(5), s.echo.dropped.notified()).await.unwrap();
}

#[tokio::test]
async fn a_client_that_stops_reading_is_cut() {
    let s = start();
    let request = Request::get("/endless").body(Bytes::new()).unwrap();
    let answer = s.client.send(request).await.unwrap();
    tokio::time::timeout(Duration::from_secs(5), s.echo.dropped.notified()).await.unwrap();
    assert!(read_body(answer.into_body(), usize::MAX).await.is_err());
}

#[tokio::test]
async fn what_came_before_a_body_failed_reaches_the_client() {
    let s = start();
    let request = Request::get("/fails").body(Bytes::new()).unwrap();
    let mut body = s.client.send(request).await.unwrap().into_body();
    let mut text = Vec::new();
    let error = loop {
        match body.frame().await.unwrap() {
            Ok(frame) => text.extend_from_slice(&frame.into_data().unwrap()),
            Err(error) => break error,
        }
    };
    assert_eq!((text, error.kind()), (b"one two ".to_vec(), std::io::ErrorKind::UnexpectedEof));
}

#[tokio::test]
async fn draining_finishes_what_was_begun() {
    let s = start();
    let client = s.client.clone();
    let request = tokio::spawn(async move {
        let slow = Request::get("/slow").body(Bytes::new()).unwrap();
        let answer = client.send(slow).await.unwrap();
        read_body(answer.into_body(), 100).await.unwrap()
    });
    while s.echo.served.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    s.stop.send(()).unwrap();
    assert_eq!(request.await.unwrap(), "late");
    assert_eq!(s.task.await.unwrap(), 0);
    let refused = s.client.send(Request::get("/slow").body(Bytes::new()).unwrap()).await;
    assert!(matches!(refused, Err(ClientError::Connect { .. })), "{refused:?}");
}

#[tokio::test]
async fn a_server_that_lingers_answers_until_its_clients_have_left() {
    let s = start_with(Duration::from_secs(60));
    let path = s.dir.path().join("s");
    // One that has connected and said nothing yet.
    let stranger = tokio::net::UnixStream::connect(&path).await.unwrap();
    let back: u32 = s.client.call(Method::POST, "/echo", &1).await.unwrap();
    s.stop.send(()).unwrap();
    let hidden = async {
        while path.exists() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), hidden).await.unwrap();
    let again: u32 = s.client.call(Method::POST, "/echo", &2).await.unwrap();
    assert_eq!((back, again), (1, 2));
    let refused = Client::unix(&path).get::<u32>("/echo").await;
    assert!(matches!(refused, Err(ClientError::Connect { .. })), "{refused:?}");
    drop(stranger);
    assert!(!s.task.is_finished());
    drop(s.client);
    assert_eq!(s.task.await.unwrap(), 0);
}

#[tokio::test]
async fn what_a_server_has_taken_gets_its_body_while_it_drains() {
    let s = start_with(Duration::from_secs(60));
    let (uri, headers) = ("/echo".parse().unwrap(), http::HeaderMap::new());
    let opening = s.client.open(&Method::POST, &uri, &headers).await.unwrap();
    let Opening::Taken(taken) = opening else { panic!("{opening:?}") };
    s.stop.send(()).unwrap();
    while s.dir.path().join("s").exists() {
        tokio::task::yield_now().await;
    }
    assert!(!s.task.is_finished());
    let answer = taken.send(b"7").await.unwrap();
    assert_eq!(read_body(answer.into_body(), 100).await.unwrap(), "7");
    let uri = "/nowhere".parse().unwrap();
    let refused = s.client.open(&Method::POST, &uri, &headers).await.unwrap();
    assert!(matches!(refused, Opening::Answered(_)), "{refused:?}");
    drop((s.client, refused));
    assert_eq!(s.task.await.unwrap(), 0);
}

#[tokio::test]
async fn a_connection_that_left_http_lives_until_its_stream_is_dropped() {
    let s = start();
    let request =
        Request::get("/upgrade").header("connection", "upgrade").header("upgrade", "echo");
    let answer = s.client.send(request.body(Bytes::new()).unwrap()).await.unwrap();
    assert_eq!(answer.headers()["upgrade"], "echo");
    let mut stream = answer.into_body().upgrade().unwrap();
    s.stop.send(()).unwrap();
    // Longer than what the system takes at once, while the server drains.
    let sent = vec![7; 1 << 20];
    let (mut read, mut write) = tokio::io::split(&mut stream);
    let mut back = vec![0; sent.len()];
    let (written, read) = tokio::join!(write.write_all(&sent), read.read_exact(&mut back));
    written.unwrap();
    read.unwrap();
    assert!(back == sent);
    assert!(!s.task.is_finished());
    drop(stream);
    assert_eq!(s.task.await.unwrap(), 0, "the drain has waited for it");
    tokio::time::timeout(Duration::from_secs(5), s.echo.dropped.notified()).await.unwrap();
}

#[tokio::test]
async fn who_stands_by_takes_what_is_left_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let first = Listener::bind_unix(&path).unwrap();
    let second = first.standby().unwrap();
    let (stop, stopped) = tokio::sync::watch::channel(());
    let end = |mut stopped: tokio::sync::watch::Receiver<()>| async move {
        drop(stopped.changed().await);
    };
    let (held_up, standby) = (Echo::default(), Echo::default());
    let options = ServeOptions::default();
    let there = tokio::spawn(serve(second, standby.clone(), options, end(stopped.clone())));
    // Nobody accepts at the first one yet.
    let client = Client::unix(path.clone());
    assert_eq!(client.call::<_, u32>(Method::POST, "/echo", &1).await.unwrap(), 1);
    let here = tokio::spawn(serve(first, held_up.clone(), options, end(stopped)));
    let another = Client::unix(path);
    assert_eq!(another.call::<_, u32>(Method::POST, "/echo", &2).await.unwrap(), 2);
    let served = [standby, held_up].map(|echo| echo.served.load(Ordering::SeqCst));
    assert_eq!(served, [1, 1]);
    drop((client, another, stop));
    assert_eq!((here.await.unwrap(), there.await.unwrap()), (0, 0));
}
