//! One row at work: twins, a gateway, traffic, and the verbs a fault is made of.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use uuid::Uuid;

use super::Trouble;
use super::books::Gap;
use super::gateway::{Gateway, Launch, Residue, free_ports};
use super::mount::Mount;
use super::names::{self, Names};
use super::proxy::{Proxy, Way};
use super::redis::RedisSite;
use super::shape::{Shape, Suite};
use super::traffic::{Clients, Pace, Sent, Traffic};
use super::world::{Endpoints, World, configuration};
use crate::jsonl;
use crate::ledger::{ClientLine, Outcome};
use crate::load::Stop;
use crate::process;
use crate::twins::{FaultPlan, TwinName, TwinOptions, TwinSet};
use crate::wall;

const POLL: Duration = Duration::from_millis(100);
/// The gateway publishes its backlog a few times a second: zero must be seen for so long.
const QUIET: Duration = Duration::from_millis(1200);
/// Longest orderly stop.
const STOP_MAX: Duration = Duration::from_secs(20);
/// Notifications per second of the warm-up.
const WARM_UP_RATE: f64 = 200.0;
const FOREVER: Stop = Stop::After(Duration::from_secs(86_400));

/// Everything a row has to do with.
pub(super) struct Stage {
    pub(super) shape: Shape,
    pub(super) seed: u64,
    pub(super) random: StdRng,
    pub(super) dir: PathBuf,
    pub(super) twins: TwinSet,
    /// In front of APNs, FCM and webhooks, where the shape asks for them.
    pub(super) proxies: Vec<Proxy>,
    /// Where providers have names.
    pub(super) names: Option<Names>,
    pub(super) world: World,
    pub(super) launch: Launch,
    pub(super) gateway: Gateway,
    pub(super) clients: Clients,
    traffic: Option<Traffic>,
    /// What was sent so far, the warm-up apart.
    pub(super) sent: Sent,
    /// What was done when: the schedule that the seed drew.
    pub(super) schedule: Vec<String>,
    begun: Instant,
    /// Crashes, each of which may repeat what was in flight.
    pub(super) crashes: u64,
    /// Whether the gateway's own counters still go back to the start of the run.
    pub(super) is_first_life: bool,
    pub(super) ready_max: Duration,
    pub(super) residue_before: Residue,
    /// What a row itself found broken.
    pub(super) breaches: Vec<String>,
    /// What a row measured.
    pub(super) remarks: Vec<String>,
    pub(super) plots: Vec<(String, String)>,
    pub(super) healed: Option<Instant>,
    pub(super) redis: Option<RedisSite>,
    /// The key that faults of a cluster are aimed at, once one was looked for.
    pub(super) aim: String,
    /// When Redis was told what it lost.
    pub(super) gaps: Vec<Gap>,
    /// The last field: it goes after the gateway.
    mount: Option<Mount>,
}

/// What a row is opened with.
pub(super) struct Opening<'a> {
    pub(super) id: &'a str,
    pub(super) seed: u64,
    pub(super) dir: PathBuf,
    pub(super) binary: PathBuf,
    pub(super) shape: Shape,
}

impl Stage {
    /// Starts twins and gateway, and warms both up.
    pub(super) async fn open(opening: Opening<'_>) -> Result<Self, Trouble> {
        let Opening { id, seed, dir, binary, shape } = opening;
        std::fs::create_dir_all(&dir).map_err(Trouble::io("the run's directory"))?;
        let mount = match (shape.tmpfs_mib, shape.ext4_mib) {
            (Some(mib), _) => Some(Mount::tmpfs(dir.join("store"), mib).await?),
            (None, Some(mib)) => Some(Mount::ext4(&dir, mib).await?),
            (None, None) => None,
        };
        let (world, twins) = (World::new(shape.size), twins(&shape, &dir).await?);
        world.register_secrets(&twins);
        let names = if shape.is_named { Some(Names::start()?) } else { None };
        let mut launch = launch(binary, &dir, &shape)?;
        let redis = match &shape.redis {
            Some(redis) => Some(RedisSite::start(redis, &dir, seed).await?),
            None => None,
        };
        launch.settings.extend(redis.iter().flat_map(RedisSite::settings).cloned());
        let (at, proxies) = endpoints(&twins, &shape, seed).await?;
        settle_in(&world, &twins, &at, &launch)?;
        let mut tokens = Vec::new();
        for org in 0..shape.size.organizations {
            tokens.push(launch.token(World::id(org)).await?);
        }
        let clients = Clients::open(&dir.join("client.jsonl"), tokens)?;
        let env = std::mem::take(&mut launch.env);
        let wrap = std::mem::take(&mut launch.wrap);
        if shape.is_armed_at_start {
            (launch.env, launch.wrap) = (env.clone(), wrap.clone());
        }
        if shape.is_named {
            launch.wrap = names::wrap(&dir)?;
        }
        let gateway = match launch.attempt().await? {
            Ok(gateway) => gateway,
            // Nothing has struck yet: what is wrong is what it was started with.
            Err(ended) => return Err(Trouble::Setup(ended.last_words())),
        };
        (launch.env, launch.wrap) = (env, wrap);
        // The row's name goes in, so that rows of one run do not share their schedule.
        let salt =
            id.bytes().fold(seed, |sum, byte| sum.wrapping_mul(0x0100_0000_01b3) ^ u64::from(byte));
        let mut stage = Self {
            random: StdRng::seed_from_u64(salt),
            seed,
            dir,
            twins,
            proxies,
            names,
            world,
            launch,
            ready_max: gateway.ready_in,
            gateway,
            clients,
            shape,
            traffic: None,
            sent: Sent::default(),
            schedule: Vec::new(),
            begun: Instant::now(),
            crashes: 0,
            is_first_life: true,
            residue_before: Residue::default(),
            breaches: Vec::new(),
            remarks: Vec::new(),
            plots: Vec::new(),
            healed: None,
            redis,
            aim: String::new(),
            gaps: Vec::new(),
            mount,
        };
        stage.warm_up().await?;
        Ok(stage)
    }

    /// A little traffic first: connections, caches and tokens are there when the row begins.
    async fn warm_up(&mut self) -> Result<(), Trouble> {
        let shape = Shape { rate: WARM_UP_RATE, ..self.shape.clone() };
        let organizations = shape.size.organizations;
        let rates = (0..organizations).map(|org| shape.rate_of(org)).collect();
        let pace = Pace { stop: Stop::Total(shape.size.users * 2), rates, ..self.pace() };
        let traffic = self.clients.start(&self.world, &pace)?;
        tokio::time::sleep(Duration::from_millis(800)).await;
        let sent = self.clients.finish(traffic).await;
        if sent.accepted == 0 {
            return Err(Trouble::Broken(format!(
                "nothing was accepted in the warm-up: {:?} / {}",
                sent.statuses,
                self.gateway.log()
            )));
        }
        self.drained(Duration::from_secs(30)).await?;
        self.residue_before = self.gateway.residue().unwrap_or_default();
        self.begun = Instant::now();
        Ok(())
    }

    /// The row's usual load.
    pub(super) fn pace(&self) -> Pace {
        let shape = &self.shape;
        Pace {
            url: self.gateway.url(),
            mode: shape.mode.clone(),
            rates: (0..shape.size.organizations).map(|org| shape.rate_of(org)).collect(),
            connections: shape.connections,
            stop: FOREVER,
            keys: shape.keys,
            timeout: shape.client_timeout,
        }
    }

    pub(super) fn begin_traffic(&mut self) -> Result<(), Trouble> {
        let pace = self.pace();
        self.begin(&pace)
    }

    pub(super) fn begin(&mut self, pace: &Pace) -> Result<(), Trouble> {
        self.traffic = Some(self.clients.start(&self.world, pace)?);
        Ok(())
    }

    /// Ends load; what it came to is also added to the run's sum.
    pub(super) async fn end_traffic(&mut self) -> Sent {
        let Some(traffic) = self.traffic.take() else { return Sent::default() };
        let sent = self.clients.finish(traffic).await;
        self.sent.merge(&sent);
        sent
    }

    /// Notifications accepted and refused by the load under way.
    pub(super) fn progress(&self) -> (u64, u64) {
        self.traffic.as_ref().map_or((0, 0), |load| (load.accepted(), load.refused()))
    }

    /// Connections of the load under way.
    pub(super) fn connections(&self) -> usize {
        self.traffic.as_ref().map_or(0, Traffic::connections)
    }

    pub(super) fn note(&mut self, what: impl std::fmt::Display) {
        let at = self.begun.elapsed().as_millis();
        self.schedule.push(format!("{at} ms {what}"));
    }

    pub(super) fn expect(&mut self, holds: bool, broken: impl FnOnce() -> String) {
        if !holds {
            self.breaches.push(broken());
        }
    }

    /// A number the seed draws.
    pub(super) fn draw(&mut self, range: std::ops::Range<u64>) -> u64 {
        self.random.random_range(range)
    }

    /// Lets the load run for a time the seed draws.
    pub(super) async fn wait(&mut self, ms: std::ops::Range<u64>) {
        let ms = self.draw(ms);
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }

    /// Lets the load run for the row's usual time.
    pub(super) async fn dwell(&mut self) {
        tokio::time::sleep(self.shape.dwell).await;
    }

    pub(super) fn faults(&mut self, plan: &str) -> Result<(), Trouble> {
        let parsed = FaultPlan::parse(plan).map_err(|error| Trouble::Setup(error.to_string()))?;
        self.twins.set_faults(FaultPlan { seed: self.seed, ..parsed });
        self.note(if plan.is_empty() { "providers healed" } else { plan });
        Ok(())
    }

    /// Takes all providers down or up again.
    pub(super) fn providers_up(&mut self, up: bool) {
        for twin in TwinName::ALL {
            self.twins.set_up(twin, up);
        }
        if !up {
            // Answers on their way are cut off, and nobody can count them.
            self.shape.repeats_extra += self.shape.max_in_flight;
        }
        self.note(if up { "providers up" } else { "providers down" });
    }

    /// Spoils the way to the providers, or clears it.
    pub(super) fn way(&mut self, way: Way) {
        for proxy in &self.proxies {
            proxy.set(way);
        }
        self.note(format_args!("{way:?}"));
    }

    /// `kill -9`.
    pub(super) fn crash(&mut self) {
        self.gateway.kill();
        self.note("kill -9");
        self.crashes += 1;
    }

    /// The power fails under the file system: what it was not made to write is gone.
    pub(super) async fn cut_power(&mut self) -> Result<(), Trouble> {
        let Some(mount) = &self.mount else {
            return Err(Trouble::Setup(String::from("the row has no disk of its own")));
        };
        mount.shut_down().await?;
        self.gateway.kill();
        mount.again().await?;
        self.note("power cut");
        self.crashes += 1;
        Ok(())
    }

    /// What Redis was told meanwhile is lost.
    pub(super) fn gap(&mut self, gap: Gap) {
        self.note(format_args!("of the last {} ms Redis has lost some", gap.to_ms - gap.from_ms));
        // Outcomes that are found out twice are counted twice.
        self.is_first_life = false;
        self.gaps.push(gap);
    }

    /// Sends one notification of `org` and waits for its answer; what it came to is also added to
    /// the run's sum.
    pub(super) async fn send_one(&mut self, org: usize) -> Result<Option<Outcome>, Trouble> {
        let pace = self.pace();
        let told = self.clients.send_one(&self.world, &pace, org).await?;
        Ok(told.map(|(sent, outcome)| {
            self.sent.merge(&sent);
            outcome
        }))
    }

    /// Stops the gateway in order, so that nothing is on its way.
    pub(super) async fn stop(&mut self) -> Result<(), Trouble> {
        self.gateway.signal("TERM").await?;
        self.gateway.ended(STOP_MAX).await;
        self.gateway.kill();
        Ok(())
    }

    /// A machine that has more to do than it has processors gets as much more time, five times at
    /// most; the long suite is run alone.
    pub(super) fn allowed(&self, most: Duration) -> Duration {
        if self.shape.suite == Suite::Long { most } else { most.mul_f64(process::crowding()) }
    }

    /// Every start so far was fast enough.
    pub(super) fn expect_fast_starts(&mut self, most: Duration) {
        let most = self.allowed(most);
        let slowest = self.ready_max;
        self.expect(slowest <= most, || {
            format!("a start took {} ms, the goal is {}", slowest.as_millis(), most.as_millis())
        });
    }

    /// Every notification that was accepted so far, with the organization it is of.
    pub(super) fn accepted(&self) -> Result<Vec<(usize, Uuid)>, Trouble> {
        let mut found = Vec::new();
        self.clients.sync()?;
        let path = self.dir.join("client.jsonl");
        jsonl::each(&path, |line| {
            if let ClientLine::Outcome { seq, outcome: Outcome::Accepted(Some(id)), .. } = line
                && let Some((org, _)) = self.world.sender(seq)
            {
                found.push((org, id));
            }
        })
        .map_err(Trouble::io("the client's ledger cannot be read back"))?;
        Ok(found)
    }

    /// Starts the gateway again, in the same place.
    pub(super) async fn restart(&mut self) -> Result<(), Trouble> {
        self.is_first_life = false;
        self.gateway = self.launch.start().await?;
        self.ready_max = self.ready_max.max(self.gateway.ready_in);
        self.note(format_args!("ready after {} ms", self.gateway.ready_in.as_millis()));
        Ok(())
    }

    /// Waits until the journal holds nothing that is still to do; answers how long that took.
    pub(super) async fn drained(&mut self, within: Duration) -> Result<Option<Duration>, Trouble> {
        let begun = Instant::now();
        let mut quiet_since = None;
        while begun.elapsed() < within + QUIET {
            let pending = match self.gateway.metrics().await {
                Ok(metrics) => metrics.sum("bugler_log_pending_entries", ""),
                // A gateway that ended will not drain any more.
                Err(error) if !self.gateway.is_alive() => {
                    let log = self.gateway.log();
                    let last: Vec<_> = log.lines().rev().take(2).collect();
                    return Err(Trouble::Broken(format!("{error}; {}", last.join(" / "))));
                }
                Err(_) => f64::MAX,
            };
            if pending > 0.0 {
                quiet_since = None;
            } else {
                let since = *quiet_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= QUIET {
                    return Ok(Some(since - begun));
                }
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(None)
    }

    /// Everything the twins wrote down is on disk.
    pub(super) fn sync(&self) -> Result<(), Trouble> {
        self.twins.sync_receipts().map_err(Trouble::io("the twins' ledger cannot be written"))?;
        self.clients.sync()
    }

    pub(super) fn receipts_path(&self) -> PathBuf {
        self.dir.join("receipts.jsonl")
    }

    pub(super) fn now_ms() -> u64 {
        wall::unix_ms()
    }
}

async fn twins(shape: &Shape, dir: &Path) -> Result<TwinSet, Trouble> {
    let options = TwinOptions {
        receipts_kept_max: 10_000,
        receipts_file: Some(dir.join("receipts.jsonl")),
        webhook_certificate: shape.webhook_certificate,
        fcm_token_lifetime_s: shape.fcm_token_lifetime_s,
        fcm_quota_per_minute: shape.fcm_quota_per_minute,
        apns_token_update_min: shape.apns_token_update_min,
        ..TwinOptions::default()
    };
    TwinSet::start(options).await.map_err(|error| Trouble::Setup(error.to_string()))
}

async fn endpoints(
    twins: &TwinSet,
    shape: &Shape,
    seed: u64,
) -> Result<(Endpoints, Vec<Proxy>), Trouble> {
    let mut at = Endpoints::of(twins);
    let mut proxies = Vec::new();
    if shape.is_named {
        at.apns = names::named(&at.apns, "apns");
        at.fcm = names::named(&at.fcm, "fcm");
        at.webhook = names::named(&at.webhook, "hooks");
    }
    if shape.is_proxied {
        for url in [&mut at.apns, &mut at.fcm, &mut at.webhook] {
            let proxy = Proxy::before(url, seed).await?;
            *url = proxy.url();
            proxies.push(proxy);
        }
    }
    Ok((at, proxies))
}

fn launch(binary: PathBuf, dir: &Path, shape: &Shape) -> Result<Launch, Trouble> {
    let (api, admin) = free_ports()?;
    let mut settings = vec![format!("dispatch.max_in_flight={}", shape.max_in_flight)];
    settings.extend(shape.settings.iter().cloned());
    Ok(Launch {
        binary,
        config: dir.join("bugler.toml"),
        directory: Some(dir.join("directory.json")),
        store: dir.join("store"),
        api,
        admin,
        settings,
        env: shape.env.clone(),
        wrap: shape.wrap.clone(),
        mutes: shape.mutes_gateway,
    })
}

/// Writes what a gateway needs to find the world.
pub(super) fn settle_in(
    world: &World,
    twins: &TwinSet,
    at: &Endpoints,
    launch: &Launch,
) -> Result<(), Trouble> {
    let dir = launch.config.parent().unwrap_or(Path::new(".")).to_owned();
    let files = twins.write_credentials(&dir.join("twins"));
    let files = files.map_err(|error| Trouble::Setup(error.to_string()))?;
    let config = configuration(twins, &files, at);
    std::fs::write(&launch.config, config).map_err(Trouble::io("the configuration"))?;
    if let Some(directory) = &launch.directory {
        let document = world.directory(at).to_string();
        std::fs::write(directory, document).map_err(Trouble::io("the directory document"))?;
    }
    Ok(())
}
