//! What may be believed of what was read before: nothing that was read before a change that was not named customer by customer,
//! before we listened, or before the shared cache lost something.
//!
//! A reading carries the database's time, a transaction id that had not been given out yet when it was made. A beat brings such
//! an id that was given out after it was sent. So a reading whose time is past a beat's was made after that beat was sent, and
//! has seen all that was committed before.
//!
//! Transaction ids are compared within one history of one database, its epoch. Those of another one mean nothing: a standby that lags
//! and is promoted gives ids out again.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use crate::app::ports::Beat;
use crate::domain::{Epoch, ServerStart, TenantId};

/// Beats are not further apart than this. A process that was stopped and goes on learns by it that it has missed some, before
/// anybody can tell it.
const BEATS_WITHIN: Duration = Duration::from_millis(1500);

/// More tenants than this are not doubted one by one.
const MAX_TENANTS: usize = 1_000;

/// Since when readings are believed.
#[derive(Clone, Copy, Debug)]
enum Since {
    /// Readings later than this.
    Time(u64),
    /// None, until a later beat than this one comes back.
    After(u64),
}

impl Since {
    /// A reading is believed whose time is greater.
    fn horizon(self) -> u64 {
        match self {
            Self::Time(time) => time,
            Self::After(_) => u64::MAX,
        }
    }

    /// A time of another history means nothing in the one that a beat is from.
    fn leave_epoch(&mut self, beat: u64) {
        if matches!(*self, Self::Time(_)) {
            *self = Self::After(beat);
        }
    }

    fn heard(&mut self, beat: u64, time: u64) {
        if matches!(*self, Self::After(doubted) if beat > doubted) {
            *self = Self::Time(time);
        }
    }
}

/// The horizons of one lookup.
#[derive(Clone, Copy, Debug)]
pub(super) struct Horizons {
    /// The history whose readings are believed.
    pub(super) epoch: Epoch,
    /// The server of that history.
    pub(super) server: ServerStart,
    /// Of anything read.
    pub(super) all: u64,
    /// Of what the shared cache says, while it is in this incarnation.
    pub(super) shared: u64,
    /// None: whichever.
    pub(super) incarnation: Option<u64>,
}

/// Since when readings are believed, in all and of some tenants.
pub(super) struct Trust(RwLock<State>);

struct State {
    epoch: Epoch,
    server: ServerStart,
    /// The latest time of this epoch.
    latest: u64,
    all: Since,
    shared: Since,
    /// The shared cache's, when it was last believed. None: whichever.
    incarnation: Option<u64>,
    tenants: HashMap<TenantId, Since>,
    /// The last beat sent, and the shared cache's incarnation before it was.
    sent: (u64, u64),
    /// When the last beat was heard. None: there are none.
    heard: Option<Instant>,
}

impl Trust {
    /// Believes nothing before the first beat; or everything, where nothing ever changes.
    pub(super) fn new(changes: bool) -> Self {
        let since = if changes { Since::After(0) } else { Since::Time(0) };
        Self(RwLock::new(State {
            epoch: Epoch::default(),
            server: ServerStart::default(),
            latest: 0,
            all: since,
            shared: since,
            incarnation: changes.then_some(0),
            tenants: HashMap::new(),
            sent: (0, 0),
            heard: changes.then(Instant::now),
        }))
    }

    /// Whether no beat was heard for too long, or since the last loss.
    pub(super) fn is_deaf(&self, now: Instant) -> bool {
        let state = self.read();
        state.is_overdue(now) || (state.heard.is_some() && matches!(state.all, Since::After(0)))
    }

    /// What to believe of this tenant's customers.
    pub(super) fn horizons(&self, tenant: &TenantId, now: Instant) -> Horizons {
        let state = self.read();
        if state.is_overdue(now) {
            return state.horizons(u64::MAX, u64::MAX);
        }
        let own = if state.tenants.is_empty() { None } else { state.tenants.get(tenant) };
        let all = state.all.horizon().max(own.map_or(0, |since| since.horizon()));
        state.horizons(all, all.max(state.shared.horizon()))
    }

    /// The history that was heard of last.
    pub(super) fn epoch(&self) -> Epoch {
        self.read().epoch
    }

    pub(super) fn beat_sent(&self, beat: u64, incarnation: u64) {
        self.write().sent = (beat, incarnation);
    }

    pub(super) fn beat_heard(&self, Beat { number: beat, seen: time, server, epoch }: Beat) {
        let mut state = self.write();
        if state.epoch != epoch {
            (state.epoch, state.server, state.latest) = (epoch, server, 0);
            state.all.leave_epoch(beat);
            state.shared.leave_epoch(beat);
            state.tenants.values_mut().for_each(|since| since.leave_epoch(beat));
        }
        // An id that is given out again does not tell what was read before from what is read now.
        let time = time.max(state.latest);
        state.latest = time;
        let (sent, incarnation) = state.sent;
        state.heard = Some(Instant::now());
        state.all.heard(beat, time);
        let all = state.all.horizon();
        state.tenants.values_mut().for_each(|since| since.heard(beat, time));
        state.tenants.retain(|_, since| since.horizon() > all);
        state.shared.heard(beat, time);
        if sent == beat && state.incarnation != Some(incarnation) {
            state.incarnation = Some(incarnation);
            state.shared = Since::Time(time);
        }
    }

    /// Nothing that was read until now, and nothing until the next beat. Beats are counted anew.
    pub(super) fn lose(&self) {
        let mut state = self.write();
        state.sent = (0, 0);
        state.all = Since::After(0);
        state.shared = Since::After(0);
        state.tenants.clear();
    }

    pub(super) fn doubt_all(&self) {
        let mut state = self.write();
        state.all = Since::After(state.sent.0);
        state.tenants.clear();
    }

    pub(super) fn doubt_tenants(&self, tenants: impl IntoIterator<Item = TenantId>) {
        let mut state = self.write();
        let since = Since::After(state.sent.0);
        state.tenants.extend(tenants.into_iter().map(|tenant| (tenant, since)));
        if state.tenants.len() > MAX_TENANTS {
            state.all = since;
            state.tenants.clear();
        }
    }

    pub(super) fn doubt_shared(&self) {
        let mut state = self.write();
        state.shared = Since::After(state.sent.0);
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_overdue(&self, now: Instant) -> bool {
        self.heard.is_some_and(|heard| now.saturating_duration_since(heard) > BEATS_WITHIN)
    }

    fn horizons(&self, all: u64, shared: u64) -> Horizons {
        Horizons { epoch: self.epoch, server: self.server, all, shared, incarnation: self.incarnation }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beat(number: u64, seen: u64, epoch: u64) -> Beat {
        Beat { number, seen, server: ServerStart(epoch.cast_signed()), epoch: Epoch(epoch) }
    }

    fn believed(trust: &Trust, tenant: &str, seen: u64) -> anyhow::Result<(bool, bool)> {
        let horizons = trust.horizons(&tenant.parse()?, Instant::now());
        Ok((seen > horizons.all, seen > horizons.shared))
    }

    #[test]
    fn nothing_is_believed_before_a_beat_and_then_what_was_read_after_it() -> anyhow::Result<()> {
        let trust = Trust::new(true);
        assert_eq!(believed(&trust, "a", 1000)?, (false, false));
        trust.beat_sent(1, 0);
        trust.beat_heard(beat(1, 50, 1));
        assert_eq!((believed(&trust, "a", 50)?, believed(&trust, "a", 51)?), ((false, false), (true, true)));
        trust.lose();
        assert_eq!(believed(&trust, "a", 1000)?, (false, false));
        Ok(())
    }

    #[test]
    fn a_doubt_is_not_resolved_by_a_beat_that_was_under_way() -> anyhow::Result<()> {
        let trust = Trust::new(true);
        trust.beat_sent(1, 0);
        trust.beat_heard(beat(1, 50, 1));
        trust.beat_sent(2, 0);
        trust.doubt_tenants(["a".parse()?]);
        trust.doubt_shared();
        trust.beat_heard(beat(2, 60, 1));
        assert_eq!((believed(&trust, "a", 100)?, believed(&trust, "b", 100)?), ((false, false), (true, false)));
        trust.beat_sent(3, 0);
        trust.beat_heard(beat(3, 70, 1));
        assert_eq!((believed(&trust, "a", 70)?, believed(&trust, "a", 71)?), ((false, false), (true, true)));
        assert_eq!((believed(&trust, "b", 55)?, believed(&trust, "b", 71)?), ((true, false), (true, true)));
        Ok(())
    }

    #[test]
    fn a_shared_cache_that_was_restarted_is_believed_from_a_beat_after_that() -> anyhow::Result<()> {
        let trust = Trust::new(true);
        trust.beat_sent(1, 7);
        trust.beat_heard(beat(1, 50, 1));
        assert_eq!(trust.horizons(&"a".parse()?, Instant::now()).incarnation, Some(7));
        trust.beat_sent(2, 8);
        trust.beat_heard(beat(2, 60, 1));
        let horizons = trust.horizons(&"a".parse()?, Instant::now());
        assert_eq!((horizons.all, horizons.shared, horizons.incarnation), (50, 60, Some(8)));
        Ok(())
    }

    #[test]
    fn where_no_beat_was_heard_for_long_nothing_is_believed() -> anyhow::Result<()> {
        let trust = Trust::new(true);
        trust.beat_sent(1, 0);
        trust.beat_heard(beat(1, 50, 1));
        let later = Instant::now() + BEATS_WITHIN + Duration::from_millis(1);
        assert_eq!(trust.horizons(&"a".parse()?, later).all, u64::MAX);
        Ok(())
    }

    #[test]
    fn tenants_past_counting_are_all() -> anyhow::Result<()> {
        let trust = Trust::new(true);
        trust.beat_sent(1, 0);
        trust.beat_heard(beat(1, 50, 1));
        trust.doubt_tenants((0..=MAX_TENANTS).filter_map(|n| format!("t{n}").parse().ok()));
        assert_eq!(believed(&trust, "other", 100)?, (false, false));
        Ok(())
    }

    #[test]
    fn the_ids_of_another_history_are_not_compared() -> anyhow::Result<()> {
        let trust = Trust::new(true);
        trust.beat_sent(1, 0);
        trust.beat_heard(beat(1, 1884, 1));
        trust.lose();
        trust.beat_sent(1, 0);
        trust.beat_heard(beat(1, 1529, 2));
        let horizons = trust.horizons(&"a".parse()?, Instant::now());
        assert_eq!((horizons.epoch, horizons.server, horizons.all), (Epoch(2), ServerStart(2), 1529));
        Ok(())
    }

    #[test]
    fn ids_that_are_given_out_again_are_not_believed_before_they_have_passed_the_latest() -> anyhow::Result<()> {
        let trust = Trust::new(true);
        trust.beat_sent(1, 0);
        trust.beat_heard(beat(1, 1884, 1));
        trust.lose();
        trust.beat_sent(1, 0);
        trust.beat_heard(beat(1, 1529, 1));
        assert_eq!((believed(&trust, "a", 1800)?, believed(&trust, "a", 1885)?), ((false, false), (true, true)));
        Ok(())
    }

    #[test]
    fn a_doubt_outlives_the_first_beat_of_a_history_where_it_came_after_that_beat_was_sent() -> anyhow::Result<()> {
        let trust = Trust::new(true);
        trust.beat_sent(1, 0);
        trust.doubt_all();
        trust.beat_heard(beat(1, 50, 1));
        assert_eq!(believed(&trust, "a", 100)?, (false, false));
        trust.beat_sent(2, 0);
        trust.beat_heard(beat(2, 60, 1));
        assert_eq!(believed(&trust, "a", 100)?, (true, true));
        Ok(())
    }
}
