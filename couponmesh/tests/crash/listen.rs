//! Where it listens, and what it says about that.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    path::Path,
};

use couponmesh_proto::member::v1::member_service_client::MemberServiceClient;

use crate::binary::{
    caller::registration,
    process::{Call, channel},
};

const WARNING: &str = "nobody is authenticated";

fn run(listen: &str, dir: &Path) -> Call {
    let data_dir = dir.to_str().unwrap();
    Call::new(&["run", "--listen", listen, "--data-dir", data_dir])
}

async fn answers(address: SocketAddr) {
    let mut members = MemberServiceClient::new(channel(address));
    let email = format!("{}@example.com", u8::from(address.is_ipv6()));
    members
        .register_member(registration("", &email))
        .await
        .unwrap();
}

#[tokio::test]
async fn it_listens_on_names_on_ports_and_on_both_protocols() {
    let has_ipv6 = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
    for listen in ["localhost:0", "[::1]:0", "[::]:0", ":0"] {
        if listen.starts_with('[') && !has_ipv6 {
            println!("NOT TESTED: {listen}, since this machine has no IPv6");
            continue;
        }
        let dir = tempfile::tempdir().unwrap();
        let (process, address) = run(listen, dir.path()).start().await;
        match listen {
            "localhost:0" => assert_eq!(address.ip(), Ipv4Addr::LOCALHOST),
            "[::1]:0" => assert_eq!(address.ip(), Ipv6Addr::LOCALHOST),
            _ => answers((Ipv4Addr::LOCALHOST, address.port()).into()).await,
        }
        if has_ipv6 && address.is_ipv6() {
            answers((Ipv6Addr::LOCALHOST, address.port()).into()).await;
        }
        process.kill();
    }
}

#[tokio::test]
async fn what_is_no_address_is_refused_with_what_would_be_one() {
    for nonsense in ["50051", "http://localhost:50051", "::1:50051"] {
        let refused = Call::new(&["run", "--listen", nonsense]).finish().await;
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
        for form in [
            "--listen",
            "127.0.0.1:50051",
            "localhost:50051",
            "[::1]:50051",
            " :50051",
        ] {
            assert!(refused.stderr.contains(form), "{form}: {refused:?}");
        }
    }
}

#[tokio::test]
async fn beyond_this_machine_it_says_that_nobody_is_authenticated() {
    for (listen, warnings) in [("127.0.0.1:0", 0), ("0.0.0.0:0", 1)] {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let call = run(listen, &dir.path().join("data")).log_to(&log);
        let (process, _) = call.start().await;
        process.terminate().await;
        let text = std::fs::read_to_string(&log).unwrap();
        assert_eq!(text.matches(WARNING).count(), warnings, "{text}");
    }
    for command in ["run", "serve"] {
        let help = Call::new(&[command, "--help"]).finish().await.stdout;
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(help.to_lowercase().contains(WARNING), "{help}");
    }
}
