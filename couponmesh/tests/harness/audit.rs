//! What must hold whatever happened.

use std::collections::BTreeSet;

use couponmesh_coupon::coupons;
use couponmesh_member::members;
use couponmesh_messaging::{checkpoint, dead_letter, outbox};
use couponmesh_runtime::id::MemberId;
use sea_orm::{ColumnTrait as _, EntityTrait as _, PaginatorTrait as _, QueryFilter as _};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{File, Mesh, books::Books, eventually};

/// What is wrong, in one line.
pub(crate) type Finding = String;

/// Fails with a line that says what is wrong.
macro_rules! hold {
    ($condition:expr, $($what:tt)+) => {
        if !$condition {
            return Err(format!($($what)+));
        }
    };
}

pub(super) use hold;

impl Mesh {
    /// Waits until everything has come to its end and the [`audit`](Self::audit) finds nothing.
    pub(crate) async fn settled(&self) {
        eventually("the audit finds nothing", || self.audit()).await;
    }

    /// Checks everything that must hold once nothing is under way any more.
    ///
    /// # Errors
    /// The first finding; also while something is still under way.
    pub(crate) async fn audit(&self) -> Result<(), Finding> {
        self.safe().await?;
        for service in ["member", "coupon", "notification", "mypage"] {
            let file = self.file(service).await;
            if couponmesh_testbed::on_servers() {
                let published = checkpoint::load(file.db()).await.unwrap().position;
                let waiting = outbox::count_after(file.db(), published).await.unwrap();
                hold!(
                    waiting == 0,
                    "{waiting} events wait in the outbox of {service}"
                );
            }
            let parked = dead_letter::Entity::find().count(file.db()).await.unwrap();
            hold!(parked == 0, "{parked} dead letters at {service}");
        }
        Books::read(self).await.audit()
    }

    /// Checks what must hold at every moment: nobody is WITHDRAWN whose coupon is not cancelled.
    ///
    /// # Errors
    /// Who is.
    pub(crate) async fn safe(&self) -> Result<(), Finding> {
        safe(&self.file("member").await, &self.file("coupon").await).await
    }

    /// Checks it again and again, whatever else happens, until [`Watchman::dismiss`].
    pub(crate) async fn watched(&self) -> Watchman {
        let (member, coupon) = (self.file("member").await, self.file("coupon").await);
        let stop = CancellationToken::new();
        let stopping = stop.clone();
        let rounds = tokio::spawn(async move {
            let mut rounds = 0;
            while !stopping.is_cancelled() {
                safe(&member, &coupon).await.unwrap();
                rounds += 1;
                tokio::task::yield_now().await;
            }
            rounds
        });
        Watchman { stop, rounds }
    }
}

/// Looks all the time for what must never be.
pub(crate) struct Watchman {
    stop: CancellationToken,
    rounds: JoinHandle<usize>,
}

impl Watchman {
    /// Ends the watch.
    ///
    /// # Panics
    /// When something was seen that must never be, or when nothing was looked at.
    pub(crate) async fn dismiss(self) {
        self.stop.cancel();
        assert!(self.rounds.await.unwrap() > 0);
    }
}

async fn safe(member: &File, coupon: &File) -> Result<(), Finding> {
    let withdrawn = members::Entity::find()
        .filter(members::Column::State.eq(members::State::Withdrawn))
        .all(member.db())
        .await
        .unwrap();
    // Read after the members: what is cancelled stays cancelled.
    let cancelled: BTreeSet<MemberId> = coupons::Entity::find()
        .filter(coupons::Column::State.eq(coupons::State::Cancelled))
        .all(coupon.db())
        .await
        .unwrap()
        .into_iter()
        .map(|coupon| coupon.member_id)
        .collect();
    for member in withdrawn {
        let id = member.member_id;
        hold!(
            cancelled.contains(&id),
            "{id} is WITHDRAWN, and its coupon is not CANCELLED"
        );
    }
    Ok(())
}
