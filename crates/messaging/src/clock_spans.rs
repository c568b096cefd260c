//! How much time has passed for sure: the spans in which the clock was seen to run without a jump.
//!
//! Deleting by age needs a clock that can be trusted, and none can: a process that starts with a
//! clock 100 days ahead finds everything to be old. So every service notes the time when it starts
//! and stops and every ten minutes between, events or not. Where the time is further from what was
//! noted last than an hour, the clock jumped, or nobody ran meanwhile, which looks the same; a new
//! span begins there. What counts as age:
//!
//! - The time inside of spans counts in full.
//! - The gap before the newest span counts for nothing: it may be a wrong clock's.
//! - A gap before an older span counts, since a later start has confirmed it, but as no more than a
//!   seventh of the age that is asked for. So machines that run for minutes a day delete, too, and
//!   only seven wrong starts, each further ahead than the one before, delete what is new.
//! - A gap beside a time that was taken back, or that takes one back, counts for nothing.
//!
//! An idle service, or one with a clock that was set, deletes again by itself.

use std::time::Duration;

use couponmesh_runtime::Timestamp;
use sea_orm::{
    ActiveValue::Set, ConnectionTrait, DbErr, QueryOrder, QuerySelect, QueryTrait as _,
    entity::prelude::*, sea_query::OnConflict,
};
use sea_orm_migration::{MigrationName, MigrationTrait, SchemaManager};

use crate::store::Store;

/// How often the time is noted.
pub(crate) const INTERVAL: Duration = Duration::from_secs(600);
/// A difference to what was noted last that is larger begins a new span.
const JUMP: Duration = Duration::from_secs(3_600);
/// A gap counts as no more than this part of an age.
const PART_OF_AGE: u32 = 7;
/// Spans that are kept: more than a year of starts every hour.
const KEPT: i64 = 10_000;

/// A span.
#[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
#[sea_orm(table_name = "clock_spans")]
pub struct Model {
    /// The order of spans, from 1.
    #[sea_orm(primary_key, auto_increment = false)]
    pub seq: i64,
    /// The first time that was noted.
    pub begin_time: Timestamp,
    /// The last one.
    pub end_time: Timestamp,
}

/// No relations.
#[derive(Clone, Copy, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

/// Notes the time. Replicas note it together; the first one to see a jump begins the span.
pub(crate) async fn note(store: &Store) -> Result<(), DbErr> {
    const SCOPE: &str = "janitor.clock";
    let now = store.now();
    let newest = newest_first(store.read(), 1).await?.pop();
    if let Some(span) = &newest
        && span.goes_on_at(now)
    {
        let longer = Entity::update_many()
            .col_expr(Column::EndTime, Expr::value(now))
            .filter(Column::Seq.eq(span.seq))
            // Otherwise another replica has just noted it.
            .filter(Column::EndTime.eq(span.end_time));
        store.execute(SCOPE, &longer.into_query()).await?;
        return Ok(());
    }
    let seq = newest.as_ref().map_or(1, |span| span.seq + 1);
    let span = Entity::insert(ActiveModel {
        seq: Set(seq),
        begin_time: Set(now),
        end_time: Set(now),
    });
    let unless_there = OnConflict::column(Column::Seq).do_nothing().to_owned();
    let span = span.on_conflict(unless_there);
    store.execute(SCOPE, &span.into_query()).await?;
    if let Some(last) = newest {
        let (service, last) = (store.service(), last.end_time);
        tracing::error!(
            service,
            %now,
            %last,
            "the clock is more than an hour away from the last time that was noted: the time between \
             makes nothing older until a later start confirms it. If the service did not run \
             meanwhile, nothing has to be done; otherwise set the clock, on PostgreSQL that of the \
             database's server"
        );
        let old = Entity::delete_many().filter(Column::Seq.lte(seq - KEPT));
        store.execute(SCOPE, &old.into_query()).await?;
    }
    Ok(())
}

/// The time before which everything is older than `age` for sure; none when not so much time has
/// been seen to pass.
///
/// # Errors
/// The database's.
pub async fn older_than(store: &Store, age: Duration) -> Result<Option<Timestamp>, DbErr> {
    let mut spans = newest_first(store.read(), KEPT.unsigned_abs()).await?;
    let now = store.now();
    if let Some(newest) = spans.first_mut()
        && newest.goes_on_at(now)
    {
        newest.end_time = now;
    }
    Ok(before(&spans, age))
}

/// `spans` are the newest first.
fn before(spans: &[Model], age: Duration) -> Option<Timestamp> {
    let (mut missing, mut latest) = (age, Timestamp(i64::MAX));
    let gaps = gaps(spans).into_iter().chain([Duration::ZERO]);
    for (span, gap) in spans.iter().zip(gaps) {
        let length = span.end_time.since(span.begin_time);
        if missing <= length {
            return Some(span.end_time.minus(missing).min(latest));
        }
        missing -= length;
        // What a later span wrote is younger, also when the clock was set back: to before the
        // end of this one. Rows may be a little older than the first note of their span.
        let begin = span.begin_time.minus(JUMP);
        if begin <= latest {
            missing = missing.saturating_sub(gap.min(age / PART_OF_AGE));
        }
        latest = latest.min(begin);
    }
    None
}

/// The gaps before `spans`, both the newest first: those that nothing which is older contradicts.
fn gaps(spans: &[Model]) -> Vec<Duration> {
    let mut latest = Timestamp(i64::MIN);
    let mut gaps = Vec::with_capacity(spans.len());
    for pair in spans.windows(2).rev() {
        let [newer, older] = pair else { continue };
        latest = latest.max(older.end_time);
        gaps.push(if older.end_time == latest {
            newer.begin_time.since(older.end_time)
        } else {
            Duration::ZERO
        });
    }
    gaps.reverse();
    if let Some(unconfirmed) = gaps.first_mut() {
        *unconfirmed = Duration::ZERO;
    }
    gaps
}

impl Model {
    fn goes_on_at(&self, now: Timestamp) -> bool {
        now.since(self.end_time).max(self.end_time.since(now)) <= JUMP
    }
}

async fn newest_first(db: &impl ConnectionTrait, limit: u64) -> Result<Vec<Model>, DbErr> {
    let spans = Entity::find().order_by_desc(Column::Seq).limit(limit);
    spans.all(db).await
}

pub(crate) struct CreateClockSpans;

impl MigrationName for CreateClockSpans {
    fn name(&self) -> &'static str {
        "m0005_create_clock_spans"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for CreateClockSpans {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let schema = sea_orm::Schema::new(manager.get_database_backend());
        manager
            .create_table(schema.create_table_from_entity(Entity))
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);
    const DAY: Duration = Duration::from_secs(86_400);

    fn day(day: u32) -> Timestamp {
        Timestamp(0).plus(DAY * (1_000 + day))
    }

    /// Spans from the first to the newest, from one day to another.
    fn spans(days: &[(u32, u32)]) -> Vec<Model> {
        let span = |(seq, &(begin, end))| Model {
            seq,
            begin_time: day(begin),
            end_time: day(end),
        };
        let mut spans: Vec<Model> = (1..).zip(days).map(span).collect();
        spans.reverse();
        spans
    }

    #[test]
    fn only_time_that_was_seen_to_pass_is_age() {
        let week = DAY * 7;
        assert_eq!(before(&Vec::new(), week), None);
        assert_eq!(before(&Vec::new(), Duration::ZERO), None);
        assert_eq!(before(&spans(&[(0, 6)]), week), None);
        assert_eq!(before(&spans(&[(0, 6)]), Duration::ZERO), Some(day(6)));
        assert_eq!(before(&spans(&[(0, 7)]), week), Some(day(0)));
        assert_eq!(before(&spans(&[(0, 20)]), week), Some(day(13)));
        // A hundred days ahead, or away for as long: they count for nothing.
        assert_eq!(before(&spans(&[(0, 20), (120, 120)]), week), Some(day(13)));
        assert_eq!(before(&spans(&[(0, 20), (120, 125)]), week), Some(day(18)));
        assert_eq!(before(&spans(&[(0, 20), (120, 128)]), week), Some(day(121)));
        // Off every other day.
        let laptop = spans(&[(0, 1), (2, 3), (4, 5), (6, 7)]);
        assert_eq!(before(&laptop, DAY * 2), Some(day(4)));
    }

    #[test]
    fn what_was_written_after_the_clock_was_set_back_is_young() {
        let week = DAY * 7;
        let set_back = |days| spans(&[(0, 20), (120, days), (21, 22)]);
        assert_eq!(before(&set_back(121), week), Some(day(15)));
        // It was wrong for long: of the right time nothing is a week old yet.
        assert_eq!(before(&set_back(140), week), Some(day(21).minus(HOUR)));
    }

    #[test]
    fn runs_of_minutes_a_day_make_things_old() {
        let minutes = Duration::from_secs(300);
        let mut runs = spans(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9].map(|day| (day, day)));
        for run in &mut runs {
            run.end_time = run.begin_time.plus(minutes);
        }
        // Of the last day nobody knows yet.
        assert_eq!(before(&runs, DAY * 7), Some(day(1).plus(minutes)));
        assert_eq!(before(&runs, DAY * 14), None);
    }

    #[test]
    fn a_gap_counts_when_a_later_start_confirms_it_and_a_seventh_at_most() {
        let week = DAY * 7;
        let two_starts_ahead = spans(&[(0, 20), (120, 120), (122, 122)]);
        assert_eq!(before(&two_starts_ahead, week), Some(day(14)));
        // Neither the wrong time nor the way back from it, however often.
        let ahead = spans(&[(0, 20), (120, 120), (21, 21), (121, 121), (22, 22)]);
        assert_eq!(before(&ahead, week), Some(day(13)));
        // A machine that has no clock before it has a network.
        let late = spans(&[(500, 520), (0, 0), (521, 521), (0, 0), (522, 522)]);
        assert_eq!(before(&late, week), Some(day(0).minus(HOUR)));
    }
}
