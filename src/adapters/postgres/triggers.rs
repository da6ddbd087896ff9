//! The triggers that tell of changed customers: whether they are there and fire in the sessions that they have to fire in.
//! Programs that load data set them back (`pg_restore --disable-triggers`), or put a table without them in place of `customers`.

use std::fmt;

use anyhow::Context;
use tokio_postgres::{Client, Error};

use super::failure::described;

/// When a trigger fires, as `pg_trigger.tgenabled` has it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// In ordinary sessions.
    Origin,
    /// Under `session_replication_role = replica`, as in subscriptions.
    Replica,
    /// In both.
    Always,
    Disabled,
}

/// A trigger as the migrations make it.
struct Wanted {
    name: &'static str,
    mode: Mode,
    /// What comes after the name in its definition.
    rest: &'static str,
    constraint: bool,
}

const fn wanted(name: &'static str, mode: Mode, rest: &'static str) -> Wanted {
    Wanted { name, mode, rest, constraint: false }
}

const fn deferred(name: &'static str, rest: &'static str) -> Wanted {
    Wanted { name, mode: Mode::Replica, rest, constraint: true }
}

/// To change a trigger in a migration, change it here as well: a test compares the two.
const WANTED: [Wanted; 12] = [
    wanted("customers_touch", Mode::Origin, "BEFORE UPDATE ON customers FOR EACH ROW EXECUTE FUNCTION customers_touch()"),
    wanted(
        "customers_inserted",
        Mode::Always,
        "AFTER INSERT ON customers REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION customers_notify()",
    ),
    wanted(
        "customers_updated",
        Mode::Always,
        "AFTER UPDATE ON customers REFERENCING NEW TABLE AS changed OLD TABLE AS gone FOR EACH STATEMENT \
         EXECUTE FUNCTION customers_notify()",
    ),
    wanted(
        "customers_deleted",
        Mode::Always,
        "AFTER DELETE ON customers REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION customers_notify()",
    ),
    wanted("customers_truncated", Mode::Always, "AFTER TRUNCATE ON customers FOR EACH STATEMENT EXECUTE FUNCTION customers_notify()"),
    wanted(
        "customers_statement",
        Mode::Replica,
        "BEFORE INSERT OR UPDATE OR DELETE ON customers FOR EACH STATEMENT EXECUTE FUNCTION customers_statement()",
    ),
    wanted(
        "customers_applied_touch",
        Mode::Replica,
        "BEFORE UPDATE ON customers FOR EACH ROW WHEN (NEW.version <= OLD.version) EXECUTE FUNCTION customers_touch()",
    ),
    deferred(
        "customers_applied_insert",
        "AFTER INSERT ON customers DEFERRABLE INITIALLY DEFERRED FOR EACH ROW \
         WHEN (customers_collect(NEW.tenant_id, NEW.id, NEW.version, NEW.tableoid)) EXECUTE FUNCTION customers_notify_collected()",
    ),
    deferred(
        "customers_applied_update",
        "AFTER UPDATE ON customers DEFERRABLE INITIALLY DEFERRED FOR EACH ROW \
         WHEN (customers_collect(NEW.tenant_id, NEW.id, NEW.version, NEW.tableoid)) EXECUTE FUNCTION customers_notify_collected()",
    ),
    deferred(
        "customers_applied_delete",
        "AFTER DELETE ON customers DEFERRABLE INITIALLY DEFERRED FOR EACH ROW \
         WHEN (customers_collect(OLD.tenant_id, OLD.id, OLD.version + 1, OLD.tableoid)) EXECUTE FUNCTION customers_notify_collected()",
    ),
    deferred(
        "customers_applied_rekey",
        "AFTER UPDATE ON customers DEFERRABLE INITIALLY DEFERRED FOR EACH ROW \
         WHEN (CASE WHEN OLD.tenant_id <> NEW.tenant_id OR OLD.id <> NEW.id \
         THEN customers_collect(OLD.tenant_id, OLD.id, OLD.version + 1, OLD.tableoid) ELSE false END) \
         EXECUTE FUNCTION customers_notify_collected()",
    ),
    wanted(
        "customers_applied_truncate",
        Mode::Replica,
        "BEFORE TRUNCATE ON customers FOR EACH STATEMENT EXECUTE FUNCTION customers_before_truncate()",
    ),
];

const FIND: &str = "SELECT tgname::text, tgenabled::text FROM pg_trigger WHERE tgrelid = to_regclass('customers') AND NOT tgisinternal";

/// Changes may have gone unheard while a trigger was not as it should be.
const NOTIFY_ALL: &str = "NOTIFY cxda_customers, '{\"all\":true}'";

/// A trigger that is not as the migrations make it.
pub struct TriggerFault {
    wanted: &'static Wanted,
    /// `None`: it is missing.
    found: Option<Mode>,
}

impl fmt::Display for TriggerFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.wanted.name;
        match self.found {
            None => write!(f, "trigger {name} is missing"),
            Some(Mode::Disabled) => write!(f, "trigger {name} is disabled"),
            Some(mode) => write!(f, "trigger {name} is set to {} in place of {}", mode.keyword(), self.wanted.mode.keyword()),
        }
    }
}

impl TriggerFault {
    fn repair(&self) -> String {
        let Wanted { name, mode, rest, constraint } = self.wanted;
        let create = match (self.found, constraint) {
            (None, true) => format!("CREATE CONSTRAINT TRIGGER {name} {rest}; "),
            (None, false) => format!("CREATE TRIGGER {name} {rest}; "),
            (Some(_), _) => String::new(),
        };
        format!("{create}ALTER TABLE customers ENABLE {} TRIGGER {name}", mode.clause())
    }
}

impl Mode {
    fn of(tgenabled: &str) -> Self {
        match tgenabled {
            "O" => Self::Origin,
            "R" => Self::Replica,
            "A" => Self::Always,
            _ => Self::Disabled,
        }
    }

    fn keyword(self) -> &'static str {
        match self {
            Self::Origin => "ORIGIN",
            Self::Replica => "REPLICA",
            Self::Always => "ALWAYS",
            Self::Disabled => "DISABLED",
        }
    }

    /// As `ALTER TABLE … ENABLE … TRIGGER` spells it.
    fn clause(self) -> &'static str {
        match self {
            Self::Replica => "REPLICA",
            Self::Always => "ALWAYS",
            Self::Origin | Self::Disabled => "",
        }
    }
}

/// Every trigger that is not as it should be.
pub(super) async fn faults(client: &Client) -> Result<Vec<TriggerFault>, Error> {
    let rows = client.query(FIND, &[]).await?;
    let found: Vec<(String, Mode)> = rows.iter().map(|row| (row.get(0), Mode::of(row.get(1)))).collect();
    let fault = |wanted: &'static Wanted| {
        let found = found.iter().find(|(name, _)| name == wanted.name).map(|(_, mode)| *mode);
        (found != Some(wanted.mode)).then_some(TriggerFault { wanted, found })
    };
    Ok(WANTED.iter().filter_map(fault).collect())
}

/// Puts right every trigger that is not as it should be, and has every instance drop what it has cached. Gives what was wrong.
pub(super) async fn repair(client: &Client) -> anyhow::Result<Vec<TriggerFault>> {
    let faults = faults(client).await.map_err(|e| described(&e)).context("look at the triggers of customers")?;
    if !faults.is_empty() {
        let statements: Vec<_> = faults.iter().map(TriggerFault::repair).collect();
        let all = format!("BEGIN; {}; {NOTIFY_ALL}; COMMIT", statements.join("; "));
        client.batch_execute(&all).await.map_err(|e| described(&e)).context("put the triggers of customers right")?;
    }
    Ok(faults)
}
