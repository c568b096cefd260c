//! What must hold in the databases of a mesh that came to rest, whatever happened to it before.

/// Every service.
pub(crate) const SERVICES: [&str; 4] = ["member", "coupon", "notification", "mypage"];

/// What keeps the databases from being at rest, or from being right, after `members` registrations were
/// acknowledged; none when nothing does. `number` answers a query on a service's database.
pub(crate) async fn amiss(
    members: usize,
    number: impl AsyncFn(&str, &str) -> i64,
) -> Option<String> {
    // No more than was acknowledged: no call took place twice, and none that nobody made.
    for (service, table) in [
        ("member", "members"),
        ("coupon", "coupons"),
        ("notification", "notifications"),
        ("mypage", "pages"),
    ] {
        let count = number(service, &format!("SELECT count(*) FROM {table}")).await;
        if usize::try_from(count) != Ok(members) {
            return Some(format!("{count} {table} of {members}"));
        }
    }
    for service in SERVICES {
        for (what, sql) in [
            ("parked", "SELECT count(*) FROM dead_letters"),
            (
                "waiting",
                "SELECT count(*) FROM outbox WHERE seq > (SELECT position FROM checkpoints)",
            ),
        ] {
            let count = number(service, sql).await;
            if count > 0 {
                return Some(format!("{count} {what} at {service}"));
            }
        }
    }
    // Every version of a member is one event.
    let versions = "SELECT CAST(coalesce(sum(version), 0) AS BIGINT) FROM members";
    let versions = number("member", versions).await;
    let events = number("member", "SELECT count(*) FROM outbox").await;
    (versions != events).then(|| format!("{events} events of {versions} versions of members"))
}
