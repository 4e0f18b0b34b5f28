//! Tests of `level`.

use super::*;

const QUEUES: Queuing = Queuing { queues: 64, hand: 6, length: 5 };

fn share(nominal: i64, lendable: i64, borrowing: i64) -> Share {
    Share { exempt: false, nominal, lendable, borrowing, queuing: Some(QUEUES) }
}

fn pool(shares: &[Share]) -> Vec<Arc<Level>> {
    let pool = Arc::new(Pool::default());
    let levels: Vec<Arc<Level>> = shares.iter().map(|share| Level::new("l", &pool, *share)).collect();
    pool.set(&levels);
    levels
}

const LONG: Duration = Duration::from_secs(60);

async fn take(level: &Arc<Level>, width: i64, flow: u64) -> Result<Seat, Refusal> {
    Level::enter(level, width, LONG, || flow).await
}

/// A request that waits, seen to be in its queue.
async fn wait(level: &Arc<Level>, flow: u64) -> tokio::task::JoinHandle<Result<Seat, Refusal>> {
    let (before, own) = (level.queued(), level.clone());
    let task = tokio::runtime::Handle::current().spawn(async move { take(&own, 1, flow).await });
    while level.queued() == before {
        tokio::task::yield_now().await;
    }
    task
}

#[test]
fn hands_are_dealt_without_repeats() {
    for hash in [0, 1, 63, u64::MAX, 0x1234_5678_9abc_def0] {
        let mut hand = deal(hash, 64, 6);
        assert!(hand.iter().all(|card| *card < 64));
        hand.sort_unstable();
        hand.dedup();
        assert_eq!(hand.len(), 6, "{hash}");
    }
    assert_eq!(deal(7, 1, 1), [0]);
    assert_eq!(deal(7, 3, 5).len(), 3);
}

#[tokio::test]
async fn seats_are_counted_and_given_on() {
    let level = &pool(&[share(2, 0, 0)])[0];
    let first = take(level, 1, 1).await.unwrap();
    let second = take(level, 1, 1).await.unwrap();
    let third = wait(level, 1).await;
    assert_eq!((level.executing(), level.queued()), (2, 1));
    drop(first);
    let third = third.await.unwrap().unwrap();
    assert_eq!((level.executing(), level.queued()), (2, 0));
    drop((second, third));
    assert_eq!(level.executing(), 0);
}

#[tokio::test]
async fn who_goes_away_leaves_the_queue_and_loses_no_seat() {
    let level = &pool(&[share(1, 0, 0)])[0];
    let seat = take(level, 1, 1).await.unwrap();
    let gone = wait(level, 1).await;
    let stays = wait(level, 1).await;
    gone.abort();
    assert!(gone.await.is_err());
    assert_eq!(level.queued(), 1);
    drop(seat);
    drop(stays.await.unwrap().unwrap());
    assert_eq!((level.executing(), level.queued()), (0, 0));
}

#[tokio::test]
async fn a_full_queue_refuses_its_own_flow_only() {
    let level = &pool(&[share(1, 0, 0)])[0];
    let _seat = take(level, 1, 0).await.unwrap();
    let (noisy, quiet) = (11, 0x0fff_ffff_ffff);
    let mut waiting = Vec::new();
    // A flow has six queues of five.
    for _ in 0..30 {
        waiting.push(wait(level, noisy).await);
    }
    assert_eq!(take(level, 1, noisy).await.err(), Some(Refusal::QueueFull));
    waiting.push(wait(level, quiet).await);
    assert_eq!(level.queued(), 31);
    waiting.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn a_quiet_flow_does_not_wait_for_a_noisy_one() {
    let level = &pool(&[share(1, 0, 0)])[0];
    let seat = take(level, 1, 0).await.unwrap();
    let (noisy, quiet) = (11, 0x0fff_ffff_ffff);
    let mut flood = Vec::new();
    for _ in 0..20 {
        flood.push(wait(level, noisy).await);
    }
    // The flood has had its turn once: from then on its queues have had more than the quiet one's.
    drop(seat);
    let mut turns = 0;
    let mut late = wait(level, quiet).await;
    while !late.is_finished() {
        let done = flood.iter().position(tokio::task::JoinHandle::is_finished);
        if let Some(done) = done {
            turns += 1;
            drop(flood.swap_remove(done).await.unwrap().unwrap());
        }
        tokio::task::yield_now().await;
    }
    assert!(turns <= 7, "at most once for each of the flood's queues: {turns}");
    drop((&mut late).await.unwrap().unwrap());
    flood.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn levels_lend_what_they_do_not_need() {
    let levels = pool(&[share(4, 2, 0), share(2, 0, 100), share(2, 0, 1)]);
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(take(&levels[1], 1, 1).await.unwrap());
    }
    let fifth = wait(&levels[1], 1).await;
    assert_eq!(levels[1].executing(), 4, "two of its own, two that are lent");
    // The lender has its own back at once.
    for _ in 0..4 {
        held.push(take(&levels[0], 1, 1).await.unwrap());
    }
    assert_eq!(levels[0].executing(), 4);
    // Nothing is lent while the lender needs all, and a borrower stops at its limit.
    held.push(take(&levels[2], 2, 1).await.unwrap());
    let borrower = wait(&levels[2], 1).await;
    held.drain(4..8);
    held.drain(..3);
    drop(fifth.await.unwrap().unwrap());
    drop(borrower.await.unwrap().unwrap());
    drop(held);
    assert!(levels.iter().all(|level| level.executing() == 0));
}

#[tokio::test(start_paused = true)]
async fn patience_ends() {
    let level = &pool(&[share(1, 0, 0)])[0];
    let _seat = take(level, 1, 1).await.unwrap();
    assert_eq!(take(level, 1, 1).await.err(), Some(Refusal::TimeOut));
    assert_eq!(level.queued(), 0);
    let reject = &pool(&[Share { queuing: None, ..share(1, 0, 0) }])[0];
    let _seat = take(reject, 1, 1).await.unwrap();
    assert_eq!(take(reject, 1, 1).await.err(), Some(Refusal::ConcurrencyLimit));
    let exempt = &pool(&[Share { exempt: true, ..share(0, 0, 0) }])[0];
    let _all: Vec<Seat> = futures::future::join_all((0..100).map(|_| take(exempt, 1, 1)))
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
}
