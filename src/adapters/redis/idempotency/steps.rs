//! The steps of a key in Redis: scripts, since each has to compare and change in one go.

use std::sync::LazyLock;

use bb8_redis::redis::Script;

/// Each step runs as a whole or not at all. `KEYS`: lease, record, intent. `ARGV`: who asks, and times in milliseconds.
pub(super) struct Steps {
    pub(super) claim: Script,
    pub(super) renew: Script,
    pub(super) intend: Script,
    pub(super) complete: Script,
    pub(super) release: Script,
    pub(super) leave_unknown: Script,
    pub(super) resolve: Script,
    /// Names a key in a list, from a time on, and sees to it that the list has an end. `KEYS`: the list.
    pub(super) list: Script,
    /// Takes a key out of a list, unless it was named again since.
    pub(super) unlist: Script,
}

pub(super) static STEPS: LazyLock<Steps> = LazyLock::new(|| {
    // What each begins with: whose lease it is, and whose intent. A lease without an end is a lease.
    const WHOSE: &str = "\
        local lease, intent = redis.call('GET', KEYS[1]), redis.call('GET', KEYS[3])
        local intended = intent and string.sub(intent, 1, #ARGV[1]) == ARGV[1]
        local foreign = (lease and lease ~= ARGV[1]) or (intent and not intended)
        ";
    let step = |body: &str| Script::new(&[WHOSE, body].concat());
    Steps {
        claim: step(
            "local record = redis.call('GET', KEYS[2])
            if record then return {'done', record} end
            if foreign and lease then return {'leased', lease} end
            if foreign then return {'unknown', intent} end
            redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
            return {'won', false}",
        ),
        // An intent is kept for a time that begins when its lease ends.
        renew: step(
            "if foreign or redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
            if intent then redis.call('PEXPIRE', KEYS[3], ARGV[2] + string.match(intent, ' (%d+) ')) end
            redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
            return 1",
        ),
        intend: step(
            "if foreign or redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
            local value = intent or table.concat({ARGV[1], ARGV[3], ARGV[4], ARGV[5]}, ' ')
            redis.call('SET', KEYS[3], value, 'PX', ARGV[2] + ARGV[3])
            redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
            return 1",
        ),
        // The record goes first: where there is no memory for it, nothing has changed.
        complete: step(
            "local record = redis.call('GET', KEYS[2])
            if record then return {0, record} end
            if foreign then return {0, false} end
            redis.call('SET', KEYS[2], ARGV[3], 'PX', ARGV[2])
            redis.call('DEL', KEYS[1], KEYS[3])
            return {1, false}",
        ),
        release: step(
            "if lease == ARGV[1] then redis.call('DEL', KEYS[1]) end
            if intended then redis.call('DEL', KEYS[3]) end
            return 1",
        ),
        leave_unknown: step(
            "if intended and lease then
                redis.call('PEXPIRE', KEYS[3], string.match(intent, ' (%d+) '))
                redis.call('DEL', KEYS[1])
            end
            return 1",
        ),
        resolve: step(
            "if lease or not intended or redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
            if ARGV[3] ~= '' then redis.call('SET', KEYS[2], ARGV[3], 'PX', ARGV[2]) end
            redis.call('DEL', KEYS[3])
            return 1",
        ),
        list: Script::new(
            "redis.call('ZADD', KEYS[1], ARGV[2], ARGV[1])
            return redis.call('EXPIRE', KEYS[1], ARGV[3])",
        ),
        unlist: Script::new(
            "if redis.call('ZSCORE', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
            return redis.call('ZREM', KEYS[1], ARGV[1])",
        ),
    }
});
