//! Clients that do odd things with their connections.

use crate::{endless, haiku, server};
use anyhow::{Context, Result};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use tyndall_testkit::{DEADLINE, Server, Signal, eventually};

/// A connection on which a test writes what it likes.
struct Raw {
    stream: TcpStream,
    reader: BufReader<TcpStream>,
}

impl Raw {
    fn to(server: &Server) -> Result<Self> {
        let stream = TcpStream::connect(address(server))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        Ok(Self { reader: BufReader::new(stream.try_clone()?), stream })
    }

    fn write(&mut self, bytes: impl AsRef<[u8]>) -> Result<()> {
        Ok(self.stream.write_all(bytes.as_ref())?)
    }

    /// The status of the next answer's head, and the length of its body.
    fn head(&mut self) -> Result<(u16, usize)> {
        let mut line = String::new();
        self.reader.read_line(&mut line)?;
        let status = line.split(' ').nth(1).with_context(|| format!("no status: {line:?}"))?;
        let status = status.parse()?;
        let mut length = 0;
        loop {
            line.clear();
            self.reader.read_line(&mut line)?;
            let header = line.trim_end().to_lowercase();
            if header.is_empty() {
                return Ok((status, length));
            }
            if let Some(value) = header.strip_prefix("content-length:") {
                length = value.trim().parse()?;
            }
        }
    }

    /// The next answer, whose length is known.
    fn answer(&mut self) -> Result<(u16, String)> {
        let (status, length) = self.head()?;
        let mut body = vec![0; length];
        self.reader.read_exact(&mut body)?;
        Ok((status, String::from_utf8(body)?))
    }
}

fn address(server: &Server) -> &str {
    server.url.trim_start_matches("http://")
}

fn post(path: &str, headers: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n{body}")
}

fn whole(path: &str, body: &str) -> String {
    post(path, &format!("Content-Length: {}\r\n", body.len()), body)
}

fn completion(body: &str) -> Result<Value> {
    Ok(serde_json::from_str::<Value>(body)?["completions"][0].clone())
}

#[test]
fn bodies_come_in_any_pieces() -> Result<()> {
    let server = server().start("demo")?;
    let body = haiku().to_string();
    let expected = server.post("/generate", &haiku())?.json()["completions"][0].clone();

    let mut chunked = Raw::to(&server)?;
    chunked.write(post("/generate", "Transfer-Encoding: chunked\r\n", ""))?;
    for byte in body.chars() {
        chunked.write(format!("1\r\n{byte}\r\n"))?;
    }
    chunked.write("0\r\n\r\n")?;
    let (status, text) = chunked.answer()?;
    assert_eq!((status, completion(&text)?), (200, expected.clone()));

    // Asked before it is sent.
    let length = body.len();
    chunked.write(post(
        "/generate",
        &format!("Expect: 100-continue\r\nContent-Length: {length}\r\n"),
        "",
    ))?;
    assert_eq!(chunked.head()?, (100, 0));
    chunked.write(&body)?;
    let (status, text) = chunked.answer()?;
    assert_eq!((status, completion(&text)?), (200, expected));

    let mut too_long = Raw::to(&server)?;
    let length = 1_u64 << 40;
    let headers = format!("Expect: 100-continue\r\nContent-Length: {length}\r\n");
    too_long.write(post("/generate", &headers, ""))?;
    assert_eq!(too_long.head()?.0, 413, "refused without a byte of it");
    Ok(())
}

#[test]
fn a_connection_serves_on_after_errors() -> Result<()> {
    let server = server().start("demo")?;
    let mut client = Raw::to(&server)?;
    let good = haiku().to_string();
    for (path, body, expected) in [
        ("/generate", "{", 400),
        ("/v1/completions", r#"{"model": "nobody", "prompt": "x"}"#, 404),
        ("/nowhere", "x", 404),
        ("/generate", good.as_str(), 200),
        ("/healthz", "", 405),
        ("/v1/chat/completions", "[]", 400),
        ("/generate", good.as_str(), 200),
    ] {
        client.write(whole(path, body))?;
        let (status, text) = client.answer()?;
        assert_eq!(status, expected, "{path}: {text}");
    }
    client.write("HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n")?;
    assert_eq!(client.head()?.0, 200);
    client.write("OPTIONS /generate HTTP/1.1\r\nHost: x\r\n\r\n")?;
    assert_eq!(client.answer()?.0, 405);
    // Several at once are answered in order.
    let bad = whole("/generate", "{");
    client.write([bad.as_str(), &whole("/generate", &good), &bad].concat())?;
    for expected in [400, 200, 400] {
        assert_eq!(client.answer()?.0, expected);
    }
    Ok(())
}

#[test]
fn headers_cannot_be_smuggled_through() -> Result<()> {
    let server = server().start("demo")?;
    let mut client = Raw::to(&server)?;
    let body = r#"{"model": "x\r\nx-evil: 1", "prompt": "x"}"#;
    let headers = format!("X-Request-Id: a\"b<c>\r\nContent-Length: {}\r\n", body.len());
    client.write(post("/v1/completions", &headers, body))?;
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        client.reader.read_line(&mut head)?;
    }
    assert!(head.starts_with("HTTP/1.1 404"), "{head}");
    assert!(!head.contains("x-evil") && !head.contains("a\"b"), "{head}");
    Ok(())
}

#[test]
fn a_thousand_waiting_clients_that_leave_leave_nothing() -> Result<()> {
    let server =
        server().arg("--max-ongoing-requests", "1").arg("--max-replicas", "1").start("demo")?;
    let expected = server.post("/generate", &haiku())?.json();
    let request = whole("/v1/completions", &endless(true).to_string());
    let clients = (0..1000).map(|_| {
        let mut client = Raw::to(&server)?;
        client.write(&request)?;
        Ok(client)
    });
    let clients = clients.collect::<Result<Vec<_>>>()?;
    eventually("they wait", || (server.deployment().ok()?.queued_requests > 500).then_some(()))?;
    drop(clients);
    eventually("none is counted", || {
        let deployment = server.deployment().ok()?;
        (deployment.queued_requests + deployment.ongoing_requests == 0).then_some(())
    })?;
    assert_eq!(server.post("/generate", &haiku())?.json(), expected);
    Ok(())
}

#[test]
fn a_drain_refuses_new_connections_and_finishes_the_old() -> Result<()> {
    let mut server = server().arg("--graceful-timeout", "300").start("demo")?;
    let mut stream = server.stream("/v1/completions", &endless(true))?;
    assert!(stream.next().is_some());
    let started = tyndall_testkit::descendants(server.pid());
    server.signal(Signal::TERM);
    // Refused, not left waiting in the queue of a socket that nobody reads.
    let refused = |error: &std::io::Error| error.kind() == std::io::ErrorKind::ConnectionRefused;
    eventually("the port is closed", || {
        TcpStream::connect(address(&server)).err().filter(refused)
    })?;
    assert!(started.iter().any(|&pid| tyndall_testkit::is_alive(pid)), "the stream goes on");
    assert_eq!(stream.last().as_deref(), Some("[DONE]"));
    assert!(server.wait(&started)?.success());
    Ok(())
}
