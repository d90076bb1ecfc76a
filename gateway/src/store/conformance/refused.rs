//! Checks of logs that refuse: a full one keeps out its own changes, a failed one everything.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::task::Poll;

use tokio::sync::oneshot;

use super::logged::{Log, Made};
use super::samples::{ACME, two_organizations, user};
use super::{Checked, Place, apply, refused_as};
use crate::BoxFuture;
use crate::model::UserId;
use crate::store::{Change, LogError, LogStep, Store, StoreError, UserRef, Version};

const NOT_LOGGED: &str = "the changes could not be logged";

fn add(id: i64) -> Vec<Change> {
    vec![Change::PutUser(user(ACME, id))]
}

/// A log that takes the changes and then says that it could not keep them.
fn refusing(error: LogError) -> LogStep {
    Box::new(move |_| Ok(Box::pin(std::future::ready(Err(error)))))
}

async fn has(store: &dyn Store, id: i64) -> Result<bool, StoreError> {
    Ok(store.user(UserRef::Id(UserId(id))).await?.is_some())
}

pub(super) async fn makes_nothing_that_a_full_log_did_not_take(store: &dyn Store) -> Checked {
    apply(store, two_organizations(1)).await?;
    for error in [LogError::Full, LogError::TooLarge] {
        let at_once: LogStep = Box::new(move |_| Err(error));
        refused_as(store.apply_logged(add(2), at_once).await, NOT_LOGGED);
        refused_as(store.apply_logged(add(2), refusing(error)).await, NOT_LOGGED);
    }
    assert_eq!((has(store, 2).await?, store.count_users(ACME).await?), (false, 1));
    apply(store, add(2)).await?;
    assert!(has(store, 2).await?);
    Ok(())
}

/// Has a store do `work` in one group, as far as it groups: all of it is queued while a change
/// before it waits for its log.
async fn together(
    store: &dyn Store,
    first: Vec<Change>,
    log: &Log,
    work: Vec<(Vec<Change>, Option<LogStep>)>,
) -> Result<Vec<Result<Version, StoreError>>, StoreError> {
    let (asked, was_asked) = oneshot::channel();
    let (release, released) = oneshot::channel::<()>();
    let step = log.step(&first);
    let held: LogStep = Box::new(move |version| {
        asked.send(()).ok();
        let logged = step(version)?;
        Ok(Box::pin(async move {
            released.await.ok();
            logged.await
        }))
    });
    let mut blocked = store.apply_logged(first, held);
    let queue = async {
        was_asked.await.ok();
        let mut queued: Vec<BoxFuture<'_, _>> = Vec::new();
        for (changes, log) in work {
            let mut one = match log {
                Some(log) => store.apply_logged(changes, log),
                None => store.apply(changes),
            };
            let early = poll_fn(|context| Poll::Ready(one.as_mut().poll(context))).await;
            queued.push(match early {
                Poll::Ready(answer) => Box::pin(std::future::ready(answer)),
                Poll::Pending => one,
            });
        }
        release.send(()).ok();
        queued
    };
    let (first, queued) = tokio::join!(blocked.as_mut(), queue);
    first?;
    Ok(futures_util::future::join_all(queued).await)
}

pub(super) async fn keeps_what_was_logged_beside_what_was_not(place: &impl Place) -> Checked {
    let log = Log::default();
    let store = place.open().await;
    apply(&*store, two_organizations(1)).await?;
    let (two, four) = (log.step(&add(2)), log.step(&add(4)));
    let work = vec![
        (add(2), Some(two)),
        (add(3), Some(refusing(LogError::Full))),
        (add(4), Some(four)),
        (add(5), None),
    ];
    let answers = together(&*store, add(9), &log, work).await?;
    let is_made: Vec<_> = answers.iter().map(Result::is_ok).collect();
    assert_eq!(is_made, [true, false, true, true]);
    let mut versions: Vec<_> = answers.into_iter().flatten().collect();
    let later = add(6);
    versions.push(store.apply_logged(later.clone(), log.step(&later)).await?);
    let answered: BTreeSet<_> = versions.iter().collect();
    assert_eq!(answered.len(), versions.len(), "a version was answered twice");
    let taken: BTreeSet<_> = log.taken().into_iter().map(|(version, _)| version).collect();
    assert_eq!(taken.len(), log.taken().len(), "a version was logged twice");
    for (id, is_there) in [(2, true), (3, false), (4, true), (5, true), (6, true), (9, true)] {
        assert_eq!(has(&*store, id).await?, is_there, "user {id}");
    }
    // What a crash would leave: the log, and of the records whatever was synced.
    drop(store);
    let store = place.open().await;
    store.redo(log.taken()).await?;
    for id in [1, 2, 4, 5, 6, 9] {
        assert!(has(&*store, id).await?, "user {id} after a restart");
    }
    Ok(())
}

pub(super) async fn makes_nothing_more_after_a_log_that_failed(place: &impl Place) -> Checked {
    let log = Log::default();
    let store = place.open().await;
    apply(&*store, two_organizations(1)).await?;
    // The log has the change, and says that it does not know.
    let step = log.step(&add(2));
    let failing: LogStep = Box::new(move |version| {
        drop(step(version)?);
        Ok(Box::pin(std::future::ready(Err(LogError::Failed))))
    });
    refused_as(store.apply_logged(add(2), failing).await, NOT_LOGGED);
    refused_as(store.apply(add(3)).await, NOT_LOGGED);
    let step = log.step(&add(4));
    refused_as(store.apply_logged(add(4), step).await, NOT_LOGGED);
    refused_as(store.redo(log.taken()).await.map(|()| Version(0)), NOT_LOGGED);
    let logged: Vec<Made> = log.taken();
    assert_eq!(logged.len(), 1, "a change reached a log that had failed");
    assert_eq!(store.count_users(ACME).await?, 1);
    drop(store);
    let store = place.open().await;
    store.redo(logged).await?;
    assert_eq!((has(&*store, 2).await?, has(&*store, 3).await?), (true, false));
    apply(&*store, add(3)).await?;
    assert!(has(&*store, 3).await?);
    Ok(())
}
