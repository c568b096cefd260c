//! A role that serves, and another one that changes tables: with the grants that docs/operations.md gives.

use std::process::Command;

use couponmesh_testbed::{Nats, PostgresServer};

use crate::binary::{
    caller::registration,
    process::{Call, channel},
};
use couponmesh_proto::member::v1::member_service_client::MemberServiceClient;

/// The statements that an operator executes.
fn documented() -> &'static str {
    let text = include_str!("../../../docs/operations.md");
    let (_, rest) = text.split_once("```sql\n").unwrap();
    rest.split_once("```").unwrap().0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_changes_no_tables_serves_what_another_one_migrated() {
    if !couponmesh_testbed::on_servers() {
        return;
    }
    let server = PostgresServer::start();
    let mut psql = Command::new("psql");
    psql.args(["-q", "-v", "ON_ERROR_STOP=1", &server.url()]);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, documented()).unwrap();
    let granted = psql.arg("-f").arg(file.path()).output().unwrap();
    assert!(granted.status.success(), "{granted:?}");
    let url = |role: &str| {
        let (_, place) = server
            .url()
            .split_once('@')
            .map(|(a, b)| (a.to_owned(), b.to_owned()))
            .unwrap();
        let (place, _) = place.split_once('/').unwrap();
        format!("postgres://{role}@{place}/member")
    };
    let nats = Nats::start();
    let serve = Call::serve("member")
        .set("DATABASE__URL", &url("member"))
        .set("BUS__URL", &nats.url())
        .set("MEMBER__COUPON_ADDRESS", "http://127.0.0.1:1");
    let refused = serve.finish().await;
    let last = refused.stderr.lines().last().unwrap();
    for what in [
        "member database",
        "run couponmesh migrate as the role that owns them",
    ] {
        assert!(last.contains(what), "{refused:?}");
    }
    let migrate = Call::new(&["migrate", "member"]).set("DATABASE__URL", &url("member_owner"));
    let migrated = migrate.finish().await;
    assert!(migrated.status.success(), "{migrated:?}");
    let (process, address) = serve.start().await;
    let mut members = MemberServiceClient::new(channel(address));
    let id = uuid::Uuid::from_u128(1).to_string();
    let answer = members.register_member(registration(&id, "ann@example.com"));
    let member = answer.await.unwrap().into_inner().member.unwrap();
    assert_eq!(member.email, "ann@example.com");
    // What an operator's commands need, too.
    let list = Call::new(&["dlq", "--service", "member", "list"]);
    let listed = list.set("DATABASE__URL", &url("member")).finish().await;
    assert!(listed.status.success(), "{listed:?}");
    let (status, _) = process.terminate().await;
    assert!(status.success(), "{status}");
}
