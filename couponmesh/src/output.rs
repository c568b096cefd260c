//! What the commands say, on pipes that may be full: `print` waits for a reader, the others do not.

use std::{
    io::{self, Write as _},
    os::fd::AsFd,
    time::Duration,
};

use couponmesh_runtime::lines::Lines;

/// How long the last word of a process may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);

/// What a command was asked for goes to standard output; a reader that went away (`| head`) is no error, and one
/// that takes its time (`| less`) is waited for. Not for servers, which nobody could stop meanwhile.
pub(crate) fn print(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes());
}

/// What a server says on standard output when it is there.
pub(crate) fn announce(text: &str) {
    say(io::stdout(), text);
}

/// What goes wrong with a command; a pipe that nobody reads does not hold up its end.
pub(crate) fn complain(text: &str) {
    if let Some(lines) = say(io::stderr(), &format!("{text}\n")) {
        lines.flush(PATIENCE);
    }
}

fn say(stream: impl AsFd, text: &str) -> Option<Lines> {
    // Nobody is left to tell that nobody was told.
    let lines = Lines::to(stream, |_| {}).ok()?;
    lines.push(text.as_bytes());
    Some(lines)
}
