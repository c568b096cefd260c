//! A data directory, the commands on it, and the databases in it.

use std::path::Path;

use couponmesh_messaging::{
    dead_letter::{self, query},
    outbox,
};
use couponmesh_proto::member::v1::{
    MemberRegistered, MemberSnapshot, RegisterMemberRequest,
    member_service_client::MemberServiceClient,
};
use couponmesh_runtime::{
    Clock, Random, Timestamp,
    database::Database,
    id::{EventId, MemberId},
};
use prost::Message as _;
use sea_orm::{
    ActiveValue::{NotSet, Set},
    EntityTrait as _,
};
use tempfile::TempDir;
use tonic::transport::Channel;

use crate::binary::process::{Call, Finished, eventually};

pub(crate) const REGISTERED: &str = "couponmesh.member.v1.MemberRegistered";

pub(crate) struct Desk {
    dir: TempDir,
}

/// An event that nobody can handle.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Poison {
    pub(crate) id: EventId,
    pub(crate) member_id: MemberId,
}

impl Desk {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { dir }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// `couponmesh run` on the directory.
    pub(crate) fn run(&self) -> Call {
        Call::run(self.path())
    }

    /// A command on the directory.
    pub(crate) async fn ask(&self, arguments: &[&str]) -> Finished {
        let data_dir = self.path().to_str().unwrap();
        let call = Call::new(arguments).with(&["--data-dir", data_dir]);
        call.finish().await
    }

    /// What a command prints that is to succeed.
    pub(crate) async fn told(&self, arguments: &[&str]) -> String {
        let finished = self.ask(arguments).await;
        assert!(finished.status.success(), "{finished:?}");
        finished.stdout
    }

    /// The database of a service.
    pub(crate) async fn database(&self, service: &str) -> Database {
        let path = self.path().join(format!("{service}.db"));
        Database::open_sqlite(&path).await.unwrap()
    }

    /// Has member publish an event that nobody understands, and waits until coupon has put it aside.
    pub(crate) async fn poison(&self) -> Poison {
        let poison = poison();
        let member = self.database("member").await;
        let row = outbox::ActiveModel {
            seq: NotSet,
            event_id: Set(poison.id),
            event_type: Set(REGISTERED.to_owned()),
            member_id: Set(poison.member_id),
            correlation_id: Set("a-test".to_owned()),
            causation_id: Set(None),
            traceparent: Set(None),
            payload: Set(b"\xff Ann".to_vec()),
            create_time: Set(Clock::system().now()),
        };
        let tx = member.begin().await.unwrap();
        let insert = outbox::Entity::insert(row);
        insert.exec_without_returning(&tx).await.unwrap();
        tx.commit().await.unwrap();
        member.close().await.unwrap();
        eventually("coupon put it aside", async || {
            self.letter("coupon", poison.id).await
        })
        .await;
        poison
    }

    /// A dead letter; none when it is gone.
    pub(crate) async fn letter(&self, service: &str, id: EventId) -> Option<dead_letter::Model> {
        let database = self.database(service).await;
        let letter = query::find(database.read(), service, id).await.unwrap();
        database.close().await.unwrap();
        letter
    }

    /// Makes the event of a letter one that can be handled, as a release that understands it would.
    pub(crate) async fn mend(&self, service: &str, poison: Poison) {
        let database = self.database(service).await;
        let letter = query::find(database.read(), service, poison.id).await;
        let mut letter: dead_letter::ActiveModel = letter.unwrap().unwrap().into();
        letter.payload = Set(understandable(poison.member_id));
        let tx = database.begin().await.unwrap();
        let update = dead_letter::Entity::update(letter);
        update.exec(&tx).await.unwrap();
        tx.commit().await.unwrap();
        database.close().await.unwrap();
    }
}

pub(crate) fn poison() -> Poison {
    let (random, now) = (Random::from_os(), Clock::system().now());
    Poison {
        id: EventId(random.uuid_v7(now)),
        member_id: MemberId(random.uuid_v7(now)),
    }
}

fn understandable(member_id: MemberId) -> Vec<u8> {
    let member = MemberSnapshot {
        member_id: member_id.to_string(),
        display_name: "Ann".to_owned(),
        version: 1,
        register_time: Some(Timestamp(0).into()),
        ..Default::default()
    };
    let registered = MemberRegistered {
        member: Some(member),
    };
    registered.encode_to_vec()
}

/// Registers a member; returns its id.
pub(crate) async fn register(channel: Channel, email: &str) -> String {
    let request = RegisterMemberRequest {
        request_id: String::new(),
        email: email.to_owned(),
        display_name: "Ann".to_owned(),
    };
    let mut members = MemberServiceClient::new(channel);
    let registered = members.register_member(request).await.unwrap();
    registered.into_inner().member.unwrap().member_id
}
