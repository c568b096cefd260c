//! Reads the run's coupons from CouponService.ListCoupons, newest first.

use std::time::Duration;

use couponmesh_proto::coupon::v1::{Coupon, ListCouponsRequest};
use couponmesh_runtime::Timestamp;
use tonic::Status;

use super::{
    client::{Client, timed},
    ledger::Ledger,
};

pub(super) const RPC: &str = "ListCoupons";

const PAGE_SIZE: i32 = 1_000;

/// How far the clocks of the coupon service's replicas may differ.
const CLOCK_MARGIN: Duration = Duration::from_secs(10);

/// How much of the list to read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    /// Until a page brings nothing new.
    Newest,
    /// Back to the begin of the run.
    Run,
}

/// The coupons issued since the run began.
pub(super) struct CouponList {
    client: Client,
    /// Everything older is not the run's.
    floor: Option<Timestamp>,
    ledger: Ledger,
}

impl CouponList {
    /// To be called before the first registration. The newest coupon's time marks the begin of the
    /// run on the coupon service's own clock, which may differ from ours; `now` stands in for it
    /// while the service does not answer.
    pub(super) async fn before_the_run(client: Client, now: Timestamp) -> Self {
        let mut list = Self {
            client,
            floor: Some(now.minus(CLOCK_MARGIN)),
            ledger: Ledger::default(),
        };
        if let Ok((coupons, _)) = list.page(1, String::new()).await {
            // No coupon, no floor: then the whole list is the run's.
            list.floor = coupons
                .first()
                .and_then(time)
                .map(|time| time.minus(CLOCK_MARGIN));
        }
        list
    }

    /// What was read so far.
    pub(super) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Reads the list and says how many coupons were new.
    pub(super) async fn read(&mut self, depth: Depth) -> Result<usize, Status> {
        let (mut token, mut new) = (String::new(), 0);
        loop {
            let (coupons, next) = self.page(PAGE_SIZE, token).await?;
            let past_the_run = coupons.last().is_some_and(|last| self.is_older(last));
            let mut new_here = 0;
            for coupon in coupons {
                let entered = self
                    .ledger
                    .enter(coupon.member_id, coupon.coupon_id, coupon.code);
                new_here += usize::from(entered);
            }
            new += new_here;
            token = next;
            if token.is_empty() || past_the_run || (depth == Depth::Newest && new_here == 0) {
                return Ok(new);
            }
        }
    }

    fn is_older(&self, coupon: &Coupon) -> bool {
        matches!((self.floor, time(coupon)), (Some(floor), Some(time)) if time < floor)
    }

    async fn page(
        &self,
        page_size: i32,
        page_token: String,
    ) -> Result<(Vec<Coupon>, String), Status> {
        let request = ListCouponsRequest {
            page_size,
            page_token,
            member_id: String::new(),
        };
        let page = self
            .client
            .coupons()
            .list_coupons(timed(request))
            .await?
            .into_inner();
        Ok((page.coupons, page.next_page_token))
    }
}

/// When the record was made: a cancel may come before the coupon is issued.
fn time(coupon: &Coupon) -> Option<Timestamp> {
    coupon
        .issue_time
        .or(coupon.cancel_time)
        .map(Timestamp::from)
}
