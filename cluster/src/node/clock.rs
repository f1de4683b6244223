//! Group time at a leader (R32): the last stamp plus the leader's monotonic elapsed time.
//!
//! Group time 0 is the creation of the cluster. The wall clock says how long a full stop took and nothing else, so
//! group time does not follow when somebody sets it. The node notes both clocks with every checkpoint and when it
//! stops; at its start the wall clock's way since the last note is added to that note. With others each start tells
//! `meta` what comes out, and what a majority of starts that do not serve yet say has passed.
//!
//! All groups of a node go by one clock, which also follows the stamps that others' leaders have put into entries: times
//! of different groups are compared (a session's queues are in all of them).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use quorate_storage::volume::{ClockFile, ClockNote, VolumeError};

use crate::state::GroupTime;

/// A stop longer than this is worth a line in the log.
const GAP_TOLD: Duration = Duration::from_secs(60);
/// A stop longer than this is rather a wrong clock.
const GAP_DOUBTED: Duration = Duration::from_secs(30 * 24 * 3600);

/// A wall clock that is set by more than this while the node runs is worth a line in the log.
const JUMP_TOLD: Duration = Duration::from_secs(5);
/// Time between looks at it.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// A look that took so long says nothing: the process did not run between the two clocks.
const LOOK_MAX: Duration = Duration::from_millis(500);

/// A wall clock that is behind for so long is right.
const BELIEVED_AFTER: Duration = Duration::from_secs(24 * 3600);

/// Stamps the entries a leader proposes.
#[derive(Debug)]
pub struct GroupClock {
    origin: Instant,
    /// Group time at the origin.
    base: AtomicU64,
    /// Group time when this start of the node was complete.
    started: AtomicU64,
}

impl Default for GroupClock {
    /// A clock that shows the beginning until it hears of later times.
    fn default() -> Self {
        Self {
            origin: Instant::now(),
            base: AtomicU64::new(0),
            started: AtomicU64::new(0),
        }
    }
}

impl GroupClock {
    /// Goes on from `last`, the last stamp of the groups' logs, and from what was `noted` last. `wall_now` is the wall
    /// clock's time now.
    ///
    /// The log may end behind the note, where the node did not stop in order, or before it, where nothing was proposed
    /// any more. A wall clock that went back adds nothing.
    pub fn resume(&self, last: GroupTime, noted: Option<ClockNote>, wall_now: SystemTime) {
        let by_wall = noted.map_or(GroupTime(0), |noted| time_by_wall(&noted, wall_now));
        self.advance_to(last.max(by_wall));
        self.started.store(self.stamp().0, Ordering::Release);
    }

    /// Follows a stamp that somebody's clock has shown already.
    pub fn advance_to(&self, stamp: GroupTime) {
        let base = stamp.0.saturating_sub(self.elapsed());
        // Seldom: mostly the stamps are this node's own, or of clocks that go as fast.
        if base > self.base.load(Ordering::Relaxed) {
            self.base.fetch_max(base, Ordering::AcqRel);
        }
    }

    fn elapsed(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(0)
    }

    /// Group time when this start of the node was complete: what is older came before it.
    pub fn started(&self) -> GroupTime {
        GroupTime(self.started.load(Ordering::Acquire))
    }

    /// The stamp of an entry proposed now.
    pub fn stamp(&self) -> GroupTime {
        GroupTime(self.base.load(Ordering::Acquire) + self.elapsed())
    }

    /// How long until the clock shows `deadline`; zero when it has passed.
    pub fn until(&self, deadline: GroupTime) -> Duration {
        Duration::from_millis(deadline.0.saturating_sub(self.stamp().0))
    }
}

/// Group time at `wall_now` by the wall clock's way since the note.
fn time_by_wall(noted: &ClockNote, wall_now: SystemTime) -> GroupTime {
    GroupTime(noted.group_millis.saturating_add(millis_since(noted, wall_now)))
}

/// How far the wall clock has come since the note; 0 where it went back.
fn millis_since(noted: &ClockNote, wall_now: SystemTime) -> u64 {
    let now = ClockNote::new(0, wall_now).wall_millis;
    // Half of what there is, so that group time can still go on from there.
    now.saturating_sub(noted.wall_millis).min(u64::MAX / 2)
}

/// What to note of group time `now` and the wall clock, `elapsed` after a start whose last run noted `noted_wall`.
///
/// A machine without a clock of its own may start years back and be corrected minutes later. To the start after that,
/// the years would be a stop. So the wall clock that is noted does not go back, unless it stays back for long.
fn note_at(now: GroupTime, elapsed: Duration, noted_wall: u64, wall_now: SystemTime) -> ClockNote {
    let note = ClockNote::new(now.0, wall_now);
    if elapsed > BELIEVED_AFTER {
        return note;
    }
    let at_least = noted_wall.saturating_add(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX));
    ClockNote {
        wall_millis: note.wall_millis.max(at_least),
        ..note
    }
}

/// Tells the operator what the start makes of the wall clock, where that is not what anybody expects.
fn tell_gap(noted: &ClockNote, wall_now: SystemTime) {
    let behind = noted
        .wall_millis
        .saturating_sub(ClockNote::new(0, wall_now).wall_millis);
    let behind = Duration::from_millis(behind);
    let gap = Duration::from_millis(millis_since(noted, wall_now));
    if behind > GAP_TOLD {
        tracing::warn!(
            behind_secs = behind.as_secs(),
            "the machine's clock shows an earlier time than in the last run; the time the node was stopped does not \
             count for the expiry of sessions and messages"
        );
    } else if gap > GAP_DOUBTED {
        tracing::warn!(
            stopped_days = gap.as_secs() / (24 * 3600),
            "by the machine's clock the node was stopped for very long; sessions and messages whose expiry is shorter \
             end now. Check the clock"
        );
    } else if gap > GAP_TOLD {
        tracing::info!(
            stopped_secs = gap.as_secs(),
            "the time the node was stopped counts for the expiry of sessions and messages"
        );
    }
}

/// Both of the machine's clocks at one moment.
#[derive(Clone, Copy, Debug)]
struct Look {
    elapsed: Duration,
    wall: SystemTime,
}

impl Look {
    /// `None` where the process stood still between the two.
    fn take(origin: Instant) -> Option<Self> {
        let (elapsed, wall) = (origin.elapsed(), SystemTime::now());
        (origin.elapsed() - elapsed < LOOK_MAX).then_some(Self { elapsed, wall })
    }

    /// By how many seconds the wall clock was set since `last`; `None` where it was not, or not by much.
    fn jump_since(self, last: Self) -> Option<i64> {
        let expected = last.wall + self.elapsed.saturating_sub(last.elapsed);
        let secs = |way: Duration| i64::try_from(way.as_secs()).unwrap_or(i64::MAX);
        match self.wall.duration_since(expected) {
            Ok(ahead) => (ahead > JUMP_TOLD).then(|| secs(ahead)),
            Err(behind) => (behind.duration() > JUMP_TOLD).then(|| -secs(behind.duration())),
        }
    }
}

/// Tells the operator once of each time that somebody sets the wall clock, or that the machine stood still, for as long as
/// the node runs.
pub(super) async fn watch_wall_clock() {
    let origin = Instant::now();
    let mut last = Look::take(origin);
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        let Some(now) = Look::take(origin) else {
            continue;
        };
        if let Some(jumped_secs) = last.and_then(|last| now.jump_since(last)) {
            tracing::warn!(
                jumped_secs,
                "the machine's clock was set, or the machine stood still; group time goes on as before, and nothing \
                 expires by this. Check the clock"
            );
        }
        last = Some(now);
    }
}

/// A node's clock, and where it is noted.
#[derive(Debug)]
pub(super) struct NotedClock {
    file: ClockFile,
    clock: Arc<GroupClock>,
    /// What the last run noted.
    noted: Option<ClockNote>,
    /// One note at a time, so that none is replaced by an older one.
    notes: Mutex<Notes>,
}

/// Whether a clock is noted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Notes {
    /// Not yet: until the node serves, it may still learn how long all nodes were stopped.
    #[default]
    Starting,
    Running,
    /// Not any more.
    Closed,
}

impl NotedClock {
    /// `clock`, with what `file` says of the last run. Blocks.
    pub(super) fn read(file: ClockFile, clock: Arc<GroupClock>) -> Self {
        // Without a note the stop counts as none: sessions live longer, which harms nobody.
        let noted = file.read().unwrap_or_else(|error| {
            tracing::warn!(%error, "the time the node was stopped is not known and does not count");
            None
        });
        Self {
            file,
            clock,
            noted,
            notes: Mutex::default(),
        }
    }

    /// Group time by the wall clock, the stop included; 0 where nothing was noted.
    pub(super) fn time_by_wall(&self) -> GroupTime {
        self.noted
            .map_or(GroupTime(0), |noted| time_by_wall(&noted, SystemTime::now()))
    }

    /// Lets the clock go on from `last`, and by the wall clock where this node is `alone`. With others a majority of
    /// them says how long nobody ran: they may have run on.
    pub(super) fn resume(&self, last: GroupTime, alone: bool) {
        let wall_now = SystemTime::now();
        let noted = self.noted.filter(|_| alone);
        if let Some(noted) = &noted {
            tell_gap(noted, wall_now);
        }
        self.clock.resume(last, noted, wall_now);
    }

    /// `meta` says that so much group time has passed by the clocks of a majority, a stop of all nodes included. Whether
    /// that is later than it was here.
    pub(super) fn count_full_stop(&self, time: GroupTime) -> bool {
        let noted = self.noted.map_or(0, |noted| noted.group_millis);
        let stopped = Duration::from_millis(time.0.saturating_sub(noted));
        let is_later = time > self.clock.stamp();
        if stopped > GAP_TOLD && is_later {
            tracing::info!(
                stopped_secs = stopped.as_secs(),
                "by the clocks of a majority all nodes were stopped; this counts for the expiry of sessions and messages"
            );
        }
        self.clock.advance_to(time);
        is_later
    }

    /// The node serves: its clock is noted from now on.
    pub(super) fn begin(&self) {
        let mut notes = self.notes.lock();
        if *notes == Notes::Starting {
            *notes = Notes::Running;
        }
    }

    /// Notes both clocks; after the `last` note nothing is written any more.
    pub(super) async fn note(self: &Arc<Self>, last: bool) {
        let clock = Arc::clone(self);
        if tokio::task::spawn_blocking(move || clock.note_or_warn(last))
            .await
            .is_err()
        {
            tracing::error!("noting the clock panicked");
        }
    }

    fn note_or_warn(&self, last: bool) {
        if let Err(error) = self.write_note(last) {
            tracing::warn!(%error, "the clock could not be noted; after a restart, time since the last note may not count");
        }
    }

    fn write_note(&self, last: bool) -> Result<(), VolumeError> {
        let mut notes = self.notes.lock();
        if *notes != Notes::Running {
            return Ok(());
        }
        if last {
            *notes = Notes::Closed;
        }
        let elapsed = self.clock.origin.elapsed();
        self.file.write(note_at(
            self.clock.stamp(),
            elapsed,
            self.noted.map_or(0, |noted| noted.wall_millis),
            SystemTime::now(),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;

    fn wall(millis: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(millis)
    }

    fn resumed(last: u64, noted: (u64, u64), wall_now: u64) -> u64 {
        let noted = ClockNote::new(noted.0, wall(noted.1));
        let clock = GroupClock::default();
        clock.resume(GroupTime(last), Some(noted), wall(wall_now));
        clock.started().0
    }

    #[test]
    fn r32_a_stop_counts_once_wherever_the_log_ends() {
        let created = 1_700_000_000_000;
        let noted = (5 * HOUR, created + 5 * HOUR);
        let now = created + 7 * HOUR;
        assert_eq!(resumed(4 * HOUR, noted, now), 7 * HOUR, "idle before the note");
        assert_eq!(resumed(5 * HOUR, noted, now), 7 * HOUR);
        assert_eq!(
            resumed(6 * HOUR, noted, now),
            7 * HOUR,
            "killed an hour after the note"
        );
    }

    #[test]
    fn r32_setting_the_wall_clock_while_the_node_runs_is_no_stop() {
        let week = 7 * 24 * HOUR;
        let today = 1_700_000_000_000;
        // Created in 1970, corrected, noted since.
        assert_eq!(
            resumed(week, (week, today + week), today + week + HOUR),
            week + HOUR
        );
        // Created ten years ahead, corrected, noted since: the stop counts all the same.
        assert_eq!(
            resumed(week, (week, today - 87_600 * HOUR), today - 87_599 * HOUR),
            week + HOUR
        );
    }

    #[test]
    fn r32_a_run_with_a_clock_that_is_behind_is_no_stop() {
        let today = 1_700_000_000_000;
        let clock = GroupClock::default();
        clock.resume(GroupTime(0), Some(ClockNote::new(5, wall(today))), wall(0));
        let noted = note_at(clock.stamp(), GAP_TOLD, today, wall(10));
        assert!(noted.wall_millis >= today);
        let next = GroupClock::default();
        next.resume(clock.stamp(), Some(noted), wall(today + HOUR));
        assert!(next.started().0 <= 2 * HOUR, "{:?}", next.started());
        // Kept back for long, it is believed.
        let noted = note_at(clock.stamp(), BELIEVED_AFTER + GAP_TOLD, today, wall(HOUR));
        assert_eq!(noted.wall_millis, HOUR);
    }

    #[test]
    fn r32_a_wall_clock_that_is_set_while_the_node_runs_is_told() {
        let look = |elapsed_secs: u64, wall_secs: u64| Look {
            elapsed: Duration::from_secs(elapsed_secs),
            wall: wall(wall_secs * 1000),
        };
        let last = look(100, 1_000_000);
        for (now, jump) in [
            (look(101, 1_000_001), None),
            (look(160, 1_000_060), None),
            (look(101, 1_000_004), None),
            (look(101, 999_999), None),
            (look(101, 1_000_011), Some(10)),
            (look(101, 1_000_001 + 86_400), Some(86_400)),
            (look(101, 1_000_001 - 86_400), Some(-86_400)),
            (look(200, 1_000_001), Some(-99)),
        ] {
            assert_eq!(now.jump_since(last), jump, "{now:?}");
        }
    }

    #[test]
    fn r32_time_never_goes_back() {
        let noted = (9 * HOUR, 1_700_000_000_000);
        assert_eq!(resumed(8 * HOUR, noted, 1_600_000_000_000), 9 * HOUR);
        assert_eq!(resumed(10 * HOUR, noted, 1_600_000_000_000), 10 * HOUR);
        assert_eq!(resumed(10 * HOUR, noted, 0), 10 * HOUR);
        let before_1970 = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
        let clock = GroupClock::default();
        clock.resume(GroupTime(3), None, before_1970);
        assert_eq!(clock.started(), GroupTime(3));
        assert!(clock.stamp() >= GroupTime(3));
        let absurd = ClockNote {
            group_millis: 1,
            wall_millis: 0,
        };
        let far = wall(1_700_000_000_000_000);
        clock.resume(GroupTime(3), Some(absurd), far);
        assert!(clock.stamp() > GroupTime(3));
    }

    #[test]
    fn r32_the_clock_follows_what_others_have_stamped() {
        let clock = GroupClock::default();
        clock.advance_to(GroupTime(HOUR));
        assert!(clock.stamp() >= GroupTime(HOUR));
        clock.advance_to(GroupTime(5));
        assert!(clock.stamp() >= GroupTime(HOUR), "it never goes back");
    }
}
