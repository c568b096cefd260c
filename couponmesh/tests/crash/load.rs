//! `couponmesh load` through TLS, as at an ingress.

use std::net::SocketAddr;

use couponmesh_testbed::Authority;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
};

use crate::binary::process::Call;

/// Ends TLS in front of `server`.
async fn ingress(authority: &Authority, server: SocketAddr) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = authority.http2_acceptor();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut outer = acceptor.accept(stream).await?;
                let mut inner = TcpStream::connect(server).await?;
                copy_bidirectional(&mut outer, &mut inner).await
            });
        }
    });
    format!("https://{address}")
}

/// `couponmesh load` on a system that knows the authorities in `roots`.
fn load(address: &str, roots: &Authority) -> Call {
    let load = Call::new(&["load", "--members", "20", "--address", address]);
    load.environment("SSL_CERT_FILE", roots.ca_file().to_str().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn load_takes_a_server_that_the_system_or_the_ca_file_vouches_for_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let (process, server) = Call::run(dir.path()).start().await;
    let (authority, other) = (Authority::new(), Authority::new());
    let address = ingress(&authority, server).await;
    let ca_file = authority.ca_file().to_str().unwrap();

    let done = load(&address, &authority).finish().await;
    assert_eq!(done.status.code(), Some(0), "{done:?}");
    let further = ["--ca-file", ca_file];
    let done = load(&address, &other).with(&further).finish().await;
    assert_eq!(done.status.code(), Some(0), "{done:?}");
    // Nothing but the file, as in a container without the system's.
    let done = load(&address, &other).with(&further);
    let done = done
        .environment("SSL_CERT_FILE", "/dev/null")
        .finish()
        .await;
    assert_eq!(done.status.code(), Some(0), "{done:?}");

    let refused = load(&address, &other).finish().await;
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert!(
        refused.stderr.contains("invalid peer certificate"),
        "{refused:?}"
    );
    process.kill();
}

#[tokio::test]
async fn load_names_a_ca_file_that_is_of_no_use() {
    let dir = tempfile::tempdir().unwrap();
    let empty = dir.path().join("empty.pem");
    std::fs::write(&empty, "no certificate\n").unwrap();
    let (authority, missing) = (Authority::new(), dir.path().join("missing.pem"));
    for (address, file, problem) in [
        ("https://127.0.0.1:1", missing.as_path(), "cannot be read"),
        ("https://127.0.0.1:1", &empty, "holds no certificate"),
        ("http://127.0.0.1:1", authority.ca_file(), "https://"),
    ] {
        let file = file.to_str().unwrap();
        let refused = load(address, &authority).with(&["--ca-file", file]);
        let refused = refused.finish().await;
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
        for what in ["--ca-file", problem] {
            assert!(refused.stderr.contains(what), "{what}: {refused:?}");
        }
    }
}
