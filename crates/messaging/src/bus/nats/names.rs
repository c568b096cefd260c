//! What is called how on the server: all names of an installation begin with its prefix.

/// The names that come from `bus.prefix`.
#[derive(Clone, Debug)]
pub(super) struct Names {
    prefix: String,
    stream: String,
}

impl Names {
    pub(super) fn new(prefix: &str) -> Self {
        Self {
            prefix: prefix.to_owned(),
            stream: prefix.to_ascii_uppercase(),
        }
    }

    /// The stream of all events.
    pub(super) fn stream(&self) -> &str {
        &self.stream
    }

    /// The subjects of all that is in the stream.
    pub(super) fn subjects(&self) -> String {
        format!("{}.>", self.prefix)
    }

    /// The subject of the events of a type in a partition.
    pub(super) fn subject(&self, partition: &str, event_type: &str) -> String {
        format!("{}.{partition}.{event_type}", self.prefix)
    }

    /// What the subjects of answers to a service begin with: nobody else may listen to them.
    pub(super) fn inbox(&self, service: &str) -> String {
        format!("_INBOX.{}.{service}", self.prefix)
    }

    /// The bucket in which the services say which databases are theirs.
    pub(super) fn claims(&self) -> &str {
        &self.prefix
    }
}

/// The server's consumer by which a service reads a partition.
pub(super) fn consumer(service: &str, partition: &str) -> String {
    format!("{service}-{partition}")
}
