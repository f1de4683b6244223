//! Tests of the HTTP interface over real sockets.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::*;

/// A running interface.
struct Fixture {
    address: std::net::SocketAddr,
    readiness: Readiness,
    metrics: Metrics,
    stuck: Arc<std::sync::Mutex<Option<String>>>,
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<io::Result<()>>,
}

impl Fixture {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (readiness, metrics) = (Readiness::default(), Metrics::new());
        let stuck: Arc<std::sync::Mutex<Option<String>>> = Arc::default();
        let asked = stuck.clone();
        let state = AdminState::new(
            "node7",
            metrics.clone(),
            readiness.clone(),
            Arc::default(),
            move || asked.lock().unwrap().clone(),
        );
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(serve(listener, state, async {
            let _ = stopped.await;
        }));
        Self {
            address,
            readiness,
            metrics,
            stuck,
            stop,
            task,
        }
    }

    /// Status line and header fields, and the body.
    async fn ask(&self, method: &str, path: &str, accept: &str) -> (String, String) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request =
            format!("{method} {path} HTTP/1.1\r\nhost: a\r\naccept: {accept}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        (head.to_ascii_lowercase(), body.to_owned())
    }
}

#[tokio::test]
async fn probes_tell_the_conditions() {
    let fixture = Fixture::start().await;
    let (head, body) = fixture.ask("GET", "/readyz", "*/*").await;
    assert!(
        head.starts_with("http/1.1 503") && body.contains("starting"),
        "{head}\n{body}"
    );
    fixture
        .readiness
        .set("groups", Some("group data-3 has no leader".to_owned()));
    fixture.readiness.set("listeners", None);
    let (head, body) = fixture.ask("GET", "/readyz", "*/*").await;
    assert!(head.starts_with("http/1.1 503"), "{head}");
    assert_eq!(
        body,
        "not ready\ngroups: group data-3 has no leader\nlisteners: ok\n"
    );
    let (_, body) = fixture.ask("GET", "/readyz", "application/json").await;
    let json: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(json["ready"], false);
    assert_eq!(json["conditions"][0]["reason"], "group data-3 has no leader");
    assert_eq!(json["conditions"][1]["met"], true);
    fixture.readiness.set("groups", None);
    let (head, _) = fixture.ask("GET", "/readyz", "*/*").await;
    assert!(
        head.starts_with("http/1.1 200") && fixture.readiness.is_ready(),
        "{head}"
    );
    let (head, body) = fixture.ask("GET", "/livez", "*/*").await;
    assert!(head.starts_with("http/1.1 200") && body == "ok\n", "{head}");
    *fixture.stuck.lock().unwrap() = Some("worker 1 has not run for 31 s".to_owned());
    let (head, body) = fixture.ask("GET", "/livez", "*/*").await;
    assert!(
        head.starts_with("http/1.1 503") && body.contains("worker 1"),
        "{head}"
    );
}

#[tokio::test]
async fn metrics_and_status_are_served() {
    let fixture = Fixture::start().await;
    let worker = fixture.metrics.add_worker();
    worker.connections.increment();
    let (head, body) = fixture.ask("GET", "/metrics", "*/*").await;
    assert!(
        head.starts_with("http/1.1 200") && head.contains("text/plain; version=0.0.4"),
        "{head}"
    );
    assert!(body.contains("\nquorate_connections 1\n"), "{body}");
    let (head, body) = fixture.ask("GET", "/api/v1/status", "*/*").await;
    assert!(head.contains("application/json"), "{head}");
    let json: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(json["node"], "node7");
    assert_eq!(json["version"], crate::VERSION);
    assert_eq!(json["connections"], 1);
    assert!(json["uptime_secs"].is_u64());
}

#[tokio::test]
async fn errors_are_problem_details() {
    let fixture = Fixture::start().await;
    for (method, path, status) in [
        ("GET", "/", 404),
        ("GET", "/api/v1/nothing", 404),
        ("GET", "/api/v2/status", 404),
        ("POST", "/metrics", 405),
        ("DELETE", "/api/v1/status", 405),
    ] {
        let (head, body) = fixture.ask(method, path, "*/*").await;
        assert!(
            head.starts_with(&format!("http/1.1 {status}")),
            "{method} {path}: {head}"
        );
        assert!(
            head.contains("application/problem+json"),
            "{method} {path}: {head}"
        );
        let json: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(json["status"], status);
        assert!(json["detail"].as_str().unwrap().contains(path), "{body}");
    }
}

#[tokio::test]
async fn the_api_is_closed_off_loopback() {
    let state = AdminState::new("n", Metrics::new(), Readiness::default(), Arc::default(), || None);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = router(state, false);
    let task = tokio::spawn(async move { axum::serve(BoundedListener::new(listener), router).await });
    let (stop, _) = oneshot::channel();
    let fixture = Fixture {
        address,
        readiness: Readiness::default(),
        metrics: Metrics::new(),
        stuck: Arc::default(),
        stop,
        task,
    };
    let (head, _) = fixture.ask("GET", "/api/v1/status", "*/*").await;
    assert!(
        head.starts_with("http/1.1 403") && head.contains("problem+json"),
        "{head}"
    );
    let (head, _) = fixture.ask("GET", "/livez", "*/*").await;
    assert!(head.starts_with("http/1.1 200"), "{head}");
}

#[tokio::test]
async fn it_stops_when_told() {
    let fixture = Fixture::start().await;
    fixture.ask("GET", "/livez", "*/*").await;
    fixture.stop.send(()).unwrap();
    let ended = tokio::time::timeout(std::time::Duration::from_secs(10), fixture.task).await;
    assert!(matches!(ended, Ok(Ok(Ok(())))), "{ended:?}");
}

#[tokio::test]
async fn a_node_that_knows_no_cluster_yet_says_so() {
    let fixture = Fixture::start().await;
    for (method, path) in [
        ("GET", "/api/v1/nodes"),
        ("GET", "/api/v1/nodes/a"),
        ("GET", "/api/v1/raft-groups"),
        ("POST", "/api/v1/nodes/a/drain"),
        ("DELETE", "/api/v1/nodes/a"),
    ] {
        let (head, body) = fixture.ask(method, path, "*/*").await;
        assert!(head.starts_with("http/1.1 503"), "{method} {path}: {head}");
        assert!(body.contains("is starting"), "{body}");
    }
}

#[tokio::test]
async fn what_changes_something_is_bounded_and_not_taken_from_web_pages() {
    let fixture = Fixture::start().await;
    let page = "*/*\r\norigin: http://evil.example";
    let (head, body) = fixture.ask("DELETE", "/api/v1/nodes/a", page).await;
    assert!(head.starts_with("http/1.1 403"), "{head}\n{body}");
    let (head, _) = fixture.ask("GET", "/api/v1/status", page).await;
    assert!(head.starts_with("http/1.1 200"), "{head}");
    for (length, status) in [(cluster::BODY_BYTES_MAX + 1, 413), (2, 400)] {
        let body = "x".repeat(length);
        let with_body = format!("*/*\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}");
        let (head, _) = fixture.ask("POST", "/api/v1/nodes/a/drain", &with_body).await;
        assert!(head.starts_with(&format!("http/1.1 {status}")), "{head}");
        assert!(head.contains("problem+json"), "{head}");
    }
    for (method, path) in [
        ("DELETE", "/api/v1/nodes/a?force=perhaps"),
        ("DELETE", "/api/v1/nodes/a?forse=true"),
        ("GET", "/api/v1/nodes/%FF"),
        ("DELETE", "/api/v1/nodes/%FF"),
        ("POST", "/api/v1/nodes/%FF/drain"),
    ] {
        let (head, _) = fixture.ask(method, path, "*/*").await;
        assert!(head.starts_with("http/1.1 400"), "{head}");
        assert!(head.contains("problem+json"), "{head}");
    }
}
