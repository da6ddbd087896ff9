//! The data action as callers see it: how it is asked for, and what is answered. Platforms are told of it by what is made from
//! this, and tests hold the answers to it.

/// Where it is asked for.
pub const PATH: &str = "/data-action";

/// The action that looks customers up.
pub const LOOKUP: &str = "process_customer_batch";

/// The action that proves that a lookup would be answered.
pub const PING: &str = "ping";

/// The member of the input that names customers: a list of ids, or one text with commas between them.
pub const CUSTOMER_IDS: &str = "customer_ids";

/// The member of the input that names the tenant.
pub const TENANT_ID: &str = "tenant_id";

/// The member of the context that goes into the audit row.
pub const CONTACT_ID: &str = "contactId";

/// The header that names the key of a signature.
pub const KEY_ID_HEADER: &str = "X-CXone-Key-Id";

/// One member of an answer's `output`.
#[derive(Clone, Copy, Debug)]
pub struct Member {
    /// Its name.
    pub name: &'static str,
    /// What it holds.
    pub shape: Shape,
    /// What it tells.
    pub about: &'static str,
}

/// What a member holds.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    /// A text.
    Text,
    /// A whole number.
    Count,
    /// True or false.
    Flag,
    /// A list of texts.
    Texts,
    /// An object of such members.
    Object(&'static [Member]),
    /// A list of customers, each with these members.
    Customers(&'static [Member]),
}

/// What a lookup answers. A customer has `attributes` beside these members, where it has any.
pub const LOOKUP_OUTPUT: [Member; 5] = [
    Member { name: "customers", shape: Shape::Customers(&CUSTOMER), about: "Those found, in the order asked." },
    Member { name: "count", shape: Shape::Count, about: "How many customers are sent." },
    Member { name: "missing", shape: Shape::Texts, about: "Ids asked for that this tenant does not have." },
    Member { name: "truncated", shape: Shape::Flag, about: "Whether some customers did not fit into the answer." },
    Member { name: "next_ids", shape: Shape::Texts, about: "Ids of those that did not fit: ask for them next." },
];

const CUSTOMER: [Member; 4] = [
    Member { name: "id", shape: Shape::Text, about: "A UUID." },
    Member { name: "name", shape: Shape::Text, about: "Display name." },
    Member { name: "status", shape: Shape::Text, about: "Free text such as active." },
    Member { name: "updated_at", shape: Shape::Text, about: "When the record last changed (RFC 3339)." },
];

/// The member of a customer that holds whatever else its owner has stored.
pub const ATTRIBUTES: &str = "attributes";

/// What a ping answers.
pub const PING_OUTPUT: [Member; 4] = [
    Member { name: "status", shape: Shape::Text, about: "ok" },
    Member { name: TENANT_ID, shape: Shape::Text, about: "The tenant that was asked about." },
    Member { name: "key_id", shape: Shape::Text, about: "The key that the service knew the caller by." },
    Member { name: "dependencies", shape: Shape::Object(&DEPENDENCIES), about: "What the service needs." },
];

const DEPENDENCIES: [Member; 2] =
    [Member { name: "postgres", shape: Shape::Text, about: "up" }, Member { name: "redis", shape: Shape::Text, about: "up, down or off" }];
