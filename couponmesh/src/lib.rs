//! The binary's library: the services put together into something that runs.
//!
//! - [`config`]: everything that can be set, with its defaults
//! - [`data_dir`]: the directory that an embedded run owns
//! - [`stack`]: databases and bus, where the backend is chosen
//! - [`listen`]: the address that `--listen` names
//! - [`migrate`]: databases brought up to date
//! - [`node`]: services on one address, with one handle to stop them

pub mod config;
pub mod data_dir;
pub mod listen;
pub mod migrate;
pub mod node;
pub mod stack;
