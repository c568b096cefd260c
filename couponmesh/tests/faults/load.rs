//! Callers, and what they were promised.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    binary::{
        caller::{Acknowledged, Caller, Diary, randomness},
        process::eventually_within,
    },
    production::{PATIENCE, Production},
    soak,
};

const SEED: u64 = 20_261_123;
/// How often a long run says how far it is.
const PROGRESS: Duration = Duration::from_secs(10);

/// Callers at work.
pub(crate) struct Load {
    test: &'static str,
    callers: JoinSet<Vec<Acknowledged>>,
    home: CancellationToken,
    begin: Instant,
    progress: Option<JoinHandle<()>>,
    diary: Arc<Diary>,
}

impl Load {
    /// Lets `callers` register members, each as `shaped`.
    pub(crate) fn begin(
        test: &'static str,
        production: &Production,
        callers: usize,
        shaped: impl Fn(Caller) -> Caller,
    ) -> Self {
        let (diary, home) = (Arc::<Diary>::default(), CancellationToken::new());
        let begin = Instant::now();
        let callers = (0..callers)
            .map(|name| {
                let caller = Caller::new(name, randomness(SEED, name), production.members());
                shaped(caller.writing(&diary)).keep_calling(home.clone())
            })
            .collect();
        let told = diary.clone();
        let progress = soak::is_long().then(|| {
            tokio::spawn(async move {
                loop {
                    tokio::time::sleep(PROGRESS).await;
                    soak::say(test, &figures(&told, begin));
                }
            })
        });
        Self {
            test,
            callers,
            home,
            begin,
            progress,
            diary,
        }
    }

    /// What the callers met so far.
    pub(crate) fn diary(&self) -> &Diary {
        &self.diary
    }

    /// Waits until `more` members were acknowledged from now on.
    pub(crate) async fn goes_on(&self, more: usize) {
        let wanted = self.diary.registered() + more;
        eventually_within(PATIENCE, "registrations go on", async || {
            (self.diary.registered() >= wanted).then_some(())
        })
        .await;
    }

    /// Waits until each of `replicas` answered `more` calls from now on.
    pub(crate) async fn is_answered_by(&self, replicas: &[SocketAddr], more: usize) {
        let answered = |&replica: &SocketAddr| self.diary.answered_by(replica);
        let before: Vec<usize> = replicas.iter().map(answered).collect();
        eventually_within(PATIENCE, "every replica answers", async || {
            let mut answers = replicas.iter().map(answered).zip(&before);
            answers
                .all(|(now, before)| now >= before + more)
                .then_some(())
        })
        .await;
    }

    /// Lets every caller finish what it is about; returns what they were promised.
    pub(crate) async fn go_home(mut self) -> Vec<Acknowledged> {
        self.home.cancel();
        let mut acknowledged = Vec::new();
        while let Some(caller) = self.callers.join_next().await {
            acknowledged.extend(caller.unwrap());
        }
        soak::say(self.test, &figures(&self.diary, self.begin));
        acknowledged
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        if let Some(progress) = &self.progress {
            progress.abort();
        }
    }
}

fn figures(diary: &Diary, begin: Instant) -> String {
    format!(
        "{:.0} s, {} members, {} withdrawals, {} calls refused and made again, slowest call {:.1} s",
        begin.elapsed().as_secs_f64(),
        diary.registered(),
        diary.withdrawn(),
        diary.refused(),
        diary.slowest().as_secs_f64(),
    )
}
