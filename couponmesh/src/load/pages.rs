//! Reads the run's coupons from My Page, where ListCoupons may not be called.

use std::collections::HashSet;

use couponmesh_proto::mypage::v1::GetMyPageRequest;
use futures::{StreamExt as _, stream};
use tonic::{Code, Status};

use super::{
    client::{Client, timed},
    errors::Errors,
    ledger::Ledger,
};

const RPC: &str = "GetMyPage";

/// Enters the coupons of the `missing` members that My Page shows by now. A page has room for one
/// coupon, so that this finds a missing one but not a second.
pub(super) async fn read(
    client: &Client,
    missing: &HashSet<&str>,
    at_once: usize,
    ledger: &mut Ledger,
    errors: &Errors,
) {
    let mut pages = stream::iter(missing.iter().copied())
        .map(|member_id| async move { (member_id, page(client, member_id).await) })
        .buffer_unordered(at_once);
    while let Some((member_id, page)) = pages.next().await {
        match page {
            Ok((coupon_id, code)) => {
                ledger.enter(member_id.to_owned(), coupon_id, code);
            }
            // Not there yet.
            Err(status) if status.code() == Code::NotFound => {}
            Err(status) => errors.count(RPC, &status),
        }
    }
}

async fn page(client: &Client, member_id: &str) -> Result<(String, String), Status> {
    let request = GetMyPageRequest {
        member_id: member_id.to_owned(),
        min_version: 0,
    };
    let page = client
        .pages()
        .get_my_page(timed(request))
        .await?
        .into_inner()
        .page;
    Ok(page
        .map(|page| (page.coupon_id, page.coupon_code))
        .unwrap_or_default())
}
