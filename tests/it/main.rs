//! What the service promises, tried from outside: each test starts the real binary on a real Postgres and Redis.
//!
//! One file a promise; `support` starts and ends what tests need. A test that cannot run fails, and says what to install.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that panics has failed, which is its purpose")]

mod support;

mod admin;
mod allowed_keys;
mod answers;
mod api_keys;
mod audit;
mod audit_commands;
mod audit_time;
mod cache;
mod challenges;
mod cognigy_metrics;
mod coherence;
mod commands;
mod connections;
mod console;
mod contracts;
mod customer_versions;
mod dev;
mod doctor;
mod export;
mod fairness;
mod genesys_calls;
mod genesys_once;
mod genesys_retries;
mod genesys_token;
mod governor;
mod idempotency_command;
mod idempotency_stores;
mod import;
mod inputs;
mod key_limits;
mod keys;
mod launcher;
mod load;
mod loading;
mod logs;
mod migrations;
mod migrations_upgrade;
mod misconfigured_database;
mod observed;
mod openapi;
mod outbound_settings;
mod ping;
mod postgres_outages;
mod privileges;
mod properties;
mod redis_failover;
mod redis_outages;
mod redis_refusals;
mod rollbacks;
mod routes;
mod schema;
mod settings;
mod shared_transactions;
mod shutdown;
mod signatures;
mod signed_target;
mod simulate;
mod tenants;
mod tidy;
mod tls;
mod triggers;
mod webhook_answers;
mod webhook_auth;
mod webhook_crashes;
mod webhook_keys;
mod webhook_scale;
mod webhook_settings;
mod webhook_statuses;
mod work;
