//! Downloads from a stand-in of the hub's HTTP API on loopback.

use super::*;
use crate::verify::hex;
use sha2::Digest as _;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

#[derive(Clone, Debug)]
struct Seen {
    server: &'static str,
    method: String,
    path: String,
    token: Option<String>,
    range: Option<usize>,
}

/// Faults and facts of one stand-in, changed by tests while it runs.
#[derive(Default)]
struct Facts {
    files: BTreeMap<&'static str, Vec<u8>>,
    /// Cut the next answers with this file's bytes after so many bytes, one entry per answer.
    cuts: Vec<(&'static str, usize)>,
    /// Answer the next requests of these paths so.
    statuses: Vec<(&'static str, u16, &'static str)>,
    /// Send other bytes than announced, so many times.
    corrupt: usize,
    ignore_ranges: bool,
    /// Send so many bytes more than announced.
    excess: usize,
    seen: Vec<Seen>,
}

struct StandIn {
    facts: Arc<Mutex<Facts>>,
    dir: tempfile::TempDir,
    options: HubOptions,
}

fn stand_in() -> StandIn {
    let mut facts = Facts::default();
    facts.files.insert("config.json", b"{}".to_vec());
    facts.files.insert("tokenizer.json", b"{\"a\":1}".to_vec());
    facts.files.insert("model.safetensors", (0..300_000u32).map(|i| (i % 251) as u8).collect());
    facts.files.insert("README.md", b"not wanted".to_vec());
    let facts = Arc::new(Mutex::new(facts));
    let storage = serve(facts.clone(), "storage", String::new());
    let hub = serve(facts.clone(), "hub", storage);
    let dir = tempfile::tempdir().unwrap();
    let mut options = HubOptions::new(dir.path().join("hub"), dir.path().join("own"));
    options.endpoint = hub;
    options.back_off = Duration::from_millis(1);
    options.stall_timeout = Duration::from_secs(10);
    options.use_system_proxy = false;
    StandIn { facts, dir, options }
}

impl StandIn {
    fn set(&self, change: impl FnOnce(&mut Facts)) {
        change(&mut self.facts.lock().unwrap());
    }

    fn seen(&self) -> Vec<Seen> {
        self.facts.lock().unwrap().seen.clone()
    }

    fn resolve(&self) -> Result<ResolvedModel, HubError> {
        resolve("org/m", &self.options, &Silent)
    }

    fn repository(&self) -> std::path::PathBuf {
        self.dir.path().join("hub/models--org--m")
    }

    fn check_whole(&self, dir: &Path) {
        let facts = self.facts.lock().unwrap();
        for file in ["config.json", "tokenizer.json", "model.safetensors"] {
            assert_eq!(&std::fs::read(dir.join(file)).unwrap(), &facts.files[file], "{file}");
        }
        assert!(!dir.join("README.md").exists());
        let blobs = std::fs::read_dir(self.repository().join("blobs")).unwrap();
        for blob in blobs {
            let name = blob.unwrap().file_name();
            assert!(!name.to_string_lossy().ends_with(".incomplete"), "{name:?} is left");
        }
    }
}

fn serve(facts: Arc<Mutex<Facts>>, name: &'static str, storage: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (facts, storage) = (facts.clone(), storage.clone());
            std::thread::spawn(move || answer(stream.unwrap(), &facts, name, &storage));
        }
    });
    address
}

fn answer(stream: TcpStream, facts: &Mutex<Facts>, server: &'static str, storage: &str) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
    let Some(first) = lines.next() else { return };
    let mut words = first.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    let headers: BTreeMap<String, String> = lines
        .take_while(|line| !line.is_empty())
        .filter_map(|line| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_ascii_lowercase(), value.trim().to_owned()))
        })
        .collect();
    let range = headers
        .get("range")
        .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    let token = headers.get("authorization").cloned();
    let mut facts = facts.lock().unwrap();
    facts.seen.push(Seen { server, method: method.clone(), path: path.clone(), token, range });
    let reply = reply(&mut facts, server, storage, &method, &path, range);
    drop(facts);
    let Reply { status, mut headers, body, cut } = reply;
    headers.push_str(&format!("content-length: {}\r\nconnection: close\r\n", body.len()));
    let mut bytes = format!("HTTP/1.1 {status} x\r\n{headers}\r\n").into_bytes();
    if method != "HEAD" {
        bytes.extend_from_slice(&body[..cut.unwrap_or(body.len()).min(body.len())]);
    }
    // The client may be gone already.
    drop((&stream).write_all(&bytes));
}

struct Reply {
    status: u16,
    headers: String,
    body: Vec<u8>,
    cut: Option<usize>,
}

fn reply(
    facts: &mut Facts,
    server: &str,
    storage: &str,
    method: &str,
    path: &str,
    range: Option<usize>,
) -> Reply {
    let plain = |status, headers: String, body: Vec<u8>| Reply { status, headers, body, cut: None };
    if let Some(at) = facts.statuses.iter().position(|(part, ..)| path.contains(part)) {
        let (_, status, code) = facts.statuses.remove(at);
        let header =
            if code.is_empty() { String::new() } else { format!("x-error-code: {code}\r\n") };
        return plain(status, header, Vec::new());
    }
    if path == "/api/models/org/m/revision/main" {
        let siblings: Vec<_> =
            facts.files.keys().map(|f| serde_json::json!({ "rfilename": f })).collect();
        let info = serde_json::json!({ "id": "org/m", "sha": COMMIT, "siblings": siblings });
        return plain(200, String::new(), info.to_string().into_bytes());
    }
    let file = path.rsplit('/').next().unwrap().to_owned();
    let Some((&name, content)) = facts.files.get_key_value(file.as_str()) else {
        return plain(404, "x-error-code: EntryNotFound\r\n".into(), Vec::new());
    };
    let mut content = content.clone();
    let is_large = name.ends_with(".safetensors");
    let etag = if is_large {
        hex(&sha2::Sha256::digest(&content))
    } else {
        let mut blob = format!("blob {}\0", content.len()).into_bytes();
        blob.extend_from_slice(&content);
        hex(&sha1::Sha1::digest(&blob))
    };
    if is_large && server == "hub" {
        let size = content.len();
        let headers = format!(
            "location: {storage}/{name}?signed=1\r\nx-linked-etag: \"{etag}\"\r\n\
             x-linked-size: {size}\r\netag: \"other\"\r\nx-repo-commit: {COMMIT}\r\n"
        )
        .replace(&format!("/{name}?signed=1"), &format!("/{name}"));
        return plain(302, headers, b"moved".to_vec());
    }
    if !is_large && !path.starts_with("/cached/") {
        // Small files move within the hub.
        return plain(307, format!("location: /cached/{name}\r\n"), Vec::new());
    }
    if method == "GET" && is_large && facts.corrupt > 0 {
        facts.corrupt -= 1;
        content[5] ^= 1;
    }
    if method == "GET" && is_large {
        content.resize(content.len() + facts.excess, 0);
    }
    let cut = (method == "GET")
        .then(|| facts.cuts.iter().position(|(file, _)| *file == name))
        .flatten()
        .map(|at| facts.cuts.remove(at).1);
    let mut headers = format!("etag: \"{etag}\"\r\n");
    let mut status = 200;
    if let Some(start) = range.filter(|_| !facts.ignore_ranges) {
        status = 206;
        headers.push_str(&format!(
            "content-range: bytes {start}-{}/{}\r\n",
            content.len() - 1,
            content.len()
        ));
        content.drain(..start);
    }
    Reply { status, headers, body: content, cut }
}

#[test]
fn a_model_is_downloaded_once_into_the_shared_layout() {
    let s = stand_in();
    let model = s.resolve().unwrap();
    assert_eq!((model.id.as_str(), model.kind), ("org/m", TargetKind::HuggingFace));
    assert_eq!(model.dir, s.repository().join("snapshots").join(COMMIT));
    s.check_whole(&model.dir);
    assert_eq!(std::fs::read_to_string(s.repository().join("refs/main")).unwrap(), COMMIT);
    let link = std::fs::read_link(model.dir.join("model.safetensors")).unwrap();
    assert!(link.starts_with("../../blobs"), "{link:?}");

    let before = s.seen().len();
    assert_eq!(s.resolve().unwrap(), model);
    assert_eq!(s.seen().len(), before, "a whole snapshot needs no network");

    let id = ModelId::new("org/m").unwrap();
    pull(&id, &Revision::main(), &s.options, &Silent).unwrap();
    let gets = s.seen().into_iter().filter(|r| r.path.ends_with("model.safetensors"));
    assert_eq!(gets.filter(|r| r.method == "GET").count(), 2, "once at each server, not again");
}

#[test]
fn a_changed_file_replaces_the_link_and_the_ref() {
    let s = stand_in();
    s.resolve().unwrap();
    s.set(|f| {
        f.files.insert("config.json", b"{\"new\": 1}".to_vec());
    });
    let id = ModelId::new("org/m").unwrap();
    let dir = pull(&id, &Revision::main(), &s.options, &Silent).unwrap();
    s.check_whole(&dir);
}

#[test]
fn broken_transfers_go_on_where_they_stopped() {
    let s = stand_in();
    s.set(|f| f.cuts = vec![("model.safetensors", 100_000), ("model.safetensors", 50_000)]);
    s.check_whole(&s.resolve().unwrap().dir);
    let ranges: Vec<_> =
        s.seen().into_iter().filter(|r| r.server == "storage" && r.method == "GET").collect();
    let starts: Vec<_> = ranges.iter().map(|r| r.range).collect();
    assert_eq!(starts, [None, Some(100_000), Some(150_000)]);
}

#[test]
fn a_later_run_goes_on_from_the_incomplete_file() {
    let mut s = stand_in();
    s.options.attempts = 1;
    s.set(|f| f.cuts = vec![("model.safetensors", 100_000)]);
    let error = s.resolve().unwrap_err();
    assert!(matches!(error, HubError::Broken { at_byte: 100_000, .. }), "{error:?}");
    assert!(error.cure().unwrap().contains("goes on where it stopped"));
    assert!(!s.repository().join("refs/main").exists());
    s.check_whole(&s.resolve().unwrap().dir);
    assert!(s.seen().iter().any(|r| r.range == Some(100_000)));
}

#[test]
fn a_server_without_ranges_is_read_from_the_start() {
    let s = stand_in();
    s.set(|f| {
        f.ignore_ranges = true;
        f.cuts = vec![("model.safetensors", 100_000)];
    });
    s.check_whole(&s.resolve().unwrap().dir);
}

#[test]
fn damaged_bytes_are_fetched_again_and_then_refused() {
    let s = stand_in();
    s.set(|f| f.corrupt = 1);
    s.check_whole(&s.resolve().unwrap().dir);

    let s = stand_in();
    s.set(|f| f.corrupt = 9);
    let error = s.resolve().unwrap_err();
    assert!(matches!(error, HubError::Damaged { what: "sha256", .. }), "{error:?}");
    assert!(error.to_string().contains("model.safetensors arrived damaged"));
    assert!(!s.repository().join("refs/main").exists());
}

#[derive(Default)]
struct Received(std::sync::atomic::AtomicU64);

impl Progress for Received {
    fn started(&self, _: &str, _: Option<u64>, _: u64) {}
    fn retrying(&self, _: &str, _: &str, _: Duration) {}
    fn finished(&self, _: &str) {}
    fn advanced(&self, _: &str, bytes: u64) {
        self.0.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed);
    }
}

#[test]
fn no_more_is_taken_than_was_announced() {
    let s = stand_in();
    s.set(|f| f.excess = 5_000_000);
    let received = Received::default();
    let error = resolve("org/m", &s.options, &received).unwrap_err();
    assert!(matches!(error, HubError::Damaged { what: "size", .. }), "{error:?}");
    let received = received.0.into_inner();
    assert!(received < 700_000, "{received} bytes of a file of 300000 in two tries");
}

#[test]
fn server_errors_are_retried_and_then_told() {
    let s = stand_in();
    s.set(|f| f.statuses = vec![("/revision/", 503, ""), ("model.safetensors", 500, "")]);
    s.check_whole(&s.resolve().unwrap().dir);

    let s = stand_in();
    s.set(|f| f.statuses = vec![("/revision/", 502, ""); 99]);
    let error = s.resolve().unwrap_err();
    assert!(matches!(error, HubError::Status { status: 502, .. }), "{error:?}");
}

#[test]
fn refusals_say_whose_turn_it_is() {
    let check = |token: Option<&str>, status, code, cause: &str, cure: &str| {
        let mut s = stand_in();
        s.options.token = token.map(str::to_owned);
        s.set(|f| f.statuses = vec![("/revision/", status, code)]);
        let error = s.resolve().unwrap_err();
        assert!(error.to_string().contains(cause), "{status} {code}: {error}");
        let text = error.cure().unwrap();
        assert!(text.contains(cure), "{status} {code}: {text}");
        assert_eq!(s.seen().len(), 1, "a refusal is not retried");
    };
    check(None, 401, "", "or it is private", "for a private model set HF_TOKEN");
    check(None, 401, "RepoNotFound", "has no model org/m", "check the spelling");
    check(Some("t"), 401, "", "refused the access token", "set HF_TOKEN");
    check(Some("t"), 404, "RepoNotFound", "has no model org/m", "HF_TOKEN may read it");
    check(None, 404, "", "has no model org/m", "check the spelling");
    check(None, 404, "RevisionNotFound", "no revision main", "--revision");
    check(None, 401, "GatedRepo", "is gated", "accept the terms at http://127.0.0.1");
    check(Some("t"), 403, "GatedRepo", "is gated", "with the account of HF_TOKEN");
}

#[test]
fn a_gated_file_stops_the_download() {
    let s = stand_in();
    s.set(|f| f.statuses = vec![("model.safetensors", 403, "GatedRepo")]);
    assert!(matches!(s.resolve().unwrap_err(), HubError::Gated { .. }));
}

#[test]
fn the_token_stays_with_the_hub() {
    let mut s = stand_in();
    s.options.token = Some("secret".into());
    s.resolve().unwrap();
    for request in s.seen() {
        let expected = (request.server == "hub").then(|| "Bearer secret".to_owned());
        assert_eq!(request.token, expected, "{request:?}");
    }
}

#[test]
fn offline_is_one_line_of_cause_and_one_of_cure() {
    let mut s = stand_in();
    s.options.offline = true;
    let error = s.resolve().unwrap_err();
    assert!(error.to_string().contains("HF_HUB_OFFLINE is set"), "{error}");
    assert!(error.cure().unwrap().contains("tyndall run demo"));
    assert!(s.seen().is_empty());

    s.options.offline = false;
    let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    s.options.endpoint = format!("http://{unused}");
    let error = s.resolve().unwrap_err();
    assert!(matches!(error, HubError::Unreachable { .. }), "{error:?}");
    assert!(error.to_string().contains("connection refused"), "{error}");
    for line in [error.to_string(), error.cure().unwrap()] {
        assert!(!line.contains('\n'), "{line:?}");
    }
}

#[test]
fn a_bundle_without_certificates_is_named() {
    let mut s = stand_in();
    let bundle = s.dir.path().join("bundle.pem");
    s.options.ca_bundle = Some(bundle.clone());
    assert!(matches!(s.resolve().unwrap_err(), HubError::Io { action: "read", .. }));
    std::fs::write(&bundle, "nothing").unwrap();
    assert!(matches!(s.resolve().unwrap_err(), HubError::NoCertificates { .. }));
    assert!(s.seen().is_empty());
}

#[test]
fn a_cached_model_needs_no_hub() {
    let mut s = stand_in();
    let model = s.resolve().unwrap();
    s.options.offline = true;
    assert_eq!(s.resolve().unwrap(), model);
    std::fs::rename(model.dir.join("model.safetensors"), s.dir.path().join("away")).unwrap();
    let error = s.resolve().unwrap_err().to_string();
    assert!(error.contains("org/m is without weights"), "{error}");
    std::fs::rename(s.dir.path().join("away"), model.dir.join("model.safetensors")).unwrap();
    let id = ModelId::new("org/m").unwrap();
    assert_eq!(pull(&id, &Revision::main(), &s.options, &Silent).unwrap(), model.dir);
}

#[test]
fn a_repository_without_readable_weights_downloads_nothing() {
    let s = stand_in();
    s.set(|f| {
        f.files.remove("model.safetensors");
        f.files.insert("model.gguf", Vec::new());
    });
    let error = s.resolve().unwrap_err();
    assert!(error.to_string().contains("org/m has no weights"), "{error}");
    assert_eq!(s.seen().len(), 1);
}

#[test]
fn two_downloads_at_a_time_agree() {
    let s = stand_in();
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..2).map(|_| scope.spawn(|| s.resolve().unwrap())).collect();
        for run in runs {
            s.check_whole(&run.join().unwrap().dir);
        }
    });
}

#[test]
fn a_held_lock_is_waited_for_and_then_named() {
    let mut s = stand_in();
    s.options.lock_timeout = Duration::from_millis(1);
    let etag = hex(&sha2::Sha256::digest(&s.facts.lock().unwrap().files["model.safetensors"]));
    let locks = s.dir.path().join("hub/.locks/models--org--m");
    std::fs::create_dir_all(&locks).unwrap();
    let held = std::fs::File::create(locks.join(format!("{etag}.lock"))).unwrap();
    held.lock().unwrap();
    assert!(matches!(s.resolve().unwrap_err(), HubError::Locked { .. }));
    drop(held);
    s.check_whole(&s.resolve().unwrap().dir);
}

#[test]
fn directories_are_checked_before_anything_starts() {
    let s = stand_in();
    let resolve = |target: &str| resolve(target, &s.options, &Silent);
    let dir = s.dir.path().join("my-model");
    std::fs::create_dir(&dir).unwrap();
    let error = resolve(dir.to_str().unwrap()).unwrap_err();
    assert!(error.to_string().ends_with("is not a model: it has no config.json"), "{error}");
    for (name, text) in [("config.json", "{}"), ("pytorch_model.bin", ""), ("tokenizer.json", "")] {
        std::fs::write(dir.join(name), text).unwrap();
    }
    let model = resolve(dir.to_str().unwrap()).unwrap();
    assert_eq!((model.id.as_str(), model.kind), ("my-model", TargetKind::Directory));
    assert!(matches!(resolve("./nowhere"), Err(HubError::NoDirectory { .. })));
    assert!(matches!(resolve("a/b/c"), Err(HubError::NoDirectory { .. })));
    assert!(matches!(resolve("no such"), Err(HubError::BadTarget { .. })));
}

#[test]
fn a_name_that_cannot_be_looked_up_is_not_tried_again() {
    let text = "failed to lookup address information: Name or service not known";
    let error = crate::client::classify(ureq::Error::Io(std::io::Error::other(text)));
    assert!(matches!(error, crate::client::RequestError::Unreachable(_)));
}
