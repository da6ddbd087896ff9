//! Lookups and audit entries that wait for a shared transaction, served tenant by tenant.
//!
//! Deficit round robin (Shreedhar and Varghese, "Efficient fair queueing using deficit round-robin", SIGCOMM 1995): each tenant that
//! has something waiting gets a credit of customers in turn, and what it does not use up is there in its next turn. A tenant that
//! sends ten times as much as another waits for its own requests, not the other for them.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::transaction::Wish;
use crate::app::ports::{Reading, StoreError};
use crate::config::Sharing;
use crate::domain::TenantId;

/// The most callers of one transaction, and the most ids that they ask for together: it must not become so long that those
/// behind it wait for more than a fraction of their deadline.
const MAX_MEMBERS: usize = 128;
const MAX_IDS: usize = 2_000;

/// The credit of a turn: ids, and one more for each caller.
const CREDIT: usize = 100;

/// Turns of a tenant in one transaction while others are served, too. Their requests wait for the transaction that is under way and
/// for the one behind it, so neither may be long; a tenant by itself fills whole transactions.
const TURNS: usize = 1;

/// For so long after another tenant was served, transactions are kept short for the next one that comes.
const SHARED_FOR: Duration = Duration::from_secs(1);

/// A request that waits.
pub(super) struct Member {
    /// Rises with each one that comes.
    pub(super) number: u64,
    pub(super) wish: Wish,
    pub(super) since: Instant,
    pub(super) deadline: Instant,
    pub(super) reply: oneshot::Sender<Result<Reading, StoreError>>,
}

impl Member {
    /// Whether it looks customers up: an entry of an answer that came from a cache does not.
    pub(super) fn reads(&self) -> bool {
        !self.wish.asked.is_empty()
    }

    pub(super) fn tenant(&self) -> TenantId {
        self.wish.entry.tenant
    }

    /// Whether its caller is there and has time left.
    pub(super) fn is_awaited(&self) -> bool {
        !self.reply.is_closed() && self.deadline > Instant::now()
    }

    /// Gives its outcome to its caller, who may have gone.
    pub(super) fn tell(self, outcome: Result<Reading, StoreError>) {
        let _ = self.reply.send(outcome);
    }

    fn cost(&self) -> usize {
        self.wish.asked.len() + 1
    }
}

/// Members that wait, by tenant.
#[derive(Default)]
pub(super) struct Queue {
    members: HashMap<TenantId, VecDeque<Member>>,
    /// The tenants of `members`, in the order of their turns.
    turns: VecDeque<Turn>,
    waiting: usize,
    /// How many of those that wait look customers up.
    reading: usize,
    /// The number of the newest one.
    last_number: u64,
    /// The tenant that was served last, and until when it is taken to share with others.
    served: Option<TenantId>,
    shared_until: Option<Instant>,
}

struct Turn {
    tenant: TenantId,
    credit: usize,
}

impl Queue {
    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.waiting
    }

    /// Whether any of those that wait looks customers up.
    pub(super) fn reads(&self) -> bool {
        self.reading > 0
    }

    /// Puts one at the end of its tenant's line, and gives its number.
    pub(super) fn push(&mut self, member: impl FnOnce(u64) -> Member) -> u64 {
        self.last_number += 1;
        let member = member(self.last_number);
        self.waiting += 1;
        self.reading += usize::from(member.reads());
        let line = self.members.entry(member.tenant()).or_default();
        if line.is_empty() {
            self.turns.push_back(Turn { tenant: member.tenant(), credit: CREDIT });
        }
        line.push_back(member);
        self.last_number
    }

    /// Takes back one that still waits. False: it is under way.
    pub(super) fn withdraw(&mut self, tenant: TenantId, number: u64) -> bool {
        let Some(line) = self.members.get_mut(&tenant) else { return false };
        let Ok(at) = line.binary_search_by_key(&number, |member| member.number) else { return false };
        let member = line.remove(at);
        self.forget(member.as_ref());
        if self.members.get(&tenant).is_some_and(VecDeque::is_empty) {
            self.members.remove(&tenant);
            self.turns.retain(|turn| turn.tenant != tenant);
        }
        true
    }

    /// Those who go together in the next transaction.
    pub(super) fn take(&mut self, sharing: Sharing) -> Vec<Member> {
        let mut group: Vec<Member> = Vec::new();
        let (mut ids, mut passed_by) = (0, 0);
        let most = if sharing == Sharing::Off { 1 } else { MAX_MEMBERS };
        let share = if self.is_shared() { TURNS * CREDIT } else { usize::MAX };
        let mut costs: HashMap<TenantId, usize> = HashMap::new();
        while group.len() < most && ids < MAX_IDS {
            let Some(next) = self.next() else { break };
            let (tenant, cost) = (next.tenant(), next.cost());
            let asked = next.wish.asked.len();
            let is_other = group.first().is_some_and(|first| first.tenant() != tenant);
            let used = costs.entry(tenant).or_default();
            if !group.is_empty() && (ids + asked > MAX_IDS || (sharing == Sharing::Tenant && is_other)) {
                break;
            }
            if *used > 0 && *used + cost > share {
                // It has its share: others may not have theirs yet.
                passed_by += 1;
                if sharing == Sharing::Tenant || passed_by >= self.turns.len() {
                    break;
                }
                self.turns.rotate_left(1);
                continue;
            }
            // Where tenants do not go together, a transaction is a turn.
            let member = if sharing == Sharing::Tenant { self.pop() } else { self.pay(cost) };
            if let Some(member) = member {
                ids += asked;
                *used += cost;
                passed_by = 0;
                self.note_served(tenant);
                group.push(member);
            }
        }
        if sharing == Sharing::Tenant && !self.turns.is_empty() {
            self.turns.rotate_left(1);
        }
        group
    }

    /// Whether several tenants wait, or were served lately.
    fn is_shared(&self) -> bool {
        self.turns.len() > 1 || self.shared_until.is_some_and(|until| until > Instant::now())
    }

    fn note_served(&mut self, tenant: TenantId) {
        if self.served.replace(tenant).is_some_and(|last| last != tenant) {
            self.shared_until = Some(Instant::now() + SHARED_FOR);
        }
    }

    /// The first member of the tenant whose turn it is. Those whose callers have gone are left out.
    fn next(&mut self) -> Option<&Member> {
        loop {
            let tenant = self.turns.front()?.tenant;
            let line = self.members.entry(tenant).or_default();
            if line.front().is_some_and(|member| !member.is_awaited()) {
                self.pop();
            } else if self.members.get(&tenant).is_some_and(|line| !line.is_empty()) {
                return self.members.get(&tenant)?.front();
            } else {
                self.members.remove(&tenant);
                self.turns.pop_front();
            }
        }
    }

    /// Takes the first member of the tenant whose turn it is, where its credit allows; else its turn is over.
    fn pay(&mut self, cost: usize) -> Option<Member> {
        let turn = self.turns.front_mut()?;
        if turn.credit < cost {
            turn.credit += CREDIT;
            self.turns.rotate_left(1);
            return None;
        }
        turn.credit -= cost;
        self.pop()
    }

    /// Takes the first member of the tenant whose turn it is.
    fn pop(&mut self) -> Option<Member> {
        let tenant = self.turns.front()?.tenant;
        let member = self.members.get_mut(&tenant)?.pop_front();
        self.forget(member.as_ref());
        member
    }

    fn forget(&mut self, member: Option<&Member>) {
        self.waiting -= usize::from(member.is_some());
        self.reading -= usize::from(member.is_some_and(Member::reads));
    }
}

#[cfg(test)]
#[expect(clippy::expect_used, reason = "a test that panics has failed, which is its purpose")]
mod tests {
    use chrono::Utc;
    use uuid::Uuid;

    use super::*;
    use crate::domain::{AuditEntry, CustomerId, RequestId, Source};

    /// A queue, and the callers of what is in it.
    #[derive(Default)]
    struct Stage {
        queue: Queue,
        callers: Vec<oneshot::Receiver<Result<Reading, StoreError>>>,
    }

    fn tenant(name: &str) -> TenantId {
        name.parse().expect("a tenant")
    }

    impl Stage {
        fn push(&mut self, name: &str, ids: u128) -> u64 {
            let asked = (1..=ids).filter_map(|id| CustomerId::from_uuid(Uuid::from_u128(id))).collect();
            let entry = AuditEntry {
                id: Uuid::now_v7(),
                occurred_at: Utc::now(),
                tenant: tenant(name),
                action: "test",
                source: Source::Database,
                customer_ids: Vec::new(),
                key_id: "key".into(),
                request_id: RequestId::generate(),
                contact_id: None,
            };
            let (reply, caller) = oneshot::channel();
            self.callers.push(caller);
            let (since, wish) = (Instant::now(), Wish { entry, asked, missing: Vec::new() });
            self.queue.push(|number| Member { number, wish, since, deadline: since + Duration::from_mins(10), reply })
        }

        fn take(&mut self, sharing: Sharing) -> Vec<(String, u64)> {
            let group = self.queue.take(sharing);
            group.iter().map(|member| (member.tenant().as_str().to_owned(), member.number)).collect()
        }
    }

    fn count(group: &[(String, u64)], tenant: &str) -> usize {
        group.iter().filter(|(name, _)| name == tenant).count()
    }

    #[test]
    fn a_tenant_by_itself_is_served_in_the_order_of_arrival_as_many_at_a_time_as_fit() {
        let mut stage = Stage::default();
        let numbers: Vec<_> = (0..300).map(|_| stage.push("a", 10)).collect();
        let group: Vec<_> = stage.take(Sharing::All).into_iter().map(|(_, number)| number).collect();
        assert_eq!(group, numbers[..MAX_MEMBERS]);
        assert_eq!(stage.queue.len(), 300 - MAX_MEMBERS);
    }

    #[test]
    fn one_request_is_in_the_next_transaction_however_many_another_tenant_has_waiting() {
        let mut stage = Stage::default();
        for _ in 0..1000 {
            stage.push("flood", 10);
        }
        stage.push("other", 10);
        let group = stage.take(Sharing::All);
        assert_eq!((group.len(), count(&group, "other")), (TURNS * (CREDIT / 11) + 1, 1), "and that one is not long");
        assert_eq!(stage.take(Sharing::All).len(), TURNS * (CREDIT / 11), "nor is the next one, for those that come now");
    }

    #[test]
    fn tenants_share_customers_not_requests() {
        let mut stage = Stage::default();
        for _ in 0..1000 {
            stage.push("large", 99);
            stage.push("small", 9);
        }
        let groups: Vec<_> = (0..40).flat_map(|_| stage.take(Sharing::All)).collect();
        let (large, small) = (count(&groups, "large") * 100, count(&groups, "small") * 10);
        assert!(large.abs_diff(small) <= 2 * CREDIT, "{large} and {small} customers");
    }

    #[test]
    fn where_tenants_do_not_go_together_each_transaction_is_one_tenants_in_turn() {
        let mut stage = Stage::default();
        for _ in 0..300 {
            stage.push("a", 1);
        }
        stage.push("b", 1);
        let groups: Vec<_> = (0..3).map(|_| stage.take(Sharing::Tenant)).collect();
        let sizes: Vec<_> = groups.iter().map(|group| (count(group, "a"), count(group, "b"))).collect();
        let short = TURNS * CREDIT / 2;
        assert_eq!(sizes, [(short, 0), (0, 1), (short, 0)], "and a short one");
        assert_eq!(stage.take(Sharing::Off).len(), 1);
    }

    #[test]
    fn those_that_leave_or_have_gone_are_left_out() {
        let mut stage = Stage::default();
        let [first, second, third] = [stage.push("a", 1), stage.push("a", 0), stage.push("b", 1)];
        assert!(stage.queue.withdraw(tenant("a"), first));
        assert!(!stage.queue.withdraw(tenant("a"), first), "it has left");
        assert!(!stage.queue.withdraw(tenant("b"), second), "it is another tenant's");
        assert!(stage.queue.reads());
        drop(stage.callers.pop());
        assert_eq!(stage.take(Sharing::All), [("a".to_owned(), second)], "the caller of {third} has gone");
        assert_eq!((stage.queue.len(), stage.queue.reads(), stage.queue.members.len()), (0, false, 0));
    }
}
