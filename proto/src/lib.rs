//! The contract of couponmesh: every service, message and event, generated from
//! the `.proto` files beside this crate.
//!
//! Modules follow the packages: `couponmesh.member.v1` is [`member::v1`].

// Generated code documents itself by the comments in the .proto files; helper items have none.
#![allow(missing_docs, unreachable_pub, clippy::all)]

pub mod codec;

/// Members and withdrawals.
pub mod member {
    /// `couponmesh.member.v1`
    pub mod v1 {
        tonic::include_proto!("couponmesh.member.v1");
    }
}

/// Welcome coupons.
pub mod coupon {
    /// `couponmesh.coupon.v1`
    pub mod v1 {
        tonic::include_proto!("couponmesh.coupon.v1");
    }
}

/// The administrator's notifications.
pub mod notification {
    /// `couponmesh.notification.v1`
    pub mod v1 {
        tonic::include_proto!("couponmesh.notification.v1");
    }
}

/// The read model.
pub mod mypage {
    /// `couponmesh.mypage.v1`
    pub mod v1 {
        tonic::include_proto!("couponmesh.mypage.v1");
    }
}

/// Every descriptor, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
