//! Sends each command to the node that has its slot, and again where it certainly did not happen.

use super::call::Call;
use super::class::Proof;
use super::error::RedisError;
use super::health::Health;
use super::node::{Address, Kind, Node};
use super::options::RedisOptions;
use super::slots::{SLOTS, slot_of};
use super::topology::Told;
use crate::telemetry::metrics;
use arc_swap::ArcSwap;
use futures_util::future::join_all;
use redis::{
    Cmd, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, Pipeline, ServerErrorKind, Value,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Redirections of one command, before it is given back.
const ROUNDS_MAX: u8 = 6;
/// The map is read at most this often.
const REFRESH_EVERY: Duration = Duration::from_millis(50);
/// Before a command is sent again that a slot on the move refused.
const TRY_AGAIN: Duration = Duration::from_millis(10);

/// The nodes, and the map of slots.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) options: RedisOptions,
    pub(super) health: Health,
    seed: ConnectionInfo,
    map: ArcSwap<Map>,
    refreshed: tokio::sync::Mutex<Option<Instant>>,
}

#[derive(Debug, Default)]
struct Map {
    nodes: Vec<Arc<Node>>,
    /// By slot, an index into `nodes`.
    owners: Vec<Option<usize>>,
    /// How redirections may call a node, and where it is dialled.
    aliases: BTreeMap<Address, Address>,
}

/// One command on its way.
#[derive(Debug)]
pub(super) struct Task {
    work: Work,
    slot: u16,
    kind: Kind,
    with_text: bool,
    redirect: Option<Redirect>,
}

/// Where another node said that the key is.
#[derive(Debug)]
struct Redirect {
    address: Address,
    /// For this command only: the slot is on the move.
    is_ask: bool,
}

#[derive(Debug)]
enum Work {
    Call(Call),
    Command(Cmd),
}

impl Task {
    pub(super) fn call(call: Call) -> Self {
        let kind = if call.script().is_write() { Kind::Write } else { Kind::Read };
        let slot = slot_of(call.first_key());
        Self { work: Work::Call(call), slot, kind, with_text: false, redirect: None }
    }

    pub(super) fn command(slot: u16, command: Cmd) -> Self {
        let work = Work::Command(command);
        Self { work, slot, kind: Kind::Read, with_text: false, redirect: None }
    }

    fn is_ask(&self) -> bool {
        self.redirect.as_ref().is_some_and(|redirect| redirect.is_ask)
    }

    fn to_command(&self) -> Cmd {
        match &self.work {
            Work::Call(call) => call.command(self.with_text),
            Work::Command(command) => command.clone(),
        }
    }
}

/// Commands that go to one node together, each with its place among all.
struct Group {
    node: Arc<Node>,
    kind: Kind,
    tasks: Vec<(usize, Task)>,
}

/// What becomes of a command after a round.
enum Next {
    Done(Result<Value, RedisError>),
    /// It did not happen: send it again.
    Again {
        refresh: bool,
        pause: bool,
        otherwise: RedisError,
    },
}

impl Link {
    pub(super) async fn open(options: RedisOptions) -> Result<Self, RedisError> {
        if options.prefix.contains(['{', '}']) {
            let what = "`store.redis.prefix` must not hold a brace: it would become the hash tag";
            return Err(settings(what));
        }
        let infos = options.urls.iter().map(|url| connection_info(url));
        let infos = infos.collect::<Result<Vec<_>, _>>()?;
        let Some(seed) = infos.first().cloned() else {
            return Err(settings("`store.redis.urls` is empty; name at least one node"));
        };
        let nodes = infos.iter().filter_map(Address::of);
        let nodes: Vec<_> =
            nodes.map(|address| Arc::new(Node::new(address, &seed, &options))).collect();
        let owners =
            if options.is_cluster { Vec::new() } else { vec![Some(0); usize::from(SLOTS)] };
        let link = Self {
            options,
            health: Health::new(),
            seed,
            map: ArcSwap::from_pointee(Map { nodes, owners, aliases: BTreeMap::new() }),
            refreshed: tokio::sync::Mutex::new(None),
        };
        link.check_mode().await?;
        link.refresh().await;
        Ok(link)
    }

    /// The first node that answers says whether it is part of a cluster.
    async fn check_mode(&self) -> Result<(), RedisError> {
        let mut ask = Pipeline::new();
        ask.cmd("INFO").arg("cluster");
        let mut failed = settings("`store.redis.urls` names no node that can be asked");
        for node in &self.map.load_full().nodes {
            match node.send(Kind::Read, &ask, Duration::ZERO).await {
                Ok(replies) => {
                    let is_cluster = match replies.first() {
                        Some(Value::ServerError(error)) => {
                            failed = RedisError::of_reply(error);
                            continue;
                        }
                        Some(reply) => text_of(reply).contains("cluster_enabled:1"),
                        None => false,
                    };
                    return match (is_cluster, self.options.is_cluster) {
                        (true, false) => Err(settings(
                            "this Redis is part of a cluster; set `store.backend` to \"redis-cluster\"",
                        )),
                        (false, true) => Err(settings(
                            "this Redis is no cluster; set `store.backend` to \"redis\"",
                        )),
                        _ => Ok(()),
                    };
                }
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    /// The node that has `slot`, by the map at hand.
    pub(super) fn node_of(&self, slot: u16) -> Result<Arc<Node>, RedisError> {
        let map = self.map.load();
        let owner = map.owners.get(usize::from(slot)).copied().flatten();
        owner.and_then(|at| map.nodes.get(at)).cloned().ok_or(RedisError::ClusterDown)
    }

    /// True if every slot is with somebody, by the map at hand.
    pub(super) fn is_whole(&self) -> bool {
        let map = self.map.load();
        map.owners.len() == usize::from(SLOTS) && map.owners.iter().all(Option::is_some)
    }

    /// Every node that has slots.
    pub(super) fn primaries(&self) -> Vec<Arc<Node>> {
        let map = self.map.load();
        // One after the other for thousands of slots, and few in all.
        let mut seen: Vec<usize> = Vec::new();
        for at in map.owners.iter().flatten() {
            if seen.last() != Some(at) && !seen.contains(at) {
                seen.push(*at);
            }
        }
        seen.sort_unstable();
        seen.into_iter().filter_map(|at| map.nodes.get(at)).cloned().collect()
    }

    fn node_at(&self, address: &Address) -> Arc<Node> {
        let map = self.map.load();
        let known = map.nodes.iter().find(|node| node.address == *address);
        known.cloned().unwrap_or_else(|| self.new_node(address.clone()))
    }

    /// Where a redirection leads.
    fn redirected(&self, to: &Address) -> Arc<Node> {
        let dialled = self.map.load().aliases.get(to).cloned();
        self.node_at(dialled.as_ref().unwrap_or(to))
    }

    fn new_node(&self, address: Address) -> Arc<Node> {
        Arc::new(Node::new(address, &self.seed, &self.options))
    }

    /// Reads the map from all nodes that answer.
    pub(super) async fn refresh(&self) {
        if !self.options.is_cluster {
            return;
        }
        let mut refreshed = self.refreshed.lock().await;
        if refreshed.is_some_and(|at| at.elapsed() < REFRESH_EVERY) {
            return;
        }
        let old = self.map.load_full();
        let mut ask = Pipeline::new();
        ask.cmd("CLUSTER").arg("NODES");
        let limit = self.options.timeout / 2;
        let answers = old.nodes.iter().map(|node| async {
            let asked = node.send(Kind::Read, &ask, Duration::ZERO);
            let replies = tokio::time::timeout(limit, asked).await.ok()?.ok()?;
            replies.first().map(|reply| (text_of(reply), node.address.clone()))
        });
        let by_name = matches!(self.seed.addr(), ConnectionAddr::TcpTls { .. });
        let mut told = Told { by_name, ..Told::default() };
        for (text, asked) in join_all(answers).await.into_iter().flatten() {
            told.read(&text, &asked);
        }
        if !told.claimed.is_empty() {
            // Whoever is not told of any more may come back: the configured ones stay known.
            told.addresses.extend(self.seeds());
            let aliases = std::mem::take(&mut told.aliases);
            let (addresses, owners) = told.owners();
            let nodes = addresses.iter().map(|address| self.node_at(address)).collect();
            self.map.store(Arc::new(Map { nodes, owners, aliases }));
        }
        *refreshed = Some(Instant::now());
    }

    fn seeds(&self) -> impl Iterator<Item = Address> + '_ {
        let infos = self.options.urls.iter().filter_map(|url| connection_info(url).ok());
        infos.filter_map(|info| Address::of(&info))
    }

    /// Runs all tasks; answers in their order.
    pub(super) async fn execute(&self, tasks: Vec<Task>) -> Vec<Result<Value, RedisError>> {
        let mut results: Vec<_> = tasks.iter().map(|_| Err(RedisError::Moved)).collect();
        let mut waiting: Vec<_> = tasks.into_iter().enumerate().collect();
        for round in 0..ROUNDS_MAX {
            let is_last = round + 1 == ROUNDS_MAX;
            let mut again = Vec::new();
            let (mut refresh, mut pause) = (false, false);
            for (at, mut task, reply) in self.round(waiting).await {
                match self.judge(&mut task, reply, round) {
                    Next::Again { refresh: stale, pause: early, otherwise } if !is_last => {
                        refresh |= stale;
                        pause |= early;
                        put(&mut results, at, Err(otherwise));
                        again.push((at, task));
                    }
                    Next::Again { otherwise, .. } => put(&mut results, at, Err(otherwise)),
                    Next::Done(result) => put(&mut results, at, result),
                }
            }
            waiting = again;
            if waiting.is_empty() {
                break;
            }
            if refresh {
                self.refresh().await;
            }
            if pause {
                tokio::time::sleep(TRY_AGAIN * (u32::from(round) + 1)).await;
            }
        }
        for error in results.iter().filter_map(|result| result.as_ref().err()) {
            metrics::redis_failed(error.name());
        }
        results
    }

    /// Sends every task once: one pipeline for each node and kind.
    async fn round(
        &self,
        tasks: Vec<(usize, Task)>,
    ) -> Vec<(usize, Task, Result<Value, RedisError>)> {
        let mut groups: Vec<Group> = Vec::new();
        let mut done = Vec::with_capacity(tasks.len());
        for (at, task) in tasks {
            let node = match &task.redirect {
                Some(redirect) => Ok(self.redirected(&redirect.address)),
                None => self.node_of(task.slot),
            };
            match node {
                Ok(node) => {
                    let group = groups.iter_mut().find(|group| {
                        group.kind == task.kind && group.node.address == node.address
                    });
                    match group {
                        Some(group) => group.tasks.push((at, task)),
                        None => {
                            let kind = task.kind;
                            groups.push(Group { node, kind, tasks: vec![(at, task)] });
                        }
                    }
                }
                Err(error) => done.push((at, task, Err(error))),
            }
        }
        let sent = groups.into_iter().map(|group| self.send(group));
        done.extend(join_all(sent).await.into_iter().flatten());
        done
    }

    async fn send(&self, group: Group) -> Vec<(usize, Task, Result<Value, RedisError>)> {
        let Group { node, kind, tasks } = group;
        let mut pipe = Pipeline::with_capacity(tasks.len() + 1);
        for (_, task) in &tasks {
            if task.is_ask() {
                pipe.cmd("ASKING");
            }
            pipe.add_command(task.to_command());
        }
        let proof = if kind == Kind::Write { self.health.proof(&node.name) } else { Proof::Reply };
        let extra = proof.ask(&mut pipe, self.options.replicas_timeout);
        let mut replies = match node.send(kind, &pipe, extra).await {
            Ok(replies) => replies,
            Err(error) => {
                let failed = tasks.into_iter().map(|(at, task)| (at, task, Err(error.clone())));
                return failed.collect();
            }
        };
        let proved = match proof {
            Proof::Reply => Ok(()),
            _ => proof.check(replies.pop().as_ref()),
        };
        let mut replies = replies.into_iter();
        let answered = tasks.into_iter().map(|(at, task)| {
            if task.is_ask() {
                replies.next();
            }
            let reply = replies.next().ok_or(RedisError::unexpected("a reply is missing"));
            let is_error = matches!(reply, Ok(Value::ServerError(_)));
            match &proved {
                Err(unproved) if !is_error => (at, task, Err(unproved.clone())),
                _ => (at, task, reply),
            }
        });
        answered.collect()
    }

    fn judge(&self, task: &mut Task, reply: Result<Value, RedisError>, round: u8) -> Next {
        task.redirect = None;
        let error = match reply {
            Ok(Value::ServerError(error)) => error,
            Ok(value) => return Next::Done(Ok(value)),
            // Nothing was sent; the map may know another node by now.
            Err(error @ (RedisError::Unreachable { .. } | RedisError::ClusterDown))
                if self.options.is_cluster && round == 0 =>
            {
                return Next::Again { refresh: true, pause: false, otherwise: error };
            }
            Err(error) => return Next::Done(Err(error)),
        };
        let otherwise = RedisError::of_reply(&error);
        let again = |refresh, pause| Next::Again { refresh, pause, otherwise: otherwise.clone() };
        match error.kind() {
            Some(ServerErrorKind::NoScript) if !task.with_text => {
                task.with_text = true;
                again(false, false)
            }
            Some(kind @ (ServerErrorKind::Moved | ServerErrorKind::Ask))
                if self.options.is_cluster =>
            {
                let is_ask = kind == ServerErrorKind::Ask;
                let address = told_address(error.details()).and_then(Address::parse);
                task.redirect = address.map(|address| Redirect { address, is_ask });
                again(!is_ask, round > 1)
            }
            Some(ServerErrorKind::TryAgain) => again(false, true),
            Some(ServerErrorKind::ReadOnly) if self.options.is_cluster && round == 0 => {
                again(true, false)
            }
            _ => Next::Done(Err(otherwise)),
        }
    }
}

/// `3999 127.0.0.1:6381`: the address behind the slot.
fn told_address(detail: Option<&str>) -> Option<&str> {
    detail?.split_ascii_whitespace().nth(1)
}

fn put(results: &mut [Result<Value, RedisError>], at: usize, result: Result<Value, RedisError>) {
    if let Some(place) = results.get_mut(at) {
        *place = result;
    }
}

fn connection_info(url: &str) -> Result<ConnectionInfo, RedisError> {
    // The crate's error may quote the URL, and the URL may hold a password.
    let bad = "`store.redis.urls` holds a URL that is not redis://host:port or rediss://host:port";
    url.into_connection_info().map_err(|_| settings(bad))
}

fn settings(what: &str) -> RedisError {
    RedisError::Settings { what: what.to_owned() }
}

/// A reply that is text.
pub(super) fn text_of(value: &Value) -> String {
    match value {
        Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => text.clone(),
        _ => String::new(),
    }
}
