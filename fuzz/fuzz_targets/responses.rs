//! HTTP answers of replicas, which our own client reads: the same however the bytes are cut, and
//! never a panic.
#![no_main]

use bytes::Bytes;
use http::Request;
use http_body_util::BodyExt;
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tyndall_fuzz::Choices;
use tyndall_transport::Client;

static RUNTIME: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
});

/// A status with all bytes of the body, or that there was no answer.
type Answer = Option<(u16, Option<Vec<u8>>)>;

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices::new(data);
    let cuts: Vec<usize> = (0..3).map(|_| 1 + choices.below(64)).collect();
    let answer = choices.bytes();
    let dir = tempfile::tempdir().expect("a directory");
    RUNTIME.block_on(async {
        let whole = asked(dir.path().join("whole"), vec![answer.to_vec()]).await;
        let mut pieces = Vec::new();
        let mut rest = answer;
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, after) = rest.split_at((*cut).min(rest.len()));
            pieces.push(piece.to_vec());
            rest = after;
        }
        assert_eq!(asked(dir.path().join("cut"), pieces).await, whole);
    });
});

/// What the client makes of an answer that comes in these pieces, before the connection ends.
async fn asked(socket: std::path::PathBuf, pieces: Vec<Vec<u8>>) -> Answer {
    let listener = UnixListener::bind(&socket).expect("a socket");
    let serving = async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut request = [0; 4096];
        _ = stream.read(&mut request).await;
        for piece in pieces {
            if stream.write_all(&piece).await.is_err() {
                break;
            }
            // The client reads this piece before the next one is there.
            tokio::task::yield_now().await;
        }
    };
    let client = Client::unix(socket.clone());
    let asking = async {
        let request = Request::get("/").body(Bytes::new()).expect("a request");
        let response = client.send(request).await.ok()?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.ok();
        Some((status, body.map(|body| body.to_bytes().to_vec())))
    };
    // Who has an answer may leave the rest of the bytes where they are.
    let served = async {
        serving.await;
        std::future::pending::<Answer>().await
    };
    let answered = async {
        tokio::select! {
            answer = asking => answer,
            answer = served => answer,
        }
    };
    tokio::time::timeout(Duration::from_secs(5), answered).await.expect("an end")
}
