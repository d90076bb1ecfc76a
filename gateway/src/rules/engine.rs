//! The sandbox: one WebAssembly engine, its memory pool, its deadline ticker, one bounded evaluation.

use crate::rules::abi::{FullRule, authorizer, router, transformer};
use crate::rules::compiled::CodeCache;
use crate::rules::component::ComponentSummary;
use crate::rules::error::RuleError;
use crate::rules::hooks::Hook;
use crate::rules::host::{Host, Record, Setting};
use crate::rules::limits::{Breach, RuleLimits, Shape, TABLES_MAX};
use crate::rules::localtime::Zones;
use crate::rules::packed::{authorizer_packed, router_packed, transformer_packed};
use crate::rules::recorder::Recorder;
use crate::rules::state::Effects;
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use wasmtime::component::{Component, HasSelf, Instance, InstancePre, Linker};
use wasmtime::{
    CacheStore, Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig,
    Store, WasmFeatures,
};

const TICK: Duration = Duration::from_millis(1);
/// A worker's stack must hold this and the host's frames above it.
const WASM_STACK_BYTES: usize = 512 << 10;
/// Instances beside those of the workers: the trial starts of a chain that is being loaded.
const SPARE_SLOTS: usize = 4;
/// Dirty memory up to this size is cleared in place instead of being unmapped.
const KEEP_RESIDENT_BYTES: usize = 2 << 20;

/// Compiles and runs rules. Dropping it ends its ticker.
pub(super) struct Sandbox {
    engine: Engine,
    linker: Linker<Host>,
    limits: RuleLimits,
    zones: Zones,
    ticker: Ticker,
    recorder: Option<Arc<Recorder>>,
    code: Option<Arc<CodeCache>>,
}

/// A compiled rule, ready to be instantiated.
#[derive(Clone)]
pub(super) struct Compiled {
    pre: InstancePre<Host>,
    hooks: Exports,
}

/// Where the hooks are that a component has.
#[derive(Clone)]
pub(super) struct Exports {
    pub(super) authorize: Option<authorizer::GuestIndices>,
    pub(super) route: Option<router::GuestIndices>,
    pub(super) transform: Option<transformer::GuestIndices>,
    /// The same hooks in the packed lane, if the component has it.
    pub(super) authorize_packed: Option<authorizer_packed::GuestIndices>,
    pub(super) route_packed: Option<router_packed::GuestIndices>,
    pub(super) transform_packed: Option<transformer_packed::GuestIndices>,
}

/// What came of one call.
pub(super) struct Evaluation<T> {
    pub(super) answers: Result<T, Breach>,
    pub(super) fuel: u64,
    pub(super) elapsed: Duration,
    pub(super) memory_bytes: usize,
    /// To be committed once the answers are accepted.
    pub(super) effects: Effects,
    pub(super) record: Record,
}

impl Sandbox {
    /// `threads` is how many evaluations may run at a time.
    pub(super) fn start(limits: RuleLimits, threads: usize) -> Result<Self, RuleError> {
        Self::start_with(limits, threads, None)
    }

    /// The same, compiling only what is not in `code`.
    pub(super) fn start_with(
        limits: RuleLimits,
        threads: usize,
        code: Option<Arc<CodeCache>>,
    ) -> Result<Self, RuleError> {
        let config = || config(code.as_ref()).map_err(|error| RuleError::Engine(error.into()));
        let pool = pool(&limits, threads);
        let pooled = Engine::new(config()?.allocation_strategy(pool));
        let mut unpooled = config()?;
        let engine = pooled.or_else(|error| {
            tracing::warn!(error = %error, "no memory pool for rules; every batch maps its own");
            Engine::new(unpooled.memory_reservation(reservation(&limits)))
        });
        let engine = engine.map_err(|error| RuleError::Engine(error.into()))?;
        let mut linker = Linker::new(&engine);
        FullRule::add_to_linker::<_, HasSelf<_>>(&mut linker, |host| host)
            .map_err(|error| RuleError::Engine(error.into()))?;
        let ticker = Ticker::start(engine.clone()).map_err(RuleError::Thread)?;
        let zones = Zones::bundled();
        Ok(Self { engine, linker, limits, zones, ticker, recorder: None, code })
    }

    /// The same, recording what rules decide and log.
    pub(super) fn recording(self, recorder: Option<Arc<Recorder>>) -> Self {
        Self { recorder, ..self }
    }

    pub(super) fn recorder(&self) -> Option<&Arc<Recorder>> {
        self.recorder.as_ref()
    }

    pub(super) fn limits(&self) -> &RuleLimits {
        &self.limits
    }

    /// Compiles a component that was inspected before. Takes about 0.1 s for 40 kB, less if its code is
    /// kept.
    pub(super) fn compile(
        &self,
        component: &[u8],
        summary: &ComponentSummary,
    ) -> Result<Compiled, RuleError> {
        let compile = || Component::from_binary(&self.engine, component);
        let compiled = match &self.code {
            Some(code) => code.assist(&summary.digest, compile),
            None => compile(),
        };
        let component = compiled.map_err(|error| RuleError::Malformed(error.into()))?;
        self.link(&component, summary)
    }

    fn link(&self, component: &Component, of: &ComponentSummary) -> Result<Compiled, RuleError> {
        let link = || {
            let pre = self.linker.instantiate_pre(component)?;
            let find = |hook| of.hooks.contains(&hook).then_some(&pre);
            let packed = |hook| (of.hooks.contains(&hook) && of.packs(hook)).then_some(&pre);
            let hooks = Exports {
                authorize: find(Hook::Authorize).map(authorizer::GuestIndices::new).transpose()?,
                route: find(Hook::Route).map(router::GuestIndices::new).transpose()?,
                transform: find(Hook::Transform).map(transformer::GuestIndices::new).transpose()?,
                authorize_packed: packed(Hook::Authorize)
                    .map(authorizer_packed::GuestIndices::new)
                    .transpose()?,
                route_packed: packed(Hook::Route)
                    .map(router_packed::GuestIndices::new)
                    .transpose()?,
                transform_packed: packed(Hook::Transform)
                    .map(transformer_packed::GuestIndices::new)
                    .transpose()?,
            };
            Ok(Compiled { pre, hooks })
        };
        link().map_err(|error: wasmtime::Error| RuleError::WrongWorld(error.into()))
    }

    /// Starts an instance and throws it away: what cannot start is found before it is deployed.
    pub(super) fn try_start(&self, rule: &Compiled, setting: Setting) -> Result<(), RuleError> {
        let mut store = self.store(setting, Hook::Route);
        let _running = self.ticker.run();
        let started = rule.pre.instantiate(&mut store);
        started.map(drop).map_err(|error| RuleError::CannotStart(error.into()))
    }

    /// Has a fresh instance of `rule` answer one batch.
    pub(super) fn evaluate<T>(
        &self,
        rule: &Compiled,
        (setting, hook): (Setting, Hook),
        call: impl FnOnce(&Exports, &mut Store<Host>, &Instance) -> wasmtime::Result<T>,
    ) -> Evaluation<T> {
        let started = Instant::now();
        let mut store = self.store(setting, hook);
        let running = self.ticker.run();
        let called = rule
            .pre
            .instantiate(&mut store)
            .and_then(|instance| call(&rule.hooks, &mut store, &instance));
        drop(running);
        let left = store.get_fuel().unwrap_or(0);
        let host = store.into_data();
        let answers = called.map_err(|e| Breach::of_call(&e, host.memory_refused()));
        let fuel = host.limits().fuel(host.items()).saturating_sub(left);
        let memory_bytes = host.memory_bytes();
        let (effects, record) = host.finish();
        let elapsed = started.elapsed();
        Evaluation { answers, fuel, elapsed, memory_bytes, effects, record }
    }

    fn store(&self, setting: Setting, hook: Hook) -> Store<Host> {
        let (items, limits) = (setting.items, Arc::clone(&setting.limits));
        let host = Host::new(setting, self.zones.clone(), self.recorder.clone());
        let mut store = Store::new(&self.engine, host);
        store.limiter(|host| host);
        store.set_fuel(limits.fuel(items)).expect("the engine is configured to meter fuel");
        store.set_hostcall_fuel(limits.output_bytes(items));
        let deadline = match hook {
            Hook::Authorize => limits.authorize_deadline,
            Hook::Route | Hook::Transform => limits.deadline,
        };
        // The tick under way may end at once, so it does not count.
        let ticks = deadline.as_millis() / TICK.as_millis() + 1;
        store.set_epoch_deadline(u64::try_from(ticks).unwrap_or(u64::MAX));
        store
    }
}

fn config(code: Option<&Arc<CodeCache>>) -> wasmtime::Result<Config> {
    let needed = (WasmFeatures::WASM2 | WasmFeatures::LIME1 | WasmFeatures::COMPONENT_MODEL)
        .difference(WasmFeatures::SIMD);
    let mut config = Config::new();
    config
        .wasm_features(WasmFeatures::all().difference(needed), false)
        .consume_fuel(true)
        .epoch_interruption(true)
        .max_wasm_stack(WASM_STACK_BYTES)
        // The same batch must get the same answer on every machine.
        .cranelift_nan_canonicalization(true);
    if let Some(code) = code {
        config.enable_incremental_compilation(Arc::clone(code) as Arc<dyn CacheStore>)?;
    }
    Ok(config)
}

fn pool(limits: &RuleLimits, threads: usize) -> InstanceAllocationStrategy {
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let slots = threads.saturating_add(SPARE_SLOTS);
    let instances = Shape::of(limits.component_bytes).instances;
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(count(slots))
        .total_core_instances(count(slots * instances))
        .total_memories(count(slots))
        .total_tables(count(slots * TABLES_MAX))
        .max_core_instances_per_component(count(instances))
        .max_memories_per_component(1)
        .max_tables_per_component(count(TABLES_MAX))
        .max_memory_size(limits.memory_bytes)
        .table_elements(limits.table_elements);
    // Without the page map, keeping memory resident means clearing all of it, used or not.
    if PoolingAllocationConfig::is_pagemap_scan_available() {
        pool.pagemap_scan(Enabled::Auto)
            .linear_memory_keep_resident(KEEP_RESIDENT_BYTES)
            .table_keep_resident(KEEP_RESIDENT_BYTES);
    }
    InstanceAllocationStrategy::Pooling(pool)
}

/// Address space is what the pool ran out of, so an instance reserves no more than it may use.
fn reservation(limits: &RuleLimits) -> u64 {
    u64::try_from(limits.memory_bytes).unwrap_or(u64::MAX)
}

/// Advances the engine's epoch every millisecond while something runs, and sleeps otherwise.
struct Ticker {
    beat: Arc<Beat>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Beat {
    state: Mutex<BeatState>,
    changed: Condvar,
}

#[derive(Default)]
struct BeatState {
    running: usize,
    is_over: bool,
}

/// One evaluation under way.
struct Running<'a>(&'a Beat);

impl Ticker {
    fn start(engine: Engine) -> std::io::Result<Self> {
        let beat = Arc::new(Beat::default());
        let own = Arc::clone(&beat);
        let thread = thread::Builder::new().name("rules-ticker".into()).spawn(move || {
            while own.wait() {
                thread::sleep(TICK);
                engine.increment_epoch();
            }
        })?;
        Ok(Self { beat, thread: Some(thread) })
    }

    fn run(&self) -> Running<'_> {
        self.beat.state.lock().running += 1;
        self.beat.changed.notify_one();
        Running(&self.beat)
    }
}

impl Beat {
    /// Waits until something runs; false when the ticker is to end.
    fn wait(&self) -> bool {
        let mut state = self.state.lock();
        self.changed.wait_while(&mut state, |state| state.running == 0 && !state.is_over);
        !state.is_over
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.state.lock().running -= 1;
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.beat.state.lock().is_over = true;
        self.beat.changed.notify_one();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the rules ticker panicked");
        }
    }
}

impl std::fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sandbox").field("limits", &self.limits).finish_non_exhaustive()
    }
}

#[cfg(test)]
impl Compiled {
    /// The same without its packed lane.
    pub(super) fn typed(mut self) -> Self {
        self.hooks.authorize_packed = None;
        self.hooks.route_packed = None;
        self.hooks.transform_packed = None;
        self
    }
}

impl std::fmt::Debug for Compiled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compiled").finish_non_exhaustive()
    }
}
