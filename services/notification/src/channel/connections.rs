//! Connections to the mail server, kept for the next mail.

use std::{
    error::Error as _,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use lettre::transport::smtp::{
    Error,
    authentication::DEFAULT_MECHANISMS,
    client::{AsyncSmtpConnection, TlsParameters},
    extension::ClientId,
};

use super::{
    DeliveryError,
    endpoint::{Endpoint, Security},
    failure::Cause,
};

/// Most connections that are kept.
const MAX_PARKED: usize = 4;

/// A connection parked for longer is not used again: a firewall in between may have forgotten it without
/// a word, and the mail would wait for the timeout.
const MAX_PARKED_AGE: Duration = Duration::from_secs(30);

/// Opens connections and keeps those that finished their mail.
///
/// lettre's own pool is not used: it takes a connection back in whatever state a cancelled send (a timeout,
/// a shutdown) left it in, and the next mail would read the previous one's answers as its own.
pub(super) struct Connections {
    endpoint: Endpoint,
    hello: ClientId,
    tls: TlsParameters,
    parked: Mutex<Vec<(Instant, AsyncSmtpConnection)>>,
}

impl Connections {
    pub(super) fn new(endpoint: Endpoint, hello: ClientId, tls: TlsParameters) -> Self {
        Self {
            endpoint,
            hello,
            tls,
            parked: Mutex::new(Vec::new()),
        }
    }

    /// A connection that is ready for a mail; dropping it closes it.
    pub(super) async fn get(&self) -> Result<AsyncSmtpConnection, DeliveryError> {
        loop {
            // A statement of its own, so that the lock is not held while the server is asked.
            let Some((since, mut connection)) = self.lock().pop() else {
                return self.connect().await;
            };
            if since.elapsed() < MAX_PARKED_AGE && connection.test_connected().await {
                return Ok(connection);
            }
        }
    }

    /// Keeps `connection`, whose mail the server has taken.
    pub(super) fn park(&self, connection: AsyncSmtpConnection) {
        let mut parked = self.lock();
        if parked.len() < MAX_PARKED {
            parked.push((Instant::now(), connection));
        }
    }

    async fn connect(&self) -> Result<AsyncSmtpConnection, DeliveryError> {
        let Endpoint {
            host,
            port,
            security,
            credentials,
        } = &self.endpoint;
        let implicit = (*security == Security::Implicit).then(|| self.tls.clone());
        let address = (host.as_str(), *port);
        let mut connection =
            AsyncSmtpConnection::connect_tokio1(address, None, &self.hello, implicit, None)
                .await
                .map_err(|error| failed(&error))?;
        if *security == Security::StartTls {
            let upgraded = connection.starttls(self.tls.clone(), &self.hello).await;
            upgraded.map_err(|error| failed(&error))?;
        }
        if let Some(credentials) = credentials {
            let accepted = connection.auth(DEFAULT_MECHANISMS, credentials).await;
            accepted.map_err(|error| refused_login(&error))?;
        }
        Ok(connection)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(Instant, AsyncSmtpConnection)>> {
        // A push or a pop that panicked left the list whole.
        self.parked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the server answered, or why it was not reached.
pub(super) fn failed(error: &Error) -> DeliveryError {
    match (error.status(), error.source()) {
        (Some(code), Some(reply)) => DeliveryError::new(
            Cause::Reply(code),
            format_args!("the mail server answered {code} {reply}"),
        ),
        _ => DeliveryError::new(cause(error), format_args!("the mail was not sent: {error}")),
    }
}

/// Only the code: servers are known to repeat the command, and with it the password.
fn refused_login(error: &Error) -> DeliveryError {
    match error.status() {
        Some(code) => DeliveryError::new(
            Cause::Reply(code),
            format_args!("the mail server refused the login: {code}"),
        ),
        None => failed(error),
    }
}

fn cause(error: &Error) -> Cause {
    match error.status() {
        Some(code) => Cause::Reply(code),
        // What lettre calls the client's error is what the server does not support.
        None if error.is_client() => Cause::Unable,
        None => Cause::NoAnswer,
    }
}
