//! Where a server listens, as `--listen` takes it.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
    time::Duration,
};

use socket2::{Domain, Socket, Type};
use tokio::{
    net::{TcpListener, lookup_host},
    time::timeout,
};

/// How long a name may take to be resolved.
const PATIENCE: Duration = Duration::from_secs(5);
/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// An address and a port to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// As it stands, `127.0.0.1:50051` or `[::1]:50051`; all of IPv4 with `[::]`, too.
    Address(SocketAddr),
    /// A name that stands for an address of this machine, `localhost:50051`.
    Name(String, u16),
    /// Every interface, `:50051`.
    Everywhere(u16),
}

/// The text is none of what `--listen` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "must be an address and a port, like 127.0.0.1:50051, [::1]:50051 or localhost:50051, or only a \
     port, like :50051, for every interface"
)]
pub struct NoAddress;

/// Why there is no address to listen on.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// Nobody knows the name.
    #[error("--listen {0}: the name is not known: {1}")]
    Unknown(Listen, io::Error),
    /// The name cannot be looked up: the resolver does not answer.
    #[error("--listen {0}: the name was not resolved within {PATIENCE:?}")]
    Silent(Listen),
}

impl FromStr for Listen {
    type Err = NoAddress;

    fn from_str(text: &str) -> Result<Self, NoAddress> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        let (host, port) = text.rsplit_once(':').ok_or(NoAddress)?;
        if !port.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(NoAddress);
        }
        let port = port.parse().map_err(|_| NoAddress)?;
        match host {
            "" => Ok(Self::Everywhere(port)),
            name if is_name(name) => Ok(Self::Name(name.to_owned(), port)),
            _ => Err(NoAddress),
        }
    }
}

/// Whether this may be the name of a host. One whose last label is a number is an address gone wrong, which
/// resolvers may yet take for one: 127.1 is 127.0.0.1 to them.
fn is_name(text: &str) -> bool {
    let labels = || text.trim_end_matches('.').split('.');
    let is_label = |label: &str| {
        let of_names = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        !label.is_empty() && !label.starts_with('-') && label.bytes().all(of_names)
    };
    let is_number = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit());
    labels().all(is_label) && !labels().next_back().is_none_or(is_number)
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(host, port) => write!(f, "{host}:{port}"),
            Self::Everywhere(port) => write!(f, ":{port}"),
        }
    }
}

impl Listen {
    /// The one address that is meant. Of several that a name has, IPv4's come first: `localhost` is
    /// 127.0.0.1 then, which those find, too, who try ::1 before.
    ///
    /// # Errors
    /// When a name is not known, or nobody says so in time.
    pub async fn resolve(&self) -> Result<SocketAddr, ResolveError> {
        match self {
            Self::Address(address) => Ok(*address),
            Self::Everywhere(port) => Ok(everywhere(*port)),
            Self::Name(host, port) => {
                let found = timeout(PATIENCE, lookup_host((host.as_str(), *port))).await;
                let found = found.map_err(|_| ResolveError::Silent(self.clone()))?;
                let unknown = |error| ResolveError::Unknown(self.clone(), error);
                let mut addresses: Vec<SocketAddr> = found.map_err(unknown)?.collect();
                addresses.sort_by_key(SocketAddr::is_ipv6);
                let none = || unknown(io::ErrorKind::NotFound.into());
                addresses.first().copied().ok_or_else(none)
            }
        }
    }
}

/// All of IPv6, which is all of IPv4 as well; only the latter where the system has no IPv6.
fn everywhere(port: u16) -> SocketAddr {
    let ip: IpAddr = match socket((Ipv6Addr::UNSPECIFIED, 0).into()) {
        Ok(_) => Ipv6Addr::UNSPECIFIED.into(),
        Err(_) => Ipv4Addr::UNSPECIFIED.into(),
    };
    (ip, port).into()
}

/// Listens on `address`. In place of tokio's `TcpListener::bind`, which leaves it to the system's
/// `net.ipv6.bindv6only` whether `[::]` stands for IPv4, too.
///
/// # Errors
/// When the address cannot be had.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket(address)?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket.into())
}

fn socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // A port whose last connections have not died away is free for the next life.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Whether only this machine gets there.
#[must_use]
pub fn is_local(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;

    #[test]
    fn addresses_names_and_ports_are_understood() {
        let name = |name: &str| Ok(Listen::Name(name.to_owned(), 50051));
        let address = |text: &str| Ok(Listen::Address(text.parse().unwrap()));
        for (text, means) in [
            ("127.0.0.1:50051", address("127.0.0.1:50051")),
            ("[::1]:50051", address("[::1]:50051")),
            ("[::]:50051", address("[::]:50051")),
            ("localhost:50051", name("localhost")),
            ("a-host.example.:50051", name("a-host.example.")),
            (":50051", Ok(Listen::Everywhere(50051))),
        ] {
            assert_eq!(text.parse::<Listen>(), means, "{text}");
            assert_eq!(means.unwrap().to_string(), text);
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            ":",
            "50051",
            "localhost",
            "localhost:",
            "localhost:http",
            "localhost:+80",
            "localhost:65536",
            "::1:50051",
            "[localhost]:50051",
            "127.0.0:50051",
            "127.0.0.256:50051",
            "http://localhost:50051",
            "local host:50051",
            "-a:50051",
            "*:50051",
        ] {
            assert_eq!(text.parse::<Listen>(), Err(NoAddress), "{text:?}");
        }
    }

    #[tokio::test]
    async fn localhost_is_the_loopback_that_is_in_all_documents() {
        let listen: Listen = "localhost:50051".parse().unwrap();
        let address = listen.resolve().await.unwrap();
        assert_eq!(address, "127.0.0.1:50051".parse().unwrap());
        assert!(is_local(address));
    }

    #[tokio::test]
    async fn a_name_that_nobody_knows_is_named() {
        // Too long for a name: nobody is asked.
        let text = format!("{}:50051", "a".repeat(64));
        let listen: Listen = text.parse().unwrap();
        let error = listen.resolve().await.unwrap_err().to_string();
        assert!(error.contains(&format!("--listen {text}")), "{error}");
    }

    #[tokio::test]
    async fn every_interface_is_that_of_both_protocols() {
        let address = Listen::Everywhere(0).resolve().await.unwrap();
        assert!(!is_local(address));
        let listener = bind(address).unwrap();
        let port = listener.local_addr().unwrap().port();
        TcpStream::connect((Ipv4Addr::LOCALHOST, port))
            .await
            .unwrap();
        if address.is_ipv6() {
            TcpStream::connect((Ipv6Addr::LOCALHOST, port))
                .await
                .unwrap();
        }
    }
}
