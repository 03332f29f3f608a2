//! What a client makes of what servers say, byte by byte.

use super::*;
use http_body::Body as _;
use http_body_util::BodyExt;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;

/// A socket whose peers are played by the test.
struct Server {
    client: Client,
    listener: UnixListener,
    _dir: tempfile::TempDir,
}

impl Server {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        Self { client: Client::unix(path), listener, _dir: dir }
    }

    async fn accept(&self) -> UnixStream {
        self.listener.accept().await.unwrap().0
    }

    /// Sends a request and plays its server: each part of the answer comes by itself.
    async fn play(&self, method: Method, parts: &[&str]) -> Result<String, String> {
        let answer = async {
            let mut stream = self.accept().await;
            assert!(request(&mut stream).await.starts_with(method.as_str()));
            for part in parts {
                stream.write_all(part.as_bytes()).await.unwrap();
                for _ in 0..4 {
                    tokio::task::yield_now().await;
                }
            }
        };
        let sent = async {
            let request = Request::builder().method(&method).uri("/").body(Bytes::new()).unwrap();
            let response = self
                .client
                .send(request)
                .await
                .map_err(|error| tyndall_types::with_causes(error.to_string(), &error))?;
            let status = response.status().as_u16();
            let whole = response.into_body().collect().await.map_err(|error| error.to_string())?;
            let trailers = whole.trailers().map(|map| format!(" {map:?}")).unwrap_or_default();
            let body = String::from_utf8(whole.to_bytes().to_vec()).unwrap();
            Ok(format!("{status} {body}{trailers}"))
        };
        tokio::join!(sent, answer).0
    }
}

/// A request's head and body, as it came.
async fn request(stream: &mut UnixStream) -> String {
    let mut seen = Vec::new();
    loop {
        assert_ne!(stream.read_buf(&mut seen).await.unwrap(), 0, "the client left");
        if seen.windows(4).any(|four| four == b"\r\n\r\n") {
            return String::from_utf8(seen).unwrap();
        }
    }
}

#[tokio::test]
async fn answers_end_as_their_heads_say() {
    let server = Server::new();
    let get = |parts: &'static [&'static str]| server.play(Method::GET, parts);
    for (parts, expected) in [
        (&["HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"][..], "200 hello"),
        (&["HTTP/1.1 200", " OK\r\nContent-Length: 5\r", "\n\r\nhe", "llo"], "200 hello"),
        (&["HTTP/1.1 204 No Content\r\n\r\n"], "204 "),
        (&["HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n"], "304 "),
        (&["HTTP/1.1 200 OK\r\n\r\nup to ", "the end"], "200 up to the end"),
        (&["HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nab"], "200 ab"),
        (
            &["HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"],
            "200 ",
        ),
        (
            &[
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n3\r\nabc\r\n",
                "2;x=y\r\nde\r\n0\r\n\r\n",
            ],
            "200 abcde",
        ),
        (
            &[
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
                "A",
                "\r\n01234",
                "56789",
                "\r",
                "\n0\r\nx: ",
                "1\r\n\r\n",
            ],
            "200 0123456789 {\"x\": \"1\"}",
        ),
    ] {
        assert_eq!(get(parts).await.as_deref(), Ok(expected), "{parts:?}");
    }
    let head = ["HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"];
    assert_eq!(server.play(Method::HEAD, &head).await.as_deref(), Ok("200 "));
}

#[tokio::test]
async fn answers_that_are_none_are_errors() {
    let server = Server::new();
    for (part, expected) in [
        ("", "the peer ended the connection"),
        ("HTTP/1.1 200 OK\r\ncontent-le", "the peer ended the connection"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhell", "the peer ended the connection"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n", "two lengths"),
        ("HTTP/1.1 200 OK\r\ncontent-length: +5\r\n\r\n", "length is no number"),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nx\r\n", "size of a chunk"),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nabc", "longer than its size"),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n", "the peer ended"),
        ("SMTP ready\r\n\r\n", "invalid HTTP version"),
    ] {
        let error = server.play(Method::GET, &[part]).await.unwrap_err();
        assert!(error.contains(expected), "{part:?}: {error}");
    }
}

#[tokio::test]
async fn a_request_is_sent_with_its_length_and_what_is_missing() {
    let check = |request: http::request::Builder, body: &'static str, expected: &str| {
        let (parts, body) = request.body(Bytes::from(body)).unwrap().into_parts();
        let token = header::HeaderValue::from_static("Bearer t");
        let outgoing = Outgoing::new(&parts.method, &parts.uri, &parts.headers, &body);
        let mut out = bytes::BytesMut::new();
        Outgoing { authorization: Some(&token), ..outgoing }.encode(&mut out);
        assert_eq!(String::from_utf8(out.to_vec()).unwrap(), expected.replace('\n', "\r\n"));
    };
    check(
        Request::get("http://host.example/a?b"),
        "",
        "GET /a?b HTTP/1.1\nhost: localhost\nauthorization: Bearer t\n\n",
    );
    check(
        Request::post("/").header("transfer-encoding", "chunked").header("authorization", "own"),
        "",
        "POST / HTTP/1.1\nauthorization: own\nhost: localhost\ncontent-length: 0\n\n",
    );
    check(
        Request::put("/").header("content-length", "7").header("host", "h").header("x", ""),
        "0123456789",
        "PUT / HTTP/1.1\nhost: h\nx: \nauthorization: Bearer t\ncontent-length: 10\n\n",
    );
}

#[tokio::test]
async fn a_connection_that_was_closed_meanwhile_costs_no_request() {
    let server = Server::new();
    let path = "/";
    let (first, mut stream) =
        tokio::join!(server.client.tell_text(Method::POST, path, "1".into()), async {
            let mut stream = server.accept().await;
            request(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            stream
        });
    first.unwrap();
    // It is used again.
    let (second, ()) = tokio::join!(server.client.get_text(path), async {
        request(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n2").await.unwrap();
        drop(stream);
    });
    assert_eq!(second.unwrap(), "2");
    let (third, ()) = tokio::join!(server.client.get_text(path), async {
        let mut stream = server.accept().await;
        request(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n3").await.unwrap();
    });
    assert_eq!(third.unwrap(), "3");
}

#[tokio::test]
async fn who_answers_early_is_heard_and_a_stream_goes_both_ways() {
    let server = Server::new();
    let large = Bytes::from(vec![b'x'; 8 << 20]);
    let sent = |body: Bytes| server.client.send(Request::post("/").body(body).unwrap());
    // Refused, and the rest is not read.
    let (refused, ()) = tokio::join!(sent(large.clone()), async {
        let mut stream = server.accept().await;
        request(&mut stream).await;
        stream.write_all(b"HTTP/1.1 413 No\r\ncontent-length: 3\r\n\r\nbig").await.unwrap();
    });
    let refused = refused.unwrap();
    assert_eq!(refused.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(refused.into_body().collect().await.unwrap().to_bytes(), "big");
    // Answered while the request is still sent.
    let (answered, ()) = tokio::join!(
        async { sent(large.clone()).await.unwrap().into_body().collect().await },
        async {
            let mut stream = server.accept().await;
            let head = request(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            let mut left = large.len() + head.find("\r\n\r\n").unwrap() + 4 - head.len();
            let mut piece = vec![0; 1 << 16];
            while left > 0 {
                left -= stream.read(&mut piece).await.unwrap();
            }
            stream.write_all(b"all").await.unwrap();
        }
    );
    assert_eq!(answered.unwrap().to_bytes(), "all");
}

#[tokio::test]
async fn a_body_knows_its_length_and_its_end() {
    let server = Server::new();
    let (answer, _stream) =
        tokio::join!(server.client.send(Request::get("/").body(Bytes::new()).unwrap()), async {
            let mut stream = server.accept().await;
            request(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc").await.unwrap();
            stream
        });
    let mut body = answer.unwrap().into_body();
    assert_eq!((body.size_hint().exact(), body.is_end_stream()), (Some(3), false));
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "abc");
    assert!(body.is_end_stream());
    let kept = server.client.idle.0.lock().unwrap().len();
    assert_eq!(kept, 1);
    assert!(tokio::time::timeout(Duration::from_secs(5), body.frame()).await.unwrap().is_none());
}

#[tokio::test]
async fn after_a_101_the_bytes_are_those_of_the_peers() {
    let server = Server::new();
    let answer = async {
        let mut stream = server.accept().await;
        assert!(request(&mut stream).await.contains("upgrade: x"));
        let head = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n\r\nearly";
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut said = [0; 4];
        stream.read_exact(&mut said).await.unwrap();
        stream.write_all(&said).await.unwrap();
        assert_eq!(stream.read(&mut said).await.unwrap(), 0);
    };
    let asked = async {
        let request = Request::get("/").header("upgrade", "x").body(Bytes::new()).unwrap();
        let response = server.client.send(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
        let body = response.into_body();
        assert!(body.is_end_stream());
        let mut stream = body.upgrade().unwrap();
        let mut early = [0; 5];
        stream.read_exact(&mut early).await.unwrap();
        assert_eq!(early, *b"early");
        stream.write_all(b"mine").await.unwrap();
        let mut said = [0; 4];
        stream.read_exact(&mut said).await.unwrap();
        assert_eq!(said, *b"mine");
        stream.shutdown().await.unwrap();
    };
    tokio::join!(asked, answer);
    assert!(server.client.idle.take().is_none(), "nobody gets such a connection again");
    let other = server.play(Method::GET, &["HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"]);
    assert_eq!(other.await.as_deref(), Ok("200 "));
}

#[tokio::test]
async fn a_server_takes_or_refuses_an_open_request_before_its_body() {
    let server = Server::new();
    let (uri, headers) = ("/x".parse().unwrap(), http::HeaderMap::new());
    let open = || server.client.open(&Method::POST, &uri, &headers);
    let head = "POST /x HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\
                expect: 100-continue\r\n\r\n";
    for (body, sent) in
        [("", "0\r\n\r\n"), ("0123456789abcdefg", "11\r\n0123456789abcdefg\r\n0\r\n\r\n")]
    {
        let (opening, mut stream) = tokio::join!(open(), async {
            let mut stream = server.accept().await;
            assert_eq!(request(&mut stream).await, head);
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
            stream
        });
        let Opening::Taken(taken) = opening.unwrap() else { panic!("it was taken") };
        let (answer, ()) = tokio::join!(taken.send(body.as_bytes()), async {
            let mut seen = vec![0; sent.len()];
            stream.read_exact(&mut seen).await.unwrap();
            assert_eq!(seen, sent.as_bytes());
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
        });
        let read = answer.unwrap().into_body().collect().await.unwrap();
        assert_eq!(read.to_bytes(), "ok");
        let kept = server.client.idle.take();
        assert!(kept.is_some(), "the connection can be used again");
    }
    let (opening, ()) = tokio::join!(open(), async {
        let mut stream = server.accept().await;
        request(&mut stream).await;
        stream.write_all(b"HTTP/1.1 503 No\r\ncontent-length: 4\r\n\r\nfull").await.unwrap();
    });
    let Opening::Answered(refused) = opening.unwrap() else { panic!("it was refused") };
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.into_body().collect().await.unwrap().to_bytes(), "full");
    assert!(server.client.idle.take().is_none(), "the server may wait for the body");
}

#[tokio::test]
async fn an_open_request_ends_with_either_side() {
    let server = Server::new();
    let (uri, headers) = ("/".parse().unwrap(), http::HeaderMap::new());
    let taken = async || {
        let open = server.client.open(&Method::POST, &uri, &headers);
        let (opening, stream) = tokio::join!(open, async {
            let mut stream = server.accept().await;
            request(&mut stream).await;
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
            stream
        });
        match opening.unwrap() {
            Opening::Taken(taken) => (taken, stream),
            Opening::Answered(answer) => panic!("{answer:?}"),
        }
    };
    let (dropped, mut stream) = taken().await;
    drop(dropped);
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    let (lost, stream) = taken().await;
    drop(stream);
    let error = lost.send(b"late").await.unwrap_err();
    assert!(matches!(error, ClientError::Broken { .. }), "{error}");
}
