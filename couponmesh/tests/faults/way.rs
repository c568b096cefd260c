//! A way through the network: a proxy with an address of its own that passes bytes on, refuses connections, or
//! takes them and lets nothing through.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
};

const BUFFER: usize = 16 * 1024;

/// What happens on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Everything arrives.
    Pass,
    /// Connections break at once, also those that are open.
    Refuse,
    /// Connections are taken and stay, and nothing arrives until the mode changes; then all of it does.
    Stall,
}

/// A way to one place, or to any of several in turn. Its own address stays the same. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Way {
    address: SocketAddr,
    mode: Arc<watch::Sender<Mode>>,
    /// How often the connections of that time were forgotten.
    forgotten: Arc<AtomicUsize>,
    places: Arc<Mutex<Vec<SocketAddr>>>,
    turn: Arc<AtomicUsize>,
}

impl Way {
    pub(crate) async fn open(places: Vec<SocketAddr>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let way = Self {
            address: listener.local_addr().unwrap(),
            mode: Arc::new(watch::Sender::new(Mode::Pass)),
            forgotten: Arc::default(),
            places: Arc::new(Mutex::new(places)),
            turn: Arc::default(),
        };
        let accepting = way.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let way = accepting.clone();
                tokio::spawn(async move { way.carry(stream).await });
            }
        });
        way
    }

    /// Where it begins.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where new connections lead to from now on.
    pub(crate) fn lead_to(&self, places: Vec<SocketAddr>) {
        *self.places.lock().unwrap() = places;
    }

    pub(crate) fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// Lets nothing arrive any more on the connections of now, for good, and tells nobody, as a router does that
    /// was replaced. New connections pass.
    pub(crate) fn forget_connections(&self) {
        self.forgotten.fetch_add(1, Ordering::Relaxed);
    }

    async fn carry(&self, near: TcpStream) {
        let mut refused = self.mode.subscribe();
        let broken = async move {
            // Both endings break the connection.
            let _ = refused.wait_for(|mode| *mode == Mode::Refuse).await;
        };
        tokio::select! {
            biased;
            () = broken => {}
            // An end that went away is no news: the other one is told by the closing.
            _ = self.pass_on(near) => {}
        }
    }

    async fn pass_on(&self, near: TcpStream) -> io::Result<()> {
        let since = self.forgotten.load(Ordering::Relaxed);
        self.clear(since).await;
        let Some(place) = self.next_place() else {
            return Ok(());
        };
        let far = TcpStream::connect(place).await?;
        near.set_nodelay(true)?;
        far.set_nodelay(true)?;
        let (near_reads, near_writes) = near.into_split();
        let (far_reads, far_writes) = far.into_split();
        tokio::try_join!(
            self.pump(since, near_reads, far_writes),
            self.pump(since, far_reads, near_writes)
        )?;
        Ok(())
    }

    async fn pump(
        &self,
        since: usize,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
    ) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER];
        loop {
            let length = from.read(&mut buffer).await?;
            self.clear(since).await;
            if length == 0 {
                return to.shutdown().await;
            }
            to.write_all(&buffer[..length]).await?;
        }
    }

    /// Waits while nothing gets through: for good on a connection that was forgotten.
    async fn clear(&self, since: usize) {
        let mut mode = self.mode.subscribe();
        let _ = mode.wait_for(|mode| *mode != Mode::Stall).await;
        if self.forgotten.load(Ordering::Relaxed) != since {
            std::future::pending::<()>().await;
        }
    }

    fn next_place(&self) -> Option<SocketAddr> {
        let places = self.places.lock().unwrap();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        places.get(turn.checked_rem(places.len())?).copied()
    }
}
