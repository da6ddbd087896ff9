//! Where twins of one process wait for the first one's end.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::domain::Digest;

/// A room for each key that somebody waits for.
#[derive(Default)]
pub(super) struct Rooms(Mutex<HashMap<Digest, Arc<Room>>>);

/// Those who wait for one key.
#[derive(Default)]
pub(super) struct Room {
    /// Whoever has it looks at the store.
    pub(super) turn: tokio::sync::Mutex<()>,
    /// Tells that one that it is time to look.
    pub(super) finished: Notify,
}

/// A place in a room, which goes away with its last occupant.
pub(super) struct Place<'r> {
    rooms: &'r Rooms,
    hash: Digest,
    room: Arc<Room>,
}

impl Rooms {
    pub(super) fn enter(&self, hash: Digest) -> Place<'_> {
        let room = Arc::clone(self.all().entry(hash).or_default());
        Place { rooms: self, hash, room }
    }

    /// Wakes whoever looks; remembered until then, so that nobody misses it.
    pub(super) fn call(&self, hash: &Digest) {
        if let Some(room) = self.all().get(hash) {
            room.finished.notify_one();
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.all().is_empty()
    }

    fn all(&self) -> MutexGuard<'_, HashMap<Digest, Arc<Room>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Deref for Place<'_> {
    type Target = Room;

    fn deref(&self) -> &Room {
        &self.room
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut all = self.rooms.all();
        // Given up under the lock: of two who leave together, one is the last.
        self.room = Arc::default();
        if all.get(&self.hash).is_some_and(|room| Arc::strong_count(room) == 1) {
            all.remove(&self.hash);
        }
    }
}
