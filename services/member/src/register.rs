//! Registering a member. It needs this service's database and nothing else.
//!
//! Callers that come together commit together: while one transaction is being committed, the next
//! callers gather, and all of them share the next one. Each gets its own answer, and none fails for
//! another's fault.

use std::collections::{HashMap, HashSet};

use couponmesh_messaging::{Batch, Store, rows};
use couponmesh_proto::member::v1::{MemberRegistered, MemberSnapshot};
use couponmesh_runtime::{
    Context, database,
    id::{MemberId, RequestId},
    running::Running,
};
use sea_orm::{ConnectionTrait, DbErr, IntoActiveModel as _, QuerySelect as _, entity::prelude::*};
use tokio::sync::{mpsc, oneshot};

use crate::{
    error::{self, Error},
    members::{self, Model, State},
    profile::{self, DisplayName, Email},
    requests::{self, Rpc},
};

/// Registrations in one transaction at the most.
const MAX_BATCH: usize = 64;
/// Registrations that wait at the most; the door's bound in flight keeps their number below it.
const MAX_WAITING: usize = 4_096;

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

struct Waiting {
    registration: Registration,
    answer: oneshot::Sender<Answer>,
}

/// Gathers registrations and commits them.
#[derive(Clone, Debug)]
pub struct Registrar(mpsc::Sender<Waiting>);

impl Registrar {
    pub(crate) fn start(store: &Store, running: &Running) -> Self {
        let (sender, receiver) = mpsc::channel(MAX_WAITING);
        let (store, stop) = (store.clone(), running.stopping());
        let receiver = std::sync::Arc::new(tokio::sync::Mutex::new(receiver));
        running.keep("registrar", move || {
            let (store, receiver, stop) = (store.clone(), receiver.clone(), stop.clone());
            async move {
                let mut receiver = receiver.lock().await;
                let mut batch = Vec::with_capacity(MAX_BATCH);
                let mut wary = 0;
                loop {
                    tokio::select! {
                        biased;
                        count = receiver.recv_many(&mut batch, MAX_BATCH) => if count == 0 { return },
                        () = stop.cancelled() => return,
                    }
                    commit(&store, std::mem::take(&mut batch), &mut wary).await;
                }
            }
        });
        Self(sender)
    }

    /// Registers a member, or returns the one that the same request made before. When the caller
    /// goes away the registration still takes place.
    ///
    /// # Errors
    /// [`Error::EmailTaken`], [`Error::RequestIdReused`], [`Error::Storage`], [`Error::Overloaded`].
    pub async fn register(&self, registration: Registration) -> Answer {
        let (answer, answered) = oneshot::channel();
        self.0
            .try_send(Waiting {
                registration,
                answer,
            })
            .map_err(|_| Error::Overloaded)?;
        // Dropped unanswered when the batch's task panicked or the service stopped.
        answered.await.map_err(|_| Error::Overloaded)?
    }
}

async fn commit(store: &Store, batch: Vec<Waiting>, wary: &mut usize) {
    let (registrations, answers): (Vec<_>, Vec<_>) = batch
        .into_iter()
        .map(|waiting| (waiting.registration, waiting.answer))
        .unzip();
    let results = match insist(store, &registrations, wary).await {
        Ok(Some(results)) => results,
        Ok(None) => alone(store, &registrations).await,
        Err(error) if error::may_be_one_requests_fault(&error) => {
            alone(store, &registrations).await
        }
        Err(error) => vec![Err(error); registrations.len()],
    };
    for (answer, result) in answers.into_iter().zip(results) {
        // A caller that went away does not hear its answer.
        let _ = answer.send(result);
    }
}

/// Registers all, most often without a look at what is there: nearly every caller is new, and for the others
/// the database's own uniqueness says so. None when someone else was first.
async fn insist(
    store: &Store,
    registrations: &[Registration],
    wary: &mut usize,
) -> Result<Option<Vec<Answer>>, Error> {
    if *wary == 0 {
        if let Some(results) = together(store, registrations, Known::default()).await? {
            return Ok(Some(results));
        }
        *wary = WARY;
    }
    *wary -= 1;
    together(
        store,
        registrations,
        Known::look(store, registrations).await?,
    )
    .await
}

/// Registers each in a commit of its own.
async fn alone(store: &Store, registrations: &[Registration]) -> Vec<Answer> {
    let mut results: Vec<Answer> = Vec::with_capacity(registrations.len());
    for registration in registrations {
        // An outage is everyone's: those who wait behind need not find out one by one.
        if let Some(Err(Error::Storage(error))) = results.last()
            && database::is_transient(error)
        {
            results.push(Err(Error::Storage(error.clone())));
            continue;
        }
        results.push(one(store, registration).await);
    }
    results
}

async fn one(store: &Store, registration: &Registration) -> Answer {
    let one = std::slice::from_ref(registration);
    // Another replica may take the address or the request id after we looked. It has committed, or there would
    // be no conflict, so a second look finds it.
    for _ in 0..LOOKS {
        let known = Known::look(store, one).await?;
        if let Some(mut answers) = together(store, one, known).await? {
            return answers.pop().unwrap_or(Err(Error::Overloaded));
        }
    }
    // Taken and freed again at every look.
    Err(Error::Overloaded)
}

/// Registers all in one commit; an answer for each, or one error for all when it did not commit. None when
/// someone else was first with an address or a request id.
async fn together(
    store: &Store,
    registrations: &[Registration],
    known: Known,
) -> Result<Option<Vec<Answer>>, Error> {
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
            results.push(if digest == known_digest {
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
