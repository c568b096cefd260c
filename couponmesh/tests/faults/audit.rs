//! What must hold in the databases in the end, compared with what was acknowledged; and what must hold at any
//! moment.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::{Duration, Instant},
};

use couponmesh_coupon::coupons;
use couponmesh_member::{members, withdrawals};
use couponmesh_mypage::pages;
use couponmesh_notification::notifications;
use couponmesh_proto::{coupon::v1::CouponState, member::v1::MemberState};
use couponmesh_runtime::id::MemberId;
use sea_orm::{
    ColumnTrait as _, ConnectOptions, ConnectionTrait as _, Database, DatabaseConnection,
    DatabaseTransaction, DbBackend, EntityTrait as _, QueryFilter as _, QuerySelect as _,
    Statement, TransactionTrait as _,
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    binary::{
        caller::Acknowledged,
        rest::{SERVICES, amiss},
    },
    soak::pick,
};

/// Pause between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// One who looks into the four databases.
#[derive(Clone)]
pub(crate) struct Auditor(BTreeMap<&'static str, DatabaseConnection>);

impl Auditor {
    pub(crate) async fn open(url: impl Fn(&str) -> String) -> Self {
        let mut databases = BTreeMap::new();
        for service in SERVICES {
            let mut options = ConnectOptions::new(url(service));
            options.max_connections(2).sqlx_logging(false);
            databases.insert(service, Database::connect(options).await.unwrap());
        }
        Self(databases)
    }

    /// One number.
    pub(crate) async fn numbers(&self, service: &str, sql: &str) -> Vec<i64> {
        let query = Statement::from_string(DbBackend::Postgres, sql);
        let rows = self.0[service].query_all_raw(query).await.unwrap();
        let number = |row: &sea_orm::QueryResult| row.try_get_by_index(0).unwrap();
        rows.iter().map(number).collect()
    }

    /// The first of them.
    pub(crate) async fn number(&self, service: &str, sql: &str) -> i64 {
        let query = Statement::from_string(DbBackend::Postgres, sql);
        let row = self.0[service].query_one_raw(query).await.unwrap();
        row.unwrap().try_get_by_index(0).unwrap()
    }

    /// Every table of a service's own.
    pub(crate) async fn tables(&self, service: &str) -> Vec<String> {
        let sql = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY tablename";
        let query = Statement::from_string(DbBackend::Postgres, sql);
        let rows = self.0[service].query_all_raw(query).await.unwrap();
        rows.iter()
            .map(|row| row.try_get_by_index(0).unwrap())
            .collect()
    }

    /// Executes a statement as an operator does.
    pub(crate) async fn execute(&self, service: &str, sql: &str) {
        self.0[service].execute_unprepared(sql).await.unwrap();
    }

    /// A transaction that took what `sql` takes, and holds it until it ends.
    pub(crate) async fn hold(&self, service: &str, sql: &str) -> DatabaseTransaction {
        let transaction = self.0[service].begin().await.unwrap();
        transaction.execute_unprepared(sql).await.unwrap();
        transaction
    }

    /// Waits until everything came to rest after `acknowledged` registrations; returns how long that took.
    pub(crate) async fn rest(&self, acknowledged: usize) -> Duration {
        // Deliveries that died with a process come again after 30 seconds.
        let (begin, patience) = (Instant::now(), Duration::from_secs(pick(120, 900)));
        loop {
            let Some(left) = self.unfinished(acknowledged).await else {
                return begin.elapsed();
            };
            assert!(
                begin.elapsed() < patience,
                "not at rest after {patience:?}: {left}"
            );
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    async fn unfinished(&self, acknowledged: usize) -> Option<String> {
        for (service, what, sql) in [
            (
                "member",
                "members on their way",
                "SELECT count(*) FROM members WHERE state NOT IN ('ACTIVE', 'WITHDRAWN')",
            ),
            (
                "member",
                "members of whom the administrator does not know",
                "SELECT count(*) FROM members WHERE admin_notify_time IS NULL",
            ),
            (
                "member",
                "pending withdrawals",
                "SELECT count(*) FROM withdrawals WHERE state <> 'COMPLETED'",
            ),
        ] {
            let count = self.number(service, sql).await;
            if count > 0 {
                return Some(format!("{count} {what}"));
            }
        }
        let number = async |service: &str, sql: &str| self.number(service, sql).await;
        if let Some(amiss) = amiss(acknowledged, true, number).await {
            return Some(amiss);
        }
        for (table, (service, version), shown) in [
            ("members", ("member", "version"), "member_version"),
            ("coupons", ("coupon", "version"), "coupon_version"),
        ] {
            let sum = |column, table| {
                format!("SELECT CAST(coalesce(sum({column}), 0) AS BIGINT) FROM {table}")
            };
            let is = self.number(service, &sum(version, table)).await;
            let shown = self.number("mypage", &sum(shown, "pages")).await;
            if is != shown {
                return Some(format!("pages show {shown} of {is} versions of {table}"));
            }
        }
        None
    }

    /// Waits until everything came to rest, and compares every row with what was acknowledged. Returns how
    /// long the rest took to come.
    pub(crate) async fn check(&self, acknowledged: &[Acknowledged]) -> Duration {
        self.check_beside(0, acknowledged).await
    }

    /// The same, where that many `others` were registered before.
    pub(crate) async fn check_beside(
        &self,
        others: usize,
        acknowledged: &[Acknowledged],
    ) -> Duration {
        let took = self.rest(others + acknowledged.len()).await;
        let books = self.read().await;
        for member in acknowledged {
            books.check(member);
        }
        took
    }

    async fn read(&self) -> Books {
        let members = members::Entity::find().all(&self.0["member"]);
        let withdrawals = withdrawals::Entity::find().all(&self.0["member"]);
        let coupons = coupons::Entity::find().all(&self.0["coupon"]);
        let notifications = notifications::Entity::find().all(&self.0["notification"]);
        let pages = pages::Entity::find().all(&self.0["mypage"]);
        Books {
            members: by_member(members.await.unwrap(), |row| row.member_id),
            withdrawals: by_member(withdrawals.await.unwrap(), |row| row.member_id),
            coupons: by_member(coupons.await.unwrap(), |row| row.member_id),
            notifications: by_member(notifications.await.unwrap(), |row| row.member_id),
            pages: by_member(pages.await.unwrap(), |row| row.member_id),
        }
    }

    /// Watches until `end` that no member is WITHDRAWN while its coupon is not cancelled. Returns how many
    /// members it saw leave.
    pub(crate) fn watch_leavers(&self, end: CancellationToken) -> JoinHandle<usize> {
        let auditor = self.clone();
        tokio::spawn(async move {
            let mut seen = HashSet::new();
            while !end.is_cancelled() {
                let left = auditor.newly_left(&seen).await;
                // Read after: a coupon stays cancelled.
                let cancelled = auditor.cancelled(&left).await;
                for member in &left {
                    let found = cancelled.contains(member);
                    assert!(found, "{member} is WITHDRAWN, its coupon not cancelled");
                }
                seen.extend(left);
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            seen.len()
        })
    }

    async fn newly_left(&self, seen: &HashSet<MemberId>) -> Vec<MemberId> {
        let left: Vec<MemberId> = members::Entity::find()
            .select_only()
            .column(members::Column::MemberId)
            .filter(members::Column::State.eq(members::State::Withdrawn))
            .into_tuple()
            .all(&self.0["member"])
            .await
            .unwrap();
        left.into_iter().filter(|id| !seen.contains(id)).collect()
    }

    async fn cancelled(&self, of: &[MemberId]) -> HashSet<MemberId> {
        let cancelled: Vec<MemberId> = coupons::Entity::find()
            .select_only()
            .column(coupons::Column::MemberId)
            .filter(coupons::Column::State.eq(coupons::State::Cancelled))
            .filter(coupons::Column::MemberId.is_in(of.iter().copied()))
            .into_tuple()
            .all(&self.0["coupon"])
            .await
            .unwrap();
        cancelled.into_iter().collect()
    }
}

fn by_member<T>(rows: Vec<T>, member: impl Fn(&T) -> MemberId) -> HashMap<String, T> {
    rows.into_iter()
        .map(|row| (member(&row).to_string(), row))
        .collect()
}

/// Every row, by member; the counts were compared before.
struct Books {
    members: HashMap<String, members::Model>,
    withdrawals: HashMap<String, withdrawals::Model>,
    coupons: HashMap<String, coupons::Model>,
    notifications: HashMap<String, notifications::Model>,
    pages: HashMap<String, pages::Model>,
}

impl Books {
    fn check(&self, acknowledged: &Acknowledged) {
        let id = &acknowledged.member_id;
        let member = &self.members[id];
        let coupon = &self.coupons[id];
        let leaves = acknowledged.withdrawal_id.is_some();
        let withdrawal = self.withdrawals.get(id);
        let withdrawal_id = withdrawal.map(|row| row.withdrawal_id.to_string());
        assert_eq!(withdrawal_id, acknowledged.withdrawal_id, "{id}");
        let completed = withdrawal.map(|row| row.state == withdrawals::State::Completed);
        assert_eq!(completed, leaves.then_some(true), "{id}: the withdrawal");
        let (state, coupon_state) = if leaves {
            (members::State::Withdrawn, coupons::State::Cancelled)
        } else {
            (members::State::Active, coupons::State::Issued)
        };
        assert_eq!(member.state, state, "{id}");
        assert_eq!(coupon.state, coupon_state, "{id}");
        let email = (!leaves).then_some(&acknowledged.email);
        assert_eq!(member.email.as_ref(), email, "{id}");
        assert_eq!(member.coupon_id, Some(coupon.coupon_id), "{id}");
        assert_eq!(member.coupon_cancel_time, coupon.cancel_time, "{id}");
        let notification = &self.notifications[id];
        assert_eq!(notification.state, notifications::State::Sent, "{id}");
        let page = &self.pages[id];
        assert_eq!(page.member_version, member.version, "{id}");
        assert_eq!(page.member_state, MemberState::from(state) as i32, "{id}");
        assert_eq!(page.display_name, member.display_name, "{id}");
        assert_eq!(page.coupon_id, Some(coupon.coupon_id), "{id}");
        assert_eq!(page.coupon_version, coupon.version, "{id}");
        let shown = page.coupon_state;
        assert_eq!(shown, CouponState::from(coupon_state) as i32, "{id}");
    }
}
