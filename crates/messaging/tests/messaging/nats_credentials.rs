//! Logging in by a `.creds` file, at a server that trusts an operator.

use std::{path::Path, time::Duration};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use couponmesh_messaging::bus::{NatsConfig, Publisher as _};
use couponmesh_runtime::Clock;
use couponmesh_testbed::{Nats, on_servers};
use nkeys::KeyPair;
use serde_json::{Value, json};

use crate::{
    nats_bus::events,
    support::{TICKED, eventually, nats_config, start_bus},
};

/// What `issuer` says of `subject`, until then.
fn jwt(issuer: &KeyPair, subject: &KeyPair, nats: &Value, end: Option<Duration>) -> String {
    let part = |value: Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let now = u64::try_from(Clock::system().now().0).unwrap() / 1_000_000;
    let mut claims = json!({
        "jti": subject.public_key(),
        "iat": now,
        "iss": issuer.public_key(),
        "sub": subject.public_key(),
        "name": "a test",
        "nats": nats,
    });
    if let Some(end) = end {
        claims["exp"] = json!(now + end.as_secs());
    }
    let header = part(json!({ "typ": "JWT", "alg": "ed25519-nkey" }));
    let signed = format!("{header}.{}", part(claims));
    let signature = issuer.sign(signed.as_bytes()).unwrap();
    format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
}

/// Gives `path` a user of `account` for so long.
fn write_creds(path: &Path, account: &KeyPair, end: Option<Duration>) {
    let user = KeyPair::new_user();
    let rights = json!({ "type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1 });
    let jwt = jwt(account, &user, &rights, end);
    let seed = user.seed().unwrap();
    let text = format!(
        "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    );
    std::fs::write(path, text).unwrap();
}

#[tokio::test]
async fn credentials_that_were_renewed_count_at_the_next_connect() {
    if !on_servers() {
        return;
    }
    let (operator, account, system) = (
        KeyPair::new_operator(),
        KeyPair::new_account(),
        KeyPair::new_account(),
    );
    let of_operator = json!({ "type": "operator", "version": 2 });
    let limits = json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1,
        "leaf": -1, "mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1,
    });
    let of_account = json!({ "type": "account", "version": 2, "limits": limits });
    let nats = Nats::start_configured(&format!(
        "operator: {}\nsystem_account: {}\nresolver: MEMORY\nresolver_preload: {{ {}: {}, {}: {} }}\n",
        jwt(&operator, &operator, &of_operator, None),
        system.public_key(),
        account.public_key(),
        jwt(&operator, &account, &of_account, None),
        system.public_key(),
        jwt(
            &operator,
            &system,
            &json!({ "type": "account", "version": 2 }),
            None
        ),
    ));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("member.creds");
    let config = NatsConfig {
        credentials_file: file.clone(),
        ..nats_config(&nats)
    };
    // The server ends the connection of a user whose time is over.
    write_creds(&file, &account, Some(Duration::from_secs(3)));
    let bus = start_bus(&config, &[]);
    bus.reached().await.unwrap();
    bus.publish(events(TICKED, 1), 0).await.unwrap();
    eventually("the time is over", async || {
        bus.publish(events(TICKED, 1), 0).await.is_err()
    })
    .await;
    write_creds(&file, &account, None);
    eventually("the renewed file counts", async || {
        bus.publish(events(TICKED, 1), 0).await.is_ok()
    })
    .await;
    bus.close().await;
}
