//! PostgreSQL: how much of its tables is read for what is asked of them.

use crate::{
    binary::process::eventually_within,
    load::Load,
    production::{PATIENCE, Plan, Production},
};

const TEST: &str = "queries";
/// Callers enough to come together now and then: by statements over many rows the server chooses plans that it keeps,
/// also for those over one.
const CALLERS: usize = 32;
const MEMBERS: usize = 2_000;
/// Rows that may be read of each table for one member who comes and leaves. A plan that goes through what was there
/// before reads hundreds.
const ROWS: i64 = 30;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_there_before_is_not_read_for_those_who_come_and_leave() {
    if !couponmesh_testbed::on_servers() {
        return;
    }
    let production = Production::start(Plan::replicas(1)).await;
    let load = Load::begin(TEST, &production, CALLERS, |caller| caller.leavers(1));
    load.goes_on(MEMBERS).await;
    let acknowledged = load.go_home().await;
    let auditor = production.auditor().await;
    auditor.check(&acknowledged).await;
    let members = i64::try_from(acknowledged.len()).unwrap();
    for (service, table) in [
        ("member", "members"),
        ("member", "withdrawals"),
        ("member", "requests"),
        ("coupon", "coupons"),
        ("notification", "notifications"),
        ("mypage", "pages"),
    ] {
        let sum = async |column: &str| {
            let sql = format!(
                "SELECT CAST(sum({column}) AS BIGINT) FROM pg_stat_user_indexes WHERE relname = '{table}'"
            );
            auditor.number(service, &sql).await
        };
        // A server counts a little later.
        eventually_within(PATIENCE, "the looks are counted", async || {
            (sum("idx_scan").await >= members / 2).then_some(())
        })
        .await;
        let read = sum("idx_tup_read").await;
        assert!(
            read <= ROWS * members,
            "{table}: {read} rows were read for {members} members"
        );
    }
}
