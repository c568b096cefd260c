//! Looking into what the bus keeps, past the services.

use couponmesh_testbed::{Events, Message};
use sea_orm::{ConnectionTrait as _, FromQueryResult, Statement};
use uuid::Uuid;

use super::File;

/// All events that were published: the services' outboxes, or the stream of NATS.
pub(crate) enum Log {
    Outboxes(Vec<(&'static str, File)>),
    Stream(Events),
}

/// An event as the bus keeps it.
#[derive(Debug, FromQueryResult)]
pub(crate) struct Logged {
    pub(crate) event_id: Uuid,
    pub(crate) event_type: String,
    pub(crate) source: String,
    pub(crate) correlation_id: String,
    pub(crate) causation_id: Option<Uuid>,
    pub(crate) traceparent: Option<String>,
}

impl From<Message> for Logged {
    fn from(message: Message) -> Self {
        let header = |name: &str| message.header(name).map(str::to_owned);
        Self {
            event_id: header("ce-id").unwrap().parse().unwrap(),
            event_type: header("ce-type").unwrap(),
            source: header("ce-source").unwrap(),
            correlation_id: header("ce-correlationid").unwrap(),
            causation_id: header("ce-causationid").map(|id| id.parse().unwrap()),
            traceparent: header("ce-traceparent"),
        }
    }
}

impl Log {
    /// The events about a member, in the order of the log.
    pub(crate) async fn of(&self, member_id: &str) -> Vec<Logged> {
        match self {
            Self::Outboxes(outboxes) => {
                let mut logged = Vec::new();
                for (service, file) in outboxes {
                    let sql =
                        format!("SELECT *, '{service}' AS source FROM outbox WHERE member_id = ?");
                    let id: Uuid = member_id.parse().unwrap();
                    let backend = file.db().get_database_backend();
                    let query = Statement::from_sql_and_values(backend, sql, [id.into()]);
                    let found = Logged::find_by_statement(query).all(file.db()).await;
                    logged.extend(found.unwrap());
                }
                // Whose ids are made of the time.
                logged.sort_by_key(|event| event.event_id);
                logged
            }
            Self::Stream(events) => {
                let about = |message: &Message| message.header("ce-subject") == Some(member_id);
                let messages = events.messages().await;
                messages
                    .into_iter()
                    .filter(about)
                    .map(Logged::from)
                    .collect()
            }
        }
    }

    /// The parts of events in which `needle` stands, in capitals or not.
    pub(crate) async fn parts_that_hold(&self, needle: &str) -> Vec<String> {
        match self {
            Self::Outboxes(outboxes) => {
                let mut parts = Vec::new();
                for (_, file) in outboxes {
                    parts.extend(file.columns_that_hold(needle).await);
                }
                parts.retain(|part| part.starts_with("outbox."));
                parts
            }
            Self::Stream(events) => {
                let mut parts = Vec::new();
                for message in events.messages().await {
                    let headers = message.headers.iter();
                    let headers =
                        headers.map(|(name, values)| (format!("{name}"), format!("{values:?}")));
                    let payload = String::from_utf8_lossy(&message.payload).into_owned();
                    parts.extend(headers);
                    parts.push(("payload".to_owned(), payload));
                }
                parts.retain(|(_, value)| value.to_lowercase().contains(&needle.to_lowercase()));
                let mut names: Vec<String> = parts
                    .into_iter()
                    .map(|(name, _)| format!("events.{name}"))
                    .collect();
                names.sort();
                names.dedup();
                names
            }
        }
    }
}
