//! The connection. The client itself comes back after every loss; it logs in anew each time, with what the file of
//! credentials holds then.

use std::{sync::atomic::Ordering, time::Duration};

use async_nats::{
    Auth, AuthError, ConnectOptions, Event, ServerError,
    jetstream::{self, Context},
};
use tokio::fs::read_to_string;

use super::{NatsBus, NatsConfig, TIMEOUT};
use crate::bus::BusError;

/// How often a connection is tried. One that misses two answers is made anew, to another server if there is one.
const PING_INTERVAL: Duration = Duration::from_secs(3);

/// Connects for the first time.
pub(super) async fn connect(bus: &NatsBus) -> Result<Context, BusError> {
    let config = &bus.0.config;
    let addresses = config
        .addresses()
        .ok_or_else(|| BusError("bus.url is no address".into()))?;
    let (connections, refusals) = (bus.0.connections.clone(), bus.0.silences.refusals_counter());
    let logging_in = config.clone();
    let mut options = ConnectOptions::with_auth_callback(move |nonce| {
        let config = logging_in.clone();
        async move {
            let read = credentials(&config, &nonce).await;
            if let Err(error) = &read {
                // The client does not say why it comes back in vain.
                tracing::warn!(
                    error = error as &dyn std::error::Error,
                    "no login to the bus"
                );
            }
            read
        }
    })
    .name(&bus.0.replica)
    .custom_inbox_prefix(bus.0.names.inbox(bus.0.role.service))
    .connection_timeout(TIMEOUT)
    .request_timeout(Some(TIMEOUT))
    .ping_interval(PING_INTERVAL)
    .event_callback(move |event| {
        match &event {
            Event::Connected => connections.send_modify(|made| *made += 1),
            Event::ServerError(error) if is_refusal(error) => {
                refusals.fetch_add(1, Ordering::Relaxed);
            }
            _ => {}
        }
        async move { report(&event) }
    });
    if !config.tls_ca_file.as_os_str().is_empty() {
        options = options.add_root_certificates(config.tls_ca_file.clone());
    }
    let connected = options.connect(addresses).await;
    let client = connected.map_err(|error| BusError(Box::new(error)))?;
    let context = jetstream::ContextBuilder::new()
        .timeout(TIMEOUT)
        .ack_timeout(TIMEOUT);
    Ok(context.build(client))
}

fn report(event: &Event) {
    match event {
        Event::Connected => tracing::info!("connected to the bus"),
        Event::Disconnected | Event::LameDuckMode => {
            tracing::warn!(%event, "the bus is not there; events wait in the outbox");
        }
        // It names the subject. What was asked there is never answered.
        Event::ServerError(refused) if is_refusal(refused) => tracing::error!(
            %refused,
            "the NATS server refuses something to this login; `couponmesh bus logins` prints what each service needs"
        ),
        // E.g. that the time of a login is over.
        Event::ServerError(told) => tracing::warn!(%told, "the NATS server complains"),
        // At every attempt to come back, and of what is told elsewhere.
        other => tracing::debug!(event = %other, "bus connection"),
    }
}

/// Whether the login is not allowed what was tried.
fn is_refusal(error: &ServerError) -> bool {
    let refusal = "permissions violation";
    matches!(error, ServerError::Other(told) if told.to_ascii_lowercase().contains(refusal))
}

/// What proves to a server that sent `nonce` who we are.
async fn credentials(config: &NatsConfig, nonce: &[u8]) -> Result<Auth, AuthError> {
    let mut auth = Auth::new();
    if let Some((user, password)) = config.login() {
        auth.username = Some(user);
        auth.password = Some(password);
    }
    let file = &config.credentials_file;
    if !file.as_os_str().is_empty() {
        let wrong = |what: String| AuthError::new(format!("bus.credentials_file: {what}"));
        let text = read_to_string(file).await;
        let text = text.map_err(|error| wrong(error.to_string()))?;
        let (jwt, seed) = parse(&text).ok_or_else(|| {
            wrong("it holds no user's JWT and seed, as nsc writes them".to_owned())
        })?;
        // The error would not quote the seed, and neither do we.
        let key = nkeys::KeyPair::from_seed(seed);
        let signed = key.and_then(|key| key.sign(nonce));
        auth.signature = Some(signed.map_err(|error| wrong(error.to_string()))?);
        auth.jwt = Some(jwt.to_owned());
    }
    Ok(auth)
}

/// The JWT and the seed in the text of a `.creds` file.
fn parse(text: &str) -> Option<(&str, &str)> {
    let after = |begin: &str| {
        let mut lines = text
            .lines()
            .skip_while(|line| !line.contains(begin))
            .skip(1)
            .map(str::trim);
        lines.find(|line| !line.is_empty())
    };
    Some((
        after("BEGIN NATS USER JWT")?,
        after("BEGIN USER NKEY SEED")?,
    ))
}
