//! Lines for a pipe that may be full: a buffer of bounded size takes them, and a thread of its own
//! writes them, so that nobody else ever waits for the pipe's reader.
//!
//! In place of `tracing_appender::non_blocking`, which goes wrong here in three ways: its queue
//! bounds the number of lines, not their bytes; a line whose write fails is lost and not counted;
//! and its guard prints to standard output when the queue is still full at the end, which never
//! returns when that is the very pipe that nobody reads (`2>&1`).

use std::{
    cell::Cell,
    fmt,
    fs::File,
    io::{self, ErrorKind, Write},
    mem,
    os::fd::AsFd,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use tracing_subscriber::fmt::MakeWriter;

/// Bytes that may wait; as many again are under way while the pipe is full. Some thousand lines.
const CAPACITY: usize = 512 * 1024;
/// Pause before a full pipe is tried again that somebody else made non-blocking.
const AGAIN: Duration = Duration::from_millis(10);

thread_local! {
    /// Whether this is a thread that writes.
    static WRITER: Cell<bool> = const { Cell::new(false) };
}

/// Takes lines, and never waits. Clones share one buffer and one thread, which lasts as long as the
/// process does.
#[derive(Clone)]
pub struct Lines(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// A line waits.
    came: Condvar,
    /// None waits, and none is being written.
    idle: Condvar,
}

#[derive(Default)]
struct State {
    waiting: Batch,
    writing: bool,
}

#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    /// Where in `bytes` each line ends.
    ends: Vec<usize>,
    /// Lines that came after these and found no room.
    dropped: u64,
}

impl Lines {
    /// Lines for `stream`, standard output or standard error. Of those that were lost, to a buffer
    /// that was full or to a write that failed, `lost` is told as soon as lines get through again. It
    /// runs on the writing thread, and a line that it pushes is taken in any case.
    ///
    /// # Errors
    ///
    /// When no file descriptor or no thread can be had.
    pub fn to(stream: impl AsFd, lost: impl FnMut(u64) + Send + 'static) -> io::Result<Self> {
        // A descriptor of its own: whoever writes to std's own stream would wait for its lock, which
        // the thread would hold as long as the pipe is full.
        let file = File::from(stream.as_fd().try_clone_to_owned()?);
        Self::new(file, lost)
    }

    fn new(
        out: impl Write + Send + 'static,
        lost: impl FnMut(u64) + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            came: Condvar::new(),
            idle: Condvar::new(),
        });
        let lines = Self(shared.clone());
        let thread = thread::Builder::new().name("lines".to_owned());
        thread.spawn(move || shared.keep_writing(out, lost))?;
        Ok(lines)
    }

    /// Has `line`, which ends with a newline, written; it is lost when too many wait.
    pub fn push(&self, line: &[u8]) {
        let mut state = self.0.state();
        let waiting = &mut state.waiting;
        let fits = waiting.bytes.len() + line.len() <= CAPACITY;
        if fits || WRITER.get() {
            waiting.bytes.extend_from_slice(line);
            waiting.ends.push(waiting.bytes.len());
            self.0.came.notify_one();
        } else {
            waiting.dropped += 1;
        }
    }

    /// Waits until every line is written, or `patience` is over; says whether they are.
    pub fn flush(&self, patience: Duration) -> bool {
        let is_busy = |state: &mut State| state.writing || !state.waiting.ends.is_empty();
        let state = self.0.state();
        let waited = self.0.idle.wait_timeout_while(state, patience, is_busy);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep_writing(&self, mut out: impl Write, mut tell: impl FnMut(u64)) {
        WRITER.set(true);
        let mut batch = Batch::default();
        let mut lost = 0;
        loop {
            self.next(&mut batch);
            let mut start = 0;
            let mut through = false;
            for &end in &batch.ends {
                match write(&mut out, &batch.bytes[start..end]) {
                    Ok(()) => through = true,
                    Err(_) => lost += 1,
                }
                start = end;
            }
            lost += batch.dropped;
            // Not while every write fails: telling would be a line that fails, too.
            if through && lost > 0 {
                tell(mem::take(&mut lost));
            }
        }
    }

    /// Waits for lines, and takes all that there are into `batch`.
    fn next(&self, batch: &mut Batch) {
        batch.bytes.clear();
        batch.ends.clear();
        batch.dropped = 0;
        let mut state = self.state();
        state.writing = false;
        while state.waiting.ends.is_empty() {
            self.idle.notify_all();
            state = self
                .came
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state.writing = true;
        mem::swap(&mut state.waiting, batch);
    }
}

/// One write for one line when the pipe has room, so that it stays whole beside those of others.
fn write(out: &mut impl Write, line: &[u8]) -> io::Result<()> {
    let mut rest = line;
    while !rest.is_empty() {
        match out.write(rest) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => rest = &rest[count..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(AGAIN),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

impl Write for &Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// For `tracing_subscriber`, which writes each line with one call.
impl<'a> MakeWriter<'a> for Lines {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> &'a Self {
        self
    }
}

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lines").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{PipeReader, Read as _, pipe},
        sync::mpsc,
    };

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);
    /// Longer than a pipe is ever full by itself.
    const SHORTLY: Duration = Duration::from_millis(50);

    /// Lines into a pipe, which say themselves how many were lost.
    fn lines() -> (Lines, PipeReader) {
        let (reader, writer) = pipe().unwrap();
        let (told, tell) = mpsc::channel::<Lines>();
        let mut own = None;
        let lines = Lines::new(writer, move |lost| {
            let own = own.get_or_insert_with(|| tell.recv().unwrap());
            own.push(format!("lost {lost}\n").as_bytes());
        });
        let lines = lines.unwrap();
        told.send(lines.clone()).unwrap();
        (lines, reader)
    }

    fn read(reader: &mut PipeReader, until: &str) -> String {
        let mut text = String::new();
        let mut buffer = [0; 4096];
        while !text.ends_with(until) {
            let count = reader.read(&mut buffer).unwrap();
            text.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
        }
        text
    }

    #[test]
    fn lines_come_out_as_they_went_in() {
        let (lines, mut reader) = lines();
        lines.push(b"one\n");
        lines.push(b"two\n");
        assert_eq!(read(&mut reader, "two\n"), "one\ntwo\n");
        assert!(lines.flush(PATIENCE));
    }

    #[test]
    fn a_full_pipe_holds_nobody_up_and_what_it_cost_is_told_when_it_is_read() {
        let (lines, mut reader) = lines();
        let line = |number: usize| format!("{number:099}\n");
        let count = 3 * CAPACITY / 100;
        for number in 0..count {
            lines.push(line(number).as_bytes());
        }
        assert!(!lines.flush(SHORTLY), "nobody reads");
        let all = thread::spawn(move || {
            let mut text = String::new();
            while !text.contains("lost") {
                text += &read(&mut reader, "\n");
            }
            (text, reader)
        });
        let (text, mut reader) = all.join().unwrap();
        let (before, lost) = text.split_once("lost ").unwrap();
        let lost: usize = lost.trim().parse().unwrap();
        let got: Vec<&str> = before.lines().collect();
        assert_eq!(got.len() + lost, count);
        // The oldest were kept, in their order.
        for (number, got) in got.iter().enumerate() {
            assert_eq!(*got, line(number).trim_end());
        }
        // It is told once.
        lines.push(b"more\n");
        assert_eq!(read(&mut reader, "more\n"), "more\n");
    }

    /// Fails as it is told to, and then takes half of what it is given.
    struct Reluctant {
        failures: Vec<ErrorKind>,
        taken: mpsc::Sender<Vec<u8>>,
    }

    impl Write for Reluctant {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if let Some(kind) = self.failures.pop() {
                return Err(kind.into());
            }
            let half = bytes.len().div_ceil(2);
            self.taken.send(bytes[..half].to_owned()).unwrap();
            Ok(half)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_that_cannot_be_written_is_told_of_when_another_can() {
        let (taken, takes) = mpsc::channel();
        let (told, tells) = mpsc::channel();
        let out = Reluctant {
            // From the last to the first: the first line is tried twice, the second three times.
            failures: vec![
                ErrorKind::WouldBlock,
                ErrorKind::Interrupted,
                ErrorKind::StorageFull,
                ErrorKind::WouldBlock,
            ],
            taken,
        };
        let lines = Lines::new(out, move |lost| told.send(lost).unwrap()).unwrap();
        lines.push(b"one\n");
        assert!(lines.flush(PATIENCE));
        assert!(tells.try_recv().is_err(), "the disk is still full");
        lines.push(b"two\n");
        assert!(lines.flush(PATIENCE));
        assert_eq!(tells.try_recv(), Ok(1));
        let taken: Vec<u8> = takes.try_iter().flatten().collect();
        assert_eq!(taken, b"two\n");
    }
}
