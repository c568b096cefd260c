//! Compiles the `.proto` files with protox, so that no protoc needs to be installed.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

const FILES: [&str; 7] = [
    "couponmesh/member/v1/member.proto",
    "couponmesh/member/v1/member_events.proto",
    "couponmesh/coupon/v1/coupon.proto",
    "couponmesh/coupon/v1/coupon_events.proto",
    "couponmesh/notification/v1/notification.proto",
    "couponmesh/notification/v1/notification_events.proto",
    "couponmesh/mypage/v1/mypage.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=couponmesh");
    let descriptors = protox::compile(FILES, ["."])?;
    let out = PathBuf::from(env::var("OUT_DIR")?).join("descriptors.bin");
    fs::write(out, descriptors.encode_to_vec())?;
    // Names make every event self-describing: the CloudEvents type is the full message name.
    let mut config = prost_build::Config::new();
    config.enable_type_names();
    tonic_prost_build::configure()
        .codec_path("crate::codec::Codec")
        .compile_fds_with_config(descriptors, config)?;
    Ok(())
}
