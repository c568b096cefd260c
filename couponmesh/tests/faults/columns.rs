//! A newer release adds columns while this one runs.

use couponmesh::node::ServiceName;

use crate::{
    load::Load,
    production::{Plan, Production},
    soak::say,
};

const CALLERS: usize = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_column_that_a_newer_release_adds_is_not_noticed() {
    const TEST: &str = "added columns";
    if !couponmesh_testbed::on_servers() {
        return;
    }
    let production = Production::start(Plan::replicas(1)).await;
    let auditor = production.auditor().await;
    // Everyone leaves: then every table is read and written.
    let load = Load::begin(TEST, &production, CALLERS, |caller| caller.leavers(1));
    // Servers keep the plan of a statement from its sixth time on.
    load.goes_on(100).await;
    let mut altered = 0;
    for service in ServiceName::all() {
        for table in auditor.tables(service.name()).await {
            let add = format!("ALTER TABLE {table} ADD COLUMN of_a_newer_release TEXT");
            auditor.execute(service.name(), &add).await;
            load.goes_on(10).await;
            altered += 1;
        }
    }
    load.goes_on(50).await;
    // Nor any other: a plan that is out of date is made anew.
    assert_eq!(load.diary().refusals(), [""; 0]);
    let acknowledged = load.go_home().await;
    let took = auditor.check(&acknowledged).await;
    for service in ServiceName::all() {
        for what in ["ERROR", "parked as a dead letter"] {
            assert_eq!(production.logged(service, what), 0, "{service:?}: {what}");
        }
    }
    say(TEST, &format!("{altered} tables, at rest after {took:.1?}"));
}
