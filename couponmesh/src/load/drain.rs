//! Waits until every acknowledged member has its coupon, and checks that it has only one.

use std::{collections::HashSet, time::Duration};

use tokio::time::{Instant, sleep, timeout_at};
use tonic::{Code, Status};

use super::{
    client::Client,
    coupons::{self, CouponList, Depth},
    errors::{Errors, code_name},
    ledger::{Audit, Ledger},
    pages,
    progress::Progress,
};

/// How long ListCoupons may be away before My Page is asked instead.
const PATIENCE: Duration = Duration::from_secs(5);

const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How the waiting ended.
pub(super) struct Drained {
    /// From the last answer until the last coupon was seen; `None` when some never were.
    pub(super) after: Option<Duration>,
    /// `after` is too long by this at the most: the time between two looks.
    pub(super) to_within: Duration,
    pub(super) audit: Audit,
    /// Why ListCoupons was not used; `None` when it was.
    pub(super) list_refused: Option<String>,
}

/// What is needed to look for coupons.
pub(super) struct Drain<'a> {
    pub(super) client: &'a Client,
    pub(super) errors: &'a Errors,
    pub(super) acknowledged: &'a [String],
    pub(super) last_answer: Instant,
    pub(super) deadline: Instant,
    /// Pages read at once.
    pub(super) at_once: usize,
}

impl Drain<'_> {
    /// Looks into the coupon list; when it refuses, on My Page.
    pub(super) async fn run(&self, mut list: CouponList) -> Drained {
        match self.by_list(&mut list).await {
            Ok(drained) => drained,
            Err(status) => self.by_pages(&status).await,
        }
    }

    async fn by_list(&self, list: &mut CouponList) -> Result<Drained, Status> {
        let mut watch = Waiting::new(self);
        let mut depth = Depth::Newest;
        while !watch.is_over() {
            let new = self.read(list, depth).await?;
            watch.look(list.ledger()).await;
            // Commits may arrive out of order: a coupon can appear below a page that is known.
            depth = if new == 0 { Depth::Run } else { Depth::Newest };
        }
        // The newest pages were enough to find one coupon each; a second may stand anywhere.
        self.read(list, Depth::Run).await?;
        Ok(watch.drained(list.ledger(), None))
    }

    async fn by_pages(&self, refusal: &Status) -> Drained {
        let mut ledger = Ledger::default();
        let mut watch = Waiting::new(self);
        loop {
            // One whole round also when the list took all the time.
            let until = self.deadline.max(Instant::now() + PATIENCE);
            let round = pages::read(
                self.client,
                &watch.missing,
                self.at_once,
                &mut ledger,
                self.errors,
            );
            let _ = timeout_at(until, round).await;
            watch.look(&ledger).await;
            if watch.is_over() {
                break;
            }
        }
        watch.drained(&ledger, Some(code_name(refusal.code())))
    }

    /// Reads the list; a short outage is waited for.
    async fn read(&self, list: &mut CouponList, depth: Depth) -> Result<usize, Status> {
        let begun = Instant::now();
        loop {
            let status = match list.read(depth).await {
                Ok(new) => return Ok(new),
                Err(status) => status,
            };
            self.errors.count(coupons::RPC, &status);
            if is_refusal(&status) || begun.elapsed() >= PATIENCE {
                return Err(status);
            }
            sleep(SHORTEST_PAUSE * 4).await;
        }
    }
}

/// Whether asking again is pointless.
fn is_refusal(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::PermissionDenied | Code::Unauthenticated | Code::Unimplemented
    )
}

/// The members whose coupon was not seen yet, and the times of the looks.
struct Waiting<'a> {
    drain: &'a Drain<'a>,
    missing: HashSet<&'a str>,
    /// When the look before began: what it did not see came later.
    previous_look: Instant,
    this_look: Instant,
    after: Option<Duration>,
    to_within: Duration,
    progress: Progress,
}

impl<'a> Waiting<'a> {
    fn new(drain: &'a Drain<'a>) -> Self {
        Self {
            drain,
            missing: drain.acknowledged.iter().map(String::as_str).collect(),
            previous_look: drain.last_answer,
            this_look: Instant::now(),
            after: None,
            to_within: Duration::ZERO,
            progress: Progress::new("coupons seen", drain.acknowledged.len()),
        }
    }

    /// Over when everything was seen, at the deadline, and when nothing was acknowledged.
    fn is_over(&self) -> bool {
        self.missing.is_empty() || Instant::now() >= self.drain.deadline
    }

    /// Strikes off who has a coupon by now; pauses when someone has none, as long as the look
    /// took, so that looking stays the smaller part of the load.
    async fn look(&mut self, ledger: &Ledger) {
        let now = Instant::now();
        self.missing.retain(|member_id| !ledger.holds(member_id));
        self.progress
            .reach(self.drain.acknowledged.len() - self.missing.len());
        if self.missing.is_empty() {
            self.after = Some(now - self.drain.last_answer);
            self.to_within = now - self.previous_look;
            return;
        }
        let rest = self.drain.deadline.saturating_duration_since(now);
        let pause = (now - self.this_look).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
        sleep(pause.min(rest)).await;
        self.previous_look = self.this_look;
        self.this_look = Instant::now();
    }

    fn drained(self, ledger: &Ledger, list_refused: Option<String>) -> Drained {
        Drained {
            after: self.after,
            to_within: self.to_within,
            audit: ledger.audit(self.drain.acknowledged),
            list_refused,
        }
    }
}
