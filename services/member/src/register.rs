//! Registering a member. It needs this service's database and nothing else.
//!
//! Callers that come together commit together, most often without a look at what is there.

use std::{
    collections::{HashMap, HashSet},
    sync::atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use couponmesh_messaging::{Batch, Store, rows};
use couponmesh_proto::member::v1::{MemberRegistered, MemberSnapshot};
use couponmesh_runtime::{
    Context,
    group_commit::{GroupCommit, Work},
    id::{MemberId, RequestId},
    running::Running,
};
use sea_orm::{ConnectionTrait, DbErr, IntoActiveModel as _, QuerySelect as _, entity::prelude::*};

use crate::{
    error::Error,
    members::{self, Model, State},
    profile::{self, DisplayName, Email},
    requests::{self, Rpc},
};

/// So many times it is looked first who is known, after someone was: such callers seldom come alone, and
/// each failed commit costs as much as a good one.
const WARY: usize = 64;

/// How often it is looked who was first.
const LOOKS: usize = 3;

/// A registration, checked.
#[derive(Clone, Debug)]
pub struct Registration {
    /// The caller's id for the call.
    pub request_id: Option<RequestId>,
    /// Normalised.
    pub email: Email,
    /// Trimmed.
    pub display_name: DisplayName,
    /// What caused it.
    pub context: Context,
}

impl Registration {
    fn digest(&self) -> Option<(RequestId, Vec<u8>)> {
        let id = self.request_id?;
        Some((id, profile::digest(id, &self.email, &self.display_name)))
    }
}

type Answer = Result<Model, Error>;

/// Registers members. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Registrar(GroupCommit<Registering>);

impl Registrar {
    pub(crate) fn new(store: &Store, running: &Running) -> Self {
        let work = Registering {
            store: store.clone(),
            wary: AtomicUsize::new(0),
        };
        Self(GroupCommit::new(work, running))
    }

    /// Registers a member, or returns the one that the same request made before. When the caller
    /// goes away the registration still takes place.
    ///
    /// # Errors
    /// [`Error::EmailTaken`], [`Error::RequestIdReused`], [`Error::MemberWithdrawn`], [`Error::Storage`],
    /// [`Error::Overloaded`].
    pub async fn register(&self, registration: Registration) -> Answer {
        self.0.submit(registration).await
    }
}

#[derive(Debug)]
struct Registering {
    store: Store,
    /// In how many more groups it is looked first who is known.
    wary: AtomicUsize,
}

#[async_trait]
impl Work for Registering {
    type Request = Registration;
    type Answer = Model;
    type Error = Error;

    /// Nearly every caller is new, and for the others the database's own uniqueness says so.
    async fn commit(&self, registrations: &[Registration]) -> Result<Vec<Answer>, DbErr> {
        // Others may count meanwhile, and then it is a few groups more or less.
        match self.wary.load(Ordering::Relaxed) {
            0 => {
                let all_new = Known::default();
                if let Some(answers) = together(&self.store, registrations, all_new).await? {
                    return Ok(answers);
                }
                self.wary.store(WARY, Ordering::Relaxed);
            }
            wary => self.wary.store(wary - 1, Ordering::Relaxed),
        }
        // Another replica may take the address or the request id after we looked. It has committed, or there would
        // be no conflict, so a second look finds it.
        for _ in 0..LOOKS {
            let known = Known::look(&self.store, registrations).await?;
            if let Some(answers) = together(&self.store, registrations, known).await? {
                return Ok(answers);
            }
        }
        Err(DbErr::RecordNotUpdated)
    }
}

/// Registers all in one commit; an answer for each, or one error for all when it did not commit. None when
/// someone else was first with an address or a request id.
async fn together(
    store: &Store,
    registrations: &[Registration],
    known: Known,
) -> Result<Option<Vec<Answer>>, DbErr> {
    let Known {
        mut taken,
        mut requests,
    } = known;
    let mut batch = store.batch("member.register");
    let mut new_members = Vec::with_capacity(registrations.len());
    let mut new_requests = Vec::new();
    let mut results = Vec::with_capacity(registrations.len());
    for registration in registrations {
        let request = registration.digest();
        if let Some((id, digest)) = &request
            && let Some((known_digest, member)) = requests.get(id)
        {
            results.push(if member.state == State::Withdrawn {
                Err(Error::MemberWithdrawn)
            } else if digest == known_digest {
                Ok(member.clone())
            } else {
                Err(Error::RequestIdReused)
            });
            continue;
        }
        if !taken.insert(registration.email.expose().to_owned()) {
            results.push(Err(Error::EmailTaken));
            continue;
        }
        let member = new_member(&batch, registration);
        if let Some((id, digest)) = request {
            let row = requests::row(Rpc::Register, id, digest.clone(), member.member_id.0);
            new_requests.push((id, row));
            requests.insert(id, (digest, member.clone()));
        }
        let registered = MemberRegistered {
            member: Some(MemberSnapshot::from(&member)),
        };
        batch.append(&registration.context, member.member_id, &registered);
        new_members.push(member.clone());
        results.push(Ok(member));
    }
    // In the order of what has to be unique: two replicas with the same callers wait for each other, and do
    // not deadlock.
    new_members.sort_unstable_by(|one, other| one.email.cmp(&other.email));
    new_requests.sort_unstable_by_key(|(id, _)| id.0);
    let new_members = new_members.into_iter();
    let new_members = new_members.map(|member| member.into_active_model().reset_all());
    batch.insert::<members::Entity, _>(new_members.collect());
    let new_requests = new_requests.into_iter().map(|(_, row)| row).collect();
    batch.insert::<requests::Entity, _>(new_requests);
    Ok(batch.commit().await?.then_some(results))
}

fn new_member(batch: &Batch, registration: &Registration) -> Model {
    Model {
        member_id: MemberId(batch.new_id()),
        email: Some(registration.email.expose().to_owned()),
        display_name: registration.display_name.expose().to_owned(),
        state: State::Registered,
        coupon_id: None,
        register_time: batch.now(),
        coupon_issue_time: None,
        admin_notify_time: None,
        coupon_cancel_time: None,
        withdraw_time: None,
        version: 1,
        account_id: None,
    }
}

/// What is known of some registrations before they are carried out. It may be out of date as soon as it is
/// read; what has to be unique is so in the schema.
#[derive(Default)]
struct Known {
    /// The addresses that live members have.
    taken: HashSet<String>,
    /// The requests that succeeded before: their digests, and their members as they are now.
    requests: HashMap<RequestId, (Vec<u8>, Model)>,
}

impl Known {
    async fn look(store: &Store, registrations: &[Registration]) -> Result<Self, DbErr> {
        // In this order: each look sees what is committed by then, and who sees an address that the same request
        // took at another replica has to see that request as well.
        let taken = taken_addresses(store.read(), registrations).await?;
        let requests = known_requests(store.read(), registrations).await?;
        Ok(Self { taken, requests })
    }
}

async fn known_requests(
    db: &impl ConnectionTrait,
    registrations: &[Registration],
) -> Result<HashMap<RequestId, (Vec<u8>, Model)>, DbErr> {
    let ids = registrations
        .iter()
        .filter_map(|registration| registration.request_id)
        .collect();
    let mut known = HashMap::new();
    for request in requests::find(db, Rpc::Register, ids).await? {
        if let Some(member) = members::find(db, MemberId(request.resource_id)).await? {
            known.insert(request.request_id, (request.digest, member));
        }
    }
    Ok(known)
}

async fn taken_addresses(
    db: &impl ConnectionTrait,
    registrations: &[Registration],
) -> Result<HashSet<String>, DbErr> {
    let addresses = registrations
        .iter()
        .map(|registration| registration.email.expose())
        .collect();
    let taken: Vec<String> = members::Entity::find()
        .select_only()
        .column(members::Column::Email)
        .filter(members::Column::Email.is_in(rows::pad(addresses)))
        .into_tuple()
        .all(db)
        .await?;
    Ok(taken.into_iter().collect())
}
