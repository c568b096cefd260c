//! Watches a sample of the members on My Page until their coupon shows.

use std::{sync::Arc, time::Duration};

use couponmesh_proto::mypage::v1::WatchMyPageRequest;
use couponmesh_runtime::status::{Reason, reason_of};
use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, sleep, timeout_at},
};
use tonic::{Code, Status};

use super::{client::Client, errors::Errors, latency::Latency, retry::may_succeed_later};

/// Streams open at once: more would load the server with watching instead of registering.
const AT_ONCE: usize = 64;

const RPC: &str = "WatchMyPage";
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// The watchers of the members in the sample.
///
/// The sample is drawn by index before the run begins, and a watcher that finds no free stream
/// waits for one while its time counts: were members watched only when a stream happens to be
/// free, a stall would keep the slow ones out of the sample.
pub(super) struct Watchers {
    sample: usize,
    members: usize,
    watching: JoinSet<Option<Duration>>,
    streams: Arc<Semaphore>,
    /// How many waited for a free stream; their latency may be told too long.
    waited: usize,
    client: Client,
    errors: Errors,
}

/// What the watchers saw.
pub(super) struct Watched {
    /// From the registration's answer until the page showed a coupon code.
    pub(super) latency: Latency,
    /// How many members were watched.
    pub(super) sample: usize,
    pub(super) waited: usize,
    /// How many never showed a coupon in time.
    pub(super) unseen: usize,
}

impl Watchers {
    pub(super) fn new(sample: usize, members: usize, client: Client, errors: Errors) -> Self {
        Self {
            sample,
            members,
            watching: JoinSet::new(),
            streams: Arc::new(Semaphore::new(AT_ONCE)),
            waited: 0,
            client,
            errors,
        }
    }

    /// Watches the member if it is in the sample.
    pub(super) fn offer(&mut self, index: usize, member_id: &str, answered: Instant) {
        if !in_sample(index, self.sample, self.members) {
            return;
        }
        let streams = Arc::clone(&self.streams);
        self.waited += usize::from(streams.available_permits() == 0);
        let (client, errors) = (self.client.clone(), self.errors.clone());
        let member_id = member_id.to_owned();
        self.watching.spawn(async move {
            // Never closed.
            let _stream = streams.acquire().await.ok()?;
            until_coupon(&client, &errors, &member_id)
                .await
                .then(|| answered.elapsed())
        });
    }

    /// Waits for the watchers until `deadline` and lets go of the rest.
    pub(super) async fn finish(mut self, deadline: Instant) -> Watched {
        let mut watched = Watched {
            latency: Latency::new(),
            sample: self.watching.len(),
            waited: self.waited,
            unseen: self.watching.len(),
        };
        while let Ok(Some(ended)) = timeout_at(deadline, self.watching.join_next()).await {
            if let Ok(Some(latency)) = ended {
                watched.latency.record(latency);
                watched.unseen -= 1;
            }
        }
        watched
    }
}

/// Whether `index` is one of `sample` indices spread evenly over `members`.
fn in_sample(index: usize, sample: usize, members: usize) -> bool {
    (index + 1) * sample / members > index * sample / members
}

/// Watches one member's page; false when it may not be watched at all.
async fn until_coupon(client: &Client, errors: &Errors, member_id: &str) -> bool {
    let mut pause = FIRST_PAUSE;
    loop {
        match watch(client, member_id).await {
            Ok(true) => return true,
            Ok(false) => {}
            // No error: the server ends what lasts, and asks to be called again.
            Err(status) if reason_of(&status).as_deref() == Some(Reason::Draining.as_str()) => {}
            Err(status) => {
                errors.count(RPC, &status);
                // The page of a member that was just registered may not be there yet.
                if status.code() != Code::NotFound && !may_succeed_later(&status) {
                    return false;
                }
            }
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Follows one stream; true once it showed a coupon code, false when it ended before.
async fn watch(client: &Client, member_id: &str) -> Result<bool, Status> {
    let request = WatchMyPageRequest {
        member_id: member_id.to_owned(),
    };
    let mut pages = client.pages().watch_my_page(request).await?.into_inner();
    while let Some(response) = pages.message().await? {
        if response
            .page
            .is_some_and(|page| !page.coupon_code.is_empty())
        {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampled(sample: usize, members: usize) -> Vec<usize> {
        (0..members)
            .filter(|&index| in_sample(index, sample, members))
            .collect()
    }

    #[test]
    fn the_sample_has_its_size_and_is_spread_over_the_run() {
        assert_eq!(sampled(3, 9), [2, 5, 8]);
        assert_eq!(sampled(5, 5), [0, 1, 2, 3, 4]);
        assert_eq!(sampled(0, 5), [] as [usize; 0]);
        assert_eq!(sampled(64, 1000).len(), 64);
    }
}
