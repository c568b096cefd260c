//! Shows on stderr how far the run is: a bar on a terminal, else a line at every tenth.

use std::io::{IsTerminal as _, stderr};

use couponmesh_runtime::lines::Lines;
use indicatif::{ProgressBar, ProgressStyle};

use crate::output;

/// One phase's progress.
pub(crate) struct Progress {
    what: &'static str,
    total: usize,
    done: usize,
    shown: Shown,
}

enum Shown {
    Bar(ProgressBar),
    /// A pipe that nobody reads must not hold up what is measured.
    Lines(Lines),
    /// Not worth failing for.
    Nowhere,
}

impl Progress {
    pub(crate) fn new(what: &'static str, total: usize) -> Self {
        let shown = if stderr().is_terminal() {
            let bar = ProgressBar::new(total as u64).with_message(what);
            let style = "{msg} {wide_bar} {pos}/{len} {per_sec} {eta}";
            Shown::Bar(match ProgressStyle::with_template(style) {
                Ok(style) => bar.with_style(style),
                Err(_) => bar,
            })
        } else {
            Lines::to(stderr(), |_| {}).map_or(Shown::Nowhere, Shown::Lines)
        };
        Self {
            what,
            total,
            done: 0,
            shown,
        }
    }

    /// One more is done.
    pub(crate) fn advance(&mut self) {
        self.reach(self.done + 1);
    }

    /// So many are done by now.
    pub(crate) fn reach(&mut self, done: usize) {
        match &self.shown {
            Shown::Bar(bar) => bar.set_position(done as u64),
            Shown::Lines(lines) if tenth(done, self.total) > tenth(self.done, self.total) => {
                lines.push(format!("{} {done}/{}\n", self.what, self.total).as_bytes());
            }
            Shown::Lines(_) | Shown::Nowhere => {}
        }
        self.done = done;
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        match &self.shown {
            Shown::Bar(bar) => bar.finish_and_clear(),
            // What follows is to stand below.
            Shown::Lines(lines) => {
                lines.flush(output::PATIENCE);
            }
            Shown::Nowhere => {}
        }
    }
}

fn tenth(done: usize, total: usize) -> usize {
    done * 10 / total.max(1)
}
