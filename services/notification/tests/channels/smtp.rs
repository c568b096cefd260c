//! Mails, in the clear and encrypted, and everything that keeps one from arriving.

use std::{sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use couponmesh_notification::channel::Channel;
use couponmesh_testbed::Authority;
use futures::{FutureExt, future::join_all};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{
    message, open, outage, refusal,
    smtp_server::{Behaviour, Security, SmtpServer},
};

const MESSAGE_ID: &str = "<0192f3a4-7c5d-7e6f-8a9b-0c1d2e3f4a5b@example.com>";

fn smtp(url: String, more: Value) -> Channel {
    let mut smtp = json!({
        "url": url,
        "from": "Couponmesh <no-reply@example.com>",
        "to": "The Administrator <admin@example.com>",
    });
    smtp.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    open(json!({"kind": "smtp", "smtp": smtp}))
}

fn plain(server: &SmtpServer) -> Channel {
    smtp(format!("smtp://127.0.0.1:{}", server.port), json!({}))
}

#[tokio::test]
async fn a_mail_arrives_with_identity_date_recipient_and_body() {
    let server = SmtpServer::start(Behaviour::default()).await;
    let channel = plain(&server);
    assert_eq!(channel.name(), "smtp");
    assert_eq!(channel.recipient(), "admin@example.com");
    channel.send(&message()).await.unwrap();
    let [mail] = server.mails().try_into().unwrap();
    assert_eq!(mail.from, "<no-reply@example.com>");
    assert_eq!(mail.to, ["<admin@example.com>"]);
    assert_eq!(mail.header("Message-ID"), MESSAGE_ID);
    assert_eq!(mail.header("Date"), "Sun, 01 Mar 2026 12:30:45 +0000");
    assert_eq!(mail.header("From"), "Couponmesh <no-reply@example.com>");
    assert_eq!(
        mail.header("To"),
        "\"The Administrator\" <admin@example.com>"
    );
    assert_eq!(mail.header("MIME-Version"), "1.0");
    assert_eq!(mail.header("Content-Type"), "text/plain; charset=utf-8");
    assert_eq!(mail.header("Subject"), "a new member has registered");
    assert_eq!(mail.header("X-Correlation-Id"), "corr-42");
    assert_eq!(mail.header("Auto-Submitted"), "auto-generated");
    assert_eq!(
        mail.body().trim_end(),
        message().body.replace('\n', "\r\n"),
        "as sent, dot and all"
    );
    assert!(!mail.encrypted);
    assert_eq!(mail.greeted_as, "example.com");
}

#[tokio::test]
async fn the_name_to_greet_with_and_the_domain_of_the_identity_are_configured() {
    for (configured, name) in [
        ("notify.example.org", "notify.example.org"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("192.0.2.1", "[192.0.2.1]"),
        ("[IPv6:2001:db8::1]", "[IPv6:2001:db8::1]"),
    ] {
        let server = SmtpServer::start(Behaviour::default()).await;
        let url = format!("smtp://127.0.0.1:{}", server.port);
        let names = json!({"hello_name": configured, "message_id_domain": configured});
        smtp(url, names).send(&message()).await.unwrap();
        let [mail] = server.mails().try_into().unwrap();
        assert_eq!(mail.greeted_as, name);
        let identity = format!("<0192f3a4-7c5d-7e6f-8a9b-0c1d2e3f4a5b@{name}>");
        assert_eq!(mail.header("Message-ID"), identity);
    }
}

#[tokio::test]
async fn a_repeat_carries_the_same_identity_over_the_same_connection() {
    let server = SmtpServer::start(Behaviour::default()).await;
    let channel = plain(&server);
    channel.send(&message()).await.unwrap();
    channel.send(&message()).await.unwrap();
    let [first, second] = server.mails().try_into().unwrap();
    assert_eq!(first.header("Message-ID"), MESSAGE_ID);
    assert_eq!(first.text, second.text);
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn a_connection_that_the_server_closed_is_replaced() {
    let server = SmtpServer::start(Behaviour {
        hang_up: true,
        ..Behaviour::default()
    })
    .await;
    let channel = plain(&server);
    channel.send(&message()).await.unwrap();
    channel.send(&message()).await.unwrap();
    assert_eq!(server.mails().len(), 2);
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn starttls_encrypts_before_the_login_and_the_mail() {
    let authority = Authority::new();
    let login = STANDARD.encode("\0admin@example.com\0p@ss:w/rd");
    let server = SmtpServer::start(Behaviour {
        security: Security::StartTls(authority.acceptor()),
        login: Some(login.leak()),
        ..Behaviour::default()
    })
    .await;
    let login = "admin%40example.com:p%40ss%3Aw%2Frd";
    let channel = smtp(
        format!("smtp://{login}@localhost:{}?tls=required", server.port),
        json!({"tls_ca_file": authority.ca_file()}),
    );
    channel.send(&message()).await.unwrap();
    channel.send(&message()).await.unwrap();
    assert!(server.mails().iter().all(|mail| mail.encrypted));
    assert_eq!((server.mails().len(), server.connections()), (2, 1));
}

#[tokio::test]
async fn a_server_without_starttls_gets_nothing_when_it_is_required() {
    let server = SmtpServer::start(Behaviour::default()).await;
    let url = format!("smtp://127.0.0.1:{}?tls=required", server.port);
    let error = outage(&smtp(url, json!({}))).await;
    assert!(error.contains("STARTTLS is not supported"), "{error}");
    assert!(server.mails().is_empty());
}

#[tokio::test]
async fn smtps_encrypts_from_the_first_byte() {
    let authority = Authority::new();
    let server = SmtpServer::start(Behaviour {
        security: Security::Implicit(authority.acceptor()),
        ..Behaviour::default()
    })
    .await;
    let channel = smtp(
        format!("smtps://127.0.0.1:{}", server.port),
        json!({"tls_ca_file": authority.ca_file()}),
    );
    channel.send(&message()).await.unwrap();
    assert!(server.mails()[0].encrypted);
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused() {
    let (authority, other) = (Authority::new(), Authority::new());
    let acceptor = || authority.acceptor();
    for (security, scheme, query) in [
        (Security::Implicit(acceptor()), "smtps", ""),
        (Security::StartTls(acceptor()), "smtp", "?tls=required"),
    ] {
        let server = SmtpServer::start(Behaviour {
            security,
            ..Behaviour::default()
        })
        .await;
        for trusted in [json!({}), json!({"tls_ca_file": other.ca_file()})] {
            let url = format!("{scheme}://localhost:{}{query}", server.port);
            let error = outage(&smtp(url, trusted)).await;
            assert!(error.contains("invalid peer certificate"), "{error}");
        }
        assert!(server.mails().is_empty());
    }
}

#[tokio::test]
async fn a_server_that_cannot_now_is_an_outage_that_carries_the_reply() {
    for (verb, reply) in [
        ("GREETING", "421 4.3.2 too busy"),
        ("MAIL", "421 4.3.2 shutting down"),
        ("RCPT", "451 4.7.1 greylisted, try again later"),
        ("DATA", "452 4.3.1 the disk is full"),
        ("END", "451 4.3.0 the queue is broken"),
    ] {
        let server = SmtpServer::start(Behaviour {
            reply: Some((verb, reply)),
            ..Behaviour::default()
        })
        .await;
        let error = outage(&plain(&server)).await;
        assert_eq!(error, format!("the mail server answered {reply}"));
    }
}

#[tokio::test]
async fn a_refusal_carries_the_reply() {
    for (verb, reply) in [
        ("GREETING", "554 5.3.2 not today"),
        ("RCPT", "550 5.1.1 no such user here"),
        ("END", "554 5.7.1 looks like spam"),
    ] {
        let server = SmtpServer::start(Behaviour {
            reply: Some((verb, reply)),
            ..Behaviour::default()
        })
        .await;
        let error = refusal(&plain(&server)).await;
        assert_eq!(error, format!("the mail server answered {reply}"));
    }
}

#[tokio::test]
async fn an_answer_that_is_no_reply_is_an_outage() {
    for reply in ["HTTP/1.1 400 Bad Request", "999 what", "250"] {
        let server = SmtpServer::start(Behaviour {
            reply: Some(("GREETING", reply)),
            hang: Some("EHLO"),
            ..Behaviour::default()
        })
        .await;
        let url = format!("smtp://127.0.0.1:{}", server.port);
        outage(&smtp(url, json!({"timeout": "500ms"}))).await;
    }
}

#[tokio::test]
async fn a_login_that_the_server_does_not_know_is_an_outage() {
    let server = SmtpServer::start(Behaviour::default()).await;
    let url = format!("smtp://jane:hunter2@127.0.0.1:{}", server.port);
    let error = outage(&smtp(url, json!({}))).await;
    assert!(error.contains("authentication mechanism"), "{error}");
}

#[tokio::test]
async fn a_name_that_leads_nowhere_is_an_outage() {
    // Too long a label for DNS: nobody is asked, on any machine.
    let error = outage(&smtp(
        format!("smtp://{}.invalid", "a".repeat(64)),
        json!({}),
    ))
    .await;
    assert!(error.contains("Connection error"), "{error}");
}

#[tokio::test]
async fn a_talkative_refusal_is_cut() {
    let reply = "550-no, no and no\r\n".repeat(60) + "550 no";
    let server = SmtpServer::start(Behaviour {
        reply: Some(("MAIL", reply.leak())),
        ..Behaviour::default()
    })
    .await;
    let error = refusal(&plain(&server)).await;
    assert_eq!(error.chars().count(), 500);
    assert!(error.ends_with('…'), "{error}");
}

#[tokio::test]
async fn a_refused_login_does_not_tell_the_password() {
    let server = SmtpServer::start(Behaviour {
        login: Some("something else"),
        reply: Some((
            "AUTH",
            "535 5.7.8 jane hunter2 AGphbmUAaHVudGVyMg== is wrong",
        )),
        ..Behaviour::default()
    })
    .await;
    let url = format!("smtp://jane:hunter2@127.0.0.1:{}", server.port);
    let channel = smtp(url, json!({}));
    let error = refusal(&channel).await;
    assert_eq!(error, "the mail server refused the login: 535");
    assert!(!format!("{channel:?}").contains("hunter2"), "{channel:?}");
}

#[tokio::test]
async fn a_server_that_hangs_is_left_at_the_timeout() {
    let verbs = ["GREETING", "EHLO", "RCPT", "END"];
    join_all(verbs.map(|verb| async move {
        let server = SmtpServer::start(Behaviour {
            hang: Some(verb),
            ..Behaviour::default()
        })
        .await;
        let url = format!("smtp://127.0.0.1:{}", server.port);
        let channel = smtp(url, json!({"timeout": "1s"}));
        assert_eq!(outage(&channel).await, "no answer within 1s");
        // The next mail starts afresh instead of waiting for the previous one's answer.
        channel.send(&message()).await.unwrap();
        assert_eq!(server.connections(), 2, "{verb}");
    }))
    .await;
}

#[tokio::test]
async fn mails_sent_at_once_do_not_wait_for_each_other() {
    let server = SmtpServer::start(Behaviour {
        hang: Some("END"),
        ..Behaviour::default()
    })
    .await;
    let channel = Arc::new(plain(&server));
    let send = || {
        let channel = Arc::clone(&channel);
        tokio::spawn(async move { channel.send(&message()).await })
    };
    let mut hanging = send();
    // The server has the mail and will never say so.
    let taken = async {
        while server.mails().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(5), taken).await.unwrap();
    send().await.unwrap().unwrap();
    assert!((&mut hanging).now_or_never().is_none());
    hanging.abort();
    assert_eq!(server.mails().len(), 2);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_an_outage() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let error = outage(&smtp(format!("smtp://127.0.0.1:{port}"), json!({}))).await;
    assert!(error.contains("refused"), "{error}");
}
