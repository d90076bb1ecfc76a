//! Names to addresses: a seam, so that hostile resolvers can be tested.

use crate::BoxFuture;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

/// Longest one look-up may take; the machine's own resolver may take longer and is left behind.
const LOOKUP_MAX: Duration = Duration::from_secs(5);
/// A name that could not be resolved is not asked for again for this long.
const NEGATIVE: Duration = Duration::from_secs(30);
/// How old an answer may be that stands in for one that cannot be had.
const STALE: Duration = Duration::from_secs(600);
/// Look-ups under way at once, those left behind included: each holds a thread.
const LOOKUPS_MAX: usize = 64;
/// The same for names whose last look-up failed: a few that never answer leave room for the rest.
const SUSPECTS_MAX: usize = 8;
const NAMES_MAX: usize = 10_000;

/// Why a name gave no usable address.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    #[error("the name cannot be resolved")]
    Failed(#[source] io::Error),
    #[error("the name leads to an address that is not allowed")]
    Blocked,
}

/// Turns a name, or an address in text form, into socket addresses.
pub trait Resolve: Send + Sync + fmt::Debug {
    /// The addresses of `host`, at least one. Called once per new connection.
    fn resolve<'a>(
        &'a self,
        host: &'a str,
        port: u16,
    ) -> BoxFuture<'a, Result<Vec<SocketAddr>, ResolveError>>;
}

/// The machine's resolver.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve<'a>(
        &'a self,
        host: &'a str,
        port: u16,
    ) -> BoxFuture<'a, Result<Vec<SocketAddr>, ResolveError>> {
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((host, port))
                .await
                .map_err(ResolveError::Failed)?
                .collect();
            if found.is_empty() {
                return Err(ResolveError::Failed(io::ErrorKind::NotFound.into()));
            }
            Ok(found)
        })
    }
}

/// Asks another resolver, one question per name at a time, and remembers what it must.
///
/// A failure holds for 30 s. A success is asked for anew each time; where `lasting`, it stands in
/// for up to 10 minutes while the name cannot be resolved. That is for providers' own hosts only:
/// behind a customer's name an old answer might lead where a new one may not.
#[derive(Clone, Debug)]
pub struct NameCache(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    inner: Arc<dyn Resolve>,
    spans: Spans,
    names: Mutex<HashMap<(String, u16), Turn>>,
    lookups: Arc<Semaphore>,
    suspects: Arc<Semaphore>,
}

/// How long what holds.
#[derive(Clone, Copy, Debug)]
struct Spans {
    lookup: Duration,
    negative: Duration,
    /// Zero where an old answer never stands in.
    stale: Duration,
}

const CUSTOMERS: Spans = Spans { lookup: LOOKUP_MAX, negative: NEGATIVE, stale: Duration::ZERO };
const PROVIDERS: Spans = Spans { stale: STALE, ..CUSTOMERS };

/// Held while a name is looked up, so that those who waited find the answer.
type Turn = Arc<tokio::sync::Mutex<Known>>;

#[derive(Debug, Default)]
struct Known {
    good: Option<(Instant, Vec<SocketAddr>)>,
    failed: Option<Instant>,
}

impl NameCache {
    /// For providers' hosts.
    #[must_use]
    pub fn lasting(inner: Arc<dyn Resolve>) -> Self {
        Self::new(inner, PROVIDERS)
    }

    /// For customers' hosts.
    #[must_use]
    pub fn fresh(inner: Arc<dyn Resolve>) -> Self {
        Self::new(inner, CUSTOMERS)
    }

    fn new(inner: Arc<dyn Resolve>, spans: Spans) -> Self {
        let lookups = Arc::new(Semaphore::new(LOOKUPS_MAX));
        let suspects = Arc::new(Semaphore::new(SUSPECTS_MAX));
        Self(Arc::new(Shared { inner, spans, names: Mutex::default(), lookups, suspects }))
    }
}

impl Shared {
    fn known(&self, host: &str, port: u16) -> Turn {
        let mut names = self.names.lock();
        if names.len() >= NAMES_MAX {
            // In use are those that somebody else holds.
            names.retain(|_, known| Arc::strong_count(known) > 1);
        }
        Arc::clone(names.entry((host.to_owned(), port)).or_default())
    }

    async fn resolve(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, ResolveError> {
        let asked = Instant::now();
        let known = self.known(host, port);
        let mut known = known.lock().await;
        if let Some((at, found)) = &known.good
            && *at >= asked
        {
            // The answer came after the question, so it is as fresh as one of its own.
            return Ok(found.clone());
        }
        if known.failed.is_some_and(|at| at.elapsed() < self.spans.negative) {
            return self.stand_in(&known, || io::ErrorKind::NotFound.into());
        }
        let Some(turn) = self.turn(known.failed.is_some()).await else {
            // The name was not asked for, so nothing is known of it.
            return self.stand_in(&known, || io::ErrorKind::ResourceBusy.into());
        };
        match self.look_up(host, port, turn).await {
            Ok(found) => {
                known.failed = None;
                known.good = Some((Instant::now(), found.clone()));
                Ok(found)
            }
            Err(ResolveError::Blocked) => Err(ResolveError::Blocked),
            Err(ResolveError::Failed(error)) => {
                known.failed = Some(Instant::now());
                self.stand_in(&known, || error)
            }
        }
    }

    /// The right to ask, waited for as long as a look-up may take. Who leaves leaves the queue.
    async fn turn(&self, is_suspect: bool) -> Option<OwnedSemaphorePermit> {
        let among = if is_suspect { &self.suspects } else { &self.lookups };
        timeout(self.spans.lookup, Arc::clone(among).acquire_owned()).await.ok()?.ok()
    }

    fn stand_in(
        &self,
        known: &Known,
        error: impl FnOnce() -> io::Error,
    ) -> Result<Vec<SocketAddr>, ResolveError> {
        match &known.good {
            Some((at, found)) if at.elapsed() < self.spans.stale => Ok(found.clone()),
            _ => Err(ResolveError::Failed(error())),
        }
    }

    async fn look_up(
        &self,
        host: &str,
        port: u16,
        turn: OwnedSemaphorePermit,
    ) -> Result<Vec<SocketAddr>, ResolveError> {
        let (inner, host) = (Arc::clone(&self.inner), host.to_owned());
        // A task of its own: the machine's resolver cannot be stopped, and its thread is counted
        // until it is back.
        let asking = tokio::spawn(async move {
            let _turn = turn;
            inner.resolve(&host, port).await
        });
        match timeout(self.spans.lookup, asking).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) | Err(_) => Err(ResolveError::Failed(io::ErrorKind::TimedOut.into())),
        }
    }
}

impl Resolve for NameCache {
    fn resolve<'a>(
        &'a self,
        host: &'a str,
        port: u16,
    ) -> BoxFuture<'a, Result<Vec<SocketAddr>, ResolveError>> {
        Box::pin(async move {
            if let Ok(address) = host.parse::<IpAddr>() {
                return Ok(vec![SocketAddr::new(address, port)]);
            }
            self.0.resolve(host, port).await
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Answers the first `good` questions and counts all.
    #[derive(Debug)]
    struct Failing {
        good: usize,
        asked: AtomicUsize,
        slow: bool,
    }

    fn failing(good: usize, slow: bool) -> Arc<Failing> {
        Arc::new(Failing { good, asked: AtomicUsize::new(0), slow })
    }

    impl Resolve for Failing {
        fn resolve<'a>(
            &'a self,
            _: &'a str,
            port: u16,
        ) -> BoxFuture<'a, Result<Vec<SocketAddr>, ResolveError>> {
            let fails = self.asked.fetch_add(1, Ordering::SeqCst) >= self.good;
            let slow = self.slow;
            Box::pin(async move {
                if slow {
                    std::future::pending::<()>().await;
                }
                if fails {
                    return Err(ResolveError::Failed(io::ErrorKind::NotFound.into()));
                }
                Ok(vec![SocketAddr::new([1, 1, 1, 1].into(), port)])
            })
        }
    }

    async fn found(cache: &NameCache) -> bool {
        cache.resolve("provider.example", 443).await.is_ok()
    }

    #[tokio::test]
    async fn a_provider_is_still_found_while_its_name_cannot_be_resolved_but_not_for_ever() {
        for (stale, lasts) in [(STALE, true), (Duration::ZERO, false)] {
            let inner = failing(2, false);
            let spans = Spans { stale, ..PROVIDERS };
            let cache = NameCache::new(Arc::clone(&inner) as Arc<dyn Resolve>, spans);
            assert!(found(&cache).await && found(&cache).await);
            assert_eq!(inner.asked.load(Ordering::SeqCst), 2, "a success is asked for anew");
            assert_eq!((found(&cache).await, found(&cache).await), (lasts, lasts));
            assert_eq!(inner.asked.load(Ordering::SeqCst), 3, "a failure holds for a while");
        }
    }

    #[tokio::test]
    async fn a_customers_name_never_leads_to_an_old_answer_and_is_asked_for_again() {
        let inner = failing(1, false);
        let spans = Spans { negative: Duration::ZERO, ..CUSTOMERS };
        let cache = NameCache::new(Arc::clone(&inner) as Arc<dyn Resolve>, spans);
        assert!(found(&cache).await);
        assert!(!found(&cache).await && !found(&cache).await);
        assert_eq!(inner.asked.load(Ordering::SeqCst), 3);
    }

    #[tokio::test]
    async fn a_resolver_that_hangs_is_left_behind_once_for_all_who_wait() {
        let inner = failing(9, true);
        let spans = Spans { lookup: Duration::from_millis(20), ..CUSTOMERS };
        let cache = NameCache::new(Arc::clone(&inner) as Arc<dyn Resolve>, spans);
        let found = futures_util::future::join_all((0..20).map(|_| found(&cache))).await;
        assert!(found.iter().all(|found| !found));
        assert_eq!(inner.asked.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn those_who_wait_for_a_name_together_share_one_answer() {
        let inner = failing(9, false);
        let cache = NameCache::fresh(Arc::clone(&inner) as Arc<dyn Resolve>);
        let turn = cache.0.known("provider.example", 443);
        let held = turn.lock().await;
        let mut waiting = futures_util::future::join_all((0..20).map(|_| found(&cache)));
        assert!(futures_util::poll!(&mut waiting).is_pending());
        drop(held);
        assert!(waiting.await.iter().all(|found| *found));
        assert_eq!(inner.asked.load(Ordering::SeqCst), 1);
    }

    /// Hangs for every name but one.
    #[derive(Debug)]
    struct Hostile;

    impl Resolve for Hostile {
        fn resolve<'a>(
            &'a self,
            host: &'a str,
            port: u16,
        ) -> BoxFuture<'a, Result<Vec<SocketAddr>, ResolveError>> {
            let hangs = host != "provider.example";
            Box::pin(async move {
                if hangs {
                    std::future::pending::<()>().await;
                }
                Ok(vec![SocketAddr::new([1, 1, 1, 1].into(), port)])
            })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn names_that_never_answer_keep_no_other_from_being_found() {
        let spans = Spans { negative: Duration::ZERO, ..CUSTOMERS };
        let cache = NameCache::new(Arc::new(Hostile), spans);
        let names: Vec<_> = (0..SUSPECTS_MAX * 4).map(|n| format!("{n}.example")).collect();
        for _ in 0..3 {
            // The first time each holds one of the many turns, later one of the few.
            let asked = names.iter().map(|name| cache.resolve(name, 443));
            let answers = futures_util::future::join_all(asked).await;
            assert!(answers.iter().all(Result::is_err));
        }
        assert!(cache.0.lookups.available_permits() >= LOOKUPS_MAX - names.len());
        assert!(found(&cache).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_only_waited_for_its_turn_is_not_held_to_have_failed() {
        let cache = NameCache::fresh(failing(9, false));
        let all = u32::try_from(LOOKUPS_MAX).unwrap();
        let held = Arc::clone(&cache.0.lookups).acquire_many_owned(all).await.unwrap();
        assert!(!found(&cache).await);
        drop(held);
        assert!(found(&cache).await);
    }

    #[tokio::test]
    async fn an_address_needs_no_resolver() {
        let inner = failing(0, false);
        let cache = NameCache::fresh(Arc::clone(&inner) as Arc<dyn Resolve>);
        assert_eq!(cache.resolve("::1", 7).await.unwrap(), ["[::1]:7".parse().unwrap()]);
        assert_eq!(inner.asked.load(Ordering::SeqCst), 0);
    }
}
