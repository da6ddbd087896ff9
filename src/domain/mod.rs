//! What the business talks about: values that cannot be wrong once they exist. Imports nothing of the crate.

pub mod allowed_keys;
pub mod audit;
pub mod batch;
pub mod canonical;
pub mod customer;
pub mod data_action;
pub mod diagnosis;
pub mod epoch;
pub mod flat_input;
pub mod idempotency;
pub mod reason;
pub mod request_id;
pub mod signing;
pub mod target;
pub mod tenant;

pub use allowed_keys::AllowedKeys;
pub use audit::{AuditEntry, Source};
pub use batch::{CustomerBatch, InvalidBatch};
pub use customer::{CustomerDocument, CustomerId, CustomerRecord, Json, Known};
pub use diagnosis::{Diagnosis, Evidence};
pub use epoch::{Epoch, ServerStart};
pub use flat_input::{FlatInput, NotFlat};
pub use idempotency::{ActionId, Digest, Hasher, IdempotencyKey, KeySource, NoKey, Owner, StoredReply};
pub use reason::Reason;
pub use request_id::RequestId;
pub use signing::{Encoding, Keyring, Secret, SigningKey, Tag};
pub use target::{Coverage, SignedTarget, Target};
pub use tenant::TenantId;
