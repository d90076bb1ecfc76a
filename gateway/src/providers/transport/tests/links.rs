//! How connections are opened, doubted, avoided and given up, frame by frame.

use super::*;
use crate::providers::fixture::is_ping;
use parking_lot::Mutex;

const LONG: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_millis(20);

/// Limits under which nothing happens by time alone.
fn calm() -> PoolLimits {
    PoolLimits {
        ping_idle: LONG,
        ping_busy: LONG,
        probe_after: LONG,
        ping_timeout: LONG,
        soft_timeout: LONG,
        ..PoolLimits::default()
    }
}

fn pool(server: &FrameServer, limits: PoolLimits) -> Http2Pool {
    let dialer = dialer(Protocol::Http2, None, patient());
    Http2Pool::new(Origin::parse(&server.url()).unwrap(), dialer, limits)
}

#[tokio::test]
async fn a_new_connection_carries_one_request_until_it_has_answered() {
    // SETTINGS allow a thousand at once. The first answer waits for a PING, which the client sends
    // while it waits: every request that came before it counts as too early.
    let early = Arc::new(Mutex::new(Vec::<u32>::new()));
    let (seen, mut open) = (Arc::clone(&early), Vec::new());
    let mut answered = false;
    let server = FrameServer::start(move |_, heard| match heard {
        Heard::Open => Some(frame::streams_max(1000)),
        Heard::Frame(f) if ends_request(f) && answered => Some(frame::ok(f.stream)),
        Heard::Frame(f) if ends_request(f) => {
            open.push(f.stream);
            Some(Vec::new())
        }
        Heard::Frame(f) if is_ping(f) => {
            if !open.is_empty() {
                answered = true;
            }
            seen.lock().extend(&open);
            let answers = open.drain(..).flat_map(frame::ok);
            Some(frame::pong(f).into_iter().chain(answers).collect())
        }
        Heard::Frame(_) => Some(Vec::new()),
    })
    .await;
    let pool = pool(&server, PoolLimits { ping_busy: SHORT, ..calm() });
    let results = join_all((0..50).map(|_| post2(&pool))).await;
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    assert_eq!(*early.lock(), [1], "one stream before the first answer");
    assert_eq!(server.accepted(), 1);
}

#[tokio::test]
async fn an_idle_connection_is_asked_before_it_is_used_and_a_frozen_one_gets_nothing() {
    for frozen in [false, true] {
        let pings = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&pings);
        let server = FrameServer::start(move |connection, heard| match heard {
            Heard::Open => Some(frame::streams_max(100)),
            Heard::Frame(f) if ends_request(f) => Some(frame::ok(f.stream)),
            Heard::Frame(f) if is_ping(f) => {
                count.fetch_add(1, Ordering::SeqCst);
                let answers = connection > 1 || !frozen;
                Some(if answers { frame::pong(f) } else { Vec::new() })
            }
            Heard::Frame(_) => Some(Vec::new()),
        })
        .await;
        let ping_timeout = if frozen { SHORT } else { LONG };
        let limits = PoolLimits { probe_after: Duration::from_millis(2), ping_timeout, ..calm() };
        let pool = pool(&server, limits);
        post2(&pool).await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
        post2(&pool).await.unwrap();
        assert!(pings.load(Ordering::SeqCst) >= 1);
        let on_first = server.requests().iter().filter(|r| r.0 == 1).count();
        // The frozen one had its first request before it was asked; no second one.
        assert!(if frozen { on_first <= 1 } else { on_first == 2 }, "{:?}", server.requests());
    }
}

#[tokio::test]
async fn an_idle_connection_is_pinged_and_given_up_when_it_stays_silent() {
    let server = FrameServer::start(|_, heard| match heard {
        Heard::Open => Some(frame::streams_max(100)),
        Heard::Frame(f) if ends_request(f) => Some(frame::ok(f.stream)),
        Heard::Frame(_) => Some(Vec::new()),
    })
    .await;
    let pool = pool(&server, PoolLimits { ping_idle: SHORT, ping_timeout: SHORT, ..calm() });
    for _ in 0..2 {
        post2(&pool).await.unwrap();
        eventually("the connection is given up without traffic", || pool.permits() == 1).await;
    }
    assert!(server.accepted() >= 2);
}

#[tokio::test]
async fn what_waits_on_a_dead_connection_ends_unknown_as_soon_as_a_ping_says_so() {
    let server = FrameServer::start(|_, heard| match heard {
        Heard::Open => Some(frame::streams_max(100)),
        Heard::Frame(_) => Some(Vec::new()),
    })
    .await;
    let limits = PoolLimits { ping_busy: SHORT, ping_timeout: SHORT, ..calm() };
    // Its own deadline is far off.
    let result = post2(&pool(&server, limits)).await;
    assert_eq!(cause(&result), "connection_lost");
    assert!(matches!(result, Err(Failure::Unanswered { .. })));
}

#[tokio::test]
async fn nobody_waits_behind_a_connection_that_brings_nothing() {
    // The connection that carries the second request never says anything again.
    let (mut requests, mut silent) = (0, None);
    let server = FrameServer::start(move |connection, heard| match heard {
        Heard::Open => Some(frame::streams_max(100)),
        Heard::Frame(f) if ends_request(f) => {
            requests += 1;
            silent = silent.or((requests == 2).then_some(connection));
            Some(if silent == Some(connection) { Vec::new() } else { frame::ok(f.stream) })
        }
        Heard::Frame(_) => Some(Vec::new()),
    })
    .await;
    let pool = pool(&server, PoolLimits { soft_timeout: SHORT, ..calm() });
    post2(&pool).await.unwrap();
    let stuck = tokio::spawn({
        let pool = pool.clone();
        async move { post2(&pool).await }
    });
    eventually("the request is out", || server.requests().len() == 2).await;
    tokio::time::sleep(2 * SHORT).await;
    for _ in 0..3 {
        post2(&pool).await.unwrap();
    }
    assert!(!stuck.is_finished());
    stuck.abort();
}

#[tokio::test]
async fn a_shut_window_is_a_timeout_and_no_hang() {
    let server = FrameServer::start(|connection, heard| match heard {
        Heard::Open if connection == 1 => Some(frame::no_window()),
        Heard::Open => Some(frame::streams_max(100)),
        Heard::Frame(f) if ends_request(f) => Some(frame::ok(f.stream)),
        Heard::Frame(_) => Some(Vec::new()),
    })
    .await;
    let hurried = pool2(&server.url(), None, hasty(), 1);
    assert_eq!(cause(&post2(&hurried).await), "timeout");
    post2(&hurried).await.unwrap();
    assert_eq!(server.requests(), [(2, 1)]);
}

#[tokio::test]
async fn the_next_connection_is_opened_before_the_one_that_leaves_has_ended() {
    // The second request is held; the PING that asks about it is answered with a GOAWAY that says
    // it will still be answered.
    let mut held = None;
    let server = FrameServer::start(move |connection, heard| match heard {
        Heard::Open if connection == 2 => {
            // Only now does the first connection get to answer, at its next PING.
            Some(frame::streams_max(100))
        }
        Heard::Open => Some(frame::streams_max(100)),
        Heard::Frame(f) if ends_request(f) && connection == 1 && f.stream == 3 => {
            held = Some(f.stream);
            Some(frame::go_away(f.stream))
        }
        Heard::Frame(f) if ends_request(f) => Some(frame::ok(f.stream)),
        Heard::Frame(f) if is_ping(f) => {
            let late = held.take().map(frame::ok).unwrap_or_default();
            Some([frame::pong(f), late].concat())
        }
        Heard::Frame(_) => Some(Vec::new()),
    })
    .await;
    let pool = pool(&server, PoolLimits { ping_busy: Duration::from_millis(200), ..calm() });
    post2(&pool).await.unwrap();
    let (held, ()) =
        tokio::join!(post2(&pool), eventually("nobody asked for it", || server.accepted() == 2));
    held.unwrap();
    assert_eq!(server.requests(), [(1, 1), (1, 3)]);
}

#[tokio::test]
async fn connections_spread_over_the_addresses_of_a_name() {
    #[derive(Debug)]
    struct Both([SocketAddr; 2]);
    impl Resolve for Both {
        fn resolve<'a>(
            &'a self,
            _: &'a str,
            _: u16,
        ) -> BoxFuture<'a, Result<Vec<SocketAddr>, ResolveError>> {
            Box::pin(async move { Ok(self.0.to_vec()) })
        }
    }
    let script = |_, heard: Heard<'_>| match heard {
        Heard::Open => Some(frame::streams_max(1)),
        Heard::Frame(f) if ends_request(f) => Some(frame::ok(f.stream)),
        Heard::Frame(_) => Some(Vec::new()),
    };
    let servers = [FrameServer::start(script).await, FrameServer::start(script).await];
    let resolver = Arc::new(Both([servers[0].address, servers[1].address]));
    let dialer = Dialer { resolver, ..dialer(Protocol::Http2, None, patient()) };
    let pool = Http2Pool::new(Origin::parse("http://both.example").unwrap(), dialer, calm());
    let results = join_all((0..40).map(|_| post2(&pool))).await;
    assert!(results.iter().all(Result::is_ok));
    eventually("both are used", || servers.iter().all(|server| server.accepted() >= 1)).await;
}

#[tokio::test]
async fn connections_that_are_to_be_renewed_answer_what_they_have_and_get_nothing_new() {
    let server = FrameServer::start(|_, heard| match heard {
        Heard::Open => Some(frame::streams_max(100)),
        Heard::Frame(f) if ends_request(f) => Some(frame::ok(f.stream)),
        Heard::Frame(_) => Some(Vec::new()),
    })
    .await;
    let pool = pool(&server, calm());
    post2(&pool).await.unwrap();
    pool.renew_connections();
    post2(&pool).await.unwrap();
    assert_eq!(server.requests().iter().map(|r| r.0).collect::<Vec<_>>(), [1, 2]);
}
