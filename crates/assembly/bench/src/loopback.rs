//! What the system's sockets alone cost: requests to a server that does nothing, and the way to
//! another thread and back. No server on this machine is faster than the first, and no hop between
//! processes shorter than the second.

use crate::error::BenchError;
use crate::http::{HttpArgs, requests_per_s};
use crate::report::{Better, Metric, metric};
use crate::stats::median;
use http::Method;
use std::io::{Read, Result as IoResult, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Builder;

/// As the comparisons of routes have it.
const CONNECTIONS: u32 = 32;
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\
    content-length: 15\r\n\r\n{\"any\": \"json\"}";
/// Longer than a request of the load, which is written in one piece.
const REQUEST: usize = 4096;
const MESSAGE: usize = 64;
/// Before threads and caches are in their stride.
const WARMUP: usize = 100;

/// Measures, each for so long.
pub(crate) fn measure(each: Duration) -> Result<Vec<Metric>, BenchError> {
    let failed = |error| BenchError::of("failed to use the loopback", &error);
    let port = bare_server().map_err(failed)?;
    let args = HttpArgs {
        url: format!("http://127.0.0.1:{port}/").parse().map_err(BenchError::new)?,
        method: Method::GET,
        body: String::new(),
        headers: Vec::new(),
        connections: CONNECTIONS,
        duration: each.as_secs_f64(),
        num_requests: None,
        warmup: 0.1,
        threads: None,
    };
    let mut metrics = vec![metric(
        "loopback_requests",
        &format!("HTTP to a server that does nothing, {CONNECTIONS} connections"),
        requests_per_s(&args)?,
        "req/s",
        Better::Higher,
    )];
    let (a, b) = tcp_pair().map_err(failed)?;
    let tcp_s = round_trip_s(a, b, each).map_err(failed)?;
    let (a, b) = UnixStream::pair().map_err(failed)?;
    let unix_s = round_trip_s(a, b, each).map_err(failed)?;
    for (name, label, seconds) in [
        ("round_trip_tcp", "To another thread and back, TCP", tcp_s),
        ("round_trip_unix", "The same, Unix socket", unix_s),
    ] {
        metrics.push(metric(name, label, seconds * 1e6, "us", Better::Lower));
    }
    Ok(metrics)
}

/// Answers whatever comes, in a thread of its own, until this process ends. Returns its port.
fn bare_server() -> IoResult<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    let port = listener.local_addr()?.port();
    let runtime = Builder::new_current_thread().enable_io().build()?;
    thread::spawn(move || runtime.block_on(serve(listener)));
    Ok(port)
}

async fn serve(listener: TcpListener) -> IoResult<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(answer_all(stream));
    }
}

async fn answer_all(mut stream: tokio::net::TcpStream) -> IoResult<()> {
    stream.set_nodelay(true)?;
    let mut request = [0; REQUEST];
    while stream.read(&mut request).await? > 0 {
        stream.write_all(ANSWER).await?;
    }
    Ok(())
}

fn tcp_pair() -> IoResult<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let a = TcpStream::connect(listener.local_addr()?)?;
    let (b, _) = listener.accept()?;
    a.set_nodelay(true)?;
    b.set_nodelay(true)?;
    Ok((a, b))
}

/// Seconds from a message to its answer by a thread that waits for it; the median.
fn round_trip_s<S>(mut near: S, mut far: S, time: Duration) -> IoResult<f64>
where
    S: Read + Write + Send,
{
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut message = [0; MESSAGE];
            while far.read_exact(&mut message).is_ok() && far.write_all(&message).is_ok() {}
        });
        let (start, mut times) = (Instant::now(), Vec::new());
        while times.len() <= WARMUP || start.elapsed() < time {
            let sent = Instant::now();
            near.write_all(&[0; MESSAGE])?;
            near.read_exact(&mut [0; MESSAGE])?;
            times.push(sent.elapsed().as_secs_f64());
        }
        // The other thread ends with it.
        drop(near);
        times.drain(..WARMUP);
        Ok(median(&mut times))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_measured() {
        let metrics = measure(Duration::from_millis(20)).unwrap();
        let names: Vec<&str> = metrics.iter().map(|metric| metric.name.as_str()).collect();
        assert_eq!(names, ["loopback_requests", "round_trip_tcp", "round_trip_unix"]);
        assert!(metrics.iter().all(|metric| metric.value > 0.0), "{metrics:?}");
    }
}
