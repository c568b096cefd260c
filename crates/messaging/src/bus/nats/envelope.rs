//! An event as a NATS message: CloudEvents 1.0 in binary mode. The subject is the prefix, the partition and the event's
//! type.

use async_nats::{HeaderMap, Message, header::NATS_MESSAGE_ID};
use couponmesh_runtime::{
    Context, CorrelationId, Timestamp,
    id::{EventId, MemberId},
    telemetry,
};
use uuid::Uuid;

use super::{names::Names, stamp, stream::Partitions};
use crate::event::{Event, is_published_by};

const SPEC_VERSION: &str = "1.0";
/// Characters of a subject that are told of.
const MAX_SUBJECT: usize = 128;
const CONTENT_TYPE: &str = "application/protobuf";

/// The subject of `event`.
pub(super) fn subject(event: &Event, names: &Names, partitions: Partitions) -> String {
    let partition = partitions.of(event.member_id);
    names.subject(&partition.to_string(), &event.event_type)
}

/// The headers of `event`. `Nats-Msg-Id` lets the server drop what is published twice within minutes.
pub(super) fn headers(event: &Event, rewinds: i64) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let mut set = |name: &'static str, value: String| headers.insert(name, value);
    set("ce-specversion", SPEC_VERSION.to_owned());
    set("ce-id", event.id.to_string());
    set("ce-source", event.source.clone());
    set("ce-type", event.event_type.clone());
    set("ce-subject", event.member_id.to_string());
    set("ce-time", event.time.to_string());
    set("ce-datacontenttype", CONTENT_TYPE.to_owned());
    set(
        "ce-correlationid",
        event.context.correlation_id.as_str().to_owned(),
    );
    if let Some(causation_id) = event.context.causation_id {
        set("ce-causationid", causation_id.to_string());
    }
    if let Some(traceparent) = &event.context.traceparent {
        set("ce-traceparent", traceparent.clone());
        set("traceparent", traceparent.clone());
    }
    headers.insert(NATS_MESSAGE_ID, message_id(event, rewinds));
    headers
}

/// The server drops what it saw within two minutes, but not what is wanted once more.
pub(super) fn message_id(event: &Event, rewinds: i64) -> String {
    match rewinds {
        0 => event.id.to_string(),
        rewinds => format!("{}.{rewinds}", event.id),
    }
}

/// The event in `message`, which stands at `sequence` of the stream.
///
/// A message without a proper envelope becomes an event of a type that no handler knows, and with an id
/// that is the same whenever it is delivered: every consumer parks it once, where an operator finds it.
pub(super) fn event(message: Message, sequence: u64) -> Event {
    read(&message).unwrap_or_else(|wrong| unreadable(message, sequence, wrong))
}

/// The type of the events that are published to `subject`: what follows the partition, or all of it where a release up
/// to 0.3 published them.
fn type_of(subject: &str) -> &str {
    let after_prefix = subject.split_once('.').map(|(_, rest)| rest);
    let parts = after_prefix.and_then(|rest| rest.split_once('.'));
    match parts {
        Some((partition, event_type)) if partition.bytes().all(|byte| byte.is_ascii_digit()) => {
            event_type
        }
        _ => subject,
    }
}

/// The event, or the header that is missing or malformed.
fn read(message: &Message) -> Result<Event, &'static str> {
    let text = |name: &'static str| {
        let headers = message.headers.as_ref();
        let value = headers.and_then(|headers| headers.get(name));
        value.map(|value| value.as_str())
    };
    let of_subject = |event_type: &&str| *event_type == type_of(&message.subject);
    let event_type = text("ce-type").filter(of_subject).ok_or("ce-type")?;
    let id = text("ce-id").and_then(EventId::parse).ok_or("ce-id")?;
    let time: Option<prost_types::Timestamp> = text("ce-time").and_then(|time| time.parse().ok());
    let member_id = text("ce-subject").and_then(MemberId::parse);
    // A service tells of what is its own: the server's permissions hold it to its subjects, and this to its name.
    let source = text("ce-source").filter(|source| is_published_by(source, event_type));
    Ok(Event {
        id,
        event_type: event_type.to_owned(),
        source: source.ok_or("ce-source")?.to_owned(),
        member_id: member_id.ok_or("ce-subject")?,
        time: Timestamp::from(time.ok_or("ce-time")?),
        context: Context {
            correlation_id: text("ce-correlationid")
                .and_then(CorrelationId::parse)
                .unwrap_or_else(|| CorrelationId::from(id.0)),
            causation_id: text("ce-causationid").and_then(|id| id.parse().ok()),
            traceparent: text("ce-traceparent")
                .filter(|text| telemetry::is_traceparent(text))
                .map(str::to_owned),
        },
        payload: message.payload.to_vec(),
    })
}

/// The beginning of `text`, with a question mark for what is no visible ASCII.
fn printable(text: &str) -> String {
    let visible = |character: char| {
        if character.is_ascii_graphic() {
            character
        } else {
            '?'
        }
    };
    text.chars().take(MAX_SUBJECT).map(visible).collect()
}

fn unreadable(message: Message, sequence: u64, wrong: &str) -> Event {
    let id = stamp::digest(&[&sequence.to_be_bytes(), &message.payload]);
    Event {
        id: EventId(id),
        event_type: format!(
            "unreadable:{} (message {sequence} of the stream: {wrong} is missing or malformed)",
            printable(&message.subject)
        ),
        source: "unknown".to_owned(),
        member_id: MemberId(Uuid::nil()),
        time: Timestamp::default(),
        context: Context::new(CorrelationId::from(id)),
        payload: message.payload.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Event {
        Event {
            id: EventId::parse("0198c1f0-5c3e-7d7a-a1b5-3f2d9c0e8b11").unwrap(),
            event_type: "couponmesh.member.v1.MemberRegistered".to_owned(),
            source: "member".to_owned(),
            member_id: MemberId::parse("0198c1f0-5c3e-7d7a-a1b5-3f2d9c0e8b12").unwrap(),
            time: Timestamp(1_800_000_000_123_456),
            context: Context {
                correlation_id: CorrelationId::parse("c-1").unwrap(),
                causation_id: Some(Uuid::from_u128(7)),
                traceparent: Some(
                    "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned(),
                ),
            },
            payload: vec![1, 2, 3],
        }
    }

    fn message(event: &Event, headers: Option<HeaderMap>) -> Message {
        Message {
            subject: subject(event, &Names::new("couponmesh"), Partitions(8)).into(),
            reply: None,
            payload: event.payload.clone().into(),
            headers,
            status: None,
            description: None,
            length: 0,
        }
    }

    #[test]
    fn an_event_comes_out_as_it_went_in() {
        let full = example();
        let mut bare = example();
        bare.context.causation_id = None;
        bare.context.traceparent = None;
        for event in [full, bare] {
            let mut message = message(&event, Some(headers(&event, 0)));
            assert_eq!(super::event(message.clone(), 1), event);
            // As releases up to 0.3 published it.
            message.subject = event.event_type.as_str().into();
            assert_eq!(super::event(message, 1), event);
        }
    }

    #[test]
    fn the_headers_are_the_contracts() {
        let headers = headers(&example(), 0);
        let mut names: Vec<String> = headers.iter().map(|(name, _)| name.to_string()).collect();
        names.sort();
        let expected = [
            "Nats-Msg-Id",
            "ce-causationid",
            "ce-correlationid",
            "ce-datacontenttype",
            "ce-id",
            "ce-source",
            "ce-specversion",
            "ce-subject",
            "ce-time",
            "ce-traceparent",
            "ce-type",
            "traceparent",
        ];
        assert_eq!(names, expected);
        assert_eq!(
            headers.get("ce-time").unwrap().as_str(),
            "2027-01-15T08:00:00.123456Z"
        );
    }

    #[test]
    fn what_has_no_envelope_is_the_same_unreadable_event_each_time() {
        let event = example();
        let mut torn = headers(&event, 0);
        torn.insert("ce-id", "no id");
        let mut mislabelled = headers(&event, 0);
        mislabelled.insert("ce-type", "couponmesh.member.v1.MemberWithdrawn");
        let mut unprintable = headers(&event, 0);
        unprintable.insert("ce-source", "a\0b");
        // Another service speaks for member.
        let mut forged = headers(&event, 0);
        forged.insert("ce-source", "coupon");
        let wrong = [torn, mislabelled, unprintable, forged].map(Some);
        for headers in wrong.into_iter().chain([None]) {
            let read = || super::event(message(&event, headers.clone()), 9);
            let subject = subject(&event, &Names::new("couponmesh"), Partitions(8));
            let told = format!("unreadable:{subject} (message 9 of the stream: ce-");
            assert!(
                read().event_type.starts_with(&told),
                "{}",
                read().event_type
            );
            assert_eq!(read(), read());
            assert_ne!(
                read().id,
                super::event(message(&event, headers.clone()), 10).id
            );
        }
    }
}
