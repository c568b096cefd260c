//! `dlq list`: which dead letters there are.

use couponmesh_messaging::{
    Store,
    dead_letter::query::{self, Summary},
};
use couponmesh_runtime::{
    Timestamp,
    id::{EventId, MemberId},
};
use serde_json::{Value, json};

use super::{
    args::ListArgs,
    table::{columns, plain, shortened},
};
use crate::run::BoxError;

/// Characters of an error in the table.
const ERROR: usize = 60;

pub(super) async fn list(store: &Store, args: &ListArgs) -> Result<(), BoxError> {
    let (db, service) = (store.read(), store.service());
    let filter = args.filter.at(store.now());
    let letters = query::list(db, service, &filter, args.limit).await?;
    if args.json {
        let letters: Vec<Value> = letters.iter().map(json).collect();
        crate::output::print(&format!("{:#}\n", Value::from(letters)));
        return Ok(());
    }
    let all = query::count(db, service, &filter).await?;
    if !letters.is_empty() {
        let heading = [
            "EVENT ID",
            "TYPE",
            "MEMBER ID",
            "PARKED SINCE",
            "ATTEMPTS",
            "STATE",
            "ERROR",
        ];
        let rows: Vec<[String; 7]> = letters.iter().map(row).collect();
        crate::output::print(&columns(heading, &rows));
    }
    let shown = letters.len() as u64;
    let more = if shown < all {
        format!(", of which {shown} are shown; --limit shows more")
    } else {
        String::new()
    };
    crate::output::print(&format!("{}{more}\n", letters_at(all, service)));
    Ok(())
}

/// "2 dead letters at coupon".
pub(super) fn letters_at(count: u64, service: &str) -> String {
    format!("{} at {service}", letters(count))
}

pub(super) fn letters(count: u64) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} dead letter{plural}")
}

/// What becomes of one letter, on a line.
pub(super) fn say(what: &str, id: EventId, event_type: &str, member: MemberId) {
    let event_type = plain(event_type);
    crate::output::print(&format!("{what:<18}{id}  {event_type}  member {member}\n"));
}

pub(super) fn state(redrive: Option<Timestamp>, close: Option<Timestamp>) -> &'static str {
    match (redrive, close) {
        (_, Some(_)) => "closed",
        (Some(_), None) => "redriving",
        (None, None) => "open",
    }
}

/// To the second: that is what people compare.
pub(super) fn second(time: Timestamp) -> String {
    Timestamp(time.0 - time.0.rem_euclid(1_000_000)).to_string()
}

fn row(letter: &Summary) -> [String; 7] {
    [
        letter.event_id.to_string(),
        plain(&letter.event_type),
        letter.member_id.to_string(),
        second(letter.park_time),
        letter.attempts.to_string(),
        state(letter.redrive_time, letter.close_time).to_owned(),
        shortened(&letter.error, ERROR),
    ]
}

fn json(letter: &Summary) -> Value {
    json!({
        "event_id": letter.event_id.to_string(),
        "event_type": letter.event_type,
        "member_id": letter.member_id.to_string(),
        "park_time": letter.park_time.to_string(),
        "attempts": letter.attempts,
        "state": state(letter.redrive_time, letter.close_time),
        "redrive_time": letter.redrive_time.map(|time| time.to_string()),
        "error": letter.error,
    })
}
