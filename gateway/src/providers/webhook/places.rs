//! Where URLs lead, judged and taken apart, for the next deliveries to the same.

use crate::providers::guard::Guard;
use crate::providers::transport::{Origin, path_of};
use http::uri::PathAndQuery;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// URLs remembered; beyond it all are forgotten.
const PLACES_MAX: usize = 1024;
/// What was judged is judged again after this long. Each connection is judged anew in any case.
const JUDGED_FOR: Duration = Duration::from_secs(10);

/// A URL as requests need it.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) origin: Origin,
    pub(super) path: PathAndQuery,
    since: Instant,
}

/// The places of the URLs in use.
#[derive(Debug, Default)]
pub(super) struct Places(Mutex<HashMap<String, Arc<Place>>>);

impl Places {
    /// Where `url` leads, or why nothing may be sent there.
    pub(super) fn of(&self, url: &str, guard: &Guard) -> Result<Arc<Place>, &'static str> {
        if let Some(known) = self.0.lock().get(url)
            && known.since.elapsed() < JUDGED_FOR
        {
            return Ok(Arc::clone(known));
        }
        let judged = guard.check_url(url).map_err(|_| "target_blocked");
        let judged = judged.inspect_err(|_| drop(self.0.lock().remove(url)))?;
        let (Ok(origin), Ok(path)) = (Origin::of(&judged), path_of(&judged)) else {
            return Err("bad_url");
        };
        let place = Arc::new(Place { origin, path, since: Instant::now() });
        let mut places = self.0.lock();
        if places.len() >= PLACES_MAX {
            places.clear();
        }
        places.insert(url.to_owned(), Arc::clone(&place));
        Ok(place)
    }

    #[cfg(test)]
    fn count(&self) -> usize {
        self.0.lock().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::providers::guard::GuardPolicy;

    #[test]
    fn a_url_is_taken_apart_once_and_a_forbidden_one_never_remembered() {
        let guard = Guard::new(GuardPolicy::default());
        let places = Places::default();
        let first = places.of("https://hooks.example.com/a?b=c", &guard).unwrap();
        assert_eq!((first.origin.host(), first.path.as_str()), ("hooks.example.com", "/a?b=c"));
        let again = places.of("https://hooks.example.com/a?b=c", &guard).unwrap();
        assert!(Arc::ptr_eq(&first, &again));
        assert_eq!(places.of("https://127.0.0.1/", &guard).unwrap_err(), "target_blocked");
        assert_eq!(places.count(), 1);
    }

    #[test]
    fn places_are_bounded() {
        let guard = Guard::new(GuardPolicy::default());
        let places = Places::default();
        for number in 0..3 * PLACES_MAX {
            places.of(&format!("https://hooks.example.com/{number}"), &guard).unwrap();
            assert!(places.count() <= PLACES_MAX);
        }
    }
}
