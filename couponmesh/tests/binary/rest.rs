//! What must hold in the databases of a mesh that came to rest, whatever happened to it before.

use couponmesh::node::ServiceName;
use couponmesh_messaging::event::is_published_by;

/// Every service.
pub(crate) const SERVICES: [&str; 4] = ["member", "coupon", "notification", "mypage"];

/// What keeps the databases from being at rest, or from being right, after `members` registrations were
/// acknowledged; none when nothing does. `number` answers a query on a service's database, and `relays` says whether
/// the outboxes are published to a server.
pub(crate) async fn amiss(
    members: usize,
    relays: bool,
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
        let parked = number(service, "SELECT count(*) FROM dead_letters").await;
        if parked > 0 {
            return Some(format!("{parked} parked at {service}"));
        }
    }
    let waiting = if relays {
        unpublished(&number).await
    } else {
        unread(&number).await
    };
    if waiting.is_some() {
        return waiting;
    }
    // Every version of a member is one event.
    let versions = "SELECT CAST(coalesce(sum(version), 0) AS BIGINT) FROM members";
    let versions = number("member", versions).await;
    let events = number("member", "SELECT count(*) FROM outbox").await;
    (versions != events).then(|| format!("{events} events of {versions} versions of members"))
}

/// Which events the bus does not have.
async fn unpublished(number: &impl AsyncFn(&str, &str) -> i64) -> Option<String> {
    for service in SERVICES {
        let sql = "SELECT count(*) FROM outbox WHERE seq > (SELECT position FROM checkpoints)";
        let count = number(service, sql).await;
        if count > 0 {
            return Some(format!("{count} waiting at {service}"));
        }
    }
    None
}

/// Which events somebody has not read in the outbox that they are in.
async fn unread(number: &impl AsyncFn(&str, &str) -> i64) -> Option<String> {
    for reader in ServiceName::all() {
        for source in SERVICES {
            let types = reader.types().iter();
            let types: Vec<String> = types
                .filter(|name| is_published_by(source, name))
                .map(|name| format!("'{name}'"))
                .collect();
            let position = format!(
                "SELECT coalesce(max(sequence), 0) FROM positions WHERE partition = '{source}'"
            );
            let position = number(reader.name(), &position).await;
            let unread = format!(
                "SELECT count(*) FROM outbox WHERE seq > {position} AND event_type IN ({})",
                types.join(", ")
            );
            let unread = number(source, &unread).await;
            if unread > 0 {
                return Some(format!(
                    "{} has not read {unread} of {source}",
                    reader.name()
                ));
            }
        }
    }
    None
}
