//! Notifications: one per member, however often its registration is told.

use std::sync::Arc;

use couponmesh_notification::{
    NAME,
    channel::{Channel, ChannelConfig},
    consumer::NotificationHandler,
    migrations::Migrator,
    notifications::{self, State},
};
use couponmesh_proto::member::v1::MemberRegistered;
use couponmesh_runtime::{Clock, wake::Wake};
use sea_orm::{ColumnTrait as _, EntityTrait as _, QueryFilter as _};

use crate::support::{Bench, NOW, delivery};

#[test]
fn a_registration_told_in_any_way_is_one_notification() {
    let bench = Bench::new::<Migrator>(NAME);
    let channel = Channel::open(&ChannelConfig::default(), Clock::manual(NOW)).unwrap();
    let handler = NotificationHandler::new(Arc::new(channel), Wake::default());
    bench.check((1..8_usize, delivery()), async |(count, delivery)| {
        let members: Vec<_> = (0..count).map(|_| bench.new_member()).collect();
        let events: Vec<_> = members
            .iter()
            .map(|member_id| bench.event(*member_id, &MemberRegistered::default()))
            .collect();
        for batch in delivery.batches(&events) {
            bench.deliver(&handler, &batch).await;
        }
        for (member_id, event) in members.iter().zip(&events) {
            let rows = notifications::Entity::find()
                .filter(notifications::Column::MemberId.eq(*member_id))
                .all(bench.store.read())
                .await
                .unwrap();
            let [notification] = &rows[..] else {
                panic!("not one notification: {rows:?}");
            };
            assert_eq!(notification.state, State::Pending);
            assert_eq!(notification.attempt_count, 0);
            assert_eq!(notification.causation_id, Some(event.id.0));
            assert!(notification.body.contains(&member_id.to_string()));
        }
    });
}
