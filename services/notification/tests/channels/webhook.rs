//! Webhooks: what is sent, how it is signed, and what counts as delivered.

use std::time::Duration;

use couponmesh_notification::channel::Channel;
use couponmesh_runtime::Clock;
use couponmesh_testbed::Authority;
use hyper::Method;
use serde_json::{Value, json};
use standardwebhooks::Webhook as Verifier;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{
    CREATED, TRACEPARENT,
    http_server::{Answer, HttpServer, Received},
    message, open, outage, parse, refusal,
};

const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oDr7XSuSJcIyo=";

fn config(url: String) -> Value {
    json!({"kind": "webhook", "webhook": {"url": url, "secret": SECRET}})
}

fn webhook(server: &HttpServer) -> Channel {
    open(config(format!("http://127.0.0.1:{}/hook", server.port)))
}

fn header<'a>(request: &'a Received, name: &str) -> &'a str {
    request.headers[name].to_str().unwrap()
}

#[tokio::test]
async fn a_request_says_what_happened_and_is_signed() {
    let server = HttpServer::start(Answer::Status(204)).await;
    let channel = webhook(&server);
    assert_eq!(channel.name(), "webhook");
    channel.send(&message()).await.unwrap();
    let [request] = server.received().try_into().unwrap();
    assert_eq!(request.method, Method::POST);
    assert_eq!(request.target, "/hook");
    assert_eq!(header(&request, "content-type"), "application/json");
    assert_eq!(
        header(&request, "webhook-id"),
        message().notification_id.to_string()
    );
    assert_eq!(header(&request, "x-correlation-id"), "corr-42");
    assert_eq!(header(&request, "traceparent"), TRACEPARENT);
    let body: Value = serde_json::from_slice(&request.body).unwrap();
    assert_eq!(
        body,
        json!({
            "type": "member.registered",
            "timestamp": "2026-03-01T12:30:45.678901Z",
            "data": {
                "notification_id": "0192f3a4-7c5d-7e6f-8a9b-0c1d2e3f4a5b",
                "member_id": "0192f3a4-0000-7000-8000-000000000001",
                "subject": message().subject,
                "body": message().body,
            },
        })
    );
    let verifier = Verifier::new(SECRET).unwrap();
    verifier.verify(&request.body, &request.headers).unwrap();
    let forged = request.body.to_ascii_uppercase();
    assert!(verifier.verify(&forged, &request.headers).is_err());
}

#[tokio::test]
async fn a_repeat_carries_the_same_identity_and_the_time_of_its_attempt() {
    let server = HttpServer::start(Answer::Status(200)).await;
    let url = format!("http://127.0.0.1:{}/", server.port);
    let clock = Clock::manual(CREATED);
    let channel = Channel::open(&parse(config(url)), clock.clone()).unwrap();
    channel.send(&message()).await.unwrap();
    clock.advance(Duration::from_secs(60));
    channel.send(&message()).await.unwrap();
    let [first, second] = server.received().try_into().unwrap();
    assert_eq!(header(&first, "webhook-timestamp"), "1772368245");
    assert_eq!(header(&second, "webhook-timestamp"), "1772368305");
    assert_eq!(header(&first, "webhook-id"), header(&second, "webhook-id"));
    assert_eq!(first.body, second.body);
    let verifier = Verifier::new(SECRET).unwrap();
    for request in [first, second] {
        let (id, time) = (
            header(&request, "webhook-id"),
            header(&request, "webhook-timestamp"),
        );
        let signature = verifier
            .sign(id, time.parse().unwrap(), &request.body)
            .unwrap();
        assert_eq!(header(&request, "webhook-signature"), signature);
    }
}

#[tokio::test]
async fn a_refusal_names_the_status() {
    for (status, text) in [
        (400, "400 Bad Request"),
        (404, "404 Not Found"),
        (410, "410 Gone"),
    ] {
        let server = HttpServer::start(Answer::Status(status)).await;
        let error = refusal(&webhook(&server)).await;
        assert_eq!(error, format!("the webhook answered {text}"));
    }
}

#[tokio::test]
async fn a_server_that_cannot_now_is_an_outage_that_names_the_status() {
    for (status, text) in [
        (408, "408 Request Timeout"),
        (429, "429 Too Many Requests"),
        (500, "500 Internal Server Error"),
        (503, "503 Service Unavailable"),
    ] {
        let server = HttpServer::start(Answer::Status(status)).await;
        let error = outage(&webhook(&server)).await;
        assert_eq!(error, format!("the webhook answered {text}"));
    }
}

#[tokio::test]
async fn the_time_that_a_receiver_asks_for_is_told() {
    for (value, wait) in [
        ("90", Some(90)),
        ("1000000", Some(3_600)),
        ("Thu, 01 Jan 1970 00:00:00 GMT", Some(0)),
        ("later", None),
    ] {
        let server = HttpServer::start(Answer::With(429, "retry-after", value)).await;
        let error = webhook(&server).send(&message()).await.unwrap_err();
        assert_eq!(
            error.retry_after(),
            wait.map(Duration::from_secs),
            "{value}"
        );
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    for status in [301, 302, 303, 307, 308] {
        let server = HttpServer::start(Answer::With(status, "location", "/elsewhere")).await;
        let channel = webhook(&server);
        let error = match status {
            302 | 307 => outage(&channel).await,
            _ => refusal(&channel).await,
        };
        assert!(error.contains(&status.to_string()), "{error}");
        assert_eq!(server.received().len(), 1);
    }
}

#[tokio::test]
async fn a_name_that_leads_nowhere_is_an_outage() {
    // Too long a label for DNS: nobody is asked, on any machine.
    let error = outage(&open(config(format!("http://{}.invalid/", "a".repeat(64))))).await;
    assert!(error.contains("dns error"), "{error}");
}

#[tokio::test]
async fn a_receiver_that_hangs_up_or_talks_nonsense_is_an_outage() {
    for said in ["", "220 mail.example.com ESMTP\r\n"] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 64];
            assert!(stream.read(&mut request).await.unwrap() > 0);
            stream.write_all(said.as_bytes()).await.unwrap();
        });
        outage(&open(config(url))).await;
        server.await.unwrap();
    }
}

#[tokio::test]
async fn a_receiver_that_hangs_is_left_at_the_timeout() {
    let server = HttpServer::start(Answer::Never).await;
    let mut config = config(format!("http://127.0.0.1:{}/", server.port));
    config["webhook"]["timeout"] = json!("1s");
    assert_eq!(outage(&open(config)).await, "no answer within 1s");
    assert_eq!(server.received().len(), 1);
}

#[tokio::test]
async fn https_trusts_the_configured_authority_and_no_other() {
    let (authority, other) = (Authority::new(), Authority::new());
    let acceptor = Some(authority.acceptor());
    let server = HttpServer::with_tls(Answer::Status(200), acceptor).await;
    let mut config = config(format!("https://localhost:{}/", server.port));
    config["webhook"]["tls_ca_file"] = json!(other.ca_file());
    let error = outage(&open(config.clone())).await;
    assert!(error.contains("invalid peer certificate"), "{error}");
    assert!(server.received().is_empty());
    config["webhook"]["tls_ca_file"] = json!(authority.ca_file());
    open(config).send(&message()).await.unwrap();
    assert_eq!(server.received().len(), 1);
}

#[tokio::test]
async fn no_text_tells_a_secret() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let url = format!("http://jane:hunter2@{address}/hook?token=t0ken");
    let config = parse(config(url));
    let channel = Channel::open(&config, Clock::system()).unwrap();
    assert_eq!(channel.recipient(), format!("http://{address}/hook"));
    let error = outage(&channel).await;
    assert!(error.contains("refused"), "{error}");
    let shown = serde_json::to_string(&config).unwrap();
    for text in [error, shown, format!("{config:?} {channel:?}")] {
        for secret in ["jane", "hunter2", "t0ken", &SECRET[6..]] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
    }
}
