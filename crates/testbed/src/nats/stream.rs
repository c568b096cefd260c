//! Looking into the stream, past the services.

use async_nats::{
    HeaderMap,
    jetstream::{self, stream::Stream},
};
use futures::TryStreamExt as _;

use super::Nats;

/// The contract's name.
const NAME: &str = "COUPONMESH";

/// A message as the stream keeps it.
#[derive(Clone, Debug)]
pub struct Message {
    /// The event's type.
    pub subject: String,
    /// The envelope.
    pub headers: HeaderMap,
    /// The encoded event.
    pub payload: Vec<u8>,
}

impl Nats {
    /// Everything in the stream, in its order; nothing while there is no stream.
    pub async fn messages(&self) -> Vec<Message> {
        let Ok(mut stream) = self.stream().await else {
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

    /// Lets every consumer that comes again begin with the first event.
    pub async fn forget_consumers(&self) {
        let stream = self.stream().await.unwrap();
        let names: Vec<String> = stream.consumer_names().try_collect().await.unwrap();
        for name in names {
            stream.delete_consumer(&name).await.unwrap();
        }
    }

    /// The stream, by a connection of its own.
    ///
    /// # Errors
    /// When there is none.
    pub async fn stream(&self) -> Result<Stream, jetstream::context::GetStreamError> {
        let client = async_nats::connect(self.url()).await.unwrap();
        jetstream::new(client).get_stream(NAME).await
    }
}
