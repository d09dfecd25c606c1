//! The values of the store's keys: JSON that other versions of Patroni, and other tools, read and write.
//! Writers are exact (compact, field order stable); readers take whatever they find.

mod cluster;
mod failover;
mod history;
mod member;
mod status;
mod sync;

pub use cluster::{RawKey, assemble};
pub use failover::{decode_failover, encode_failover, parse_timestamp};
pub use history::{decode_history, encode_history};
pub use member::{decode_member, encode_member};
pub use status::{decode_status, encode_status};
pub use sync::{decode_sync, encode_sync};
