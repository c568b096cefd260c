//! `dlq show`: all that is known of one dead letter, without its payload, which may hold names.

use couponmesh_messaging::{
    Store,
    dead_letter::{Model, query},
};
use couponmesh_runtime::Timestamp;
use serde_json::{Value, json};

use super::{args::ShowArgs, list::state, select::unknown, table::plain};
use crate::run::BoxError;

pub(super) async fn show(store: &Store, args: &ShowArgs) -> Result<(), BoxError> {
    let Some(letter) = query::find(store.read(), store.service(), args.id).await? else {
        return Err(unknown(args.id, store.service()).into());
    };
    if args.json {
        crate::output::print(&format!("{:#}\n", json(&letter)));
        return Ok(());
    }
    for (label, text) in lines(&letter) {
        crate::output::print(&format!("{label:<16}{}\n", plain(&text)));
    }
    Ok(())
}

fn lines(letter: &Model) -> Vec<(&'static str, String)> {
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let time = |time: Option<Timestamp>| or_none(time.map(|time| time.to_string()));
    let state = state(letter.redrive_time, letter.close_time);
    vec![
        ("event id", letter.event_id.to_string()),
        ("type", letter.event_type.clone()),
        ("member id", letter.member_id.to_string()),
        ("state", state.to_owned()),
        ("parked since", letter.park_time.to_string()),
        ("attempts", letter.attempts.to_string()),
        ("error", letter.error.clone()),
        ("redrive asked", time(letter.redrive_time)),
        ("handled", time(letter.close_time)),
        ("published by", letter.source.clone()),
        ("published", letter.event_time.to_string()),
        ("correlation id", letter.correlation_id.clone()),
        (
            "causation id",
            or_none(letter.causation_id.map(|id| id.to_string())),
        ),
        ("traceparent", or_none(letter.traceparent.clone())),
        (
            "payload",
            format!(
                "{} bytes, not shown: it may hold a name",
                letter.payload.len()
            ),
        ),
    ]
}

fn json(letter: &Model) -> Value {
    json!({
        "event_id": letter.event_id.to_string(),
        "event_type": letter.event_type,
        "member_id": letter.member_id.to_string(),
        "state": state(letter.redrive_time, letter.close_time),
        "park_time": letter.park_time.to_string(),
        "attempts": letter.attempts,
        "error": letter.error,
        "redrive_time": letter.redrive_time.map(|time| time.to_string()),
        "close_time": letter.close_time.map(|time| time.to_string()),
        "source": letter.source,
        "event_time": letter.event_time.to_string(),
        "correlation_id": letter.correlation_id,
        "causation_id": letter.causation_id.map(|id| id.to_string()),
        "traceparent": letter.traceparent,
        "payload_bytes": letter.payload.len(),
    })
}
