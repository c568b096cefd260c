//! What outbox, relay, bus, inbox and consumer promise, on the real stack: SQLite files and the embedded bus.

mod bus_contract;
mod check;
mod effects;
mod embedded_bus;
mod failures;
mod lives;
mod relay;
mod sabotage;
mod support;
