//! Looking into the stream, and playing tricks on it, past the services.

use async_nats::{
    Client, ConnectOptions, HeaderMap,
    header::NATS_MESSAGE_ID,
    jetstream::{self, stream::Stream},
};

/// The contract's name.
const NAME: &str = "COUPONMESH";

/// The stream of all events of a server or cluster. Each use makes a connection of its own.
#[derive(Clone, Debug)]
pub struct Events(pub(super) String);

/// A message as the stream keeps it.
#[derive(Clone, Debug)]
pub struct Message {
    /// Prefix, partition and the event's type.
    pub subject: String,
    /// The envelope.
    pub headers: HeaderMap,
    /// The encoded event.
    pub payload: Vec<u8>,
}

impl Message {
    /// One of its headers.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.as_str())
    }
}

impl Events {
    /// Everything in the stream, in its order; nothing while there is no stream.
    pub async fn messages(&self) -> Vec<Message> {
        let Ok(mut stream) = jetstream::new(self.client().await).get_stream(NAME).await else {
            return Vec::new();
        };
        let state = stream.info().await.unwrap().state.clone();
        let mut messages = Vec::new();
        for sequence in state.first_sequence..=state.last_sequence {
            // One that is missing was deleted by hand.
            if let Ok(message) = stream.get_raw_message(sequence).await {
                messages.push(Message {
                    subject: message.subject.to_string(),
                    headers: message.headers,
                    payload: message.payload.to_vec(),
                });
            }
        }
        messages
    }

    /// Publishes the events with these ids, which the stream has, once more, as happens when the server's
    /// memory of message ids is over.
    pub async fn repeat(&self, event_ids: &[String]) {
        let client = self.client().await;
        let js = jetstream::new(client.clone());
        let messages = self.messages().await;
        for id in event_ids {
            let known = messages
                .iter()
                .find(|message| message.header("ce-id") == Some(id));
            let Message {
                subject,
                headers: all,
                payload,
            } = known.unwrap().clone();
            // Not those of a batch, which the server keeps.
            let envelope = all
                .iter()
                .filter(|(name, _)| name.to_string().starts_with("ce-"));
            let mut headers = HeaderMap::new();
            for (name, values) in envelope {
                headers.insert(name.clone(), values[0].clone());
            }
            headers.insert(NATS_MESSAGE_ID, client.new_inbox());
            let published = js.publish_with_headers(subject, headers, payload.into());
            published.await.unwrap().await.unwrap();
        }
    }

    /// Whether a consumer has acknowledged everything.
    pub async fn is_done(&self, consumer: &str) -> bool {
        let info = self.stream().await.consumer_info(consumer).await;
        // It may be about to be made anew.
        info.is_ok_and(|info| info.num_pending == 0 && info.num_ack_pending == 0)
    }

    /// The stream itself, which has to be there.
    pub async fn stream(&self) -> Stream {
        let js = jetstream::new(self.client().await);
        js.get_stream(NAME).await.unwrap()
    }

    /// A connection.
    pub async fn client(&self) -> Client {
        let urls: Vec<&str> = self.0.split(',').collect();
        // The client itself does not use the login in a URL.
        let login = self
            .0
            .split_once("://")
            .and_then(|(_, rest)| rest.split_once('@'));
        let mut options = ConnectOptions::new();
        if let Some((user, password)) = login.and_then(|(login, _)| login.split_once(':')) {
            options = options.user_and_password(user.to_owned(), password.to_owned());
        }
        options.connect(urls).await.unwrap()
    }
}
