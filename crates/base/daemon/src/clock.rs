//! The one clock: wall time for what people read, in the two forms that the Kubernetes API prints, and waiting for a
//! wall time.
//!
//! Wall time jumps: somebody sets it, a machine wakes up. Timers of the runtime do not notice, so who waits for a wall
//! time uses [`sleep_until`], which looks again whenever the clock was set ([`follow`] hears of it from the kernel).

use std::{
    fs::File,
    io::{self, Read},
    os::fd::{FromRawFd, OwnedFd},
    sync::{
        LazyLock,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use jiff::{SignedDuration, Timestamp, Unit};
use tokio::{io::unix::AsyncFd, sync::watch};

use crate::{Backoff, Policy, Supervisor};

/// Nanoseconds that [`shift`] has added.
static SHIFT: AtomicI64 = AtomicI64::new(0);

/// Counts how often the clock was set.
static JUMPS: LazyLock<watch::Sender<u64>> = LazyLock::new(watch::Sender::default);

/// Longest single sleep while waiting for a wall time; bounds the harm where no jump is told.
const LONGEST: Duration = Duration::from_secs(6 * 3600);

/// The current wall time.
#[must_use]
pub fn now() -> Timestamp {
    let now = Timestamp::now();
    match SHIFT.load(Ordering::Relaxed) {
        0 => now,
        shift => now.checked_add(SignedDuration::from_nanos(shift)).unwrap_or(now),
    }
}

/// Moves this process's wall clock, for tests of what happens when a clock is set. Adds up; everybody who waits is woken.
pub fn shift(by: SignedDuration) {
    let nanos = i64::try_from(by.as_nanos()).unwrap_or(i64::MAX);
    SHIFT.fetch_add(nanos, Ordering::Relaxed);
    JUMPS.send_modify(|count| *count += 1);
}

/// Changes whenever the clock was set.
#[must_use]
pub fn jumps() -> watch::Receiver<u64> {
    JUMPS.subscribe()
}

/// Waits until the wall clock shows `at`, even when it is set meanwhile.
pub async fn sleep_until(at: Timestamp) {
    let mut jumps = jumps();
    loop {
        let Ok(left) = Duration::try_from(at.duration_since(now())) else { return };
        if left.is_zero() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(left.min(LONGEST)) => {}
            // The sender is a static and never goes away.
            _ = jumps.changed() => {}
        }
    }
}

/// Starts the task that hears from the kernel when the system's clock is set, or the machine wakes up.
pub fn follow(supervisor: &Supervisor) {
    let policy = Policy::Restart(Backoff::new(Duration::from_secs(1), Duration::from_secs(300)));
    supervisor.supervise("clock", policy, || async {
        // SAFETY: the file owns its descriptor, and the AsyncFd the file, to the end.
        let timer = unsafe { AsyncFd::register(cancelled_when_set()?) }.map_err(io::Error::from)?;
        loop {
            let mut ready = timer.readable().await?;
            match ready.try_io(|timer| timer.get_ref().read(&mut [0; 8])) {
                Ok(Err(error)) if error.raw_os_error() == Some(libc::ECANCELED) => {
                    JUMPS.send_modify(|count| *count += 1);
                }
                Ok(Err(error)) => return Err(error),
                // The timer itself lies in a far future; when it comes, it comes once.
                Ok(Ok(_)) | Err(_) => {}
            }
        }
    });
}

/// A timer of the wall clock that fails with ECANCELED when the clock is set (timerfd_create(2)).
fn cancelled_when_set() -> io::Result<File> {
    // SAFETY: takes two integers and returns a new descriptor or -1.
    let fd = unsafe { libc::timerfd_create(libc::CLOCK_REALTIME, libc::TFD_NONBLOCK | libc::TFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made and nobody else has it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let never = libc::timespec { tv_sec: libc::time_t::from(i32::MAX), tv_nsec: 0 };
    let none = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let order = libc::itimerspec { it_interval: none, it_value: never };
    let flags = libc::TFD_TIMER_ABSTIME | libc::TFD_TIMER_CANCEL_ON_SET;
    // SAFETY: the descriptor is a timer, `order` outlives the call, and no old value is asked for.
    let set = unsafe {
        libc::timerfd_settime(
            std::os::fd::AsRawFd::as_raw_fd(&fd),
            flags,
            &raw const order,
            std::ptr::null_mut(),
        )
    };
    if set < 0 { Err(io::Error::last_os_error()) } else { Ok(File::from(fd)) }
}

/// `metav1.Time`: RFC 3339 in UTC with whole seconds, `2006-01-02T15:04:05Z`.
#[must_use]
pub fn rfc3339(at: Timestamp) -> String {
    Timestamp::from_second(at.as_second()).unwrap_or(at).to_string()
}

/// `metav1.MicroTime`: RFC 3339 in UTC with exactly six fractional digits, `2006-01-02T15:04:05.000000Z`.
#[must_use]
pub fn rfc3339_micro(at: Timestamp) -> String {
    let at = at.round(Unit::Microsecond).unwrap_or(at);
    format!("{at:.6}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_have_fixed_precision() {
        let at: Timestamp = "2026-11-22T09:00:01.250Z".parse().unwrap();
        assert_eq!(rfc3339(at), "2026-11-22T09:00:01Z");
        assert_eq!(rfc3339_micro(at), "2026-11-22T09:00:01.250000Z");
        let whole: Timestamp = "2026-11-22T09:00:01Z".parse().unwrap();
        assert_eq!(rfc3339_micro(whole), "2026-11-22T09:00:01.000000Z");
    }

    #[tokio::test]
    async fn who_waits_notices_that_the_clock_was_set() {
        let supervisor = Supervisor::new();
        let hour = SignedDuration::from_hours(1);
        let at = now().checked_add(hour).unwrap();
        let waits = supervisor.spawn("waits", sleep_until(at));
        tokio::task::yield_now().await;
        shift(hour);
        tokio::time::timeout(Duration::from_secs(10), waits.join()).await.unwrap();
        shift(-hour);
        follow(&supervisor);
        supervisor.shutdown(Duration::from_secs(5)).await;
    }
}
