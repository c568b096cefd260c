//! Shows on stderr how far the run is: a bar on a terminal, else a line at every tenth.

use std::io::{IsTerminal as _, Write as _, stderr};

use indicatif::{ProgressBar, ProgressStyle};

/// One phase's progress.
pub(crate) struct Progress {
    what: &'static str,
    total: usize,
    done: usize,
    /// None when stderr is no terminal.
    bar: Option<ProgressBar>,
}

impl Progress {
    pub(crate) fn new(what: &'static str, total: usize) -> Self {
        let bar = stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(total as u64).with_message(what);
            match ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {per_sec} {eta}") {
                Ok(style) => bar.with_style(style),
                Err(_) => bar,
            }
        });
        Self {
            what,
            total,
            done: 0,
            bar,
        }
    }

    /// One more is done.
    pub(crate) fn advance(&mut self) {
        self.reach(self.done + 1);
    }

    /// So many are done by now.
    pub(crate) fn reach(&mut self, done: usize) {
        if let Some(bar) = &self.bar {
            bar.set_position(done as u64);
        } else if tenth(done, self.total) > tenth(self.done, self.total) {
            // Progress is not worth failing for.
            let _ = writeln!(stderr(), "{} {done}/{}", self.what, self.total);
        }
        self.done = done;
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn tenth(done: usize, total: usize) -> usize {
    done * 10 / total.max(1)
}
