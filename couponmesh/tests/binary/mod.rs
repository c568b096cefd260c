//! The real binary as child processes, and callers who do not give up: what the tests of crashes and of faults
//! have in common.
//!
//! | what | file |
//! | --- | --- |
//! | the binary: started, killed, told to stop, read | [`process`] |
//! | callers that insist until they have an answer | [`caller`] |
//! | what must hold in the databases once everything came to rest | [`rest`] |
//! | the administrator's webhook | [`webhook`] |

// Each test binary uses its own part of it.
#![allow(dead_code)]

pub(crate) mod caller;
pub(crate) mod process;
pub(crate) mod rest;
#[path = "../harness/webhook.rs"]
pub(crate) mod webhook;
