//! Who asks first for a connection sends first.

use super::*;
use crate::providers::transport::{Resolve, ResolveError};

/// Answers the first time, and never again: no second connection is ever opened.
#[derive(Debug)]
struct Once(SocketAddr, AtomicUsize);

impl Resolve for Once {
    fn resolve<'a>(
        &'a self,
        _: &'a str,
        _: u16,
    ) -> BoxFuture<'a, Result<Vec<SocketAddr>, ResolveError>> {
        let is_first = self.1.fetch_add(1, Ordering::SeqCst) == 0;
        let answer = self.0;
        Box::pin(
            async move { if is_first { Ok(vec![answer]) } else { std::future::pending().await } },
        )
    }
}

async fn post(pool: &Http1Pool, url: &str, number: usize) -> Result<Answer, Failure> {
    let mut request = Request::new(Body::from("payload"));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = format!("/{number}").parse().unwrap();
    pool.send(&Origin::parse(url).unwrap(), request).await
}

#[tokio::test]
async fn a_connection_that_becomes_idle_goes_to_whoever_waited_longest_for_one() {
    let server = Server::start(None, Speak::Http1, |_, _| Act::status(200)).await;
    let resolver = Arc::new(Once(server.address, AtomicUsize::new(0)));
    let slow = Dialer { resolver, ..dialer(Protocol::Http1, None, patient()) };
    let pool = Http1Pool::new(slow, IdleLimits::default());
    let url = server.url();
    let results = join_all((0..12).map(|number| post(&pool, &url, number))).await;
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    let seen: Vec<_> = server.seen().into_iter().map(|seen| seen.path).collect();
    let asked: Vec<_> = (0..12).map(|number| format!("/{number}")).collect();
    assert_eq!(seen, asked);
    assert_eq!(server.accepted(), 1);
}
