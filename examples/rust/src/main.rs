//! Joins, waits for the welcome coupon, and leaves: `cargo run -p welcome [ADDRESS]`.

use std::{env, error::Error, time::Duration};

use couponmesh_proto::{
    member::v1::{
        GetWithdrawalRequest, RegisterMemberRequest, WithdrawMemberRequest, WithdrawalState,
        member_service_client::MemberServiceClient,
    },
    mypage::v1::{WatchMyPageRequest, my_page_service_client::MyPageServiceClient},
};
use tokio::time::sleep;
use tonic::{
    Code, Request, Response, Status,
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt as _;
use uuid::Uuid;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = env::args().nth(1);
    let address = address.unwrap_or_else(|| "127.0.0.1:50051".to_owned());
    let channel = Endpoint::from_shared(format!("http://{address}"))?.connect_lazy();
    let members = MemberServiceClient::new(channel.clone());

    // The request id makes repeats harmless: they get the member of the first.
    let request = RegisterMemberRequest {
        request_id: Uuid::new_v4().to_string(),
        email: format!("{}@example.com", Uuid::new_v4()),
        display_name: "Ann".to_owned(),
    };
    let register = async |request: RegisterMemberRequest| {
        let call = async || members.clone().register_member(soon(&request)).await;
        Ok::<_, Status>(retried(call).await?.member.unwrap_or_default())
    };
    let member_id = register(request.clone()).await?.member_id;
    println!("registered {member_id}");
    println!("repeated   {}", register(request.clone()).await?.member_id);

    let other = RegisterMemberRequest {
        request_id: String::new(),
        display_name: "Another Ann".to_owned(),
        ..request
    };
    if let Err(refused) = register(other).await {
        println!("refused    {}", reason(&refused).unwrap_or_default());
    }

    println!("coupon     {}", coupon(channel, &member_id).await?);

    let request = WithdrawMemberRequest {
        request_id: Uuid::new_v4().to_string(),
        member_id,
    };
    let call = async || members.clone().withdraw_member(soon(&request)).await;
    let mut withdrawal = retried(call).await?.withdrawal.unwrap_or_default();
    while withdrawal.state() == WithdrawalState::Pending {
        sleep(Duration::from_secs(1)).await;
        let withdrawal_id = withdrawal.withdrawal_id;
        let request = GetWithdrawalRequest { withdrawal_id };
        let call = async || members.clone().get_withdrawal(soon(&request)).await;
        withdrawal = retried(call).await?.withdrawal.unwrap_or_default();
    }
    println!("withdrawn  {}", withdrawal.state().as_str_name());
    Ok(())
}

/// A request with a deadline.
fn soon<T: Clone>(message: &T) -> Request<T> {
    let mut request = Request::new(message.clone());
    request.set_timeout(Duration::from_secs(10));
    request
}

/// Calls again on UNAVAILABLE, after the pause that the server asks for.
async fn retried<T>(call: impl AsyncFn() -> Result<Response<T>, Status>) -> Result<T, Status> {
    let mut pause = Duration::from_millis(500);
    for _ in 1..5 {
        match call().await {
            Err(error) if error.code() == Code::Unavailable => {
                let asked = error
                    .get_details_retry_info()
                    .and_then(|info| info.retry_delay);
                sleep(asked.unwrap_or(pause)).await;
                pause *= 2;
            }
            answer => return answer.map(Response::into_inner),
        }
    }
    call().await.map(Response::into_inner)
}

/// The code of a member's coupon, once there is one.
async fn coupon(channel: Channel, member_id: &str) -> Result<String, Status> {
    let mut pages = MyPageServiceClient::new(channel);
    loop {
        let member_id = member_id.to_owned();
        let mut watch = pages
            .watch_my_page(WatchMyPageRequest { member_id })
            .await?
            .into_inner();
        loop {
            match watch.message().await {
                Ok(None) => break,
                // The server drains: watch the next one.
                Err(ended) if ended.code() == Code::Unavailable => break,
                news => {
                    let page = news?.and_then(|news| news.page).unwrap_or_default();
                    if !page.coupon_code.is_empty() {
                        return Ok(page.coupon_code);
                    }
                }
            }
        }
    }
}

/// Why a call was refused, for programs.
fn reason(refused: &Status) -> Option<String> {
    let info = refused.get_details_error_info()?;
    (info.domain == "couponmesh").then_some(info.reason)
}
