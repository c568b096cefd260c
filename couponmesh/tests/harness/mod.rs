//! A mesh to try things on: the real services, in one process, on port 0 and in a home of their own, which is
//! a directory, or with `COUPONMESH_TEST_STACK=servers` databases on PostgreSQL and a NATS server.
//!
//! ```ignore
//! let mut mesh = Mesh::start().await;                       // or Mesh::with(|config| …), Mesh::idle(…)
//! let member = mesh.register("ann@example.com").await;      // gRPC, as a caller does it
//! mesh.stop(ServiceName::Coupon).await;                     // any service, any time; start_one() brings it back
//! mesh.coupon_way().set(Way::Hang);                         // member → coupon goes through a proxy
//! mesh.bus().hold("mypage");                                // the bus withholds everything from a consumer
//! mesh.faults().arm("member.complete:commit", 1);           // see couponmesh_runtime::fault
//! eventually("…", || async { mesh.member(&id).await.admin_notified }).await;
//! mesh.finish().await;                                      // settles, audits, stops, removes the home
//! ```
//!
//! | what | file |
//! | --- | --- |
//! | start, stop and restart services; shut the whole mesh and open it again | [`mesh`] |
//! | calls, one line each | [`calls`] |
//! | the way from member to coupon: pass, refuse, hang, lose answers, count | [`coupon_way`] |
//! | a bus that delivers twice, in reverse, or not yet | [`bus`] |
//! | look into the databases | [`files`] |
//! | look into what the bus keeps | [`log`] |
//! | the stack under it all: files, or servers | [`backend`] |
//! | what must hold whatever happened | [`audit`], member by member in [`books`] |
//! | the administrator's webhook | [`webhook`] |
//!
//! Another test binary includes it by `#[path = "../harness/mod.rs"] mod harness;`.

// Each test binary uses its own part of it. Clippy sees tests only in test functions, not in helpers.
#![allow(dead_code, unused_imports, clippy::unwrap_used)]

pub(crate) mod audit;
mod backend;
mod books;
pub(crate) mod bus;
pub(crate) mod calls;
pub(crate) mod coupon_way;
pub(crate) mod files;
pub(crate) mod log;
pub(crate) mod mesh;
pub(crate) mod webhook;

use std::{fmt::Display, future::Future, time::Duration};

use tokio::time::{Instant, sleep};

pub(crate) use self::{
    coupon_way::{CouponWay, Way},
    files::File,
    log::{Log, Logged},
    mesh::{Mesh, Shut},
    webhook::Webhook,
};

/// How long anything may take to come true: generous, since it only costs time when a test fails. Deliveries that were on
/// their way to a replica that died come again after 30 seconds.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// What a look at the mesh finds: true or not yet, a value or none, a value or why not.
pub(crate) trait Look {
    /// What comes of it.
    type Value;

    /// The value, or what is still missing.
    fn seen(self) -> Result<Self::Value, String>;
}

impl Look for bool {
    type Value = ();

    fn seen(self) -> Result<(), String> {
        self.then_some(()).ok_or_else(String::new)
    }
}

impl<T> Look for Option<T> {
    type Value = T;

    fn seen(self) -> Result<T, String> {
        self.ok_or_else(String::new)
    }
}

impl<T, E: Display> Look for Result<T, E> {
    type Value = T;

    fn seen(self) -> Result<T, String> {
        self.map_err(|error| error.to_string())
    }
}

/// Looks until it is so.
///
/// # Panics
/// When it is not so after [`PATIENCE`], with what was missing last.
pub(crate) async fn eventually<L: Look, F: Future<Output = L>>(
    what: &str,
    look: impl FnMut() -> F,
) -> L::Value {
    eventually_within(PATIENCE, what, look).await
}

/// The same with another patience.
///
/// # Panics
/// When it is not so after `patience`.
pub(crate) async fn eventually_within<L: Look, F: Future<Output = L>>(
    patience: Duration,
    what: &str,
    mut look: impl FnMut() -> F,
) -> L::Value {
    let end = Instant::now() + patience;
    loop {
        match look().await.seen() {
            Ok(value) => return value,
            Err(missing) => {
                assert!(
                    Instant::now() < end,
                    "not so after {patience:?}: {what} ({missing})"
                );
            }
        }
        sleep(LOOK_AGAIN).await;
    }
}
