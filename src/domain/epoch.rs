//! Which database, and which of its histories, something was read from.

/// Which server answered: when it was started, in microseconds. A standby, a restored copy and a restarted server have another start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServerStart(pub i64);

/// Which history of which database: a number that no other history has. A restart, a promoted standby and a restored backup begin
/// another one, since they may lack what was committed last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Epoch(pub u64);
